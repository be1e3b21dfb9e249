"""The entries of a state dict: the names of states, counts and numbers, and what stands there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from roofstep.checkpoint.file import Stored
from roofstep.parameter import Parameter
from roofstep.plan import Keeps
from roofstep.types import Array

_MOST_STEPS = 2**62  # an int64 count must not overflow


class Entry(NamedTuple):
    """One entry: its name in the dict, and what it holds."""

    key: str
    value: Any


Parts = Mapping[str, Iterable[str]]  # by the name of the parameter
Owners = dict[str, tuple[str, str]]
Sorted = dict[str, dict[str, Entry]]  # by the name of the parameter, by part


def key(parameter: str, state: str) -> str:
    """The name of an entry in a state dict: Paddle's own shape, its counter fixed."""
    return f"{parameter}_{state}_0"


def save(
    states: Mapping[str, Mapping[str, Array]],
    counts: Array,
    numbers: Array,
    parameters: Mapping[str, Parameter],
    keeps: Mapping[str, Keeps],
) -> dict[str, Array]:
    """All that is kept of the parameters that have been stepped, as entries, where it lies."""
    saved: dict[str, Array] = {}
    for i, (name, parameter) in enumerate(parameters.items()):
        if not counts[i]:
            continue
        own, kept = states.get(name, {}), keeps[name]
        for s, kind in kept.states.items():
            if s in own:
                saved[key(name, s)] = own[s]
            elif kind.begin is not None:  # it is new since a setting was edited
                like = parameter.array
                begin = np.array(kind.begin, like.dtype)
                saved[key(name, s)] = np.broadcast_to(begin, kind.shape(like))
        saved[key(name, "step")] = np.array(counts[i])
        if kept.number:
            saved[key(name, kept.number)] = np.array(numbers[i])
    return saved


def copied(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Entries in memory of their own, also of dicts among them."""
    return {
        k: copied(v) if isinstance(v, dict) else v.copy() if hasattr(v, "shape") else v
        for k, v in saved.items()
    }


def fill(own: Array, value: Any) -> None:
    """Write an array of the same shape, wherever it is, to this memory."""
    if isinstance(value, Stored):
        value.read_into(own)
    else:
        own[...] = value


def parts(keeps: Mapping[str, Keeps]) -> Parts:
    """What the entries of a stepped parameter are called: its states, its count, its number."""
    return {
        name: (
            *(s for s, kind in kept.states.items() if kind.begin is not None),
            "step",
            *filter(None, [kept.number]),
        )
        for name, kept in keeps.items()
    }


def means(keeps: Mapping[str, Keeps]) -> Parts:
    """States that begin as the parameter, with its next update, and are not there till then."""
    return {
        name: [s for s, kind in kept.states.items() if kind.begin is None]
        for name, kept in keeps.items()
    }


def owners(parts: Parts, middle: str = "") -> Owners:
    """Parameter and part by the name of the entry without its counter."""
    return {f"{name}{middle}_{part}": (name, part) for name in parts for part in parts[name]}


def owner(entry: object, owned: Owners) -> tuple[str, str] | None:
    """The parameter and the part that an entry belongs to, whatever its counter."""
    return owned.get(re.sub(r"_\d+$", "", str(entry)))


def sort(
    saved: Mapping[str, Any],
    required: Parts,
    problems: list[str],
    optional: Parts | None = None,
    middle: str = "",
) -> Sorted:
    """The entries by parameter and by part.

    Args:
        saved: the entries.
        required: the parts of each parameter, of which all or none must be there.
        problems: where all that is missing, unknown or twice there is added as a sentence.
        optional: parts that may be there besides.
        middle: what stands between the names of a parameter and of a part.
    """
    owned = owners(required, middle) | owners(optional or {}, middle)
    arrays = {id(v) for entry, v in saved.items() if hasattr(v, "shape") and owner(entry, owned)}
    found: Sorted = {}
    for entry, value in saved.items():
        whose = owner(entry, owned)
        if whose is None and id(value) in arrays:
            continue  # paddle.Model adds every state under a second name, of its own making
        if whose is None:
            problems.append(f"{entry!r} belongs to no parameter of this optimizer")
            continue
        name, part = whose
        first = found.setdefault(name, {}).setdefault(part, Entry(entry, value))
        if first.key != entry:
            problems.append(f"{entry!r} and {first.key!r} are the same state")
    problems += [
        f"{key(name + middle, part)!r} is missing"
        for name, named in found.items()
        for part in required[name]
        if part not in named
    ]
    return found


def as_array(entry: Entry, problems: list[str]) -> Any:
    """The entry as NumPy has it, or what stands for it in a file, or None."""
    if isinstance(entry.value, Stored):  # the small ones are asked for their values
        return entry.value.array() if entry.value.size == 1 else entry.value
    try:
        return np.asarray(entry.value)
    except ValueError as error:  # ragged
        problems.append(f"{entry.key!r} is no array: {error}")
        return None


@dataclass
class Kept:
    """What `read` found, by the name of the parameter."""

    states: dict[str, dict[str, Array]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


def read(
    found: Sorted,
    parameters: Mapping[str, Parameter],
    keeps: Mapping[str, Keeps],
    problems: list[str],
) -> Kept:
    """The values of sorted entries; adds those of another shape, dtype or range."""
    result = Kept()
    for name, named in found.items():
        like = parameters[name].array
        for part, entry in named.items():
            array = as_array(entry, problems)
            if array is None:
                continue
            if part in keeps[name].states:
                result.states.setdefault(name, {})[part] = array
                shape = keeps[name].states[part].shape(like)
                if (array.shape, array.dtype) != (shape, like.dtype):
                    problems.append(
                        f"{entry.key!r} is {array.dtype} of shape {array.shape}, "
                        f"expected {like.dtype} of shape {shape}"
                    )
            elif array.size != 1 or array.dtype.kind not in ("iu" if part == "step" else "f"):
                problems.append(f"{entry.key!r} is no {part}: {entry.value!r}")
            elif part == "step" and 0 <= array.item() <= _MOST_STEPS:
                result.counts[name] = int(array.item())
            elif part != "step" and 0 <= array.item() <= 1:
                result.numbers[name] = float(array.item())
            else:
                problems.append(f"{entry.key!r} is out of range: {entry.value!r}")
    return result


def differences(values: Mapping[str, Stored], parameters: Mapping[str, Parameter]) -> list[str]:
    """Why these cannot be the values of the parameters, as sentences."""
    found = [
        f"parameter {name!r} is not among those in the file"
        for name in parameters
        if name not in values
    ]
    for name, value in values.items():
        if name not in parameters:
            found.append(f"parameter {name!r} is in the file, and not in this optimizer")
            continue
        like = parameters[name].array
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            found.append(
                f"parameter {name!r} is {value.dtype} of shape {value.shape} in the file, "
                f"expected {like.dtype} of shape {like.shape}"
            )
    return found
