"""The cases of every optimizer: settings that float32 holds exactly, and another of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import SHAPES, Made

Settings = dict[str, Any]

# What Paddle keeps as a running number, as a formula of the settings and the count of updates.
Formula = Callable[[Mapping[str, Any], int], float]


@dataclass(frozen=True)
class Family:
    """What a class is tried with.

    Attributes:
        base: arguments that replace the defaults which float32 rounds.
        others: another value of each argument, one that changes the result.
        idle: another value of each argument that changes nothing.
        listed: the entry on docs/differences-from-paddle.md of each argument that does not agree.
        rounded: the settings that Paddle rounds to float32 for float64 parameters too.
        drift: what such settings are like at step t, where Paddle rounds some of their uses only.
        off: how far float64 results with the default settings may be from Paddle's.
        numbers: Paddle's running numbers, which roofstep computes from the step.
        moves_rate: whether its rate can be set, be a schedule, and have factors.
        names: the parameters that Paddle's class can step.
        names_under_global_norm: those that it can step once a global norm has scaled them.
    """

    base: Settings
    others: Settings
    idle: Settings = field(default_factory=dict)
    listed: dict[str, str] = field(default_factory=dict)
    rounded: tuple[str, ...] = ()
    drift: Callable[[Mapping[str, Any], int], Settings] | None = None
    off: float = 1e-12
    numbers: dict[str, Formula] = field(default_factory=dict)
    moves_rate: bool = True
    names: tuple[str, ...] = tuple(SHAPES)
    names_under_global_norm: tuple[str, ...] = tuple(SHAPES)

    @property
    def options(self) -> Settings:
        """The settings of the rule itself."""
        return {key: value for key, value in self.others.items() if key not in COMMON}


STEADY = ("scalar", "matrix", "big")  # which have a gradient in every step
DIMENSIONED = tuple(name for name, shape in SHAPES.items() if shape)

RATE = {"learning_rate": 2**-7}
COMMON: Settings = {
    "learning_rate": 2**-6,
    "parameters": None,  # a shorter list
    "weight_decay": Made("L2Decay", 0.25),
    "grad_clip": Made("ClipGradByGlobalNorm", 2.0),
}
UNDECAYED = {key: value for key, value in COMMON.items() if key != "weight_decay"}
NAME = {"name": "another"}
MIXED = {**NAME, "multi_precision": True}

BETAS = {"beta1": 0.875, "beta2": 0.984375, "epsilon": 2**-20}
OTHER_BETAS = {"beta1": 0.75, "beta2": 0.96875, "epsilon": 0.125}
POWERS: dict[str, Formula] = {
    "beta1_pow_acc": lambda settings, t: settings["beta1"] ** (t + 1),
    "beta2_pow_acc": lambda settings, t: settings["beta2"] ** (t + 1),
}


def _only(names: str) -> Callable[[Any], bool]:
    """A function of a parameter or of its name."""
    return lambda parameter: getattr(parameter, "name", parameter) in names.split()


def _drift_of_adamax(settings: Mapping[str, Any], t: int) -> Settings:
    """Paddle's bias correction has the beta1 given, its mean the rounded one."""
    return {"learning_rate": (1 - settings["beta1"] ** t) / (1 - 0.9**t)}


def _drift_of_lamb(settings: Mapping[str, Any], t: int) -> Settings:
    """The powers begin with the betas given. The trust ratio takes out the factor on the whole."""
    mean, square = (
        (1 - settings[name] ** t) / (1 - given * settings[name] ** (t - 1))
        for name, given in (("beta1", 0.9), ("beta2", 0.999))
    )
    return {
        "epsilon": settings["epsilon"] / square**0.5,
        "lamb_weight_decay": settings["lamb_weight_decay"] * square**0.5 / mean,
    }


FAMILIES = {
    "SGD": Family(RATE, COMMON, MIXED),
    "Momentum": Family(
        {"learning_rate": 2**-9, "momentum": 0.875},
        COMMON | {"learning_rate": 2**-8, "momentum": 0.5, "use_nesterov": True},
        MIXED | {"use_multi_tensor": True},
        {"rescale_grad": "momentum-rescales-on-cpus"},
        rounded=("momentum",),
        off=2e-8,
    ),
    "Adagrad": Family(
        RATE | {"epsilon": 2**-20},
        COMMON | {"epsilon": 0.125, "initial_accumulator_value": 0.5},
        NAME,
        rounded=("epsilon",),
    ),
    "Adadelta": Family(
        {"learning_rate": 0.125, "epsilon": 2**-10, "rho": 0.9375},
        COMMON | {"learning_rate": 0.25, "epsilon": 0.125, "rho": 0.5},
        NAME,
        rounded=("rho", "epsilon"),
        off=2e-11,
        names_under_global_norm=DIMENSIONED,
    ),
    "RMSProp": Family(
        RATE | {"rho": 0.9375, "epsilon": 2**-10},
        COMMON | {"rho": 0.75, "epsilon": 0.125, "momentum": 0.5, "centered": True},
        NAME,
        rounded=("rho", "epsilon", "momentum"),
        off=5e-9,
    ),
    "Adam": Family(
        RATE | BETAS,
        COMMON | OTHER_BETAS | {"amsgrad": True},
        MIXED | {"use_multi_tensor": True, "lazy_mode": True},  # no gradient here is sparse
        numbers=POWERS,
    ),
    # The widest apart, by up to 8e-7: Paddle rounds 1 - rate * decay, then what that leaves of p.
    "AdamW": Family(
        RATE | BETAS | {"weight_decay": 0.125},
        COMMON
        | OTHER_BETAS
        | {"weight_decay": 0.5, "amsgrad": True, "apply_decay_param_fun": _only("row big")},
        MIXED | {"lazy_mode": True},
        {
            "use_lowprecision_moment": "no-low-precision",
            "lr_ratio": "adamw-has-layer-wise-rates-on-cpus",
        },
        rounded=("weight_decay",),
        off=5e-12,
        numbers=POWERS,
    ),
    "Adamax": Family(
        RATE | BETAS,
        COMMON | OTHER_BETAS,
        NAME,
        rounded=("beta1", "beta2", "epsilon"),
        off=2e-9,
        drift=_drift_of_adamax,
        numbers={"beta1_pow_acc": POWERS["beta1_pow_acc"]},
        names_under_global_norm=DIMENSIONED,
    ),
    "RAdam": Family(
        RATE | BETAS,
        COMMON | OTHER_BETAS,
        NAME,
        rounded=("beta1", "beta2", "epsilon"),
        off=5e-9,
        numbers={
            "beta1_pow": lambda settings, t: settings["beta1"] ** t,
            "beta2_pow": lambda settings, t: settings["beta2"] ** t,
            "rho": lambda settings, t: t * settings["beta2"] ** t / (1 - settings["beta2"] ** t),
        },
    ),
    "NAdam": Family(
        RATE | BETAS | {"momentum_decay": 2**-8},
        COMMON | OTHER_BETAS | {"momentum_decay": 0.5},
        NAME,
        rounded=("beta1", "beta2", "epsilon", "momentum_decay"),
        off=2e-9,
        numbers={
            "momentum_decay_pow": lambda settings, t: 0.96**t,
            "beta2_pow": lambda settings, t: settings["beta2"] ** t,
        },
    ),
    "Lamb": Family(
        RATE
        | BETAS
        | {"lamb_weight_decay": 0.125, "exclude_from_weight_decay_fn": _only("matrix scalar")},
        UNDECAYED
        | OTHER_BETAS
        | {
            "lamb_weight_decay": 0.5,
            "exclude_from_weight_decay_fn": _only("row big"),
            "always_adapt": True,
        },
        MIXED,
        rounded=("lamb_weight_decay", "beta1", "beta2", "epsilon"),
        drift=_drift_of_lamb,
        off=5e-9,
        numbers=POWERS,
    ),
    "ASGD": Family(
        RATE | {"batch_num": 4},
        COMMON | {"batch_num": 3},
        MIXED,
        numbers={"m": lambda settings, t: t},
    ),
    "Rprop": Family(
        RATE | {"learning_rate_range": (2**-10, 2**-4), "etas": (0.5, 1.25)},
        UNDECAYED
        | {
            "learning_rate_range": (2**-7, 2**-6),
            "etas": (0.25, 1.5),
            "grad_clip": Made("ClipGradByValue", max=1.0, min=0.0),  # which changes signs
        },
        MIXED,
        moves_rate=False,
        names=DIMENSIONED,
    ),
}
