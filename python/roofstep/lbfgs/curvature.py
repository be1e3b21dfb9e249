"""What L-BFGS knows of the curvature: pairs of steps and changes of the gradient, and their use."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from roofstep.types import Array

# Elements of float64 that stay in a cache beside their operands.
_BLOCK = 1 << 14
# A pair of less curvature says nothing that rounding could not have said. One whose products
# overflow would make the scale 0 or NaN, and no later direction would lead down.
_LEAST_CURVATURE = 1e-10


def dot(a: Array, b: Array) -> float:
    """The inner product of two vectors, in float64.

    BLAS would sum in an order that depends on its threads. NumPy's pairwise sum of a block does
    not, and block by block the products never leave the cache.
    """
    products = np.empty(min(a.size, _BLOCK))
    total = 0.0
    with np.errstate(all="ignore"):
        for begin in range(0, a.size, _BLOCK):
            piece = slice(begin, begin + _BLOCK)
            own = products[: a[piece].size]
            np.multiply(a[piece], b[piece], out=own, dtype=np.float64)
            total += float(own.sum())
    return total


def add_scaled(to: Array, factor: float, vector: Array) -> None:
    """``to += factor * vector`` in place, block by block, without a temporary of full size."""
    products = np.empty(min(to.size, _BLOCK), to.dtype)
    with np.errstate(all="ignore"):
        for begin in range(0, to.size, _BLOCK):
            piece = slice(begin, begin + _BLOCK)
            own = products[: to[piece].size]
            np.multiply(vector[piece], factor, out=own)
            to[piece] += own


class Pair(NamedTuple):
    """A step s, the change y of the gradient over it, and 1 / (y . s)."""

    y: Array
    s: Array
    rho: float


class Curvature:
    """The last pairs, and the inverse Hessian that they stand for.

    Args:
        most: how many pairs are kept; then the oldest goes, and its memory is used again.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.pairs: deque[Pair] = deque()
        self.scale = 1.0  # of the unit matrix that stands for all older pairs
        self._spare: tuple[Array, Array] | None = None

    def learn(self, new: Array, old: Array, direction: Array, length: float) -> None:
        """Take in that ``length * direction`` led from the gradient `old` to `new`."""
        y, s = self._spare or (np.empty_like(new), np.empty_like(new))
        with np.errstate(all="ignore"):
            np.subtract(new, old, out=y)
            np.multiply(direction, length, out=s)
        curvature, square = dot(y, s), dot(y, y)
        self._spare = y, s
        if not _LEAST_CURVATURE < curvature < math.inf or not square < math.inf:
            return
        self._spare = None
        if len(self.pairs) == self.most:
            self._spare = self.pairs.popleft()[:2]
        self.pairs.append(Pair(y, s, 1.0 / curvature))
        self.scale = curvature / square

    def descent(self, gradient: Array) -> Array:
        """Minus the inverse Hessian times the gradient, a new vector.

        (Nocedal & Wright, Numerical Optimization, 2006, algorithm 7.4.)
        """
        direction = np.negative(gradient)
        shares = []
        for pair in reversed(self.pairs):
            shares.append(pair.rho * dot(pair.s, direction))
            add_scaled(direction, -shares[-1], pair.y)
        with np.errstate(all="ignore"):
            direction *= self.scale
        for pair, share in zip(self.pairs, reversed(shares), strict=True):
            add_scaled(direction, share - pair.rho * dot(pair.y, direction), pair.s)
        return direction
