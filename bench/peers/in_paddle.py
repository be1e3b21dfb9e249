"""paddle.optimizer on the CPU, clipped by its own clip."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from bench.peers import Array
from bench.settings import LIMIT, RATE, SETTINGS

REQUIRES = ("paddle",)
INSTALL = "'paddlepaddle>=3.3,<3.4'"
ARRAYS = "Paddle"
VARIANTS = {"Paddle": tuple(name for name in SETTINGS if name != "Lion")}
DIFFERS: dict[str, str] = {}
# One call for all tensors, faster at all sizes; the others have no such argument.
_MULTI_TENSOR = ("Momentum", "Adam")


class Tensors:
    """Parameters of Paddle."""

    def __init__(self, weights: list[Array], gradients: list[Array]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No ccache found", UserWarning)
            import paddle

        paddle.set_device("cpu")
        self.parameters = []
        for weight, gradient in zip(weights, gradients, strict=True):
            parameter = paddle.create_parameter(list(weight.shape), str(weight.dtype))
            parameter.set_value(weight)
            parameter.grad = paddle.to_tensor(gradient)
            self.parameters.append(parameter)

    @property
    def for_roofstep(self) -> list[Any]:
        return self.parameters

    def step_of(self, variant: str, optimizer: str, clipped: bool) -> Callable[[], Any]:
        import paddle

        made = getattr(paddle.optimizer, optimizer)(
            learning_rate=RATE,
            parameters=self.parameters,
            **({"use_multi_tensor": True} if optimizer in _MULTI_TENSOR else {}),
            grad_clip=paddle.nn.ClipGradByGlobalNorm(LIMIT) if clipped else None,
            **SETTINGS[optimizer],
        )
        return made.step

    def values(self) -> list[Array]:
        return [p.numpy().copy() for p in self.parameters]
