"""Sparse gradients of training loops in plain NumPy: some rows of a parameter, and no others."""

from __future__ import annotations

import numpy as np

from roofstep import checks
from roofstep.types import Array, Integer


class SelectedRows:
    r"""A gradient of which only some rows are there, as that of an embedding; the others are zeros.

    A row is what the first dimension of a parameter counts. A row number may stand there several
    times: the values are added up in their order, so that the bits of a step are those of the dense
    gradient that ``numpy.add.at(dense, rows, values)`` makes of zeros.

    `SGD`, `Adagrad`, `Adam` and `AdamW` take it wherever a gradient is expected: as ``p.grad``, in
    the pairs of `Optimizer.apply_gradients`, from the loss of `Optimizer.minimize`. Nothing of the
    parameter's size is made of it. The parameter is in C order. torch's sparse COO gradients and
    Paddle's SelectedRows are taken as they are.

    Args:
        rows: the row numbers, an int64 or int32 array of one dimension, in any order, from 0.
        values: an array of shape ``(len(rows), *parameter.shape[1:])`` and the parameter's dtype,
            of any strides. Both are shared, not copied, and read at the step.

    Raises:
        TypeError: one of the two is no array, or the row numbers are no integers.
        ValueError: ``rows`` has not one dimension, or ``values`` not a row for each.

    Example:
        >>> import numpy as np, roofstep
        >>> w = roofstep.Parameter(np.zeros((3, 2)))
        >>> opt = roofstep.SGD(0.5, parameters=[w])
        >>> w.grad = roofstep.SelectedRows(np.array([2, 0, 2]), np.ones((3, 2)))
        >>> opt.step()
        >>> w.data
        array([[-0.5, -0.5],
               [ 0. ,  0. ],
               [-1. , -1. ]])
    """

    __slots__ = ("_rows", "_values")

    def __init__(self, rows: Array, values: Array) -> None:
        for name, array in (("rows", rows), ("values", values)):
            if not isinstance(array, np.ndarray):
                raise TypeError(
                    f"{name}: expected a NumPy array, got {checks.shown(array)}; make one with "
                    f"numpy.asarray(...)"
                )
        if rows.dtype not in (np.int64, np.int32):
            raise TypeError(
                f"rows: expected row numbers of int64 or int32, got {rows.dtype}; convert them "
                f"with .astype('int64')"
            )
        if rows.ndim != 1 or values.shape[:1] != rows.shape:
            raise ValueError(
                f"rows, values: expected row numbers of one dimension and a row of values for "
                f"each, got the shapes {rows.shape} and {values.shape}; flatten the numbers, and "
                f"reshape the values to (len(rows), ...)"
            )
        self._rows, self._values = rows, values

    @property
    def rows(self) -> Array:
        """The row numbers."""
        return self._rows

    @property
    def values(self) -> Array:
        """A row for each number."""
        return self._values

    def to_dense(self, height: Integer) -> Array:
        """A new array of ``height`` rows, those that are not there filled with zeros.

        Raises:
            TypeError, ValueError: ``height`` is no int >= 0.
            IndexError: a row number is out of range.

        Example:
            >>> import numpy as np, roofstep
            >>> roofstep.SelectedRows(np.array([1, 1]), np.array([2.0, 3.0])).to_dense(3)
            array([0., 5., 0.])
        """
        shape = (checks.whole("height", height, 0), *self._values.shape[1:])
        if self._rows.size and not 0 <= self._rows.min() <= self._rows.max() < height:
            raise IndexError(
                f"rows: expected row numbers from 0 to {height - 1}, got {self._rows.min()} to "
                f"{self._rows.max()}; give another height"
            )
        dense = np.zeros(shape, self._values.dtype)
        np.add.at(dense, self._rows, self._values)
        return dense

    def __repr__(self) -> str:
        shape = tuple(self._values.shape)
        return f"SelectedRows({len(self._rows)} rows, shape={shape}, dtype={self._values.dtype})"
