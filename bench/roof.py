"""Every optimizer's step against a streaming loop of the same traffic.

The loop (csrc/stream.hpp) reads and writes as many arrays of the same size, compiled for the same
ISA and cut into the same pieces for the same threads. A share is the time of the loop over that of
the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bench.case import Bar, Item, Options, Row
from roofstep import _core
from roofstep.timing import compare
from roofstep.traffic import CASES, Pass, Roof, parameter

BAR = 0.95  # of SGD, Momentum and Adam; that of the others is LEAST
LEAST = 0.85
SIZE, SHORT_SIZE = 1 << 24, 5000


NORM = "norm of the gradients"


def plan(options: Options) -> list[Item]:
    """The norm and every optimizer."""
    chosen = [name for name in CASES if not options.optimizers or name in options.optimizers]
    return [Item(name) for name in [*chosen, *([] if options.optimizers else [NORM])]]


@functools.cache
def roof_of(size: int) -> Roof:
    """Arrays for all cases, made once."""
    return Roof(size, list(CASES.values()))


def measure(options: Options, item: Item) -> Iterable[Row]:
    """A step beside the loop, in pairs."""
    size = SHORT_SIZE if options.short else SIZE
    weights = parameter(size)
    work: Callable[[], Any]
    if item.name == NORM:
        passes = [Pass(0, 1)]
        norm = _core.Norm(np.inf)
        row = [("parameter", weights.data, weights.grad)]
        work = functools.partial(norm.measure, row, options.threads)
    else:
        passes = CASES[item.name].passes
        work = CASES[item.name].step([weights])
    loop = functools.partial(roof_of(size).stream, passes)
    row = compare(work, loop, options.seconds).row()
    moved = sum(one.bytes for one in passes) * size / 1e3  # per microsecond: GB/s
    yield {
        "optimizer": item.name,
        "bytes/parameter": " + ".join(str(one.bytes) for one in passes),
        "parameters": size,
        "GB/s": moved / row["own_us"],
        "streaming loop": moved / row["peer_us"],
        "share": row["ratio"],
        "low": row["low"],
        "high": row["high"],
        "pairs": row["pairs"],
    }


def bars(rows: list[Row]) -> Iterable[Bar]:
    """Of every row."""
    for row in rows:
        if "share" in row:
            goal = BAR if row["optimizer"] in ("SGD", "Momentum", "Adam") else LEAST
            name = f"{row['optimizer']}: share of the streaming loop, {row['parameters']} elements"
            yield Bar(name, goal, row["share"], row["low"], row["high"])
