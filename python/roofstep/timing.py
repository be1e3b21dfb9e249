"""How ways of doing the same work are timed against each other.

The machine changes under a measurement: neighbours take memory bandwidth and cores for minutes. So
the two sides take turns in one process, and what counts is the ratio of two turns that followed
each other, its median and its quartiles; a time alone is shown, never compared. Each pair begins
with the other side than the pair before.

A turn of short work is a batch of steps that lasts `BATCH`, so that neither the clock nor one
interruption weighs. Before it the same side takes as many steps that are not timed: they fetch its
arrays into the caches, from which the other side has driven them, wake its threads, and outlast
the first moments of those that the other side has left spinning. This was measured (AdamW of the
MLP; fused torch, Paddle's libiomp, JAX's pool): with one step untimed roofstep took 8 to 25 % more
than alone; with five, the times of both sides were those after a pause of 0.25 s, in which all
threads that spin have gone to sleep. So there is no pause.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BATCH = 1e-3  # seconds that a turn lasts at least
LONG = 0.25  # seconds of a step that no cold start shows in
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
        """Times in microseconds, the quartiles of the ratios, the number of pairs."""
        low, middle, high = quartiles(self.ratios)
        own_low, own, own_high = quartiles(self.own)
        return {
            "own_us": own * 1e6,
            "own_low_us": own_low * 1e6,
            "own_high_us": own_high * 1e6,
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


class Side:
    """Work that takes turns: how many steps make a turn, and how many precede it untimed."""

    def __init__(self, work: Work) -> None:
        took = seconds(work)  # creates states, compiles
        if took < 4 * LONG:
            took = seconds(work)
        if took < 20 * BATCH:  # an interruption would weigh
            took = min(took, *(seconds(work) for _ in range(5)))
        self._work = work
        self._steps = max(1, math.ceil(BATCH / took))
        self._untimed = self._steps if took < LONG else 0

    def turn(self) -> float:
        """Seconds of one step."""
        for _ in range(self._untimed):
            self._work()
        return seconds(self._work, self._steps)


def compare(
    own: Work, peer: Work, budget: float, least: int = LEAST, most: int = MOST
) -> Comparison:
    """Time the two in pairs for about ``budget`` seconds, between ``least`` and ``most`` pairs."""
    sides = [Side(own), Side(peer)]
    times: tuple[list[float], list[float]] = ([], [])
    order = [0, 1]
    end = time.perf_counter() + budget
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < most):
        for side in order:
            times[side].append(sides[side].turn())
        order.reverse()
    return Comparison(*times)


def alone(work: Work, budget: float, least: int = LEAST, most: int = MOST) -> list[float]:
    """Seconds of a step in each of several turns, for about ``budget`` seconds."""
    side = Side(work)
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        times.append(side.turn())
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
