"""A step length along a direction that meets the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from roofstep.lbfgs.space import Evaluation

# Nocedal & Wright's constants for quasi-Newton methods: the loss falls by at least this share of
# what the first slope promises, and the slope to at most that share of the first.
_DECREASE = 1e-4
_CURVATURE = 0.9
_MOST_TRIALS = 25  # after the first
_LEAST_MOVE = 1e-9  # a bracket in which no parameter moves by more is not divided further
_MARGIN = 0.1  # of a bracket's width: how near its ends two trials in a row may not both be


class Trial(NamedTuple):
    """What was found at one step length."""

    length: float
    loss: float
    slope: float  # the derivative of the loss by the length
    at: Evaluation


Try = Callable[[float], Trial]


def strong_wolfe(attempt: Try, start: Trial, length: float, reach: float) -> Trial:
    r"""The first trial that meets both conditions, else the best that 25 more trials brought.

    .. math::
        f(t) \le f(0) + 10^{-4}\, t f'(0), \qquad |f'(t)| \le 0.9\, |f'(0)|

    A trial whose loss or slope is not finite counts as infinitely bad. The result may be `start`.
    (Nocedal & Wright, Numerical Optimization, 2006, algorithms 3.5 and 3.6.)

    Args:
        attempt: gives the trial at a length.
        start: that of length 0; its slope is negative.
        length: the first to try.
        reach: the largest element of the direction by magnitude.
    """
    search = _Search(attempt, start, reach)
    older, newer = start, search.attempt(length)
    while search.left:
        # Algorithm 3.5 asks this of the second trial already; torch and Paddle from the third on.
        rises = search.left < _MOST_TRIALS - 1 and newer.loss >= older.loss
        if rises or not search.decreases(newer):
            break
        if search.flattens(newer):
            return newer
        if newer.slope >= 0:
            break
        least = newer.length + 0.01 * (newer.length - older.length)
        longer = _minimizer(older, newer, least, 10 * newer.length)
        older, newer = newer, search.attempt_again(longer)
    else:
        older = start
    return search.zoom(older, newer)


class _Search:
    """One search: the conditions, and how many trials are left."""

    def __init__(self, attempt: Try, start: Trial, reach: float) -> None:
        self.attempt, self._start, self._reach = attempt, start, reach
        self.left = _MOST_TRIALS

    def attempt_again(self, length: float) -> Trial:
        self.left -= 1
        return self.attempt(length)

    def decreases(self, trial: Trial) -> bool:
        promised = _DECREASE * trial.length * self._start.slope
        return trial.loss <= self._start.loss + promised

    def flattens(self, trial: Trial) -> bool:
        return abs(trial.slope) <= -_CURVATURE * self._start.slope

    def zoom(self, first: Trial, second: Trial) -> Trial:
        """Narrows the bracket between two trials down to one that meets the conditions."""
        low, high = _ordered(first, second)
        was_near_an_end = False
        while self.left and abs(high.length - low.length) * self._reach >= _LEAST_MOVE:
            left, right = sorted((low.length, high.length))
            margin = _MARGIN * (right - left)
            length = _minimizer(low, high, left, right)
            near_an_end = min(right - length, length - left) < margin
            if near_an_end and (was_near_an_end or not left < length < right):
                length = right - margin if right - length < length - left else left + margin
                near_an_end = False
            was_near_an_end = near_an_end
            trial = self.attempt_again(length)
            if not self.decreases(trial) or trial.loss >= low.loss:
                low, high = _ordered(low, trial)
                continue
            if self.flattens(trial):
                return trial
            if trial.slope * (high.length - low.length) >= 0:
                high = low
            low = trial
        return low


def _ordered(a: Trial, b: Trial) -> tuple[Trial, Trial]:
    """The better of two first; of equals the first, a point already known to be good."""
    return (a, b) if a.loss <= b.loss else (b, a)


def _minimizer(a: Trial, b: Trial, least: float, most: float) -> float:
    """Where the cubic through two trials has its minimum, kept within bounds; else their middle.

    (Nocedal & Wright, Numerical Optimization, 2006, equation 3.59.)
    """
    if a.length > b.length:
        a, b = b, a
    middle = (least + most) / 2
    width = b.length - a.length
    if width == 0:
        return middle
    d1 = a.slope + b.slope - 3 * (b.loss - a.loss) / width
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return middle
    d2 = math.sqrt(square)
    bottom = b.slope - a.slope + 2 * d2
    if bottom == 0:
        return middle
    length = b.length - width * ((b.slope + d2 - d1) / bottom)
    return min(max(length, least), most) if math.isfinite(length) else middle
