"""What the functions refuse: the status that roofstep.h tells, and nothing is written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from calls import DOORS, FUNCTIONS, RULES, call

OK, BAD_POINTER, BAD_SIZE, BAD_ROWS, BAD_STEP = range(5)
SETTINGS = {
    "learning_rate": 0.1,
    "momentum": 0.9,
    "use_nesterov": 0,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "rho": 0.9,
    "centered": 1,
    "t": 1,
}
each = pytest.mark.parametrize(("name", "door"), [(name, door) for name in RULES for door in DOORS])


def good(name: str) -> dict[str, Any]:
    """Arguments that are taken."""
    dtype = "float32" if name.endswith("f32") else "float64"
    arrays = {key: np.ones((4, 3), dtype) for key in FUNCTIONS[name].pointers}
    where = {"n": 12, "count": 4, "height": 4, "width": 3}
    return {**SETTINGS, **where, **arrays, "rows": np.array([0, 1, 1, 3])}


def status(name: str, door: str, **changed: Any) -> int:
    """What is returned with some arguments changed; unless it is OK, no array is."""
    values = {**good(name), **changed}
    before = {key: a.copy() for key, a in values.items() if isinstance(a, np.ndarray)}
    found = int(call(door, name, values))
    kept = all(np.array_equal(values[key], array) for key, array in before.items())
    assert kept == (found != OK or 0 in (values["n"], values["count"], values["width"]))
    return found


def takes(name: str, *arguments: str) -> list[str]:
    return [argument for argument in arguments if argument in FUNCTIONS[name].arguments]


@each
def test_pointers(name: str, door: str) -> None:
    assert status(name, door) == OK
    for pointer in FUNCTIONS[name].pointers:
        assert status(name, door, **{pointer: None}) == BAD_POINTER, pointer
    if takes(name, "centered"):
        assert status(name, door, centered=0) == BAD_POINTER
        assert status(name, door, centered=0, mean_grad=None) == OK


@each
def test_no_elements_need_no_pointers(name: str, door: str) -> None:
    none = dict.fromkeys(FUNCTIONS[name].pointers)
    for size in takes(name, "n", "count"):
        assert status(name, door, **none, **{size: 0}) == OK
    if takes(name, "width"):
        rows = {**none, "rows": np.array([0, 1, 1, 3])}
        assert status(name, door, **rows, width=0) == OK


@each
def test_sizes(name: str, door: str) -> None:
    for size in takes(name, "n", "count", "height", "width"):
        assert status(name, door, **{size: -1}) == BAD_SIZE, size


@pytest.mark.parametrize("rows", [[1, 0, 2, 3], [-1, 0, 1, 2], [0, 1, 2, 4], [0, 1, 3, 2]])
@each
def test_row_numbers(name: str, door: str, rows: list[int]) -> None:
    if takes(name, "rows"):
        assert status(name, door, rows=np.array(rows)) == BAD_ROWS


@each
def test_steps(name: str, door: str) -> None:
    if takes(name, "t"):
        for t in (0, -1):
            assert status(name, door, t=t) == BAD_STEP
        assert status(name, door, t=2**40) == OK


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in RULES])
def test_sums_of_squares(name: str, door: str) -> None:
    x = good(name)["x"]
    assert call(door, name, {"x": x, "n": 12}) == 12
    assert math.isnan(call(door, name, {"x": x, "n": -1}))
    assert math.isnan(call(door, name, {"x": None, "n": 1}))
    assert call(door, name, {"x": None, "n": 0}) == 0
