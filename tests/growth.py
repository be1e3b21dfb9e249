"""What grows while something is done again and again: references, blocks, memory, files."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from array import array
from collections.abc import Callable, Iterable
from itertools import pairwise, repeat
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np

import roofstep

ROUNDS = 3
# Everybody's, which a step may hold on to as well.
COMMON = (
    *(None, True, False, (), "", 0, 1, 0.0),
    *(np.dtype("f4"), np.dtype("f8"), np.dtype("i8")),
    *(np.ndarray, roofstep.Parameter, roofstep.SelectedRows, KeyboardInterrupt, ValueError),
)
# What one lost thing comes to at least, and what comes and goes by itself.
FEW = 4
LOST = {
    "blocks of Python": (1, FEW),
    "objects of the garbage collector": (1, FEW),
    "open files": (1, 0),
    "bytes of malloc": (32, 1 << 10),
    "bytes of memory": (32, 1 << 18),
    "bytes of addresses": (32, 1 << 18),
}


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        *((f"_{i}", ctypes.c_size_t) for i in range(4)),
        ("mapped", ctypes.c_size_t),
        *((f"_{i}", ctypes.c_size_t) for i in (5, 6)),
        ("used", ctypes.c_size_t),
        *((f"_{i}", ctypes.c_size_t) for i in (8, 9)),
    ]


_forget = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
_mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None) if os.name == "posix" else None
if _mallinfo is not None:
    _mallinfo.restype = _Mallinfo


def _counts() -> dict[str, int]:
    """How many there are now of all that can be counted on this system."""
    _forget()  # Python's cache of attributes holds their names, each made anew, up to some number
    gc.collect()
    found = {
        "blocks of Python": sys.getallocatedblocks(),
        "objects of the garbage collector": len(gc.get_objects()),
    }
    if _mallinfo is not None:
        info = _mallinfo()
        found["bytes of malloc"] = info.used + info.mapped
    own = Path("/proc/self")
    if own.exists():
        pages = (own / "statm").read_text().split()
        size = os.sysconf("SC_PAGE_SIZE")
        found["bytes of addresses"], found["bytes of memory"] = (int(n) * size for n in pages[:2])
        found["open files"] = len(os.listdir(own / "fd"))
    return found


def _reached(roots: Iterable[object]) -> list[Any]:
    """All that these hold, and what that holds; of functions the variables that they close over."""
    found: dict[int, Any] = {}
    left = [*roots]
    while left:
        one = left.pop()
        if id(one) in found or isinstance(one, ModuleType):
            continue
        found[id(one)] = one
        if isinstance(one, FunctionType):
            left += [cell.cell_contents for cell in one.__closure__ or ()]
            left += one.__defaults__ or ()
        elif not isinstance(one, type | BuiltinFunctionType):
            left += gc.get_referents(one)
        if isinstance(one, np.ndarray):
            left += [one.dtype, one.base]
    return [*found.values()]


def grown(
    act: Callable[[], object], times: int, *watched: object, spare: Iterable[object] = ()
) -> dict[str, float]:
    """What has grown, and by how much at each call.

    One thing that is lost at every call is found, be it a reference of anything that can be reached
    from the function or from what is watched. What grows once, as a cache does, is not: there are
    three rounds, and what counts has grown in each. Each is twice as long as the one before, so
    that memory that doubles when it is full does so in each.

    Args:
        act: is called.
        times: how often, in all three rounds.
        watched: more of which references are counted.
        spare: of which they are not.
    """
    first = max(times // 7, 20)
    for _ in range(first // 5):
        act()
    spared = {*map(id, spare)}
    reached = [one for one in _reached([act, *watched, *COMMON]) if id(one) not in spared]
    # What is noted stands in memory that is there already.
    counts = [array("q", _counts().values()) for _ in range(ROUNDS + 1)]
    references = [array("q", bytes(8 * len(reached))) for _ in range(ROUNDS + 1)]
    for k in range(ROUNDS + 1):
        for _ in repeat(None, first << k - 1 if k else 0):
            act()
        for i, count in enumerate(_counts().values()):
            counts[k][i] = count
        for i, one in enumerate(reached):
            references[k][i] = sys.getrefcount(one)
    found = {}
    for i, key in enumerate(_counts()):
        if more := _more(counts, i, first, *LOST[key]):
            found[key] = more
    for i, one in enumerate(reached):
        if more := _more(references, i, first, 1, FEW):
            found[f"references of a {type(one).__name__}, {one!r:.60}"] = more
    return found


def _more(rows: list[array[int]], i: int, first: int, lost: int, waver: int) -> float:
    """By how much the i-th grew at each call in the last round; 0 if a round goes without."""
    grew = [after[i] - before[i] for before, after in pairwise(rows)]
    if any(more <= lost * (first << k) / 10 + waver for k, more in enumerate(grew)):
        return 0
    return grew[-1] / (first << ROUNDS - 1)
