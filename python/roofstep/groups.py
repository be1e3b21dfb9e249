"""Reading `parameters=`: a row of parameters, or of groups with settings of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from roofstep.parameter import Parameter


def read(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    """The groups, each a new dict whose ``params`` is a tuple of `Parameter`.

    Raises:
        TypeError: no row at all, a row without order, or elements that are neither.
        ValueError: an empty row, or a group without ``params``.
    """
    items = _row("parameters", parameters)
    if not any(isinstance(item, Mapping) for item in items):
        return [{"params": tuple(map(_as_parameter, items))}]
    groups = []
    for item in items:
        if not isinstance(item, Mapping):
            raise TypeError(
                f"parameters: expected groups (dicts) alone or parameters alone, got both; "
                f"put {_kind(item)} into a group's 'params'"
            )
        if "params" not in item:
            raise ValueError(
                f"parameters: a group with the keys {list(item)} has no 'params'; "
                f"name its parameters there"
            )
        params = item["params"]
        if isinstance(params, Parameter):
            params = [params]
        row = _row("'params' of a group", params)
        groups.append({**item, "params": tuple(map(_as_parameter, row))})
    return groups


def _row(what: str, items: Any) -> list[Any]:
    remedy = "pass a list or tuple of parameters, or of groups (dicts)"
    if isinstance(items, (Parameter, Mapping, str, bytes)) or hasattr(items, "__array__"):
        raise TypeError(f"{what}: expected a list or tuple, got {_kind(items)}; {remedy}")
    if isinstance(items, (set, frozenset)) or not isinstance(items, Iterable):
        raise TypeError(f"{what}: expected something with an order, got {_kind(items)}; {remedy}")
    row = list(items)
    if not row:
        raise ValueError(f"{what}: expected at least one parameter, got none; {remedy}")
    return row


def _as_parameter(item: Any) -> Parameter:
    if isinstance(item, Parameter):
        return item
    if isinstance(item, np.ndarray):
        return Parameter(item)
    raise TypeError(
        f"parameters: expected roofstep.Parameter or NumPy arrays, got {_kind(item)}; "
        f"wrap its memory, as in roofstep.Parameter(array)"
    )


def _kind(item: Any) -> str:
    return f"a {type(item).__name__}"
