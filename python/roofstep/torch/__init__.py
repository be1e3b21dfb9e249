"""The optimizers of `torch.optim`, by their signatures, formulas and checkpoints, fused on CPUs.

Each is a `torch.optim.Optimizer`: schedulers, hooks, closures, GradScaler and checkpoints work with
it as with torch's own. On purpose it differs in this:

- Settings are computed with in double and rounded once, in one stated order: results have the same
  bits on every CPU and with any number of threads, and are torch's but for the last bits.
- ``load_state_dict`` copies; torch's goes on with the tensors of the dict, which are then shared.
- ``capturable=True``, ``differentiable=True``, complex, half-precision and other devices' tensors
  are refused, and a parameter twice in a group, of which torch warns.
- `SGD` without momentum and `Adagrad` take sparse gradients, COO tensors, with weight decay too. In
  the place of torch's SparseAdam, `roofstep.Adam` and `roofstep.AdamW` have ``lazy_mode``.
- `Adagrad` honours ``initial_accumulator_value`` of a group. `ASGD` shows ``mu`` in its state, but
  has it from the step and ``t0``, so that editing it does nothing.
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
