"""The memory of optimizer states, and their form in a state dict."""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from roofstep.plan import Keeps, State

Array = np.ndarray[Any, Any]

_ALIGNMENT = 64
_HUGE_PAGE = 2 << 20
_MOST_STEPS = 2**62  # an int64 count must not overflow


def zeros(kinds: Iterable[tuple[State, Array]]) -> list[Array]:
    """Zeroed arrays for states, each laid out as its parameter (a dense array), from one block.

    In 2 MB pages a pass over the memory is 5-15 % faster; side by side, the states of many small
    parameters share cache lines and pages.
    """
    kinds = list(kinds)
    offsets, end = [], 0
    for kind, parameter in kinds:
        offsets.append(end)
        end += -(-parameter.nbytes // _ALIGNMENT) * _ALIGNMENT * (kind.slots or 1)
    block = _block(end)
    return [
        np.ndarray(
            kind.shape(parameter),
            parameter.dtype,
            block,
            offset,
            parameter.strides if kind.slots is None else (parameter.nbytes, *parameter.strides),
        )
        if parameter.size
        else np.zeros(kind.shape(parameter), parameter.dtype)
        for (kind, parameter), offset in zip(kinds, offsets, strict=True)
    ]


def _block(size: int) -> Any:
    """Zeroed memory that begins at a page; the operating system hands it out at first touch."""
    if hasattr(mmap, "MAP_PRIVATE"):
        block = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # it is advice, and a kernel may not take it
                block.madvise(mmap.MADV_HUGEPAGE)
        return block
    return mmap.mmap(-1, max(size, 1))


def kind_of(state: Array, parameter: Array) -> tuple[State, Array]:
    """What `zeros` takes to make the like of a state that has been made before."""
    return State(0.0, state.shape[0] if state.ndim > parameter.ndim else None), parameter


def key(parameter: str, state: str) -> str:
    """The name of an entry in a state dict: Paddle's own shape, its counter fixed."""
    return f"{parameter}_{state}_0"


def match(
    saved: Mapping[str, Any], parameters: Mapping[str, tuple[Array, Keeps]]
) -> tuple[dict[str, dict[str, Array]], dict[str, int], dict[str, float], list[str]]:
    """Sorts the entries of a state dict by parameter.

    Args:
        saved: the entries; any counter may end their names.
        parameters: name -> (array, what its rule keeps).

    Returns:
        The states, the step counts and the numbers by parameter name, and every mismatch as a
        sentence.
    """
    expected = {
        name: (*kept.states, "step", *filter(None, [kept.number]))
        for name, (_, kept) in parameters.items()
    }
    owners = {f"{name}_{part}": (name, part) for name in expected for part in expected[name]}
    found: dict[str, dict[str, str]] = {}  # parameter -> part -> entry
    states: dict[str, dict[str, Array]] = {}
    steps: dict[str, int] = {}
    numbers: dict[str, float] = {}
    problems = []
    for entry, value in saved.items():
        name, part = owners.get(re.sub(r"_\d+$", "", str(entry)), ("", ""))
        if not name:
            problems.append(f"{entry!r} belongs to no parameter of this optimizer")
            continue
        first = found.setdefault(name, {}).setdefault(part, entry)
        if first != entry:
            problems.append(f"{entry!r} and {first!r} are the same state")
            continue
        parameter, kept = parameters[name]
        try:
            array = np.asarray(value)
        except ValueError as error:  # ragged
            problems.append(f"{entry!r} is no array: {error}")
            continue
        if part in kept.states:
            states.setdefault(name, {})[part] = array
            shape = kept.states[part].shape(parameter)
            if (array.shape, array.dtype) != (shape, parameter.dtype):
                problems.append(
                    f"{entry!r} is {array.dtype} of shape {array.shape}, "
                    f"expected {parameter.dtype} of shape {shape}"
                )
        elif array.size != 1 or array.dtype.kind not in ("iu" if part == "step" else "f"):
            problems.append(f"{entry!r} is no {part}: {value!r}")
        elif part == "step" and 0 <= array.item() <= _MOST_STEPS:
            steps[name] = int(array.item())
        elif part != "step" and 0 <= array.item() <= 1:
            numbers[name] = float(array.item())
        else:
            problems.append(f"{entry!r} is out of range: {value!r}")
    for name, parts in found.items():
        problems += [
            f"{key(name, part)!r} is missing" for part in expected[name] if part not in parts
        ]
    return states, steps, numbers, problems
