"""What the functions refuse: the status that roofstep.h tells, and nothing is written."""

from __future__ import annotations

import math
import sys
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


def each(*arguments: str) -> pytest.MarkDecorator:
    """Every function of a rule that takes these arguments, by every door."""
    names = [name for name in RULES if {*arguments} <= {*FUNCTIONS[name].arguments}]
    assert names
    return pytest.mark.parametrize(("name", "door"), [(n, door) for n in names for door in DOORS])


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


@each()
def test_pointers(name: str, door: str) -> None:
    assert status(name, door) == OK
    for pointer in FUNCTIONS[name].pointers:
        assert status(name, door, **{pointer: None}) == BAD_POINTER, pointer
    if takes(name, "centered"):
        assert status(name, door, centered=0) == BAD_POINTER
        assert status(name, door, centered=0, mean_grad=None) == OK


@each()
def test_no_elements_need_no_pointers(name: str, door: str) -> None:
    none = dict.fromkeys(FUNCTIONS[name].pointers)
    for size in takes(name, "n", "count"):
        assert status(name, door, **none, **{size: 0}) == OK
    if takes(name, "width"):
        rows = {**none, "rows": np.array([0, 1, 1, 3])}
        assert status(name, door, **rows, width=0) == OK


@each()
def test_sizes(name: str, door: str) -> None:
    """Also those of more bytes than an address can count: their places would overflow."""
    for size in takes(name, "n", "count", "height", "width"):
        assert status(name, door, **{size: -1}) == BAD_SIZE, size
        assert status(name, door, **{size: sys.maxsize}) == BAD_SIZE, size
        assert status(name, door, **{size: sys.maxsize // 4 + 1}) == BAD_SIZE, size


@pytest.mark.parametrize("rows", [[1, 0, 2, 3], [-1, 0, 1, 2], [0, 1, 2, 4], [0, 1, 3, 2]])
@each("rows")
def test_row_numbers(name: str, door: str, rows: list[int]) -> None:
    assert status(name, door, rows=np.array(rows)) == BAD_ROWS


@each("rows")
def test_row_numbers_that_overflow(name: str, door: str) -> None:
    """Times the width they would come to a row that is there."""
    rows = np.array([0, 1, 1, 2**62])
    assert status(name, door, rows=rows, height=sys.maxsize, width=4) == BAD_SIZE
    assert status(name, door, rows=rows) == BAD_ROWS


@each("t")
def test_steps(name: str, door: str) -> None:
    for t in (0, -1):
        assert status(name, door, t=t) == BAD_STEP
    assert status(name, door, t=2**40) == OK


@each("rows", "t")
def test_the_first_of_several_is_told(name: str, door: str) -> None:
    """Sizes, pointers, row numbers, the step."""
    wrong = {"t": 0}
    assert status(name, door, **wrong) == BAD_STEP
    wrong["rows"] = np.array([1, 0, 2, 3])
    assert status(name, door, **wrong) == BAD_ROWS
    wrong["param"] = None
    assert status(name, door, **wrong) == BAD_POINTER
    wrong["count"] = -1
    assert status(name, door, **wrong) == BAD_SIZE


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in RULES])
def test_sums_of_squares(name: str, door: str) -> None:
    x = good(name)["x"]
    assert call(door, name, {"x": x, "n": 12}) == 12
    assert math.isnan(call(door, name, {"x": x, "n": -1}))
    assert math.isnan(call(door, name, {"x": None, "n": 1}))
    assert call(door, name, {"x": None, "n": 0}) == 0
