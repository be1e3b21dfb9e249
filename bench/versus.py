"""A step of roofstep against the steps of one peer library, on that library's own parameters."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bench import peers, report
from bench.case import Options, Row
from bench.settings import SETTINGS, roofstep_optimizer
from bench.shapes import Shape, count
from roofstep.timing import Comparison, compare

# The two sides are held to this after so many steps, relative to weights above 1, absolutely below.
TOLERANCE, STEPS = 1e-6, 5
SAME = "same"
KEPT = 1 << 20  # elements
_AGREE_ON: list[Shape] = [(17, 5), (64,), (3, 4, 5), (4099,)]


def libraries(options: Options) -> list[str]:
    """Those asked for."""
    unknown = set(options.peers) - set(peers.LIBRARIES)
    if unknown:
        raise SystemExit(
            f"--peers: {', '.join(sorted(unknown))}: no such peer; known are "
            f"{', '.join(peers.LIBRARIES)}"
        )
    return [name for name in peers.LIBRARIES if not options.peers or name in options.peers]


def filled(shapes: Sequence[Shape], seed: int) -> list[peers.Array]:
    """Standard normal numbers that repeat after a while, which no step notices."""
    numbers = np.random.default_rng(seed).standard_normal(1 << 18, np.float32)
    # np.resize gives a view of a whole number of copies: a small array would lie in a large one.
    return [np.resize(numbers[: math.prod(shape)], shape).copy() for shape in shapes]


def _tensors(library: str, shapes: tuple[Shape, ...]) -> Any:
    """The parameters of a model, as they begin.

    Those of a large one are kept until another is asked for: it takes too few steps to be carried
    far, and seconds to be made.
    """
    return _made(library, shapes) if count(shapes) >= KEPT else _made.__wrapped__(library, shapes)


@functools.lru_cache(maxsize=1)
def _made(library: str, shapes: tuple[Shape, ...]) -> Any:
    return peers.library(library).Tensors(filled(shapes, 0), filled(shapes, 1))


def check(library: str, variant: str, optimizer: str, clipped: bool) -> str:
    """Raises if the peer and roofstep come to other weights; says why where they may."""
    module = peers.library(library)
    if optimizer in module.DIFFERS:
        return str(module.DIFFERS[optimizer])
    weights, gradients = filled(_AGREE_ON, 2), filled(_AGREE_ON, 3)
    other = module.Tensors([w.copy() for w in weights], [g.copy() for g in gradients])
    numpy = peers.library("numpy").Tensors(weights, gradients)
    step = other.step_of(variant, optimizer, clipped)
    own = roofstep_optimizer(optimizer, numpy.for_roofstep, clipped)
    for _ in range(STEPS):
        step()
        own.step()
    for a, b in zip(other.values(), numpy.values(), strict=True):
        apart = float((np.abs(a - b) / np.maximum(1, np.abs(b))).max())
        if not apart <= TOLERANCE:
            raise AssertionError(
                f"{variant} and roofstep differ by {apart:.1e} after {STEPS} steps of {optimizer}, "
                f"more than {TOLERANCE:.0e}"
            )
    return SAME


_checked = functools.cache(check)  # once in a process, whatever is stepped


def excuse(library: str, variant: str, optimizer: str, tensors: int) -> str | None:
    """Why this cannot be compared."""
    module = peers.library(library)
    if optimizer not in module.VARIANTS[variant]:
        return f"{variant} has no {optimizer}"
    most = (
        module.MOST_TENSORS.get(optimizer, module.MOST_TENSORS_OF_OTHERS)
        if hasattr(module, "MOST_TENSORS")
        else tensors
    )
    if tensors > most:
        return (
            f"{variant} is not measured with more than {most} tensors for {optimizer}: "
            f"compiling it would take minutes"
        )
    return None


def compared(
    library: str, shapes: Sequence[Shape], optimizer: str, clipped: bool, seconds: float, least: int
) -> Iterator[Row]:
    """A row for each way in which the library steps, or a note why there is none."""
    if note := peers.missing(library):
        yield {"note": note}
        return
    module = peers.library(library)
    for variant in module.VARIANTS:
        if note := excuse(library, variant, optimizer, len(shapes)):
            yield {"note": note}
            continue
        formula = _checked(library, variant, optimizer, clipped)
        found = _compare(library, shapes, variant, optimizer, clipped, seconds, least)
        yield {
            "arrays": module.ARRAYS,
            "peer": variant,
            "optimizer": optimizer,
            "clipped": clipped,
            **found.row(),
            "formula": formula,
        }


def _compare(
    library: str,
    shapes: Sequence[Shape],
    variant: str,
    optimizer: str,
    clipped: bool,
    seconds: float,
    least: int,
) -> Comparison:
    """Both sides step the same parameters by the same gradients, each with its own states."""
    gc.collect()  # optimizers are cyclic, and their states large
    tensors = _tensors(library, tuple(shapes))
    own = roofstep_optimizer(optimizer, tensors.for_roofstep, clipped).step
    return compare(own, tensors.step_of(variant, optimizer, clipped), seconds, least)


def asked(options: Options) -> list[str]:
    """The optimizers asked for."""
    unknown = set(options.optimizers) - set(SETTINGS)
    if unknown:
        raise SystemExit(
            f"--optimizers: {', '.join(sorted(unknown))}: not among those compared, "
            f"{', '.join(SETTINGS)}"
        )
    return [name for name in SETTINGS if not options.optimizers or name in options.optimizers]


def table(rows: Sequence[Row], first: str, label: Callable[[Row], str]) -> str:
    """A line for each label in the column ``first``, a column for each peer with its ratios."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(label(row), []).append(row)
    kinds = list(dict.fromkeys(row["arrays"] for row in rows))
    variants = list(dict.fromkeys(row["peer"] for row in rows))
    lines = []
    for name, found in by_label.items():
        line: Row = {first: name}
        for kind in kinds:
            own = [row["own_us"] for row in found if row["arrays"] == kind]
            line[f"roofstep on {kind}, us"] = min(own, default=None)
        for variant in variants:
            line[variant] = None
            for row in found:
                if row["peer"] == variant:
                    line |= {variant: row["ratio"], f"{variant}, low": row["low"]}
                    line[f"{variant}, high"] = row["high"]
        lines.append(line)
    return report.table(lines)
