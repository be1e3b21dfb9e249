# Types of the compiled module: the fused update kernels.

from typing import Any

import numpy as np
from numpy.typing import NDArray

version: str
compiler: str
openmp_version: int

def max_threads() -> int: ...
def isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def rules() -> dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None, str | None]]: ...

class Settings:
    learning_rate: float
    def __init__(
        self,
        rule: str,
        fields: dict[str, Any],
        *,
        l1: float = ...,
        l2: float = ...,
        decay: float = ...,
        scale: float = ...,
        clip_min: float = ...,
        clip_max: float = ...,
        adapts: bool = ...,
        average_decay: float | None = ...,
    ) -> None: ...

class Norm:
    def __init__(self, limit: float) -> None: ...
    @property
    def limit(self) -> float: ...
    @property
    def value(self) -> float: ...
    @property
    def factor(self) -> float: ...
    def measure(self, rows: list[tuple[str, Any, Any]], threads: int) -> None: ...

def check_parameter(array: object, name: str) -> None: ...
def check_gradient(gradient: object, parameter: object, name: str, role: str = ...) -> None: ...
def check_clearable(gradient: object, name: str) -> None: ...
def exchange(pairs: tuple[tuple[str, object, object], ...]) -> None: ...
def stream(updated: tuple[object, ...], read: tuple[object, ...], threads: int) -> float: ...
def step(
    entries: tuple[tuple[Any, ...], ...],
    gradients: tuple[Any, ...] | None,
    counts: NDArray[np.int64],
    carried: NDArray[np.float64],
    clear_grad: bool,
    threads: int,
) -> list[int]: ...
