"""Paddle: optimizers and schedules that its own machinery takes, and its states; see the README."""

from roofstep.paddle import lr
from roofstep.paddle.optimizers import (
    ASGD,
    LARS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    Lamb,
    Lion,
    Momentum,
    NAdam,
    RAdam,
    RMSProp,
    Rprop,
)
from roofstep.paddle.pdopt import pdopt
from roofstep.paddle.static import raise_step_errors

__all__ = [
    "ASGD",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lamb",
    "Lion",
    "Momentum",
    "NAdam",
    "RAdam",
    "RMSProp",
    "Rprop",
    "lr",
    "pdopt",
    "raise_step_errors",
]
