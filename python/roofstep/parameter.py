"""Parameters of training loops in plain NumPy, and the attributes that a parameter may carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from roofstep import _core, checks
from roofstep.regularizer import Decay, WeightDecayRegularizer, as_regularizer
from roofstep.rows import SelectedRows
from roofstep.types import Array, Group, Number, Readable, Tensor


@dataclass(frozen=True)
class ParamAttr:
    """What sets one parameter apart from the others of its optimizer.

    Args:
        name: the parameter's name, under which its states are kept; None leaves it to the
            parameter or the optimizer.
        learning_rate: a factor on the optimizer's (and the group's) learning rate, >= 0.
        regularizer: `L1Decay`, `L2Decay`, a `WeightDecayRegularizer` of your own or a number (L2):
            wins over the optimizer's ``weight_decay``; None takes the optimizer's.
        need_clip: False leaves the gradient out of ``grad_clip`` and out of its norm.
        trainable: False leaves the parameter as it is, even if it has a gradient.

    Raises:
        TypeError, ValueError: a value is not of the kind above.

    Example:
        >>> import numpy as np, roofstep
        >>> attr = roofstep.ParamAttr(learning_rate=0.1, regularizer=roofstep.L2Decay(1e-4))
        >>> roofstep.Parameter(np.zeros(3, "float32"), name="bias", attr=attr).learning_rate
        0.1
    """

    name: str | None = None
    learning_rate: Number = 1.0
    regularizer: Decay = None
    need_clip: bool = True
    trainable: bool = True

    def __post_init__(self) -> None:
        if self.name is not None:
            checks.text("name", self.name)
        if self.name == "":
            raise ValueError("name: expected a name, got ''; None lets the optimizer give one")
        checked = {
            "learning_rate": checks.non_negative("learning_rate", self.learning_rate),
            "regularizer": as_regularizer("regularizer", self.regularizer),
            "need_clip": checks.flag("need_clip", self.need_clip),
            "trainable": checks.flag("trainable", self.trainable),
        }
        for field, value in checked.items():
            object.__setattr__(self, field, value)


class Parameter:
    """A NumPy array that an optimizer steps in place, and its gradient.

    Args:
        data: a writable, aligned array of float32 or float64, dense in some order of its
            dimensions (C, Fortran, any permutation). It is shared, never copied.
        name: under which an optimizer keeps the states; wins over ``attr.name``. Without a name
            the optimizer calls it ``param_{i}`` by its position.
        attr: a `ParamAttr`.

    Attributes:
        data: the array. Another may be put in its place; it is read anew at every step.
        grad: None, or an array of the same shape and dtype, of any strides, or `SelectedRows`.

    Raises:
        TypeError: ``data`` is no array, or ``attr`` no ParamAttr.
        ValueError: ``data`` cannot be stepped in place; the message says why and what to do.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.ones(2, "float32"), name="w")
        >>> opt = roofstep.SGD(learning_rate=0.5, parameters=[w])
        >>> w.grad = np.array([1.0, 2.0], "float32")
        >>> opt.step()
        >>> w.data
        array([0.5, 0. ], dtype=float32)
    """

    __slots__ = ("__weakref__", "_attr", "data", "grad")

    # Another object after each change of an attribute in any parameter, so that an optimizer sees
    # in one comparison a step that nothing has changed. Two threads might count to one number.
    revision: ClassVar[object] = object()

    # Whether torch is to be told when a parameter of the class is written.
    counts_writes: ClassVar[bool] = False

    # Whether the data is an array, and no tensor that is looked at anew in every step.
    holds_array: ClassVar[bool] = True

    data: Array
    grad: Array | SelectedRows | None

    def __init__(self, data: Array, name: str | None = None, attr: ParamAttr | None = None) -> None:
        if attr is not None and not isinstance(attr, ParamAttr):
            raise TypeError(f"attr: expected a ParamAttr, got {attr!r}; use ParamAttr(...)")
        attr = attr or ParamAttr()
        self._attr = attr if name is None else replace(attr, name=name)
        if _core.is_tensor(data):
            raise TypeError(
                f"data: expected a NumPy array, got a {type(data).__module__}."
                f"{type(data).__name__}; give it to the optimizer as it is, as in "
                f"parameters=[tensor]"
            )
        _core.check_parameter(data, self.name or "data")
        self.data = data
        self.grad = None

    @property
    def name(self) -> str | None:
        """The name given, or None."""
        return self._attr.name

    # Of the next four one kind may be set and another is got: the ParamAttr has checked it and made
    # it what it is. Type checkers know that of properties alone.

    @property
    def learning_rate(self) -> float:
        """A factor on the learning rate."""
        return self._attr.learning_rate  # type: ignore[return-value]

    @learning_rate.setter
    def learning_rate(self, value: Number) -> None:
        self._set(learning_rate=value)

    @property
    def regularizer(self) -> WeightDecayRegularizer | None:
        """Its own decay."""
        return self._attr.regularizer  # type: ignore[return-value]

    @regularizer.setter
    def regularizer(self, value: Decay) -> None:
        self._set(regularizer=value)

    @property
    def need_clip(self) -> bool:
        """Whether its gradient is clipped and measured."""
        return self._attr.need_clip

    @need_clip.setter
    def need_clip(self, value: bool) -> None:
        self._set(need_clip=value)

    @property
    def trainable(self) -> bool:
        """Whether a step may change it."""
        return self._attr.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._set(trainable=value)

    def _set(self, **fields: Any) -> None:
        """Changes the ParamAttr, and makes every optimizer look again."""
        self._attr = replace(self._attr, **fields)
        Parameter.revision = object()

    @staticmethod
    def watch(walked: list[object]) -> Callable[[], Any] | None:
        """Where settings may change without `revision`: what gives those of all these, `walked`."""
        return None

    @property
    def array(self) -> Array:
        """The data as a NumPy array over the same memory."""
        return self.data

    @property
    def live(self) -> Array:
        """The same, to be written outside of a step."""
        return self.array

    @property
    def walked(self) -> Any:
        """What a step reads the data and the gradient from; see csrc/gather.hpp."""
        return self

    def expect_other_memory(self) -> None:
        """Lets the states, which have just been loaded, belong to whatever the data is next."""

    def is_at(self, array: Array) -> bool:
        """Whether the data still is what `array` gave earlier."""
        return self.data is array

    @property
    def lasting_grad(self) -> Any:
        """The gradient, as one that is there still when the parameter has dropped it."""
        return self.grad

    def has_other_grad(self, old: object) -> bool:
        """Whether the gradient is no longer this one."""
        return self.grad is not old

    def as_own(self, array: Array) -> Any:
        """An array as one of the library whose the data is, over the same memory."""
        return array

    def __getstate__(self) -> tuple[Any, ...]:
        # NumPy pickles a permuted array in C order; in other memory a norm would have other bits.
        axes = sorted(range(self.data.ndim), key=lambda axis: -self.data.strides[axis])
        of_subclass = getattr(self, "__dict__", {})
        return self._attr, axes, self.data.transpose(axes), self.grad, of_subclass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._attr, axes, data, self.grad, of_subclass = state
        for name, value in of_subclass.items():
            setattr(self, name, value)
        self.data = data.transpose(np.argsort(axes)) if axes else data

    def __repr__(self) -> str:
        shape = tuple(self.data.shape)
        return f"Parameter(name={self.name!r}, shape={shape}, dtype={self.data.dtype})"


# What is taken for a parameter, for all of them or for their groups, for some, and for a gradient.
Steppable: TypeAlias = Parameter | Array | Tensor
Parameters: TypeAlias = Iterable[Steppable | Group]
Which: TypeAlias = Iterable[Steppable | str]
Gradient: TypeAlias = Readable | SelectedRows

# What is returned: the gradient is of the library that computed it.
Pair: TypeAlias = tuple[Parameter, Any]
