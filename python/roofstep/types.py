"""What several signatures take or give, for type checkers: each kind of argument under one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

# Settings and counts. At run time every numbers.Real and numbers.Integral will do, as a Fraction;
# to type checkers these two have no instances.
Number: TypeAlias = float | np.floating[Any] | np.integer[Any]
Integer: TypeAlias = int | np.integer[Any]


class Schedule(Protocol):
    """A schedule, of `roofstep.lr`, of Paddle or of your own: the user moves it on by ``step``."""

    def __call__(self) -> Number:
        """The rate of now."""

    def step(self, *args: Any, **kwargs: Any) -> object:
        """Move on, as by a metric."""


class Clip(Protocol):
    """A `roofstep.ClipGradBase`, or one of Paddle's."""

    def _dygraph_clip(self, params_grads: Any) -> Any: ...


class Regularizer(Protocol):
    """Paddle's L1Decay or L2Decay, or one derived from these.

    They are known by what neither a function nor a module has.
    """

    _coeff: float

    def __call__(self, param: Any, grad: Any, block: Any) -> Any:
        """The term that is added to the gradient."""


class Readable(Protocol):
    """An array or tensor whose memory can be read: NumPy's, torch's, Paddle's, JAX's."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


class Tensor(Readable, Protocol):
    """A tensor of torch or Paddle, which holds its gradient itself."""

    @property
    def grad(self) -> Any:
        """The gradient, or None."""


Rate: TypeAlias = Number | Schedule

# Not a TypedDict: the keys are those of the optimizer's class. A list of groups that is kept in a
# variable says its type, `groups: list[roofstep.types.Group] = [...]`; that of dicts with unlike
# values would be list[object].
Group: TypeAlias = Mapping[str, Any]
