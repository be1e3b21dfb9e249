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
