"""Plain data as JSON text and back: every value comes back as it was, or is refused by its name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Path = tuple[Any, ...]

_DEEPEST = 100  # far below where Python would end the recursion, here and in `loads`


def dumps(value: Any, take: Callable[[Path, Any], str]) -> str:
    """The text of a value.

    A JSON object is a dict. A JSON list begins with what it stands for: ``["list", 1, 2]``,
    ``["tuple", 1, 2]``, ``["dict", [key, value]]`` for keys that are no text, ``["float", "inf"]``
    for numbers that JSON has not, ``["array", name]`` and ``["scalar", name]``, NumPy's.

    Args:
        value: None, bools, ints, floats, text, lists, tuples and dicts of these.
        take: is given the path and the value of anything else; its name.

    Raises:
        TypeError: from `take`.
        ValueError: there is text that UTF-8 cannot hold, or it is more than 100 levels deep.
    """
    return json.dumps(_coded(value, (), take), ensure_ascii=False, allow_nan=False)


def _coded(value: Any, path: Path, take: Callable[[Path, Any], str]) -> Any:
    if len(path) > _DEEPEST:  # or it holds itself, and has no end
        raise ValueError(
            f"{shown(path[:2])}: expected at most {_DEEPEST} levels of lists and dicts, got more; "
            f"flatten it, and let none hold itself"
        )
    kind = type(value)  # not isinstance: a subclass would come back as its base
    if value is None or kind in (bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else ["float", repr(value)]
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{shown(path)}: expected text that UTF-8 can hold, got {value!r} ({error}); "
                f"name it otherwise"
            ) from None
        return value
    if kind in (list, tuple):
        return [kind.__name__, *(_coded(v, (*path, i), take) for i, v in enumerate(value))]
    if kind is dict and all(type(key) is str for key in value):
        return {_coded(k, path, take): _coded(v, (*path, k), take) for k, v in value.items()}
    if kind is dict:
        pairs = value.items()
        return ["dict", *([_coded(k, path, take), _coded(v, (*path, k), take)] for k, v in pairs)]
    return ["scalar" if isinstance(value, np.generic) else "array", take(path, value)]


def shown(path: Path) -> str:
    """Where something stands in a state dict, for a message."""
    return "state_dict" + "".join(f"[{key!r}]" for key in path)


def loads(text: str, array: Callable[[str], Array]) -> Any:
    """The value that has this text.

    Args:
        text: from `dumps`.
        array: that of a name.

    Raises:
        ValueError: it is no such text.
    """
    try:
        return _meant(json.loads(text, parse_constant=_refuse), array)
    except RecursionError:
        raise ValueError("lists within lists without end") from None


def _meant(coded: Any, array: Callable[[str], Array]) -> Any:
    if isinstance(coded, dict):
        return {key: _meant(value, array) for key, value in coded.items()}
    if not isinstance(coded, list):
        return coded
    kind, *rest = coded or [None]
    if kind == "list":
        return [_meant(value, array) for value in rest]
    if kind == "tuple":
        return tuple(_meant(value, array) for value in rest)
    if kind == "dict" and all(isinstance(pair, list) and len(pair) == 2 for pair in rest):
        return {_key(_meant(k, array)): _meant(v, array) for k, v in rest}
    if kind in ("float", "array", "scalar") and len(rest) == 1 and isinstance(rest[0], str):
        if kind == "float":
            return float(rest[0])
        return array(rest[0]) if kind == "array" else array(rest[0])[()]
    raise ValueError(f"a list that stands for nothing: {coded!r:.60}")


def _key(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        raise ValueError(f"{value!r:.60} as a key") from None
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} as a number")
