"""The optimizers of `torch.optim`, by their signatures, formulas and checkpoints, fused on CPUs.

Each is a `torch.optim.Optimizer`: schedulers, hooks, closures and GradScaler work with it as with
torch's own.
"""

from roofstep.torch.optimizer import Optimizer
from roofstep.torch.optimizers import (
    ASGD,
    LARS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lamb,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)

__all__ = [
    "ASGD",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lamb",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
]
