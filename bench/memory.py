"""Memory: what a step needs above the arrays that must exist, in a process of its own each.

Parameters, gradients and states are resident, after steps to warm up, and freed memory is given
back to the system. Then the peak of the resident memory is reset (/proc/self/clear_refs), a step
is taken, and the peak read (VmHWM). What it rose by is temporary: the worst of several steps. A
few pages are what the call itself touches. A norm keeps a sum, 16 bytes, for each block of 4096
elements, a 1024th of the gradient in float32; of these there is one for a clip and two for a trust
ratio.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import roofstep
from bench import peers
from bench.case import Bar, Item, Options, Row
from roofstep import traffic
from roofstep.timing import Work

TENSORS, SIDE, SHORT_SIDE = 16, 1024, 128  # square matrices of float32
STEPS = 5
ALLOWED, PAGE = 8, 4096  # pages, and the bytes of one
BLOCK, SUM = 4096, 16  # elements that are summed together, bytes of a sum
OPTIMIZERS = ("SGD", "Momentum", "AdamW")
SHORT_CASES, SHORT_OPTIMIZERS = ("AdamW", "AdamW, clipped"), ("AdamW",)
LAYOUTS = ("of the parameter", "transposed")
OWN = "roofstep"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def plan(options: Options) -> list[Item]:
    """roofstep in every case of traffic, and peers in the three that all of them have.

    In short one of these, and peers only if they are named: each item starts a process.
    """
    cases = SHORT_CASES if options.short else tuple(traffic.CASES)
    rows = [(OWN, OWN, name, name.endswith("clipped"), layout)
            for layout in LAYOUTS for name in cases]  # fmt: skip
    rows += [
        (library, variant, name, clipped, LAYOUTS[0])
        for library in options.peers or (() if options.short else peers.LIBRARIES)
        for variant, known in peers.library(library).VARIANTS.items()
        for name in (SHORT_OPTIMIZERS if options.short else OPTIMIZERS)
        for clipped in (False, True)
        if name in known
    ]
    keys = ("library", "variant", "optimizer", "clipped", "layout")
    items = [dict(zip(keys, row, strict=True)) for row in rows]
    return [
        Item(name, name, one)  # a part of its own: a process
        for one in items
        if one["optimizer"] in (options.optimizers or traffic.CASES)
        for name in ["{variant}, {optimizer}, {clipped}, {layout}".format(**one)]
    ]


def measure(options: Options, item: Item) -> Iterable[Row]:
    """What the peak rose by, in bytes and in sizes of the parameters."""
    about = item.arguments
    if not CLEAR.exists():
        yield {"item": item.name, "note": "memory: not measured, only Linux tells the peak"}
        return
    if about["library"] != OWN and (reason := peers.missing(about["library"])):
        yield {"item": item.name, "note": reason}
        return
    side = SHORT_SIDE if options.short else SIDE
    step = step_of(about, side)
    for _ in range(3):
        step()  # creates states, compiles, starts threads
    above = max(rise(step) for _ in range(STEPS))
    sums = None
    if about["library"] == OWN:
        case = traffic.CASES[about["optimizer"]]
        taken = case.clips + 2 * (case.measured > 0)
        sums = taken * TENSORS * -(-side * side // BLOCK) * SUM
    yield {
        "library": about["variant"],
        "optimizer": about["optimizer"].removesuffix(", clipped"),
        "clipped": about["clipped"],
        "gradient": about["layout"],
        "tensors": TENSORS,
        "parameters": TENSORS * side * side,
        "bytes above": above,
        "of these sums": sums,
        "of the parameters": above / (4 * TENSORS * side * side),
    }


def step_of(about: dict[str, str], side: int) -> Work:
    """A step over square matrices."""
    rng = np.random.default_rng(0)
    weights, gradients = (
        [rng.standard_normal((side, side), np.float32) for _ in range(TENSORS)] for _ in range(2)
    )
    if about["library"] != OWN:
        tensors = peers.library(about["library"]).Tensors(weights, gradients)
        step: Work = tensors.step_of(about["variant"], about["optimizer"], about["clipped"])
        return step
    parameters = [roofstep.Parameter(one) for one in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.T if about["layout"] == "transposed" else gradient
    return traffic.CASES[about["optimizer"]].step(parameters)


def rise(step: Work) -> int:
    """Bytes by which a step raises the peak over what is resident before."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    CLEAR.write_text("5")
    before = resident("VmHWM")
    step()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes that the kernel states."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None, field
    return 1024 * int(found[1])


def bars(rows: list[Row]) -> Iterable[Bar]:
    """No temporaries but the sums of norms: the worst of roofstep's rows, in pages."""

    def pages(row: Row) -> float:
        return float((row["bytes above"] - row["of these sums"]) / PAGE)

    if own := [row for row in rows if row.get("library") == OWN]:
        worst = max(own, key=pages)
        yield Bar(
            "roofstep's step: pages of 4 KB above its arrays and the sums of its norms",
            ALLOWED,
            pages(worst),
            most=True,
            remark=f"worst with {worst['optimizer']}, gradient {worst['gradient']}",
        )
