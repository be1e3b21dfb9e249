"""Optimizer classes for the rules that no class of roofstep itself has: torch's own formulas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import roofstep
from roofstep import checks
from roofstep.optimizer import States


class Unnamed(roofstep.Optimizer):
    """What they have in common: settings are numbers, and coupled decay is."""

    def __init__(
        self,
        learning_rate: Any,
        parameters: Iterable[Any] | None,
        weight_decay: Any,
        grad_clip: Any,
        **settings: Any,
    ) -> None:
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, None, **settings)


class DampenedMomentum(Unnamed):
    """Groups may also set momentum, dampening."""

    _settings: ClassVar = {"momentum": checks.non_negative, "dampening": checks.fraction}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        momentum: float = 0.9,
        dampening: float = 0.1,
        parameters: Any = None,
        weight_decay: Any = None,
        grad_clip: Any = None,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            momentum=momentum,
            dampening=dampening,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "dampened_momentum"


class AveragedSGD(Unnamed):
    """Its decay `lambd` is decoupled; its rate begins with the learning rate."""

    _settings: ClassVar = {
        "lambd": checks.non_negative,
        "alpha": checks.non_negative,
        "t0": checks.non_negative,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 2.0,
        parameters: Any = None,
        weight_decay: Any = None,
        grad_clip: Any = None,
    ) -> None:
        super().__init__(
            learning_rate, parameters, weight_decay, grad_clip, lambd=lambd, alpha=alpha, t0=t0
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "averaged_sgd"

    def _decays(self, group: Mapping[str, Any], *parameter: Any) -> tuple[float, float, float]:
        l1, l2, _ = super()._decays(group, *parameter)
        return l1, l2, group["lambd"]

    def _with_new(self, states: States, indices: Sequence[int]) -> States:
        self._numbers[indices] = self.get_lr()
        return super()._with_new(states, indices)


class SlowingAdagrad(Unnamed):
    """Groups may also set epsilon, lr_decay."""

    _settings: ClassVar = {"epsilon": checks.non_negative, "lr_decay": checks.non_negative}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        epsilon: float = 1e-6,
        lr_decay: float = 0.1,
        parameters: Any = None,
        weight_decay: Any = None,
        grad_clip: Any = None,
    ) -> None:
        super().__init__(
            learning_rate, parameters, weight_decay, grad_clip, epsilon=epsilon, lr_decay=lr_decay
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adagrad_slowing"


class OverRMS(Unnamed):
    """Four rules: over the deviation if it is centered, and with momentum or not."""

    _settings: ClassVar = {
        "rho": checks.fraction,
        "epsilon": checks.non_negative,
        "momentum": checks.non_negative,
        "centered": checks.flag,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-6,
        momentum: float = 0.0,
        centered: bool = False,
        parameters: Any = None,
        weight_decay: Any = None,
        grad_clip: Any = None,
    ) -> None:
        super().__init__(
            learning_rate,
            parameters,
            weight_decay,
            grad_clip,
            rho=rho,
            epsilon=epsilon,
            momentum=momentum,
            centered=centered,
        )

    def _rule(self, group: Mapping[str, Any]) -> str:
        rule = "over_deviation" if group["centered"] else "over_rms"
        return rule + ("_momentum" if group["momentum"] else "")


class PaddedAdamax(roofstep.Adamax):
    """Groups may also set beta1, beta2, epsilon."""

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "adamax_padded"


CLASSES: dict[str, type[roofstep.Optimizer]] = {
    cls.__name__: cls
    for cls in (DampenedMomentum, AveragedSGD, SlowingAdagrad, OverRMS, PaddedAdamax)
}
