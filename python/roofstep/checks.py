"""Checks of settings: each returns the value, or raises saying what was expected and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    number = float(value)
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


def positive(name: str, value: object) -> float:
    """A number above 0, infinity included: a limit."""
    number = math.inf if value == math.inf else real(name, value)
    if number <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {number}; use None for no limit")
    return number


def whole(name: str, value: object) -> int:
    """An integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {value!r}; pass a whole number")
    if value < 1:
        raise ValueError(f"{name}: expected an int >= 1, got {value}; 1 is the least")
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
