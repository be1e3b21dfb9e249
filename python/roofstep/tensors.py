"""Tensors of other libraries as parameters: what each needs said is in its library's package."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from roofstep import _core
from roofstep.parameter import ParamAttr, Parameter
from roofstep.rows import SelectedRows
from roofstep.types import Array


class TensorParameter(Parameter):
    """A tensor that an optimizer steps in place; its gradient is the tensor's own ``grad``.

    An optimizer makes them of the tensors in its ``parameters``.

    Args:
        tensor: a dense tensor of float32 or float64 in the memory of the CPU.
        name: under which an optimizer keeps the states, or None.

    Attributes:
        data: the tensor. What is put in its place becomes the tensor's ``data``.
        grad: that of the tensor.
    """

    __slots__ = ("_tensor",)

    holds_array = False

    def __init__(self, tensor: Any, name: str | None = None) -> None:
        self._attr = ParamAttr(name=name)
        self._tensor = tensor

    @property
    def data(self) -> Any:
        """The tensor."""
        return self._tensor

    @data.setter
    def data(self, value: Any) -> None:
        self._tensor.data = value

    @property
    def grad(self) -> Any:
        """The tensor's gradient."""
        return self._tensor.grad

    @grad.setter
    def grad(self, value: Any) -> None:
        self._tensor.grad = value

    @property
    def array(self) -> Array:
        """A NumPy array over the tensor's memory."""
        return _core.as_numpy(self._tensor, self.name or "data")

    @property
    def walked(self) -> Any:
        """The tensor: a step then looks for ``grad`` and nothing else."""
        return self._tensor

    def is_at(self, array: Array) -> bool:
        """Whether an earlier `array` still is over the tensor's memory."""
        now = self.array.__array_interface__
        then = array.__array_interface__
        return all(now[key] == then[key] for key in ("data", "shape", "strides", "typestr"))

    def __getstate__(self) -> tuple[Any, ...]:
        return self._attr, self._tensor, getattr(self, "__dict__", {})

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._attr, self._tensor, of_subclass = state
        for name, value in of_subclass.items():
            setattr(self, name, value)


def as_parameter(tensor: Any) -> TensorParameter:
    """The parameter of a tensor; its library has been imported already.

    Raises:
        TypeError: it is of a library that is not known here.
        ValueError: its library has it computed from other tensors.
    """
    support = _support(tensor)
    if support is not None:
        made: TensorParameter = support.as_parameter(tensor)
        return made
    raise TypeError(
        f"parameters: expected tensors of torch or Paddle, got a {type(tensor).__module__}."
        f"{type(tensor).__name__}; pass a NumPy array over its memory, if it may be written"
    )


def _support(tensor: Any) -> Any:
    """The module for tensors of this one's library, which is known here; else None."""
    for library in ("torch", "paddle"):
        base = getattr(sys.modules.get(library), "Tensor", None)
        if base is not None and isinstance(tensor, base):
            return importlib.import_module(f"roofstep.{library}.tensors")
    return None


# Row numbers, values, and how many rows there are in all if the gradient says so.
Rows = tuple[Array, Any, int | None]


def rows_of(gradient: Any, who: str) -> Rows | None:
    """What a sparse gradient has; None if this is none. The step asks if a gradient is not dense.

    Args:
        gradient: anything.
        who: whose gradient it is, for messages.

    Raises:
        ValueError: it is sparse in another way than by rows.
    """
    if isinstance(gradient, SelectedRows):
        return as_numbers(gradient.rows), gradient.values, None
    support = _support(gradient)
    found: Rows | None = None if support is None else support.rows_of(gradient, who)
    return found


def as_numbers(rows: Any) -> Array:
    """Row numbers as the step reads them."""
    return np.require(rows, np.int64, ("C", "A", "W"))


def count_writes(tensors: list[Any]) -> None:
    """Tell torch, all of whose tensors these are, that their memory has been written."""
    if tensors:
        sys.modules["roofstep.torch.tensors"].count_writes(tensors)
