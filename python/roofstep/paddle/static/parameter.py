"""A parameter of a static program: known by its name, stepped where a run finds it."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import paddle

from roofstep import _core
from roofstep.parameter import ParamAttr, Parameter
from roofstep.regularizer import as_regularizer
from roofstep.types import Array

Value = Any  # paddle.pir.Value, of which nothing is kept: one whose program is gone ends a process


class StaticParameter(Parameter):
    """A parameter of a static program, as an optimizer knows it: by its name.

    `Optimizer.minimize` makes them, or an optimizer of the values among its ``parameters``. Its
    settings are those that Paddle's ParamAttr gave it; later changes are made here.

    Args:
        value: the parameter in a program.
        adopted: whether minimize has found it, and may find more.

    Attributes:
        data: in a run the tensor; else zeros of its shape and dtype.

    Raises:
        ValueError: it is neither float32 nor float64.
    """

    __slots__ = ("_at", "_initialised_at", "_like", "_scope", "adopted")

    holds_array = False

    def __init__(self, value: Value, adopted: bool = False) -> None:
        name, dtype = value.name, dtype_of(value)
        if dtype not in ("float32", "float64"):
            raise ValueError(
                f"parameter {name!r}: expected dtype float32 or float64, got {dtype}; make it of "
                f"one of these"
            )
        self._attr = ParamAttr(
            name=name,
            learning_rate=(value.optimize_attr or {"learning_rate": 1.0})["learning_rate"],
            regularizer=as_regularizer(f"regularizer of {name!r}", value.regularizer),
            need_clip=value.need_clip is not False,
            trainable=not value.stop_gradient,
        )
        # Never touched, and so without memory.
        self.data = self._like = np.zeros(value.shape, dtype)
        self.adopted = adopted
        self._at: int | None = None  # where the tensor lay in the last run
        self._initialised_at: int | None = None  # what a startup program has filled since
        self._scope: Any = None  # where it is, if that was the global scope in the last run

    @property
    def grad(self) -> NoReturn:  # type: ignore[override]
        """There is none: a gradient passes by within a run."""
        raise RuntimeError(
            f"parameter {self.name!r} is of a static program, where gradients exist in a run "
            f"alone; call minimize(loss) once, then Executor.run() for every step"
        )

    @property
    def array(self) -> Array:
        """A NumPy array over the memory in a run; outside of runs one of the same shape."""
        return _core.as_numpy(self.data, str(self.name))

    @property
    def live(self) -> Array:
        """A NumPy array over the memory in the scope of the last run, outside of runs."""
        if self._at is None or self._scope is None or _pointer(self._scope, self.name) != self._at:
            raise RuntimeError(
                f"parameter {self.name!r} has had no step where it lies now, or not in "
                f"paddle.static.global_scope(); run its program first, under scope_guard(scope) "
                f"if not in the default scope"
            )
        return np.asarray(_Memory(self._at, self._like))

    def as_own(self, array: Array) -> Any:
        """A tensor over the array's memory, for a user's clip or regularizer."""
        return paddle.from_dlpack(array)

    def is_new(self, tensor: Any, has_states: bool) -> bool:
        """Whether a startup program has made this tensor, in another scope than the last step's.

        Raises:
            RuntimeError: it is another tensor than in the last step, and has states, which belong
                to that.
        """
        at = tensor.data_ptr()
        if self._at in (None, at):
            return False
        if self._initialised_at == at:
            return True
        if has_states and (self._scope is None or _pointer(self._scope, self.name) != at):
            raise RuntimeError(
                f"parameter {self.name!r} was stepped in another scope before, and its states "
                f"belong to the values there; run the startup program in this scope to begin "
                f"anew, load a state to go on from, or use an optimizer for each scope"
            )
        return False

    def enter(self, tensor: Any) -> None:
        """Is this tensor for the time of a step: Paddle takes its memory from it after that."""
        at = tensor.data_ptr()
        if at != self._at or self._scope is None:  # it may be the global scope by now
            scope = paddle.static.global_scope()
            self._scope = scope if _pointer(scope, self.name) == at else None
        if at == self._initialised_at:
            self._initialised_at = None
        self.data, self._at = tensor, at

    def leave(self) -> None:
        """Is without memory until the next step."""
        self.data = self._like

    def was_filled(self, tensor: Any) -> bool:
        """Notes that a startup program has filled this tensor; whether it is the last step's."""
        self._initialised_at = tensor.data_ptr()
        return self._initialised_at == self._at

    def expect_other_memory(self) -> None:
        """Is over whatever tensor the next run has."""
        self._at = self._initialised_at = None

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"copy: expected parameters that have a value of their own, got {self.name!r}, which "
            f"is of a static program; save state_dict(), and load it into another optimizer"
        )


def dtype_of(value: Value) -> str:
    """The name of a value's dtype."""
    return str(value.dtype).rpartition(".")[2].lower()


class _Memory:
    """What NumPy makes an array of that is like another."""

    def __init__(self, pointer: int, like: Array) -> None:
        self.__array_interface__ = {**like.__array_interface__, "data": (pointer, False)}


def _pointer(scope: Any, name: str | None) -> int | None:
    """Where the parameter of this name lies in a scope."""
    found = scope.find_var(name)
    return None if found is None else int(found.get_tensor()._ptr())
