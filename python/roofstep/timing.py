"""How benchmarks time: works take turns in one process, and a ratio is that of one turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Work = Callable[[], Any]


class Spread(NamedTuple):
    """The quartiles of a row of numbers, its 95th percentile and its maximum."""

    low: float
    median: float
    high: float
    q95: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """That of at least two numbers."""
        cuts = statistics.quantiles(numbers, n=20, method="inclusive")
        return cls(cuts[4], cuts[9], cuts[14], cuts[18], max(numbers))


def seconds(work: Work) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turns(
    works: Mapping[str, Work], repetitions: int, before: Work = lambda: None
) -> dict[str, list[float]]:
    """The seconds that each took in every round, all of them in each, after an untimed `before`.

    A neighbour of the machine who comes and goes meets all alike. Each round begins with another
    work, so that none is always the one that finds the caches as the same other left them.
    """
    names = list(works)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repetitions):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            before()
            times[name].append(seconds(works[name]))
    return times


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of the ratios, round by round."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])
