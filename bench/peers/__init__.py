"""The peers, one module for each library: its parameters, and its own optimizers over them.

A module names what must be installed (``REQUIRES``, ``INSTALL``), what arrays its parameters are
(``ARRAYS``), which optimizers each way of stepping has (``VARIANTS``), and where its formula is
another than roofstep's, so that results are not held against each other (``DIFFERS``). Its class
``Tensors`` is described by the protocol below. Every peer is set up as its documentation says it
is fastest on a CPU, and clips as its users do.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
LIBRARIES = ("numpy", "torch", "deepspeed", "paddle", "optax")


class Tensors(Protocol):
    """Parameters with their gradients, which stay where they are."""

    def __init__(self, weights: list[Array], gradients: list[Array]) -> None: ...

    @property
    def for_roofstep(self) -> list[Any]:
        """What `parameters=` is given: the peer's own, NumPy's where those cannot be written."""

    def step_of(self, variant: str, optimizer: str, clipped: bool) -> Callable[[], Any]:
        """A new optimizer's step, which returns when the work is done."""

    def values(self) -> list[Array]:
        """The weights as the peer's step has left them."""


def library(name: str) -> Any:
    """Its module, which imports the library only when `Tensors` are made."""
    return importlib.import_module(f"bench.peers.in_{name}")


def missing(name: str) -> str | None:
    """How to install what a library needs and is not there."""
    module = library(name)
    if all(importlib.util.find_spec(package) for package in module.REQUIRES):
        return None
    return f"{name} is not installed: pip install {module.INSTALL}"
