"""What L-BFGS remembers from step to step, and its form in a state dict, that of Paddle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from roofstep.checkpoint.file import Rows
from roofstep.lbfgs.curvature import Curvature, Pair
from roofstep.lbfgs.space import Evaluation, Space
from roofstep.types import Array

T = TypeVar("T")

_VECTORS = ("d", "prev_flat_grad")
_ROWS = ("old_yk", "old_sk")
_NUMBERS = ("alpha", "H_diag", "prev_loss")
_COUNTS = ("func_evals", "n_iter")
_OPTIONAL = ("shapes", "al")  # al is scratch memory of Paddle's


class Progress:
    """The counts, the pairs, and the latest move: ``length * direction`` from where the loss was.

    Args:
        most: how many pairs are kept.
    """

    def __init__(self, most: int) -> None:
        self.evaluations = 0
        self.begin_anew(most, None)

    def begin_anew(self, most: int, kind: tuple[Any, ...] | None) -> None:
        """Forget all but the count of evaluations."""
        self.iterations = 0
        self.kind = kind  # the function that the pairs belong to; None: there are none
        self.curvature = Curvature(most)
        self.gradient: Array | None = None
        self.direction: Array | None = None
        self.loss = 0.0
        self.length = 0.0

    def direction_from(self, at: Evaluation) -> Array:
        """Learn from where the latest move has led, and say where to go from there."""
        if self.iterations and self.gradient is not None and self.direction is not None:
            self.curvature.learn(at.gradient, self.gradient, self.direction, self.length)
        self.length = 0.0  # until it is gone
        self.gradient, self.loss = at.gradient, at.loss
        self.direction = self.curvature.descent(at.gradient)
        return self.direction

    def save(self, space: Space) -> dict[str, Any]:
        """Its form in a state dict; arrays are those in use."""
        state: dict[str, Any] = {"func_evals": self.evaluations, "n_iter": 0}
        is_of_use = self.kind == space.kind and self.iterations
        if is_of_use and self.gradient is not None and self.direction is not None:
            pairs, kind = self.curvature.pairs, (self.gradient.size, self.gradient.dtype)
            state |= {
                "n_iter": self.iterations,
                "shapes": _shapes(space),
                "d": self.direction,
                "alpha": self.length,
                "old_yk": Rows([pair.y for pair in pairs], *kind),
                "old_sk": Rows([pair.s for pair in pairs], *kind),
                "ro": np.array([pair.rho for pair in pairs]),
                "H_diag": self.curvature.scale,
                "prev_flat_grad": self.gradient,
                "prev_loss": self.loss,
            }
        return state


def restored(state: Any, space: Space, most: int, problems: list[str]) -> Progress:
    """The progress that was saved; adds what does not fit, each as a sentence."""
    progress = Progress(most)
    if not isinstance(state, Mapping):
        problems.append("'state' is missing, or no dict")
        return progress
    known = (*_COUNTS, *_VECTORS, *_ROWS, "ro", *_NUMBERS, *_OPTIONAL)
    problems += [f"{key!r} in 'state' is nothing LBFGS keeps" for key in state if key not in known]
    read = _Reader(state, space, problems)
    if not state:  # Paddle's, before the first step
        return progress
    progress.evaluations, progress.iterations = map(read.count, _COUNTS)
    if not progress.iterations:
        return progress
    progress.direction, progress.gradient = map(read.vector, _VECTORS)
    progress.length, progress.curvature.scale, progress.loss = map(read.number, _NUMBERS)
    ys, ss = (read.row(key, read.as_vector) for key in _ROWS)
    rhos = read.row("ro", read.as_number)
    if not len(ys) == len(ss) == len(rhos) <= most:
        problems.append(
            f"'old_yk', 'old_sk' and 'ro' are {len(ys)}, {len(ss)} and {len(rhos)} long, expected "
            f"to be alike and at most history_size={most}"
        )
    shapes, saved = _shapes(space), state.get("shapes")
    if saved is not None and not _same_shapes(saved, shapes):
        problems.append(f"'shapes' are {saved}, those of the trainable parameters {shapes}")
    if not problems:
        progress.kind = space.kind
        progress.curvature.pairs.extend(map(Pair, ys, ss, rhos))
    return progress


def _shapes(space: Space) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in space.shapes.items()}


def _same_shapes(saved: Any, shapes: Mapping[str, list[int]]) -> bool:
    if not isinstance(saved, Mapping) or saved.keys() != shapes.keys():
        return False
    return all(np.array_equal(saved[name], shape) for name, shape in shapes.items())


class _Reader:
    """Reads the entries, and notes those that are not as they should be."""

    def __init__(self, state: Mapping[str, Any], space: Space, problems: list[str]) -> None:
        self._state, self._space, self._problems = state, space, problems

    def count(self, key: str) -> int:
        array = self._array(self._state.get(key))
        if array.size == 1 and array.dtype.kind in "iu" and array.item() >= 0:
            return int(array.item())
        return self._bad(key, "is no count", 0)

    def number(self, key: str) -> float:
        return self.as_number(key, self._state.get(key))

    def vector(self, key: str) -> Array:
        return self.as_vector(key, self._state.get(key))

    def row(self, key: str, read: Callable[[str, Any], Any]) -> list[Any]:
        try:
            row = list(self._state.get(key, 0))
        except TypeError:
            return self._bad(key, "is no list", list[Any]())
        return [read(f"{key}[{i}]", value) for i, value in enumerate(row)]

    def as_number(self, key: str, value: Any) -> float:
        array = self._array(value)
        if array.size == 1 and array.dtype.kind in "fiu" and np.isfinite(array).all():
            return float(array.item())
        return self._bad(key, "is no finite number", 0.0)

    def as_vector(self, key: str, value: Any) -> Array:
        array, space = self._array(value), self._space
        if (array.shape, array.dtype) == ((space.size,), space.dtype):
            return np.array(array)
        got = f"{array.dtype} of shape {array.shape}"
        wanted = f"{space.dtype} of shape ({space.size},), all trainable parameters"
        return self._bad(key, f"is {got}, expected {wanted}", array)

    def _array(self, value: Any) -> Array:
        try:
            return np.asarray(value)
        except (TypeError, ValueError):  # ragged, or not on this machine
            return np.asarray(None)

    def _bad(self, key: str, what: str, instead: T) -> T:
        missing = key in (*_COUNTS, *_VECTORS, *_ROWS, "ro", *_NUMBERS) and key not in self._state
        self._problems.append(f"{key!r} {'is missing' if missing else what}")
        return instead
