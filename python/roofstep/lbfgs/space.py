"""All trainable parameters as one vector, and a loss with its weight decay as a function of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsFloat

import numpy as np

from roofstep import _core, checks, tensors
from roofstep.parameter import Parameter
from roofstep.types import Array


@dataclass(frozen=True)
class Evaluation:
    """What a closure gave at one point."""

    own: float  # its loss
    loss: float  # with the penalties of weight decay
    gradient: Array  # with their terms, a vector
    largest: float  # of the gradient's elements by magnitude

    @property
    def is_finite(self) -> bool:
        """Whether one can go on from here."""
        return math.isfinite(self.loss) and math.isfinite(self.largest)


@dataclass(frozen=True)
class Part:
    """A trainable parameter, and the coefficients of its decay."""

    name: str
    parameter: Parameter
    l1: float
    l2: float


class Space:
    """The parts one after another, each in C order, as vectors of the widest dtype among them.

    The arrays are those of the beginning; a closure may not put others in their place.

    Args:
        parts: the parameters that move.
        parameters: all of the optimizer, by name.

    Raises:
        TypeError, ValueError: a parameter cannot be stepped in place.
    """

    def __init__(self, parts: list[Part], parameters: Mapping[str, Parameter]) -> None:
        self.evaluations = 0
        for part in parts:
            _core.check_parameter(part.parameter.data, part.name)
        self._parts = [(part, part.parameter.array) for part in parts]
        self._counted = [p.data for part in parts if (p := part.parameter).counts_writes]
        self.dtype = np.result_type(np.float32, *(array.dtype for _, array in self._parts))
        self.size = sum(array.size for _, array in self._parts)
        # A step whose states are not there yet checks everything and writes nothing.
        unstarted = _core.Settings("momentum", {"momentum": 0.0})
        unstarted.learning_rate = 0.0
        moving = {part.name for part in parts}
        self._entries = _core.Entries(
            tuple(
                (name, parameter.walked, unstarted if name in moving else None, None, None)
                for name, parameter in parameters.items()
            ),
            [],
        )
        self._counts, self._numbers = np.zeros(len(parameters), np.int64), np.ones(len(parameters))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every part by name, in order."""
        return {part.name: array.shape for part, array in self._parts}

    @property
    def kind(self) -> tuple[Any, ...]:
        """What makes a loss another function: other parts, shapes, dtypes or decays."""
        return tuple((p.name, a.shape, a.dtype.str, p.l1, p.l2) for p, a in self._parts)

    def evaluate(self, closure: Callable[[], SupportsFloat]) -> Evaluation:
        """The loss and the gradient at the point where the parameters are.

        Args:
            closure: sets the gradients and returns the loss.

        Raises:
            TypeError, ValueError: the closure returned no number, or a gradient cannot be used.
            RuntimeError: the closure put another array in place of a parameter.
        """
        own = _as_number(closure())
        self._check()
        self.evaluations += 1
        with np.errstate(all="ignore"):
            return self._collect(own)

    def _check(self) -> None:
        for part, array in self._parts:
            if not part.parameter.is_at(array):
                raise RuntimeError(
                    f"parameter {part.name!r}: expected the array that it had when the step began, "
                    f"got another from the closure; write into it with parameter.data[...] = value"
                )
        self._entries.step(None, self._counts, self._numbers, False, 1)

    def _collect(self, own: float) -> Evaluation:
        gradient = np.zeros(self.size, self.dtype)
        loss = own
        for part, array, piece in self._pieces(gradient):
            if part.parameter.grad is not None:
                piece[...] = _core.as_numpy(part.parameter.grad, part.name)
            if part.l1 or part.l2:
                row = array.ravel()  # in C order, as the bits of a sum depend on it
            if part.l2:
                piece += part.l2 * array
                loss += part.l2 / 2 * float(np.square(row, dtype=np.float64).sum())
            if part.l1:
                piece += part.l1 * np.sign(array)
                loss += part.l1 * float(np.abs(row).sum(dtype=np.float64))
        return Evaluation(own, loss, gradient, float(np.abs(gradient).max(initial=0.0)))

    def _pieces(self, vector: Array) -> Iterator[tuple[Part, Array, Array]]:
        """Every part, its array, and its piece of a vector in the array's shape."""
        begin = 0
        for part, array in self._parts:
            end = begin + array.size
            yield part, array, vector[begin:end].reshape(array.shape)
            begin = end

    def point(self) -> Array:
        """Where the parameters are, as a new vector."""
        vector = np.empty(self.size, self.dtype)
        for _, array, piece in self._pieces(vector):
            piece[...] = array
        return vector

    def move(self, origin: Array, length: float, direction: Array) -> None:
        """Put the parameters at ``origin + length * direction``."""
        ways = self._pieces(direction)
        with np.errstate(all="ignore"):
            for (_, array, base), (_, _, way) in zip(self._pieces(origin), ways, strict=True):
                np.add(base, length * way, out=array, casting="same_kind")
        tensors.count_writes(self._counted)

    @contextmanager
    def returning(self) -> Iterator[Array]:
        """Gives `point`, and goes back there if what follows fails."""
        origin = self.point()
        try:
            yield origin
        except BaseException:
            for _, array, piece in self._pieces(origin):
                array[...] = piece
            tensors.count_writes(self._counted)
            raise


def _as_number(loss: Any) -> float:
    number = loss
    if callable(getattr(loss, "item", None)):
        try:
            number = loss.item()
        except (TypeError, ValueError, RuntimeError):  # as libraries refuse more than one element
            number = None
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(
            f"closure: expected it to return the loss, one real number, got "
            f"{checks.shown(loss):.80}; let it set every parameter's grad and return the loss"
        )
    return float(number)
