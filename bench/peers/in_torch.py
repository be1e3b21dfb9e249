"""torch.optim on the CPU: the loop over tensors, the foreach form, and the fused one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from bench.peers import Array
from bench.settings import LIMIT, RATE, SETTINGS

REQUIRES = ("torch",)
INSTALL = "torch==2.13.0"
ARRAYS = "torch"
_HAS = tuple(name for name in SETTINGS if name not in ("Lamb", "Lion"))
VARIANTS = {
    "torch for-loop": _HAS,
    "torch foreach": _HAS,
    "torch fused": ("SGD", "Momentum", "Adam", "AdamW", "Adagrad"),
}
DIFFERS = {"RMSProp": "epsilon outside the root"}

_CLASSES = {"Momentum": "SGD", "RMSProp": "RMSprop"}
_NAMES = {
    "learning_rate": "lr",
    "momentum": "momentum",
    "epsilon": "eps",
    "weight_decay": "weight_decay",
    "momentum_decay": "momentum_decay",
}


def arguments_of(optimizer: str) -> dict[str, Any]:
    """The settings under torch's names, which DeepSpeed shares."""
    settings = {"learning_rate": RATE, **SETTINGS[optimizer]}
    arguments: dict[str, Any] = {
        _NAMES[name]: value for name, value in settings.items() if name in _NAMES
    }
    if "beta1" in settings:
        arguments["betas"] = (settings["beta1"], settings["beta2"])
    if "rho" in settings:
        arguments["alpha" if optimizer == "RMSProp" else "rho"] = settings["rho"]
    return arguments


class Tensors:
    """Leaves that require a gradient and have one."""

    def __init__(self, weights: list[Array], gradients: list[Array]) -> None:
        import torch

        self.parameters = [torch.nn.Parameter(torch.from_numpy(w).clone()) for w in weights]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient).clone()

    @property
    def for_roofstep(self) -> list[Any]:
        return self.parameters

    def step_of(self, variant: str, optimizer: str, clipped: bool) -> Callable[[], Any]:
        import torch

        cls = getattr(torch.optim, _CLASSES.get(optimizer, optimizer))
        ways = {"foreach": variant == "torch foreach", "fused": variant == "torch fused"}
        ways = {way: on for way, on in ways.items() if way in inspect.signature(cls).parameters}
        made = cls(self.parameters, **arguments_of(optimizer), **ways)
        return clipping(self.parameters, made.step) if clipped else made.step

    def values(self) -> list[Array]:
        return [p.detach().numpy().copy() for p in self.parameters]


def clipping(parameters: list[Any], step: Callable[[], Any]) -> Callable[[], Any]:
    """The step after torch's clip by global norm."""
    import torch

    clip = torch.nn.utils.clip_grad_norm_

    def clipped() -> None:
        clip(parameters, LIMIT)  # as fast as foreach=True or False, whichever is faster
        step()

    return clipped
