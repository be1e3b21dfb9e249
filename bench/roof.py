"""Every optimizer's step against a streaming loop of the same traffic.

The loop (csrc/stream.hpp) reads and writes as many arrays of the same size, compiled for the same
ISA and cut into the same pieces for the same threads. A share is the time of the loop over that of
the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import roofstep
from bench.case import Bar, Item, Options, Row
from bench.measure import compare
from bench.settings import SETTINGS
from roofstep import _core, state
from roofstep.plan import State

BARRED = ("SGD", "Momentum", "Adam")
BAR, LEAST = 0.95, 0.85  # the least share of these, and of the others
SIZE, SHORT_SIZE = 1 << 24, 5000
SIZES = tuple(1 << power for power in range(12, 27, 2))  # of those held to BAR


class Pass(NamedTuple):
    """How many arrays of the parameter's size a pass rewrites, and how many it only reads."""

    updated: int
    read: int

    @property
    def bytes(self) -> int:
        """For each float32 element; what is rewritten is read before."""
        return 8 * self.updated + 4 * self.read


class Case(NamedTuple):
    """An optimizer, and the passes over memory that a step of it cannot do without."""

    make: Callable[..., roofstep.Optimizer]
    states: int
    measured: int = 0  # arrays read by the pass of a trust ratio
    averages: bool = False
    clears: bool = False

    @property
    def passes(self) -> list[Pass]:
        """The update, and before it the pass of a trust ratio."""
        updated = 1 + self.states + self.averages
        update = Pass(updated + 1, 0) if self.clears else Pass(updated, 1)
        return [Pass(0, self.measured), update] if self.measured else [update]

    @property
    def bytes(self) -> str:
        """Those of each pass, for a parameter."""
        return " + ".join(str(one.bytes) for one in self.passes)


CASES = {
    "SGD": Case(roofstep.SGD, 0),
    "Momentum": Case(roofstep.Momentum, 1),
    "Momentum, Nesterov": Case(lambda **k: roofstep.Momentum(use_nesterov=True, **k), 1),
    "LARS": Case(roofstep.LARS, 1, measured=2),
    "ASGD": Case(lambda **k: roofstep.ASGD(batch_num=2, **k), 2),
    "Rprop": Case(roofstep.Rprop, 2),
    "Lion": Case(roofstep.Lion, 1),
    "Adagrad": Case(roofstep.Adagrad, 1),
    "Adadelta": Case(roofstep.Adadelta, 2),
    "RMSProp": Case(roofstep.RMSProp, 2),
    "RMSProp, centered": Case(lambda **k: roofstep.RMSProp(centered=True, **k), 3),
    "Adam": Case(roofstep.Adam, 2),
    "Adam, zeroing the gradients": Case(roofstep.Adam, 2, clears=True),
    "Adam, amsgrad": Case(lambda **k: roofstep.Adam(amsgrad=True, **k), 3),
    "AdamW": Case(roofstep.AdamW, 2),
    "AdamW, averaged weights": Case(roofstep.AdamW, 2, averages=True),
    "Lamb": Case(roofstep.Lamb, 2, measured=4),
    "Adamax": Case(roofstep.Adamax, 2),
    "RAdam": Case(roofstep.RAdam, 2),
    "NAdam": Case(roofstep.NAdam, 2),
    "Adan": Case(roofstep.Adan, 4),
}
NORM = "norm of the gradients"


def plan(options: Options) -> list[Item]:
    """The norm and every optimizer; those that are held to the bar at all sizes."""
    unknown = set(options.optimizers) - {*CASES, *SETTINGS}
    if unknown:
        raise SystemExit(f"--optimizers: {', '.join(sorted(unknown))}: no such optimizer")
    chosen = [name for name in CASES if not options.optimizers or name in options.optimizers]
    size = SHORT_SIZE if options.short else SIZE
    items = [Item(name, arguments={"size": size}) for name in [*chosen, NORM]]
    for name in () if options.short else set(BARRED) & set(chosen):
        items += [Item(name, arguments={"size": other}) for other in SIZES if other != SIZE]
    return items


@functools.cache
def arrays(size: int) -> list[Any]:
    """As many as any pass takes, in memory like that of states."""
    most = max(one.updated + one.read for case in CASES.values() for one in case.passes)
    made = state.zeros((State(0.0), np.empty(size, np.float32)) for _ in range(most))
    for array in made:
        array.fill(1)  # a page that was never written is no page
    return list(made)


def stream(passes: list[Pass], size: int, threads: int) -> None:
    """The traffic of these passes and hardly any arithmetic."""
    roof = arrays(size)
    for one in passes:
        _core.stream(tuple(roof[: one.updated]), tuple(roof[len(roof) - one.read :]), threads)


def measure(options: Options, item: Item) -> Iterator[Row]:
    """A step beside the loop, in pairs."""
    size = item.arguments["size"]
    rng = np.random.default_rng(0)
    weights, gradient = (rng.standard_normal(size, np.float32) for _ in range(2))
    work: Callable[[], None]
    if item.name == NORM:
        passes = [Pass(0, 1)]
        norm = _core.Norm(np.inf)
        row = [("parameter", weights, gradient)]
        work = functools.partial(norm.measure, row, options.threads)
    else:
        case = CASES[item.name]
        passes = case.passes
        parameter = roofstep.Parameter(weights)
        parameter.grad = gradient
        optimizer = case.make(learning_rate=0.001, parameters=[parameter])
        if case.averages:
            optimizer.average_weights()
        work = functools.partial(optimizer.step, clear_grad=case.clears)
    loop = functools.partial(stream, passes, size, options.threads)
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


def bars(rows: list[Row]) -> Iterator[Bar]:
    """Of every row out of cache."""
    for row in rows:
        if row.get("parameters", 0) >= SIZE:
            goal = BAR if row["optimizer"] in BARRED else LEAST
            name = f"{row['optimizer']}, {row['parameters']} elements: share of the streaming loop"
            yield Bar(name, goal, row["share"], row["low"], row["high"])


def plot(rows: list[Row], directory: Path) -> list[str]:
    """The share of the roof against size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in BARRED:
        points = sorted((r["parameters"], r) for r in rows if r.get("optimizer") == name)
        if points:
            sizes = [size for size, _ in points]
            axes.plot(sizes, [r["share"] for _, r in points], "o-", label=name)
            quartiles = [[r[key] for _, r in points] for key in ("low", "high")]
            axes.fill_between(sizes, *quartiles, alpha=0.2)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="elements", ylabel="GB/s of a step / GB/s of the loop")
    axes.set(title="Share of the streaming loop of the same traffic")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(directory / "share-of-the-roof.png", dpi=120)
    plt.close(figure)
    return ["share-of-the-roof.png"]
