"""Every function of the header has the bits of the Python door, however it is called."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

import roofstep as rs
from calls import DOORS, FUNCTIONS, RULES, call

Array = np.ndarray[Any, Any]

BETAS = {"beta1": 0.8, "beta2": 0.95}
CASES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "sgd": (rs.SGD, [{}]),
    "momentum": (rs.Momentum, [{"momentum": 0.7, "use_nesterov": on} for on in (False, True)]),
    "adam": (rs.Adam, [{**BETAS, "epsilon": 1e-4}]),
    "adamw": (rs.AdamW, [{**BETAS, "epsilon": 1e-4, "weight_decay": decay} for decay in (0, 0.3)]),
    "adagrad": (rs.Adagrad, [{"epsilon": 1e-3}]),
    "rmsprop": (
        rs.RMSProp,
        [{"rho": 0.8, "epsilon": 1e-3, "momentum": 0.6, "centered": on} for on in (False, True)],
    ),
    "lion": (rs.Lion, [{**BETAS, "weight_decay": decay} for decay in (0, 0.3)]),
}
RATE = 0.03
SPARSE = (rs.SGD, rs.Adagrad, rs.Adam, rs.AdamW)  # others refuse sparse gradients
FLAT = [name for name in RULES if "_rows_" not in name]
ROWS = [name for name in RULES if "_rows_" in name]


class Case(NamedTuple):
    """A function with settings, and the class of Python that it is to agree with."""

    optimizer: Any
    settings: dict[str, Any]
    dtype: Any

    def arrays(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
        """A parameter at random and its states at zero; none that this case does not have."""
        states = {state: np.zeros(shape, self.dtype) for state in FUNCTIONS[name].states}
        if not self.settings.get("centered", True):
            states["mean_grad"] = None
        return {"param": rng.standard_normal(shape).astype(self.dtype), **states}

    def values(self, arrays: dict[str, Any], t: int, **more: Any) -> dict[str, Any]:
        return {"learning_rate": RATE, "t": t, **self.settings, **arrays, **more}


def cases(name: str) -> Iterator[Case]:
    """A rule that is not in the table is a KeyError."""
    rule, bits = re.fullmatch(r"(\w+?)(?:_rows)?_f(32|64)", name).groups()
    optimizer, settings = CASES[rule]
    for chosen in settings:
        yield Case(optimizer, chosen, np.dtype(f"float{bits}"))


def states(optimizer: Any, name: str) -> list[Array]:
    """Those of the parameter of that name, in the order of their rule."""
    kept = optimizer.state_dict()
    return [kept[key] for key in kept if re.fullmatch(rf"{name}_(?!step)\w+_0", key)]


def same(arrays: dict[str, Any], param: Array, of_python: list[Array]) -> bool:
    own = [array for array in arrays.values() if array is not None]
    pairs = zip(own, [param, *of_python], strict=True)
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers of every size, zeros of both signs and denormals among them."""
    found = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, shape)
    found[rng.random(shape) < 0.1] = -0.0
    found[rng.random(shape) < 0.1] *= np.finfo(dtype).tiny
    return found.astype(dtype)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FLAT)
def test_elements(name: str, door: str) -> None:
    rng = np.random.default_rng(0)
    for case in cases(name):
        for n in (0, 1, 7, 64, 1001, 5000):
            arrays = case.arrays(name, (n,), rng)
            parameter = rs.Parameter(arrays["param"].copy(), name="w")
            optimizer = case.optimizer(RATE, parameters=[parameter], **case.settings)
            for t in (1, 2, 3):
                grad = drawn(rng, (n + 1,), case.dtype)[1:]  # not aligned to more than an element
                assert call(door, name, case.values(arrays, t, grad=grad, n=n)) == 0
                parameter.grad = grad
                optimizer.step()
                assert same(arrays, parameter.data, states(optimizer, "w")), (case.settings, n, t)


class BySelectedRows:
    """The Python door of a rule that takes sparse gradients, lazily."""

    def __init__(self, case: Case, param: Array) -> None:
        lazy = {"lazy_mode": True} if issubclass(case.optimizer, rs.Adam) else {}
        self.parameter = rs.Parameter(param.copy(), name="w")
        self.optimizer = case.optimizer(RATE, parameters=[self.parameter], **case.settings, **lazy)

    def step(self, rows: Array, grad: Array) -> None:
        self.parameter.grad = rs.SelectedRows(rows, grad)
        self.optimizer.step()

    def result(self) -> tuple[Array, list[Array]]:
        return self.parameter.data, states(self.optimizer, "w")


class ByParameters:
    """The Python door of the other rules: a parameter for each row, the rest without gradient."""

    def __init__(self, case: Case, param: Array) -> None:
        self.parameters = [rs.Parameter(row.copy(), name=f"row{i}") for i, row in enumerate(param)]
        self.optimizer = case.optimizer(RATE, parameters=self.parameters, **case.settings)

    def step(self, rows: Array, grad: Array) -> None:
        for i, parameter in enumerate(self.parameters):
            total = np.zeros_like(parameter.data)
            for row in grad[rows == i]:
                total += row
            parameter.grad = total if i in rows else None
        self.optimizer.step()

    def result(self) -> tuple[Array, list[Array]]:
        found = [states(self.optimizer, parameter.name) for parameter in self.parameters]
        kinds = max(map(len, found))
        zeros = [np.zeros_like(parameter.data) for parameter in self.parameters]
        return np.stack([parameter.data for parameter in self.parameters]), [
            np.stack([row[k] if row else zero for row, zero in zip(found, zeros, strict=True)])
            for k in range(kinds)
        ]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, door: str) -> None:
    """Rows once and several times, each in some of three steps; wider than a block, too."""
    rng = np.random.default_rng(1)
    height = 10
    for case in cases(name):
        for width in (1, 7, 64, 4096, 5000):
            arrays = case.arrays(name, (height, width), rng)
            by = BySelectedRows if case.optimizer in SPARSE else ByParameters
            python = by(case, arrays["param"])
            for t, count in enumerate((5, 1, 30), start=1):
                rows = np.sort(rng.integers(0, height, count))
                grad = drawn(rng, (count, width), case.dtype)
                where = {"rows": rows, "count": count, "height": height, "width": width}
                assert call(door, name, case.values(arrays, t, grad=grad, **where)) == 0
                python.step(rows, grad)
                assert same(arrays, *python.result()), (case.settings, width, t)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in RULES])
def test_sums_of_squares(name: str, door: str) -> None:
    rng = np.random.default_rng(2)
    dtype = {"sum_squares_f32": np.float32, "sum_squares_f64": np.float64}[name]
    for n in (0, 1, 64, 4097, 300_001):
        x = rng.standard_normal(n + 1).astype(dtype)[1:]
        parameter = rs.Parameter(np.zeros(n, dtype), name="w")
        parameter.grad = x
        clip = rs.ClipGradByGlobalNorm(1.0)
        optimizer = rs.SGD(RATE, parameters=[parameter], grad_clip=clip)
        optimizer.step()
        found = call(door, name, {"x": x, "n": n})
        assert np.sqrt(found) == optimizer.last_grad_norm
        assert found == pytest.approx(np.sum(x.astype(np.float64) ** 2))


@pytest.mark.parametrize(
    ("name", "size", "sum_of_four"),
    [
        ("sum_squares_f32", 1e-40, 4e-80),
        ("sum_squares_f32", 1e30, 4e60),
        ("sum_squares_f64", 1e-153, 4e-306),
        ("sum_squares_f64", 1e153, 4e306),
        ("sum_squares_f64", 1e-158, 4e-316),
        ("sum_squares_f64", 1e-200, 0.0),
        ("sum_squares_f64", 1e200, np.inf),
    ],
)
def test_sums_at_the_ends_of_a_double(name: str, size: float, sum_of_four: float) -> None:
    x = np.full(4, size, "float" + name[-2:])
    assert call("C", name, {"x": x, "n": 4}) == pytest.approx(sum_of_four, rel=1e-4)


# Rounding up, down, to zero; denormals taken for 0 and made 0; and all at once.
MODES = {
    "x86_64": [0x5F80, 0x3F80, 0x7F80, 0x9FC0, 0xFFC0],
    "aarch64": [1 << 22, 2 << 22, 3 << 22, 1 << 24, 7 << 22],
}[platform.machine()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_modes_of_the_thread(name: str) -> None:
    """Whatever modes another library has set: the bits are the same, and so are the modes then."""
    in_c = importlib.import_module("in_c")
    rng = np.random.default_rng(4)
    usual = in_c.mode()
    for case in cases(name) if name in RULES else [Case(None, {}, np.dtype("float" + name[-2:]))]:
        arrays = case.arrays(name, (6, 100), rng)
        grad = drawn(rng, (6, 100), np.dtype("float" + name[-2:]))
        where = {"n": 600, "rows": np.array([0, 0, 1, 3, 3, 5]), "count": 6, "height": 6}
        where |= {"width": 100, "x": grad}
        results = []
        for mode in [usual, *MODES]:
            own = {key: a if a is None else a.copy() for key, a in arrays.items()}
            values = case.values(own, 2, grad=grad, **where)
            in_c.set_mode(mode)
            found = call("C", name, values)
            kept = in_c.mode()
            in_c.set_mode(usual)
            assert kept == mode
            results.append([found, *(a.tobytes() for a in own.values() if a is not None)])
        assert all(result == results[0] for result in results), case.settings


@pytest.mark.parametrize("name", FLAT)
def test_threads_of_the_caller(name: str) -> None:
    """Four threads on parts of the same arrays, without the GIL, are as one."""
    rng = np.random.default_rng(3)
    n = 100_000
    bounds = [0, 12_345, 50_001, 77_777, n]
    for case in cases(name):
        whole = case.arrays(name, (n,), rng)
        parts = {key: None if array is None else array.copy() for key, array in whole.items()}
        for t in (1, 2, 3):
            grad = drawn(rng, (n,), case.dtype)
            assert call("Cython", name, case.values(whole, t, grad=grad, n=n)) == 0
            with ThreadPoolExecutor(len(bounds) - 1) as pool:
                done = [
                    pool.submit(call, "Cython", name, case.values(own, t, grad=grad[i:j], n=j - i))
                    for i, j in pairwise(bounds)
                    for own in [{key: a if a is None else a[i:j] for key, a in parts.items()}]
                ]
            assert [future.result() for future in done] == [0] * len(done)
        param, *of_threads = (array for array in parts.values() if array is not None)
        assert same(whole, param, of_threads), case.settings
