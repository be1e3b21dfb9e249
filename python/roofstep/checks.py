"""Checks of settings: each returns the value, or raises saying what was expected and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

Check = Callable[[str, Any], Any]


def real(name: str, value: object) -> float:
    """Any finite real number, of Python or NumPy; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name}: expected a number, got {value!r} of type {type(value).__name__}; "
            f"pass an int or a float"
        )
    try:
        number = float(value)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}; mend what computed it")
    return number


def non_negative(name: str, value: object) -> float:
    """A finite number of at least 0."""
    number = real(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected a number >= 0, got {number}; drop the sign")
    return number


def fraction(name: str, value: object) -> float:
    """A number in [0, 1): the decay rate of a running mean."""
    number = real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {number}; 0.9 is usual")
    return number


def limit(name: str, value: object) -> float:
    """A number above 0, infinity included."""
    number = math.inf if isinstance(value, float) and value == math.inf else real(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {number}; drop the sign")
    return number


def whole(name: str, value: object, least: int, most: int) -> int:
    """An integer between the two."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {value!r}; pass a whole number")
    if not least <= int(value) <= most:
        raise ValueError(
            f"{name}: expected an int from {least} to {most}, got {value}; pass one in between"
        )
    return int(value)


def flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}; pass a bool")
    return value


def function(name: str, value: Any) -> Any:
    """A callable, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function or None, got {value!r}; pass a callable")
    return value


def is_schedule(value: object) -> bool:
    """Whether it can do what a schedule does: give a rate when called, and move on."""
    can = callable(value) and callable(getattr(value, "step", None))
    return can and not isinstance(value, type)


def learning_rate(name: str, value: Any) -> Any:
    """A number of at least 0, or a schedule."""
    if is_schedule(value):
        return value
    if callable(value):
        raise TypeError(
            f"{name}: expected a number or a schedule, got the function {value!r}; "
            f"wrap it, as in roofstep.lr.LambdaDecay(base, function)"
        )
    if isinstance(value, Iterable) and not isinstance(value, str):
        raise TypeError(
            f"{name}: expected a number or a schedule, got {value!r:.60}; the learning "
            f"rate comes first, then the parameters, as in Adam(0.001, parameters=[...])"
        )
    return non_negative(name, value)
