"""A step after a pause, and beside a neighbour: what it costs that threads sleep or wait.

Usage: python bench/idle.py [--sizes 16384 ...] [--pauses 20 ...] [--kinds sleep busy torch
neighbour] [--repetitions 31]. Prints a table for each kind; the exit code says whether the
default held its bar.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import roofstep
from roofstep.timing import Spread, in_turns, ratio

BAR = 1.15  # the default over the better of one and two threads
SIZES = (16_384, 269_322, 1 << 20, 4 << 20)
PAUSES = (0, 1, 5, 20, 100)  # ms
KINDS = {
    "sleep": "the process sleeps; torch is not in it",
    "busy": "the calling thread computes; torch is not in the process",
    "torch": "torch has just used its threads, then the process sleeps",
    "neighbour": "no pause; another process spins all the while",
}
Work = Callable[[], Any]


def own(size: int, threads: int | None) -> Work:
    """A step of AdamW, one tensor, with this many threads; states of its own."""
    rng = np.random.default_rng(0)
    parameter = roofstep.Parameter(rng.standard_normal(size, np.float32))
    parameter.grad = rng.standard_normal(size, np.float32)
    optimizer = roofstep.AdamW(parameters=[parameter])

    def step() -> None:
        roofstep.set_num_threads(threads)
        optimizer.step()

    return step


def of_torch(size: int) -> Work:
    """The same by torch's fused kernel, with its own default of threads."""
    import torch

    parameter = torch.nn.Parameter(torch.randn(size))
    parameter.grad = torch.randn(size)
    return torch.optim.AdamW([parameter], fused=True).step


def idling(kind: str, pause: float) -> Work:
    """What happens before a step is timed."""
    if kind == "neighbour" or pause == 0:
        return lambda: None
    if kind == "sleep":
        return lambda: time.sleep(pause)
    if kind == "torch":
        import torch

        matrix = torch.randn(512, 512)  # enough that torch cuts the product into threads

        def work_then_sleep() -> None:
            matrix @ matrix
            time.sleep(pause)

        return work_then_sleep

    numbers = np.ones(1024, np.float32)

    def compute() -> None:
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            np.sqrt(numbers)

    return compute


@contextmanager
def neighbour() -> Iterator[None]:
    """Another process that keeps a core busy, wherever the scheduler puts it."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n  for _ in range(10**6): pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def measure(kind: str, size: int, pause: int, repetitions: int) -> dict[str, Any]:
    """One row: every work waits in the same way before each of its turns."""
    works: dict[str, Work] = {"1": own(size, 1), "2": own(size, 2), "default": own(size, None)}
    if kind in ("torch", "neighbour"):
        works["torch fused"] = of_torch(size)
    for work in (*works.values(), *works.values()):
        work()
    times = in_turns(works, repetitions, idling(kind, pause / 1e3))
    spreads = {name: Spread.of(row) for name, row in times.items()}
    better = min("12", key=lambda n: spreads[n].median)
    return {
        "kind": kind,
        "size": size,
        "pause_ms": pause,
        "microseconds": {n: [1e6 * x for x in spread] for n, spread in spreads.items()},
        "better": better,
        "over_better": spreads["default"].median / spreads[better].median,
        "torch_over_default": list(ratio(times["torch fused"], times["default"]))
        if "torch fused" in times
        else None,
    }


def rows_of(kind: str, sizes: list[int], pauses: list[int], repetitions: int) -> Iterator[Any]:
    """All rows of a kind, in this process."""
    if kind == "neighbour":
        with neighbour():
            for size in sizes:
                yield measure(kind, size, 0, repetitions)
        return
    for size in sizes:
        for pause in pauses:
            yield measure(kind, size, pause, repetitions)


def apart(kind: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows of a kind from a process of its own: what torch brings must not be in every one."""
    numbers = {"--sizes": args.sizes, "--pauses": args.pauses, "--repetitions": [args.repetitions]}
    options = [word for name, row in numbers.items() for word in (name, *map(str, row))]
    command = [sys.executable, __file__, "--worker", kind, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{kind}: the process that measures ended with {process.returncode}")


def cell(spread: list[float]) -> str:
    """Median, 95th percentile and maximum."""
    return f"{spread[1]:.0f} / {spread[3]:.0f} / {spread[4]:.0f}"


def main() -> int:
    """Print the tables; the exit code says whether a median of the default is above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--pauses", type=int, nargs="+", default=list(PAUSES), help="ms")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--repetitions", type=int, default=31)
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        for row in rows_of(args.worker, args.sizes, args.pauses, args.repetitions):
            print(json.dumps(row), flush=True)
        return 0

    rows = []
    for kind in args.kinds:
        if kind in ("torch", "neighbour") and importlib.util.find_spec("torch") is None:
            print(f"\n{kind}: left out, torch is missing")
            continue
        print(
            f"\n{kind}: {KINDS[kind]}; microseconds, median / 95th percentile / maximum\n\n"
            "| elements | pause ms | 1 thread | 2 threads | default | default / better "
            "| torch fused | torch / default |\n|---|---|---|---|---|---|---|---|"
        )
        for row in apart(kind, args):
            rows.append(row)
            micro, versus = row["microseconds"], row["torch_over_default"]
            print(
                f"| {row['size']} | {row['pause_ms']} | {cell(micro['1'])} | {cell(micro['2'])} "
                f"| {cell(micro['default'])} | {row['over_better']:.2f} ({row['better']}) | "
                + (f"{cell(micro['torch fused'])} | {versus[1]:.2f}" if versus else " | ")
                + " |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    above = [row for row in rows if row["over_better"] > BAR]
    for row in above:
        print(f"above {BAR}: {row['kind']}, {row['size']} elements, {row['pause_ms']} ms")
    return len(above) > 0


if __name__ == "__main__":
    sys.exit(main())
