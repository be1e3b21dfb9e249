"""The state that a torch optimizer shows its users, who may edit and replace any of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch

from roofstep import checks
from roofstep.types import Array

Own = dict[str, Any]  # what is kept of one parameter


def scalar_dtype() -> torch.dtype:
    """That of a number in the state, as torch chooses it."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


class Row:
    """A number of each parameter, and one tensor whose elements show them in the state.

    Args:
        key: what torch calls it.
        numbers: the numbers; they stay where they are.

    Attributes:
        shown: the tensor's memory.
    """

    def __init__(self, key: str, numbers: Array) -> None:
        self._key = key
        self.numbers = numbers
        self.tensor = torch.zeros(len(numbers), dtype=scalar_dtype())
        self.shown = self.tensor.numpy()
        self.shown[...] = numbers
        self.numbers[...] = self.shown  # they keep no more digits than a checkpoint will have
        self.note()

    def read(self) -> None:
        """Take over what a user has written into the state since it was shown.

        Raises:
            ValueError: a number cannot be one of its kind.
        """
        if self.shown.tobytes() != self._last:
            for number in self.shown:
                _require_possible(self._key, float(number), "a parameter")
            self.numbers[...] = self.shown

    def note(self) -> None:
        """Remember what is shown now, that is after a step, which shows the numbers itself."""
        self._last = self.shown.tobytes()


class Seen:
    """Where the states of some parameters lay when a plan was made.

    Args:
        owns: what is kept of each parameter, or None.
        numbers: the keys of numbers, of which another tensor is another number.
        arrays: the keys of arrays, which must also lie where they lay.
    """

    def __init__(
        self, owns: Iterable[Own | None], numbers: Sequence[str], arrays: Collection[str]
    ) -> None:
        self._owns = [*owns]
        held = [own for own in self._owns if own]
        there = [(key, [o for o in held if o.get(key) is not None]) for key in (*arrays, *numbers)]
        self._arrays = sum(len(holders) for key, holders in there if key not in numbers)
        # torch keeps None where there is no momentum as yet; it has no place, but may be replaced.
        there += [(key, [o for o in held if key in o and o[key] is None]) for key in arrays]
        self._lookups = [(itemgetter(key), holders) for key, holders in there]
        self._tensors = self._now()
        self._addresses = self._look(self._tensors)
        self._sizes = self._count()

    def still(self, owns: Sequence[Own | None]) -> bool:
        """Whether all that these hold is what it was, and where it was."""
        if len(owns) != len(self._owns) or not all(map(is_, owns, self._owns)):
            return False
        if self._count() != self._sizes:
            return False
        try:
            now = self._now()
        except KeyError:  # something was taken out
            return False
        return all(map(is_, now, self._tensors)) and self._look(now) == self._addresses

    def _now(self) -> list[Any]:
        return [*chain.from_iterable(map(get, holders) for get, holders in self._lookups)]

    def _look(self, tensors: Sequence[Any]) -> list[int]:
        return [*map(torch.Tensor.data_ptr, tensors[: self._arrays])]

    def _count(self) -> list[int]:
        return [*map(len, filter(None, self._owns))]


def number_of(own: Own, key: str, name: str) -> float:
    """A number in what is kept of a parameter.

    Raises:
        TypeError, ValueError: there is none, or it cannot be one of its kind.
    """
    if key not in own:
        raise ValueError(
            f"state: expected {key!r} of parameter {name!r} beside its other entries, got none; "
            f"put it back, or take all of them out to begin anew"
        )
    found = as_number(f"state {key!r} of parameter {name!r}", own[key])
    return _require_possible(key, found, f"parameter {name!r}")


def _require_possible(key: str, number: Any, whose: str) -> float:
    checked = checks.real(f"state {key!r} of {whose}", number)
    if key == "step" and (checked < 0 or checked != int(checked)):
        raise ValueError(
            f"state 'step' of {whose}: expected a whole number >= 0, got {checked}; it counts the "
            f"updates so far"
        )
    return checked


def as_number(name: str, value: Any) -> Any:
    """What a tensor of one element holds; all else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(
            f"{name}: expected a number or a tensor of one element, got one of shape "
            f"{tuple(value.shape)}; give a group of its own to what differs"
        )
    return value.item()


def may_change(value: Any) -> bool:
    """Whether another number may stand in a setting tomorrow although the object is the same."""
    if isinstance(value, tuple):
        return any(map(may_change, value))
    return isinstance(value, (list, torch.Tensor))
