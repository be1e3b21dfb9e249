"""Every optimizer's step against a streaming loop of the same traffic.

The loop (csrc/stream.hpp) reads and writes as many arrays of the same size, compiled for the same
ISA and cut into the same pieces for the same threads. A share is the time of the loop over that of
the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

import roofstep
from bench.case import Bar, Item, Options, Row
from bench.measure import compare
from roofstep import _core, state
from roofstep.plan import State

BAR = 0.95  # of SGD, Momentum and Adam; that of the others is LEAST
LEAST = 0.85
SIZE, SHORT_SIZE = 1 << 24, 5000


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
    """The norm and every optimizer."""
    chosen = [name for name in CASES if not options.optimizers or name in options.optimizers]
    return [Item(name) for name in [*chosen, *([] if options.optimizers else [NORM])]]


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


def measure(options: Options, item: Item) -> Iterable[Row]:
    """A step beside the loop, in pairs."""
    size = SHORT_SIZE if options.short else SIZE
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


def bars(rows: list[Row]) -> Iterable[Bar]:
    """Of every row."""
    for row in rows:
        if "share" in row:
            goal = BAR if row["optimizer"] in ("SGD", "Momentum", "Adam") else LEAST
            name = f"{row['optimizer']}: share of the streaming loop, {row['parameters']} elements"
            yield Bar(name, goal, row["share"], row["low"], row["high"])
