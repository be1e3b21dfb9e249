"""A step after a pause, and beside a busy neighbour: what it costs that threads sleep or wait.

One tensor of AdamW, with one thread, with two, with the default number, and by torch's fused
kernel where torch is in the process (there all are tensors of torch); each on its own arrays. They
take turns, and each has a pause of the same kind directly before its step. The default is held to
the better of one and two threads after the same pause. Beside medians stand the 95th percentile and
the maximum: a thread that is woken late is late now and then.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

import roofstep
from bench.case import Bar, Item, Options, Row
from bench.report import table as table_of
from roofstep.timing import Work, in_turns, quartiles
from roofstep.traffic import parameter

MOST = 1.15
ROUNDS = 31  # for a second of budget
SIZES = (16_384, 269_322, 1 << 20, 4 << 20)  # the second is that of the MLP
PAUSES = (0, 1, 5, 20, 100)  # ms; 0 is warm
OWN = {"1 thread": 1, "2 threads": 2, "default": None}
KINDS = {
    "sleep": "the process sleeps; torch is not in it",
    "busy": "the calling thread computes; torch is not in the process",
    "torch": "torch multiplies matrices on its threads, then the process sleeps",
    "neighbour": "another process spins all the while",
}
WITH_TORCH = ("torch", "neighbour")


def plan(options: Options) -> list[Item]:
    """Every kind, size and pause; what has torch in its process comes last."""
    if "AdamW" not in (options.optimizers or ("AdamW",)):
        return []
    kinds = [k for k in KINDS if k not in WITH_TORCH or "torch" in (options.peers or ("torch",))]
    sizes, pauses = (SIZES[1:2], (0, 20)) if options.short else (SIZES, PAUSES)
    return [
        Item(
            f"{kind}, {size} elements, {pause} ms",
            "torch" if kind in WITH_TORCH else "roofstep",
            {"kind": kind, "size": size, "pause": pause},
        )
        for kind in kinds
        for size in sizes
        for pause in (pauses if kind != "neighbour" else (0,))
    ]


def measure(options: Options, item: Item) -> Iterable[Row]:
    """Rounds in which every work waits and steps once."""
    kind, size, pause = (item.arguments[key] for key in ("kind", "size", "pause"))
    make: Callable[[int], Any] = parameter
    if item.part == "torch":
        if importlib.util.find_spec("torch") is None:
            yield {"item": item.name, "note": f"{kind}: not measured, torch is not installed"}
            return
        make = torch_parameter
    works = {name: own(make(size), threads) for name, threads in OWN.items()}
    if item.part == "torch":
        works["torch fused"] = of_torch(make(size))
    for _ in range(2):
        for work in works.values():
            work()
    rounds = max(3, round(options.seconds * ROUNDS * (10 if kind == "neighbour" else 1)))
    with neighbour() if kind == "neighbour" else contextlib.nullcontext():
        times = in_turns(works, rounds, before(kind, pause / 1e3))

    row: Row = {"kind": kind, "elements": size, "pause_ms": pause, "rounds": rounds}
    for name, took in times.items():
        row[f"{name}, us"], row[f"{name}, q95"], row[f"{name}, max"] = (
            float(1e6 * x) for x in np.quantile(took, (0.5, 0.95, 1))
        )
    row["better"] = min(("1 thread", "2 threads"), key=lambda name: row[f"{name}, us"])
    row |= spread("default / better", times["default"], times[row["better"]])
    if "torch fused" in times:
        row |= spread("torch / default", times["torch fused"], times["default"])
    yield row


def spread(name: str, above: list[float], below: list[float]) -> Row:
    """The median ratio of a round, and its quartiles."""
    low, middle, high = quartiles([a / b for a, b in zip(above, below, strict=True)])
    return {name: middle, f"{name}, low": low, f"{name}, high": high}


def torch_parameter(size: int) -> Any:
    """One of torch, with a gradient."""
    import torch

    weights = torch.nn.Parameter(torch.randn(size))
    weights.grad = torch.randn(size)
    return weights


def own(weights: Any, threads: int | None) -> Work:
    """A step of roofstep with so many threads; None is the default."""
    optimizer = roofstep.AdamW(parameters=[weights])

    def step() -> None:
        roofstep.set_num_threads(threads)
        optimizer.step()

    return step


def of_torch(weights: Any) -> Work:
    """A step of torch's fused kernel."""
    import torch

    step: Work = torch.optim.AdamW([weights], fused=True).step
    return step


def before(kind: str, pause: float) -> Work:
    """What happens before a step is timed."""
    if pause == 0:
        return lambda: None
    if kind == "sleep":
        return lambda: time.sleep(pause)
    if kind == "torch":
        import torch

        matrix = torch.randn(512, 512)  # enough that torch gives its threads a part each

        def multiply_and_sleep() -> None:
            matrix @ matrix
            time.sleep(pause)

        return multiply_and_sleep

    numbers = np.ones(1024, np.float32)

    def compute() -> None:
        end = time.perf_counter() + pause
        while time.perf_counter() < end:
            np.sqrt(numbers)

    return compute


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Another process that keeps a core busy, wherever the scheduler puts it."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}:\n  for _ in range(10**6): pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.2)  # it starts
        yield
    finally:
        process.kill()
        process.wait()


def table(rows: list[Row]) -> str:
    """One table for each kind."""
    parts = []
    for kind, what in KINDS.items():
        if chosen := [row for row in rows if row.get("kind") == kind]:
            parts += [
                f"\n{kind}: {what}; microseconds, median / 95th percentile / maximum\n",
                table_of(map(_shown, chosen)),
            ]
    return "\n".join(parts) or "Nothing was measured."


def _shown(row: Row) -> dict[str, Any]:
    """The columns of a row, three numbers to a cell."""
    shown = {"elements": row["elements"], "pause, ms": row["pause_ms"]}
    for name in (*OWN, "torch fused"):
        if f"{name}, us" in row:
            numbers = (row[f"{name}, {which}"] for which in ("us", "q95", "max"))
            shown[name] = " / ".join(f"{number:.0f}" for number in numbers)
    ratios = ("better", "default / better", "torch / default")
    return shown | {key: row[key] for key in row if key.startswith(ratios)}


def bars(rows: list[Row]) -> Iterable[Bar]:
    """For every kind and length of pause the worst of all sizes."""
    paused = [row for row in rows if row.get("pause_ms")]
    for kind, pause in dict.fromkeys((row["kind"], row["pause_ms"]) for row in paused):
        ratio = "default / better"
        worst = max(
            (row for row in paused if (row["kind"], row["pause_ms"]) == (kind, pause)),
            key=lambda row: row[ratio],
        )
        yield Bar(
            f"{ratio} of 1 and 2 threads after {pause} ms, {kind}",
            MOST,
            worst[ratio],
            worst[f"{ratio}, low"],
            worst[f"{ratio}, high"],
            most=True,
            remark=f"worst at {worst['elements']} elements",
        )
