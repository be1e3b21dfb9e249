"""The memory of optimizer states."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from roofstep.parameter import Parameter

Array = np.ndarray[Any, Any]

_ALIGNMENT = 64
_HUGE_PAGE = 2 << 20


def zeros(like: Iterable[Array]) -> list[Array]:
    """Zeroed arrays with the shapes, dtypes and memory layouts of dense arrays, from one block.

    In 2 MB pages a pass over the memory is 5-15 % faster; side by side, the states of many small
    parameters share cache lines and pages.
    """
    like = list(like)
    offsets, end = [], 0
    for array in like:
        offsets.append(end)
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    block = _block(end)
    return [
        np.ndarray(array.shape, array.dtype, block, offset, array.strides)
        if array.size
        else np.zeros_like(array)
        for array, offset in zip(like, offsets, strict=True)
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


def laid_out(
    states: Mapping[str, Mapping[str, Array]], parameters: Mapping[str, Parameter]
) -> dict[str, dict[str, Array]]:
    """Copies of states in memory of our own, each laid out as its parameter."""
    row = [(name, s, array) for name, named in states.items() for s, array in named.items()]
    memory = zeros(parameters[name].data for name, _, _ in row)
    copies: dict[str, dict[str, Array]] = {}
    for (name, s, array), own in zip(row, memory, strict=True):
        own[...] = array
        copies.setdefault(name, {})[s] = own
    return copies
