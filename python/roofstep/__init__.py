"""The optimizer step on CPUs: the paddle.optimizer API over fused SIMD kernels."""

from roofstep import lr
from roofstep._core import version as __version__
from roofstep.clip import ClipGradBase, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from roofstep.lbfgs import LBFGS
from roofstep.optimizer import Optimizer
from roofstep.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    Momentum,
    NAdam,
    RAdam,
    RMSProp,
)
from roofstep.parameter import ParamAttr, Parameter
from roofstep.regularizer import L1Decay, L2Decay, WeightDecayRegularizer
from roofstep.threads import get_num_threads, set_num_threads

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ClipGradBase",
    "ClipGradByGlobalNorm",
    "ClipGradByNorm",
    "ClipGradByValue",
    "L1Decay",
    "L2Decay",
    "Lion",
    "Momentum",
    "NAdam",
    "Optimizer",
    "ParamAttr",
    "Parameter",
    "RAdam",
    "RMSProp",
    "WeightDecayRegularizer",
    "__version__",
    "get_num_threads",
    "lr",
    "set_num_threads",
]
