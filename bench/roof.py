"""Every optimizer's step against a streaming loop of the same traffic, interleaved in one process.

Usage: python bench/roof.py [--parameters 16777216] [--repetitions 15] [--only adam lamb ...]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import roofstep
from roofstep import _core, state
from roofstep.plan import State

BAR = 0.85


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

    @property
    def passes(self) -> list[Pass]:
        """The update, and before it the pass of a trust ratio."""
        update = Pass(1 + self.states + self.averages, 1)
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
    "Adam, amsgrad": Case(lambda **k: roofstep.Adam(amsgrad=True, **k), 3),
    "AdamW": Case(roofstep.AdamW, 2),
    "AdamW, averaged weights": Case(roofstep.AdamW, 2, averages=True),
    "Lamb": Case(roofstep.Lamb, 2, measured=4),
    "Adamax": Case(roofstep.Adamax, 2),
    "RAdam": Case(roofstep.RAdam, 2),
    "NAdam": Case(roofstep.NAdam, 2),
    "Adan": Case(roofstep.Adan, 4),
}


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(case: Case, size: int, repetitions: int, roof: list[Any]) -> tuple[float, float, float]:
    """The medians of a step, of the streaming loop, and of the loop over the step."""
    rng = np.random.default_rng(0)
    parameter = roofstep.Parameter(rng.standard_normal(size, np.float32))
    parameter.grad = rng.standard_normal(size, np.float32)
    optimizer = case.make(learning_rate=0.001, parameters=[parameter])
    if case.averages:
        optimizer.average_weights()

    def stream() -> None:
        threads = roofstep.get_num_threads()
        for one in case.passes:
            _core.stream(tuple(roof[: one.updated]), tuple(roof[-one.read :]), threads)

    for warm_up in (optimizer.step, optimizer.step, stream):
        warm_up()
    pairs = [(seconds(optimizer.step), seconds(stream)) for _ in range(repetitions)]
    own, loop = zip(*pairs, strict=True)
    shares = [b / a for a, b in pairs]
    return statistics.median(own), statistics.median(loop), statistics.median(shares)


def main() -> int:
    """Print the table; the exit code says whether every share is at the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=1 << 24)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES)
    args = parser.parse_args()

    most = max(one.updated + one.read for case in CASES.values() for one in case.passes)
    like = np.empty(args.parameters, np.float32)
    roof = state.zeros((State(0.0), like) for _ in range(most))
    for array in roof:
        array.fill(1)  # a page that was never written is no page
    print(
        f"{args.parameters} float32 parameters, {platform.machine()}, ISA {_core.isa()}, "
        f"{roofstep.get_num_threads()} threads, medians of {args.repetitions}\n\n"
        f"| optimizer | bytes/parameter | GB/s | streaming loop | share |\n|---|---|---|---|---|"
    )
    below = []
    for name in args.only:
        case = CASES[name]
        moved = sum(one.bytes for one in case.passes)
        own, loop, share = measure(case, args.parameters, args.repetitions, roof)
        rates = [moved * args.parameters / took / 1e9 for took in (own, loop)]
        print(
            f"| {name} | {case.bytes} | {rates[0]:.1f} | {rates[1]:.1f} | {share:.2f} |", flush=True
        )
        if share < BAR:
            below.append(name)
    if below:
        print(f"\nbelow {BAR}: {', '.join(below)}")
    return len(below) > 0


if __name__ == "__main__":
    sys.exit(main())
