"""Calls of the compiled door from C against loops that the caller's compiler makes, on one thread.

The loops (compiled.c) are compiled twice: for any CPU of this kind, as packages are, and for this
very CPU. Those of rows take 1000 of the 10 000 rows of a matrix, each once.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import roofstep
from bench.case import Item, Options, Row
from roofstep import kernels
from roofstep.timing import compare

SOURCE = Path(__file__).with_suffix(".c")
BUILDS = {"any CPU": ("-O3",), "this CPU": ("-O3", "-march=native", "-fno-math-errno")}
FLAT, OF_ROWS = ("sgd", "adagrad", "adam"), ("sgd_rows", "adagrad_rows")
SIZES, SHORT_SIZES = (1, 16, 100, 300, 4096, 1 << 18, 1 << 22), (16, 300)
WIDTHS, SHORT_WIDTHS = (16, 100, 300), (16,)
COUNT, HEIGHT = 1000, 10_000
CALLS = 1_000_000  # elements that one measured call of C goes over at least


class Case(ctypes.Structure):
    """As in compiled.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("kernels", "param", "grad", "state1", "state2")),
        ("rows", ctypes.c_void_p),
        *((name, ctypes.c_ssize_t) for name in ("count", "height", "width", "times")),
    )


def plan(options: Options) -> list[Item]:
    """Every function at every size, against both builds of the loop."""
    sizes = SHORT_SIZES if options.short else SIZES
    widths = SHORT_WIDTHS if options.short else WIDTHS
    cases = [(name, size) for name in FLAT for size in sizes]
    cases += [(name, width) for name in OF_ROWS for width in widths]
    return [
        Item(f"{name} of {size}", arguments={"function": name, "size": size, "build": build})
        for name, size in cases
        for build in BUILDS
    ]


@functools.cache
def library(build: str) -> ctypes.CDLL:
    """The functions of compiled.c."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("compiled: expected a C compiler named cc on the PATH, got none")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "compiled.so")
        command = [compiler, *BUILDS[build], "-shared", "-fPIC", f"-I{roofstep.get_include()}"]
        subprocess.run([*command, SOURCE, "-o", target, "-lm"], check=True)
        return ctypes.CDLL(str(target))


def measure(options: Options, item: Item) -> Iterator[Row]:
    """A function beside the loop, in pairs."""
    name, size, build = (item.arguments[key] for key in ("function", "size", "build"))
    of_rows = name in OF_ROWS
    total, given = (HEIGHT * size, COUNT * size) if of_rows else (size, size)
    param, state1, state2 = np.ones(total, "f4"), np.ones(total, "f4"), np.ones(total, "f4")
    grad = np.full(given, 1e-3, "f4")
    rows = np.arange(COUNT) * (HEIGHT // COUNT)
    times = max(1, CALLS // (given + 100))
    arrays = [array.ctypes.data for array in (param, grad, state1, state2, rows)]
    case = Case(kernels.address(), *arrays, COUNT, HEIGHT, size, times)
    ours = functools.partial(getattr(library(build), f"{name}_by_roofstep"), ctypes.byref(case))
    loop = functools.partial(getattr(library(build), f"{name}_by_loop"), ctypes.byref(case))
    row = compare(ours, loop, options.seconds / 2).row()
    each = times * (COUNT if of_rows else 1) / 1e3  # nanoseconds of one call, or of one row
    yield {
        "function": f"{name}_f32",
        "elements": size,
        "loop compiled for": build,
        "roofstep, ns": row["own_us"] / each,
        "loop, ns": row["peer_us"] / each,
        "ratio": row["ratio"],
        "ratio, low": row["low"],
        "ratio, high": row["high"],
        "pairs": row["pairs"],
    }
