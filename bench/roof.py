"""Every optimizer's step against a streaming loop of the same traffic.

The loop (csrc/stream.hpp) reads and writes as many arrays of the same size, compiled for the same
ISA and cut into the same pieces for the same threads. A share is the time of the loop over that of
the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.case import Bar, Item, Options, Row
from bench.settings import SETTINGS
from roofstep import _core
from roofstep.timing import compare
from roofstep.traffic import CASES, Pass, Roof, parameter

BARRED = ("SGD", "Momentum", "Adam")
BAR, LEAST = 0.95, 0.85  # the least share of these, and of the others
SIZE, SHORT_SIZE = 1 << 24, 5000
SIZES = tuple(1 << power for power in range(12, 27, 2))  # of those held to BAR


NORM = "norm of the gradients"


def plan(options: Options) -> list[Item]:
    """The norm and every optimizer; those that are held to the bar at all sizes."""
    unknown = set(options.optimizers) - {*CASES, *SETTINGS}
    if unknown:
        raise SystemExit(f"--optimizers: {', '.join(sorted(unknown))}: no such optimizer")
    chosen = [name for name in CASES if not options.optimizers or name in options.optimizers]
    size = SHORT_SIZE if options.short else SIZE
    items = [Item(name, arguments={"size": size}) for name in [*chosen, NORM]]
    for name in [] if options.short else [name for name in BARRED if name in chosen]:
        items += [Item(name, arguments={"size": other}) for other in SIZES if other != SIZE]
    return items


@functools.lru_cache(maxsize=1)
def roof_of(size: int) -> Roof:
    """Arrays for all cases of a size, made once."""
    return Roof(size, list(CASES.values()))


def measure(options: Options, item: Item) -> Iterator[Row]:
    """A step beside the loop, in pairs."""
    size = item.arguments["size"]
    weights = parameter(size)
    work: Callable[[], Any]
    if item.name == NORM:
        passes = [Pass(0, 1)]
        norm = _core.Norm(np.inf)
        of_one = [("parameter", weights.data, weights.grad)]
        work = functools.partial(norm.measure, of_one, options.threads)
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
        "share, low": row["low"],
        "share, high": row["high"],
        "pairs": row["pairs"],
    }


def bars(rows: list[Row]) -> Iterator[Bar]:
    """Of every row out of cache."""
    for row in rows:
        if row.get("parameters", 0) >= SIZE:
            goal = BAR if row["optimizer"] in BARRED else LEAST
            name = f"{row['optimizer']}, {row['parameters']} elements: share of the streaming loop"
            yield Bar(name, goal, row["share"], row["share, low"], row["share, high"])


def plot(rows: list[Row], directory: Path) -> list[str]:
    """The share of the roof against size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name in BARRED:
        points = [row for row in rows if row.get("optimizer") == name]
        points.sort(key=lambda row: int(row["parameters"]))
        if points:
            sizes = [row["parameters"] for row in points]
            axes.plot(sizes, [row["share"] for row in points], "o-", label=name)
            low, high = ([row[f"share, {edge}"] for row in points] for edge in ("low", "high"))
            axes.fill_between(sizes, low, high, alpha=0.2)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="elements", ylabel="GB/s of a step / GB/s of the loop")
    axes.set(title="Share of the streaming loop of the same traffic", ylim=(0, 1.5))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(directory / "share-of-the-roof.png")
    return ["share-of-the-roof.png"]
