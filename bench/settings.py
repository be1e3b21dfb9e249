"""The settings that both sides of a comparison step with, under roofstep's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import roofstep

RATE = 1e-3
LIMIT = 1.0  # of the global norm, where gradients are clipped

_BETAS = {"beta1": 0.9, "beta2": 0.999}
SETTINGS: dict[str, dict[str, float]] = {
    "SGD": {},
    "Momentum": {"momentum": 0.9},
    "Adam": {**_BETAS, "epsilon": 1e-8},
    "AdamW": {**_BETAS, "epsilon": 1e-8, "weight_decay": 0.01},
    "RMSProp": {"rho": 0.95, "epsilon": 1e-6},
    "NAdam": {**_BETAS, "epsilon": 1e-8, "momentum_decay": 0.004},
    "Lamb": {**_BETAS, "epsilon": 1e-6, "lamb_weight_decay": 0.01},
    "Adagrad": {"epsilon": 1e-6},
    "Adamax": {**_BETAS, "epsilon": 1e-8},
    "Adadelta": {"rho": 0.95, "epsilon": 1e-6},
    "Lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01},
}


def roofstep_optimizer(
    name: str, parameters: Sequence[Any], clipped: bool = False
) -> roofstep.Optimizer:
    """Over these parameters, whose gradients are in `.grad`."""
    made: roofstep.Optimizer = getattr(roofstep, name)(
        learning_rate=RATE,
        parameters=list(parameters),
        grad_clip=roofstep.ClipGradByGlobalNorm(LIMIT) if clipped else None,
        **SETTINGS[name],
    )
    return made
