"""How ways of doing the same work are timed against each other.

The machine changes under a measurement: neighbours take memory bandwidth and cores for minutes. So
the two sides take turns in one process, and what counts is the ratio of two turns that followed
each other, its median and its quartiles; a time alone is shown, never compared. Each pair begins
with the other side than the pair before.

A turn of short work is a batch of steps that lasts `BATCH`, so that neither the clock nor one
interruption weighs. Before it the same side takes steps that are not timed: they fetch its arrays
into the caches, from which the other side has driven them, and wake its threads.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BATCH = 1e-3  # seconds that a turn lasts at least
LEAST, MOST = 5, 101  # pairs, whatever the budget

Work = Callable[[], Any]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


@dataclass(frozen=True)
class Comparison:
    """Seconds of one step of each side, in pairs of turns that followed each other."""

    own: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        """Peer over own in each pair: above 1 where roofstep is faster."""
        return [peer / own for own, peer in zip(self.own, self.peer, strict=True)]

    def row(self) -> dict[str, float]:
        """Medians of both sides in microseconds, quartiles of the ratios, number of pairs."""
        low, middle, high = quartiles(self.ratios)
        return {
            "own_us": statistics.median(self.own) * 1e6,
            "peer_us": statistics.median(self.peer) * 1e6,
            "ratio": middle,
            "low": low,
            "high": high,
            "pairs": len(self.own),
        }


def seconds(work: Work, steps: int = 1) -> float:
    """What one of so many steps takes."""
    begin = time.perf_counter()
    for _ in range(steps):
        work()
    return (time.perf_counter() - begin) / steps


def batch_of(work: Work) -> int:
    """How many steps of warm work last `BATCH`."""
    steps = 1
    while (took := seconds(work, steps) * steps) < BATCH / 4:
        steps *= 4
    return max(1, math.ceil(BATCH * steps / took))


def turn(work: Work, steps: int) -> float:
    """Seconds of one step, in a batch of so many; short work is warmed before."""
    if steps > 1:
        work()
    return seconds(work, steps)


def compare(
    own: Work, peer: Work, budget: float, least: int = LEAST, most: int = MOST
) -> Comparison:
    """Time the two in pairs for about ``budget`` seconds, between ``least`` and ``most`` pairs."""
    for work in (own, peer):
        work()  # creates states, compiles
        work()
    steps = {work: batch_of(work) for work in (own, peer)}
    times: dict[Work, list[float]] = {own: [], peer: []}
    end = time.perf_counter() + budget
    order = [own, peer]
    while len(times[own]) < least or (time.perf_counter() < end and len(times[own]) < most):
        for work in order:
            times[work].append(turn(work, steps[work]))
        order.reverse()
    return Comparison(times[own], times[peer])


def alone(work: Work, budget: float, least: int = LEAST, most: int = MOST) -> list[float]:
    """Seconds of a step in each of several turns, for about ``budget`` seconds."""
    work()
    work()
    steps = batch_of(work)
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        times.append(turn(work, steps))
    return times


def in_turns(
    works: Mapping[str, Work], rounds: int, before: Work = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every work in each round, one step and no more, after an untimed ``before``.

    For what is to be met as it comes: cold caches, sleeping threads. Each round begins with another
    work, so that none is always the one that follows the same other.
    """
    names = list(works)
    times: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        for name in [*names[k % len(names) :], *names[: k % len(names)]]:
            before()
            times[name].append(seconds(works[name]))
    return times
