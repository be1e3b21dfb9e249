"""Checks of arguments: each returns the value, or says what was expected, what came, the remedy."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], Any]


def shown(value: object) -> str:
    """A value and its type, for a message."""
    text = repr(value)  # of lists of parameters it may be very long
    kind = type(value).__name__
    if isinstance(value, np.generic):
        kind = f"numpy.{kind}"  # whose bool is not Python's
    return f"{text if len(text) <= 200 else text[:200] + '...'} of type {kind}"


def real(name: str, value: object, interval: str = "(-inf, inf)") -> float:
    """A real number of Python or NumPy in `interval`, written as in mathematics: "(0, 1]"."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        listed = isinstance(value, Iterable) and not isinstance(value, str)
        hint = ", and the parameters by name, as parameters=[...]" if listed else ""
        raise TypeError(
            f"{name}: expected a real number in {interval}, got {shown(value)}; "
            f"pass a Python or NumPy number{hint}"
        )
    try:
        number = float(value)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    low, high, has_low, has_high = _bounds(interval)
    if not (low < number < high or (has_low and number == low) or (has_high and number == high)):
        raise ValueError(
            f"{name}: expected a real number in {interval}, got {number}; pass one in there"
        )
    return number


@functools.cache
def _bounds(interval: str) -> tuple[float, float, bool, bool]:
    """The ends of an interval, and whether they belong to it."""
    low, high = map(float, interval[1:-1].split(","))
    return low, high, interval[0] == "[", interval[-1] == "]"


non_negative = functools.partial(real, interval="[0, inf)")
positive = functools.partial(real, interval="(0, inf)")
fraction = functools.partial(real, interval="[0, 1)")


def pair(name: str, value: Any, *intervals: str) -> tuple[float, float]:
    """Two real numbers, each in its interval, the first not above the second."""
    if isinstance(value, str) or not isinstance(value, Iterable) or len(row := tuple(value)) != 2:
        raise TypeError(f"{name}: expected two numbers, got {shown(value)}; pass (low, high)")
    low, high = (real(name, *one) for one in zip(row, intervals, strict=True))
    if low > high:
        raise ValueError(f"{name}: expected (low, high), got {(low, high)}; swap the two")
    return low, high


def rounded(name: str, value: float, dtype: np.dtype[Any]) -> Any:
    """A number as a scalar of a dtype that can hold it: infinity times a zero would be NaN."""
    with np.errstate(over="ignore"):
        scalar = dtype.type(value)
    if not np.isfinite(scalar):
        raise ValueError(
            f"{name}: expected a number that {dtype} can hold, got {value}; make it smaller"
        )
    return scalar


def whole(name: str, value: object, least: int, most: float = math.inf) -> int:
    """An integer from `least` to `most`."""
    wanted = f"an int >= {least}" if most == math.inf else f"an int from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected {wanted}, got {shown(value)}; pass a whole number")
    if not least <= int(value) <= most:
        raise ValueError(f"{name}: expected {wanted}, got {value}; pass one in there")
    return int(value)


def flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}; pass a bool")
    return value


def text(name: str, value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {shown(value)}; pass its str()")
    return value


def path(name: str, value: Any) -> str:
    """The name of a file."""
    found = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(found, str):
        raise TypeError(
            f"{name}: expected a str or an os.PathLike, got {shown(value)}; pass the name "
            f"of a file, os.fsdecode() makes it of bytes"
        )
    if os.path.basename(found) in ("", os.curdir, os.pardir):
        raise ValueError(
            f"{name}: expected a path that ends with the name of a file, got {found!r}; add the "
            f"name, or remove what follows it"
        )
    return found


def choice(name: str, value: object, *choices: str) -> str:
    """One of some words, in lower case."""
    if not isinstance(value, str) or value.lower() not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}; pass one of these")
    return value.lower()


def function(name: str, value: F, example: str) -> F:
    """A callable; `example` is one that would do."""
    if not callable(value):
        raise TypeError(
            f"{name}: expected a function, got {shown(value)}; pass a callable such as `{example}`"
        )
    return value


def optional(check: Check) -> Check:
    """The check, or None."""
    return lambda name, value: None if value is None else check(name, value)


def restored(
    what: str, saved: Any, settings: Mapping[str, Check], problems: list[str]
) -> dict[str, Any]:
    """Saved settings that pass their checks; adds what is missing, unknown or bad."""
    if not isinstance(saved, Mapping):
        problems.append(f"{what} is missing, or no dict")
        return {}
    problems += [f"{what}: {key!r} is no setting" for key in saved if key not in settings]
    problems += [f"{what}: {key!r} is missing" for key in settings if key not in saved]
    found = {}
    for key in settings.keys() & saved.keys():
        try:
            found[key] = settings[key](key, saved[key])
        except (TypeError, ValueError) as error:
            problems.append(f"{what}: {error}")
    return {key: found[key] for key in settings if key in found}


def only_none(**arguments: object) -> None:
    """Arguments that are there for Paddle's static graphs alone."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None, got {value!r}; it belongs to static graphs, leave it out"
            )


def sequence(name: str, values: Iterable[T]) -> tuple[T, ...]:
    """Several things in an order."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list, got {shown(values)}; put it in brackets")
    return tuple(values)


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
