"""The optimizer step on CPUs: the paddle.optimizer API over fused SIMD kernels."""

from roofstep._core import version as __version__  # isort: split

# That was first: in a subinterpreter it refuses, and NumPy would only warn.
from roofstep import lr
from roofstep.clip import ClipGradBase, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from roofstep.groups import layerwise_lr_decay
from roofstep.include import get_include
from roofstep.lbfgs import LBFGS
from roofstep.optimizer import Optimizer
from roofstep.optimizers import (
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
from roofstep.parameter import ParamAttr, Parameter
from roofstep.regularizer import L1Decay, L2Decay, WeightDecayRegularizer
from roofstep.rows import SelectedRows
from roofstep.threads import get_num_threads, set_num_threads

__all__ = [
    "ASGD",
    "LARS",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "ClipGradBase",
    "ClipGradByGlobalNorm",
    "ClipGradByNorm",
    "ClipGradByValue",
    "L1Decay",
    "L2Decay",
    "Lamb",
    "Lion",
    "Momentum",
    "NAdam",
    "Optimizer",
    "ParamAttr",
    "Parameter",
    "RAdam",
    "RMSProp",
    "Rprop",
    "SelectedRows",
    "WeightDecayRegularizer",
    "__version__",
    "get_include",
    "get_num_threads",
    "layerwise_lr_decay",
    "lr",
    "set_num_threads",
]
