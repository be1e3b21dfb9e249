"""Every refusal: its type, a message of who, what and how to mend it, and nothing written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import roofstep as rs

SHAPE = (3, 4)
Error = type[Exception]
Table = dict[str, tuple[Any, Error, str]]  # name -> (what is bad, error, what the message says)


@contextmanager
def refused(error: Error | tuple[Error, ...], pattern: str) -> Iterator[None]:
    """Expect a refusal that says what is wrong and, behind a semicolon, what to do."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert re.search(pattern, message, re.DOTALL), message
    assert re.search(r";\s+\S|\n", message), f"no remedy: {message}"


def table(rows: Table) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("bad", "error", "pattern"), rows.values(), ids=rows.keys())


def ones(dtype: Any = "f4", shape: tuple[int, ...] = SHAPE) -> Any:
    return np.ones(shape, dtype)


def read_only() -> Any:
    array = ones()
    array.flags.writeable = False
    return array


class Rate:
    """A schedule made of nothing but what is asked of one."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def step(self) -> None: ...


class TwoGroups:
    """Four parameters in two groups of an Adam, ready to step; all that is seen can be compared."""

    def __init__(self, steps: int = 2) -> None:
        rng = np.random.default_rng(0)
        self.params = [
            rs.Parameter(rng.standard_normal(SHAPE).astype("f4"), name=f"w{i}") for i in range(4)
        ]
        self.first, self.last = self.params[0], self.params[-1]
        self.rate = Rate(0.125)
        self.optimizer = rs.Adam(
            self.rate,
            parameters=[
                {"params": self.params[:2]},
                {"params": self.params[2:], "beta1": 0.5, "learning_rate": 2},
            ],
            grad_clip=rs.ClipGradByGlobalNorm(1.0),
        )
        for step in range(steps + 1):
            for p in self.params:
                p.grad = rng.standard_normal(SHAPE).astype("f4")
            if step < steps:
                self.optimizer.step()
        self.groups = self.optimizer.param_groups
        self._steps = steps
        self._contents = [(group, dict(group)) for group in self.groups]
        self._arrays = [(p, p.data, p.grad) for p in self.params]

    def _memory(self) -> list[bytes | None]:
        arrays = [x for p, data, grad in self._arrays for x in (data, grad, p.data, p.grad)]
        return [x.tobytes() if isinstance(x, np.ndarray) else None for x in arrays]

    @contextmanager
    def nothing_written(self) -> Iterator[None]:
        """All bits stay, and once mended the world goes on as one that never saw the refusal."""
        before = self._memory()
        yield
        assert self._memory() == before
        self.rate.value = 0.125
        for p, p.data, p.grad in self._arrays:
            p.trainable = True
        for group, content in self._contents:
            group.clear()
            group.update(content)
        self.groups[:] = [group for group, _ in self._contents]
        assert self._outcome() == TwoGroups(self._steps)._outcome()

    def _outcome(self) -> dict[str, Any]:
        """Everything after one more step: states and counts are in it."""
        self.optimizer.step()
        saved = self.optimizer.state_dict()
        return {
            **{k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in saved.items()},
            **{str(p.name): p.data.tobytes() for p in self.params},
            "norm": self.optimizer.last_grad_norm,
        }


# What arrays can be no parameter and no gradient.
NO_ARRAYS: Table = {
    "list": ([1.0, 2.0], TypeError, "expected a NumPy array.* got .*list.*numpy.asarray"),
    "number": (1.0, TypeError, "expected a NumPy array.* got .*float.*numpy.asarray"),
    # 2 * p.data is a scalar where p.data is 0-dimensional: its type alone would mislead.
    "scalar": (np.float32(1), TypeError, "expected a NumPy array.* got .*scalar.*numpy.asarray"),
    "bytes": (b"12345678", TypeError, "expected a NumPy array.* got .*bytes"),
    "memoryview": (memoryview(b"1234"), TypeError, "expected a NumPy array.* got .*memoryview"),
    "int32": (ones("i4"), ValueError, "float32 or float64.* got int32.*astype"),
    "uint8": (ones("u1"), ValueError, "float32 or float64.* got uint8.*astype"),
    "bool": (ones("?"), ValueError, "float32 or float64.* got bool.*astype"),
    "float16": (ones("f2"), ValueError, "float32 or float64.* got float16.*astype"),
    "longdouble": (ones("g"), ValueError, "float32 or float64.* got (long|float).*astype"),
    "complex": (ones("c8"), ValueError, "float32 or float64.* got complex64.*astype"),
    "object": (ones("O"), ValueError, "float32 or float64.* got object.*astype"),
    "structured": (ones("f4,f4"), ValueError, "float32 or float64.* got .*f0"),
    "text": (ones("U4"), ValueError, "float32 or float64.* got .U4"),
    "dates": (ones("M8[s]"), ValueError, "float32 or float64.* got datetime64"),
    "big-endian": (ones(">f4"), ValueError, "byte order.* got .*>f4.*astype"),
    "misaligned": (
        np.ndarray(SHAPE, "f4", bytearray(49), 1), ValueError, "aligned.* got a misaligned.*copy"),
    # A step would move what the mask says is not there.
    "masked": (np.ma.array(ones(), mask=True), TypeError, "expected .* got a (masked|Masked)"),
}  # fmt: skip
# What arrays can be no parameter.
NOT_IN_PLACE: Table = {
    **NO_ARRAYS,
    "None": (None, TypeError, "expected a NumPy array.* got .*None"),
    "read-only": (read_only(), ValueError, "writable.* got a read-only.*copy"),
    "broadcast": (np.broadcast_to(ones(), SHAPE), ValueError, "writable.* got a read-only.*copy"),
    "every other": (ones(shape=(3, 8))[:, ::2], ValueError, "dense.*(32, 8).*ascontiguousarray"),
    "half rows": (ones(shape=(3, 8))[:, :4], ValueError, "dense.*(32, 4).*ascontiguousarray"),
    "backwards": (ones()[::-1], ValueError, "dense.*(-16, 4).*ascontiguousarray"),
    "field": (ones("f4,f4")["f0"], ValueError, "dense.*(32, 8).*ascontiguousarray"),
    "one element": (as_strided(ones(), SHAPE, (0, 0)), ValueError, "dense.*(0, 0).*ascontiguous"),
}


# Steps.

Spoil = Callable[[TwoGroups], Any]
WAYS: dict[str, Spoil] = {
    "step": lambda w: w.optimizer.step(),
    "step(clear_grad=True)": lambda w: w.optimizer.step(clear_grad=True),
    "minimize": lambda w: w.optimizer.minimize(0.0),
    "apply_gradients": lambda w: w.optimizer.apply_gradients([(p, p.grad) for p in w.params]),
}


def put(who: str, name: str, value: Any) -> Spoil:
    """Sets an attribute of a part of the world; a function is asked for the value."""

    def spoil(world: TwoGroups) -> None:
        setattr(getattr(world, who), name, value(world) if callable(value) else value)

    return spoil


def edit(name: str, value: Any) -> Spoil:
    return lambda world: world.groups[-1].update({name: value})


def both(*spoils: Spoil) -> Spoil:
    return lambda world: [spoil(world) for spoil in spoils]


OVERLAP = "parameter 'w0'.*parameter 'w3'.*overlap.*copy|parameter 'w3'.*parameter 'w0'.*overlap"
OWN = "parameter 'w3'.*parameter 'w3'.*overlap.*copy"
SETTING = "expected .* got "
BAD_STEPS: Table = {
    **{
        f"gradient: {name}": (put("last", "grad", value), error, f"gradient .*'w3': .*{pattern}")
        for name, (value, error, pattern) in NO_ARRAYS.items()
    },
    **{
        f"data: {name}": (put("last", "data", value), error, f"^parameter 'w3': .*{pattern}")
        for name, (value, error, pattern) in NOT_IN_PLACE.items()
    },
    **{
        f"gradient of shape {shape}": (
            put("last", "grad", ones(shape=shape)),
            ValueError,
            rf"gradient .*'w3': expected .*shape \(3, 4\).* got {re.escape(str(shape))}",
        )
        for shape in [(), (1,), (12,), (4, 3), (4,), (1, 3, 4), (3, 4, 1), (0, 4), (3, 1)]
    },
    "gradient of float64": (
        put("last", "grad", ones("f8")), ValueError, "gradient .*'w3': .*float32.*got float64"),
    "data of float64": (
        put("last", "data", ones("f8")), ValueError, "'w3': .*float64.*got float32"),
    # The same bytes twice, at the end of many parameters.
    "gradient is the parameter": (put("last", "grad", lambda w: w.last.data), ValueError, OWN),
    "gradient is a part of it": (
        put("last", "grad", lambda w: as_strided(w.last.data[1:], SHAPE, (0, 4))),
        ValueError, f"{OWN}|each element in its own memory"),
    "gradient is it turned": (
        put("last", "grad", lambda w: w.last.data[::-1, ::-1]), ValueError, OWN),
    "gradient is another parameter": (
        put("last", "grad", lambda w: w.first.data), ValueError, OVERLAP),
    "another's memory": (put("last", "data", lambda w: w.first.data), ValueError, OVERLAP),
    "a view of another": (put("last", "data", lambda w: w.first.data[:]), ValueError, OVERLAP),
    # The step would move a parameter that has no gradient, or may not move.
    "in one without gradient": (
        both(put("last", "data", lambda w: w.first.data), put("first", "grad", None)),
        ValueError, OVERLAP),
    "in one that is frozen": (
        both(put("last", "data", lambda w: w.first.data), put("first", "trainable", False)),
        ValueError, OVERLAP),
    # Settings in `param_groups`.
    "beta1 = 1": (edit("beta1", 1.0), ValueError, rf"beta1: {SETTING}1.0"),
    "beta1 < 0": (edit("beta1", -0.1), ValueError, rf"beta1: {SETTING}-0.1"),
    "beta2 = nan": (edit("beta2", math.nan), ValueError, rf"beta2: {SETTING}nan"),
    "beta2 = None": (edit("beta2", None), TypeError, rf"beta2: {SETTING}None"),
    "beta2 = '0.9'": (edit("beta2", "0.9"), TypeError, rf"beta2: {SETTING}'0.9'"),
    "epsilon < 0": (edit("epsilon", -1e-8), ValueError, rf"epsilon: {SETTING}-1e-08"),
    "epsilon = inf": (edit("epsilon", math.inf), ValueError, rf"epsilon: {SETTING}inf"),
    "amsgrad = 1": (edit("amsgrad", 1), TypeError, rf"amsgrad: {SETTING}1"),
    "group rate < 0": (edit("learning_rate", -1), ValueError, rf"learning_rate .*{SETTING}-1"),
    "group rate = nan": (edit("learning_rate", math.nan), ValueError, rf"rate .*{SETTING}nan"),
    "group rate = None": (edit("learning_rate", None), TypeError, rf"rate .*{SETTING}None"),
    "group rate is a schedule": (edit("learning_rate", Rate(1)), TypeError, f"rate .*{SETTING}"),
    "weight_decay = nan": (edit("weight_decay", math.nan), ValueError, f"decay: {SETTING}nan"),
    "weight_decay = True": (edit("weight_decay", True), TypeError, f"decay: {SETTING}True"),
    "grad_clip = 1.0": (edit("grad_clip", 1.0), TypeError, rf"grad_clip: {SETTING}1.0"),
    "grad_clip a class": (edit("grad_clip", rs.ClipGradByValue), TypeError, rf"clip: {SETTING}"),
    "unknown setting": (edit("lr", 0.1), ValueError, "'lr' .*learning_rate.*beta1"),
    "params replaced": (edit("params", ()), ValueError, "params"),
    "params = None": (edit("params", None), TypeError, "'params' of a group: expected a list"),
    "params deleted": (lambda w: w.groups[-1].pop("params"), ValueError, "params"),
    "group added": (
        lambda w: w.groups.append({"params": [rs.Parameter(ones())]}), ValueError, "param_groups"),
    "group removed": (lambda w: w.groups.pop(), ValueError, "param_groups"),
    "no group": (lambda w: w.groups.clear(), ValueError, "param_groups"),
    # The schedule's rate, and what the factors make of it.
    "rate = nan": (put("rate", "value", math.nan), ValueError, rf"schedule: {SETTING}nan"),
    "rate = inf": (put("rate", "value", math.inf), ValueError, rf"schedule: {SETTING}inf"),
    "rate < 0": (put("rate", "value", -1), ValueError, rf"schedule: {SETTING}-1"),
    "rate = None": (put("rate", "value", None), TypeError, rf"schedule: {SETTING}None"),
    "rate = text": (put("rate", "value", "1"), TypeError, rf"schedule: {SETTING}'1'"),
    "rate = array": (put("rate", "value", ones()), TypeError, rf"schedule: {SETTING}"),
    "rate overflows": (
        both(put("rate", "value", 1e300), edit("learning_rate", 1e300)), ValueError,
        r"learning_rate: .*'w0', float32, can hold, got 1e\+300"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@table(BAD_STEPS)
def test_a_step_is_all_or_nothing(bad: Spoil, error: Error, pattern: str, way: Spoil) -> None:
    for steps in (0, 2):  # before there are states, and with states
        world = TwoGroups(steps)
        bad(world)
        with world.nothing_written(), refused(error, pattern):
            way(world)


def state(world: TwoGroups) -> Any:
    # There is no public way to a state itself: state_dict() gives copies.
    return world.optimizer._states["w3"]["moment1"]


STATE = "parameter 'w3'.*state of parameter 'w3'|state of parameter 'w3'.*parameter 'w3'"
MADE_FOR = r"parameter 'w3': expected .*states.*\(3, 4\).* got .*"
BAD_WITH_STATES: Table = {
    "gradient is a state": (put("last", "grad", state), ValueError, STATE),
    "data is a state": (put("last", "data", state), ValueError, STATE),
    "another's gradient is a state": (
        put("first", "grad", state), ValueError, "'w0'.*'w3'|'w3'.*'w0'"),
    "shape": (
        both(put("last", "data", ones(shape=(4, 3))), put("last", "grad", ones(shape=(4, 3)))),
        ValueError, MADE_FOR + r"\(4, 3\)"),
    "dtype": (
        both(put("last", "data", ones("f8")), put("last", "grad", ones("f8"))),
        ValueError, MADE_FOR + "float64"),
    "layout": (
        put("last", "data", np.asfortranarray(ones())),
        ValueError, MADE_FOR + r"\(4, 12\).*load_state_dict"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@table(BAD_WITH_STATES)
def test_states_keep_their_parameter(bad: Spoil, error: Error, pattern: str, way: Spoil) -> None:
    world = TwoGroups()
    bad(world)
    with world.nothing_written(), refused(error, pattern):
        way(world)


# Gradients that a step may read but not clear.
BAD_TO_CLEAR: Table = {
    "read-only": (put("last", "grad", read_only()), ValueError, "gradient .*'w3': .*read-only"),
    "two parameters' gradient": (
        put("last", "grad", lambda w: w.first.grad), ValueError, "'w0'.*'w3'.*overlap"),
    "parts of two gradients": (
        put("last", "grad", lambda w: w.first.grad[::-1]), ValueError, "'w0'.*'w3'.*overlap"),
    # A later block would read the zeros of an earlier one.
    "one element": (
        put("last", "grad", as_strided(ones(), SHAPE, (0, 0))), ValueError, "gradient .*'w3'"),
    "sliding window": (
        put("last", "grad", as_strided(ones(), SHAPE, (4, 4))), ValueError, "gradient .*'w3'"),
    # The zeros would fall on a parameter that this step does not move.
    "a parameter without gradient": (
        both(put("last", "grad", lambda w: w.first.data), put("first", "grad", None)),
        ValueError, OVERLAP),
}  # fmt: skip


@table(BAD_TO_CLEAR)
def test_clearing_inside_the_step_is_all_or_nothing(bad: Spoil, error: Error, pattern: str) -> None:
    for steps in (0, 2):
        world = TwoGroups(steps)
        bad(world)
        with world.nothing_written(), refused(error, pattern):
            world.optimizer.step(clear_grad=True)


@table({
    "read-only": (put("last", "grad", read_only()), ValueError, "gradient .*'w3': .*read-only"),
    "list": (put("last", "grad", [1.0]), TypeError, "gradient .*'w3': .*list"),
})  # fmt: skip
def test_clearing_is_all_or_nothing(bad: Spoil, error: Error, pattern: str) -> None:
    world = TwoGroups()
    bad(world)
    with world.nothing_written(), refused(error, pattern):
        world.optimizer.clear_grad(set_to_zero=True)


class LateGradient(rs.Parameter):
    """Its gradient raises when asked for."""

    @property
    def grad(self) -> Any:
        raise LookupError("not today")

    @grad.setter
    def grad(self, value: Any) -> None: ...


class LateData(rs.Parameter):
    """Its memory raises when asked for, once it has been given to an optimizer."""

    late = False

    @property
    def data(self) -> Any:
        if self.late:
            raise LookupError("not today")
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value


def late_gradient(params: list[rs.Parameter]) -> rs.Optimizer:
    return rs.Adam(parameters=[*params, LateGradient(ones())])


def late_data(params: list[rs.Parameter]) -> rs.Optimizer:
    late = LateData(ones())
    optimizer = rs.Adam(parameters=[*params, late])
    late.late, late.grad = True, ones()
    return optimizer


def late_function(name: str) -> Callable[[list[rs.Parameter]], rs.Optimizer]:
    def fail(asked: Any) -> Any:
        if asked in ("b", params[-1]):
            raise LookupError("not today")
        return 1.0

    params: list[rs.Parameter] = []

    def make(given: list[rs.Parameter]) -> rs.Optimizer:
        params[:] = given
        return rs.AdamW(parameters=given, **{name: fail})

    return make


@pytest.mark.parametrize("make", [
    late_gradient,
    late_data,
    late_function("lr_ratio"),
    late_function("apply_decay_param_fun"),
    lambda params: rs.Adam(Rate(LookupError("not today")), parameters=params),
])  # fmt: skip
def test_errors_of_the_users_own_code_pass_through(
    make: Callable[[list[rs.Parameter]], rs.Optimizer],
) -> None:
    params = [rs.Parameter(ones(), name) for name in "ab"]
    optimizer = make(params)
    for p in params:
        p.grad = ones()
    with pytest.raises(LookupError, match="not today"):
        optimizer.step()
    for p in params:
        assert (p.data == 1).all()
        assert (p.grad == 1).all()
    params[-1].trainable = True  # asks user functions again: a plan half made must not be kept
    with pytest.raises(LookupError, match="not today"):
        optimizer.step()
    assert (params[0].data == 1).all()


# Construction.

Make = Callable[[list[rs.Parameter]], Any]
RATES: Table = {
    "None": (None, TypeError, "got None"),
    "text": ("0.1", TypeError, "got '0.1'"),
    "bool": (True, TypeError, "got True"),
    "NumPy bool": (np.True_, TypeError, "got .*True"),
    "complex": (0.1j, TypeError, "got 0.1j"),
    "Decimal": (Decimal("0.1"), TypeError, "got Decimal"),
    "list": ([0.1], TypeError, r"got \[0.1\]"),
    "array": (np.ones(2), TypeError, "got array"),
    "function": (lambda: 0.1, TypeError, "got .*function.*lr"),
    # A schedule's class is callable and has `step`, and is no schedule yet.
    "class": (rs.lr.StepDecay, TypeError, "got .*StepDecay"),
    "optimizer": (rs.SGD(), TypeError, "got .*SGD"),
    "negative": (-0.1, ValueError, "got -0.1"),
    "nan": (math.nan, ValueError, "got nan"),
    "inf": (math.inf, ValueError, "got inf"),
    "NumPy nan": (np.float32("nan"), ValueError, "got nan"),
    "beyond float": (10**400, ValueError, "got inf"),
    "longdouble beyond float": (np.longdouble("1e4000"), ValueError, "got inf"),
}  # fmt: skip
BAD_PARAMETERS: Table = {
    "array": (lambda w: ones(), TypeError, "parameters: expected a list.* got .*ndarray"),
    "Parameter": (lambda w: w[0], TypeError, "parameters: expected a list.* got .*Parameter"),
    "dict": (lambda w: {"params": w}, TypeError, "parameters: expected a list.* got .*dict"),
    "text": (lambda w: "weights", TypeError, "parameters: expected a list.* got .*str"),
    "set": (lambda w: set(w), TypeError, "parameters: .*order.* got .*set.*list"),
    "number": (lambda w: 3, TypeError, "parameters: .* got .*int.*list"),
    "empty list": (lambda w: [], ValueError, "parameters: .*at least one.*none"),
    "empty generator": (lambda w: (p for p in ()), ValueError, "parameters: .*at least one"),
    "names": (lambda w: ["a", "b"], TypeError, "parameters: .* got .*str"),
    "None inside": (lambda w: [*w, None], TypeError, "parameters: .* got .*None"),
    "lists inside": (lambda w: [*w, [1.0, 2.0]], TypeError, "parameters: .* got .*list"),
    "scalar inside": (lambda w: [*w, np.float32(1)], TypeError, "parameters: .* got .*float32"),
    "groups and parameters": (lambda w: [{"params": w[:1]}, w[1]], TypeError, "both.*'params'"),
    "parameters and groups": (lambda w: [w[0], {"params": w[1:]}], TypeError, "both.*'params'"),
    "no params": (
        lambda w: [{"params": w[:1]}, {"beta1": 0.5}], ValueError,
        "no 'params'.*beta1|beta1.*no 'params'"),
    "empty params": (lambda w: [{"params": []}], ValueError, "'params'.*at least one"),
    "params of text": (lambda w: [{"params": "w"}], TypeError, "'params'.*list.* got .*str"),
    "params of set": (lambda w: [{"params": set(w)}], TypeError, "'params'.*order.* got .*set"),
    "params of array": (lambda w: [{"params": ones()}], TypeError, "'params'.*list.* got .*array"),
    "params of dict": (lambda w: [{"params": {"w": w}}], TypeError, "'params'.*list.* got .*dict"),
    "unknown key": (
        lambda w: [{"params": w, "lr": 1}], ValueError, "'lr'.*learning_rate.*beta1.*factor"),
    "momentum": (lambda w: [{"params": w, "momentum": 0}], ValueError, "'momentum'.*beta1"),
    "number as key": (lambda w: [{"params": w, 3: 0}], ValueError, "3.*beta1"),
    "group rate": (lambda w: [{"params": w, "learning_rate": -1}], ValueError, "rate.*got -1"),
    "group beta": (lambda w: [{"params": w, "beta2": 1}], ValueError, "beta2.*got 1"),
    "group decay": (lambda w: [{"params": w, "weight_decay": "l2"}], TypeError, "decay.*got 'l2'"),
    "group clip": (lambda w: [{"params": w, "grad_clip": 1.0}], TypeError, "grad_clip.*got 1.0"),
    "twice": (lambda w: [*w, w[0]], ValueError, "parameter '?w0'? is .*twice.*once"),
    "twice in a group": (lambda w: [{"params": [w[0], *w]}], ValueError, "'w0'.*twice.*once"),
    "in two groups": (lambda w: [{"params": w}, {"params": w[-1:]}], ValueError, "'w3'.*twice"),
    "array twice": (lambda w: [w[0].data, w[1].data, w[0].data], ValueError, "param_2.*param_0"),
    "array of two Parameters": (
        lambda w: [*w, rs.Parameter(w[0].data, "v")], ValueError, "'v'.*'w0'"),
    "one name twice": (lambda w: [*w, rs.Parameter(ones(), "w1")], ValueError, "'w1'.*name"),
    "a default name taken": (
        lambda w: [rs.Parameter(ones(), "param_1"), rs.Parameter(ones())],
        ValueError, "'param_1'.*name"),
    **{
        f"{name} inside": (lambda w, a=array: [*w, a], error, f"param.*{pattern}")
        for name, (array, error, pattern) in NOT_IN_PLACE.items() if isinstance(array, np.ndarray)
    },
}  # fmt: skip
ADDED: Table = {
    "None": (lambda w: None, TypeError, "group: expected a dict, got .*None.*'params'"),
    "parameter": (lambda w: w.fresh, TypeError, "group: expected a dict, got .*Parameter"),
    "list": (lambda w: [w.fresh], TypeError, "group: expected a dict, got .*list"),
    "no params": (lambda w: {"beta1": 0.5}, ValueError, "no 'params'"),
    "empty": (lambda w: {"params": []}, ValueError, "at least one"),
    "text": (lambda w: {"params": [w.fresh, "w"]}, TypeError, "parameters: .* got .*str"),
    "unknown key": (lambda w: {"params": w.fresh, "lr": 1}, ValueError, "'lr'"),
    "value": (lambda w: {"params": w.fresh, "beta1": 1}, ValueError, "beta1: .*got 1"),
    "there already": (lambda w: {"params": [w.fresh, w.last]}, ValueError, "'w3'.*twice"),
    "its array": (lambda w: {"params": [w.fresh, w.last.data]}, ValueError, "twice.*'w3'"),
    "name": (lambda w: {"params": rs.Parameter(ones(), "w3")}, ValueError, "'w3'.*name"),
    "not in place": (
        lambda w: {"params": [w.fresh, spoilt(w.fresh)]}, ValueError, "'spoilt'.*read-only"),
}  # fmt: skip


def spoilt(like: rs.Parameter) -> rs.Parameter:
    """A parameter that became read-only after it was made."""
    p = rs.Parameter(np.ones_like(like.data), "spoilt")
    p.data.flags.writeable = False
    return p


@table(ADDED)
def test_groups_that_cannot_be_added(bad: Any, error: Error, pattern: str) -> None:
    world = TwoGroups()
    world.fresh = rs.Parameter(ones(), "fresh")
    with world.nothing_written(), refused(error, pattern):
        world.optimizer.add_param_group(bad(world))
    assert [p.name for p in world.optimizer.parameters] == ["w0", "w1", "w2", "w3"]
    world.optimizer.add_param_group({"params": world.fresh})  # is still free


LAYERS: Table = {
    "parameter": (lambda p: (p, 0.5), TypeError, "layers: expected a list.* got .*Parameter"),
    "dict": (lambda p: ({"params": p}, 0.5), TypeError, "layers: expected a list.* got .*dict"),
    "set": (lambda p: ({p}, 0.5), TypeError, "layers: .*order.* got .*set"),
    "none": (lambda p: ([], 0.5), ValueError, "layers: .*at least one"),
    "empty layer": (lambda p: ([p, []], 0.5), ValueError, r"layers\[1\]: .*at least one"),
    "text": (lambda p: ([p, "p"], 0.5), TypeError, r"layers\[1\]: .* got .*str"),
    "number": (lambda p: ([p, [1.0]], 0.5), TypeError, r"layers\[1\]: .* got .*float"),
    "no params": (lambda p: ([{"lr": 1}], 0.5), ValueError, r"layers\[0\]: .*'lr'.*'params'"),
    "both": (lambda p: ([[{"params": p}, p]], 0.5), TypeError, r"layers\[0\]: .*both"),
    "factor": (
        lambda p: ([{"params": p, "learning_rate": -1}], 0.5), ValueError,
        r"learning_rate of a group in layers\[0\]: .*got -1"),
    "decay 0": (lambda p: ([p], 0), ValueError, "decay: .*got 0"),
    "decay > 1": (lambda p: ([p], 1.5), ValueError, "decay: .*got 1.5"),
    "decay text": (lambda p: ([p], "x"), TypeError, "decay: .*got 'x'"),
}  # fmt: skip


@table(LAYERS)
def test_layers(bad: Any, error: Error, pattern: str) -> None:
    with refused(error, pattern):
        rs.layerwise_lr_decay(*bad(rs.Parameter(ones(), "p")))


ARGUMENTS: Table = {
    **{
        f"learning_rate: {name}": (
            lambda w, v=value: rs.SGD(v, w), error, f"learning_rate: expected .*{pattern}")
        for name, (value, error, pattern) in RATES.items()
    },
    **{
        f"parameters: {name}": (lambda w, m=make: rs.Adam(0.1, parameters=m(w)), error, pattern)
        for name, (make, error, pattern) in BAD_PARAMETERS.items()
    },
    **{
        f"Parameter({name})": (lambda w, a=array: rs.Parameter(a, "v"), error, f"'v'.*{pattern}")
        for name, (array, error, pattern) in NOT_IN_PLACE.items()
    },
    **{
        f"{name}={value!r}": (
            lambda w, name=name, v=value: rs.Adam(0.1, parameters=w, **{name: v}),
            error, f"{name}: expected .* got ")
        for name in ("beta1", "beta2", "epsilon")
        for value, error in [
            (-0.1, ValueError), (math.nan, ValueError), (math.inf, ValueError), (None, TypeError),
            ("0.9", TypeError), (True, TypeError), (np.ones(1), TypeError),
            *([(1.0, ValueError), (1 - 1e-17, ValueError)] if name != "epsilon" else ())]
    },
    # As in torch, where the parameters come first, or as one may remember it.
    "parameters second": (
        lambda w: rs.Adam(0.1, w), TypeError, r"beta1: .*Parameter.*parameters=\[...\]"),
    "momentum < 0": (lambda w: rs.Momentum(0.1, -0.1, w), ValueError, "momentum: .*got -0.1"),
    "momentum = nan": (lambda w: rs.Momentum(0.1, math.nan, w), ValueError, "momentum: .*got nan"),
    "rescale_grad": (
        lambda w: rs.Momentum(0.1, 0.9, w, rescale_grad=math.inf), ValueError,
        "rescale_grad: .*got inf"),
    "use_nesterov": (lambda w: rs.Momentum(0.1, 0.9, w, 1), TypeError, "use_nesterov: .*got 1"),
    "use_multi_tensor": (
        lambda w: rs.Momentum(parameters=w, use_multi_tensor=None), TypeError,
        "use_multi_tensor: .*None"),
    "amsgrad": (lambda w: rs.Adam(parameters=w, amsgrad="yes"), TypeError, "amsgrad: .*'yes'"),
    "multi_precision": (
        lambda w: rs.SGD(0.1, w, multi_precision=2), TypeError, "multi_precision: .*2"),
    "lazy_mode": (lambda w: rs.Adam(parameters=w, lazy_mode=1), TypeError, "lazy_mode: .*got 1"),
    "use_lowprecision_moment": (
        lambda w: rs.AdamW(parameters=w, use_lowprecision_moment=True), ValueError,
        "use_lowprecision_moment: .*True"),
    "lr_ratio": (lambda w: rs.AdamW(parameters=w, lr_ratio=0.5), TypeError, "lr_ratio: .*got 0.5"),
    "apply_decay_param_fun": (
        lambda w: rs.AdamW(parameters=w, apply_decay_param_fun=["w"]), TypeError,
        "apply_decay_param_fun: .*'w'"),
    "AdamW with a regularizer": (
        lambda w: rs.AdamW(parameters=w, weight_decay=rs.L2Decay(0.1)), TypeError,
        "weight_decay: .*got L2Decay"),
    "weight_decay text": (
        lambda w: rs.SGD(0.1, w, "0.1"), TypeError, "weight_decay: .*got '0.1'.*L2Decay"),
    "weight_decay bool": (lambda w: rs.SGD(0.1, w, True), TypeError, "weight_decay: .*got True"),
    "weight_decay nan": (lambda w: rs.SGD(0.1, w, math.nan), ValueError, "weight_decay: .*got nan"),
    "weight_decay a class": (
        lambda w: rs.SGD(0.1, w, rs.L2Decay), TypeError, "weight_decay: .*L2Decay"),
    "grad_clip number": (
        lambda w: rs.SGD(0.1, w, None, 1.0), TypeError,
        "grad_clip: .*got 1.0.*ClipGradByGlobalNorm"),
    "grad_clip class": (
        lambda w: rs.SGD(0.1, w, None, rs.ClipGradByNorm), TypeError,
        "grad_clip: .*ClipGradByNorm"),
    **{
        f"Rprop({', '.join(f'{k}={v!r}' for k, v in options.items())})": (
            lambda w, o=options: rs.Rprop(parameters=w, **o), error, f"{pattern}: expected .* got ")
        for options, error, pattern in [
            ({"learning_rate": Rate(0.1)}, TypeError, "learning_rate"),
            ({"learning_rate": 1e-6}, ValueError, "learning_rate"),
            ({"learning_rate": 51}, ValueError, "learning_rate"),
            ({"learning_rate_range": (0, 1)}, ValueError, "learning_rate_range"),
            ({"learning_rate_range": (2, 1)}, ValueError, "learning_rate_range"),
            ({"learning_rate_range": 1.0}, TypeError, "learning_rate_range"),
            ({"learning_rate_range": (1e-5, 1, 2)}, TypeError, "learning_rate_range"),
            ({"learning_rate_range": "ab"}, TypeError, "learning_rate_range"),
            ({"etas": (0.5, 1.0)}, ValueError, "etas"),
            ({"etas": (0.0, 1.2)}, ValueError, "etas"),
            ({"etas": (0.5, None)}, TypeError, "etas"),
        ]
    },
    "Rprop.set_lr": (lambda w: rs.Rprop(0.1, parameters=w).set_lr(0.2), RuntimeError, "set_lr: "),
    "Rprop.set_lr_scheduler": (
        lambda w: rs.Rprop(0.1, parameters=w).set_lr_scheduler(Rate(0.1)), RuntimeError, "set_lr"),
    "Rprop decays": (
        lambda w: rs.Rprop(parameters=[{"params": w, "weight_decay": 0.1}]), ValueError,
        "'weight_decay' is no setting of Rprop"),
    "Lamb's other decay": (
        lambda w: rs.Lamb(parameters=[{"params": w, "weight_decay": 0.1}]), ValueError,
        "'weight_decay' is no setting of Lamb.*lamb_weight_decay"),
    "lamb_weight_decay": (
        lambda w: rs.Lamb(parameters=w, lamb_weight_decay=None), TypeError,
        "lamb_weight_decay: .*None"),
    "exclude_from_weight_decay_fn": (
        lambda w: rs.Lamb(parameters=w, exclude_from_weight_decay_fn="bias"), TypeError,
        "exclude_from_weight_decay_fn: .*'bias'"),
    "always_adapt": (lambda w: rs.Lamb(parameters=w, always_adapt=1), TypeError, "always_adapt: "),
    "lars_coeff": (lambda w: rs.LARS(parameters=w, lars_coeff=0), ValueError, "coeff: .*got 0"),
    "beta3": (lambda w: rs.Adan(parameters=w, beta3=1.0), ValueError, "beta3: .*got 1.0"),
    **{
        f"batch_num={value!r}": (
            lambda w, v=value: rs.ASGD(parameters=w, batch_num=v), error, "batch_num: expected ")
        for value, error in [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError),
                             (2**31, ValueError), (10**30, ValueError)]
    },
    "no such option": (
        lambda w: rs.Optimizer(0.1, w, beta1=0.9), (TypeError, ValueError),
        "'beta1'.*learning_rate"),
    "L1Decay": (lambda w: rs.L1Decay("1"), TypeError, "coeff: .*got '1'"),
    "L2Decay": (lambda w: rs.L2Decay(math.inf), ValueError, "coeff: .*got inf"),
    "ClipGradByNorm 0": (lambda w: rs.ClipGradByNorm(0), ValueError, "clip_norm: .*got 0"),
    "ClipGradByNorm nan": (
        lambda w: rs.ClipGradByNorm(math.nan), ValueError, "clip_norm: .*got nan"),
    "ClipGradByGlobalNorm < 0": (
        lambda w: rs.ClipGradByGlobalNorm(-1), ValueError, "clip_norm: .*got -1"),
    "ClipGradByGlobalNorm None": (
        lambda w: rs.ClipGradByGlobalNorm(None), TypeError, "clip_norm: .*got None"),
    "ClipGradByGlobalNorm array": (
        lambda w: rs.ClipGradByGlobalNorm(np.ones(2)), TypeError, "clip_norm: .*ndarray"),
    "ClipGradByGlobalNorm auto_skip_clip": (
        lambda w: rs.ClipGradByGlobalNorm(1, "g", 1), TypeError, "auto_skip_clip: .*got 1"),
    "ClipGradByGlobalNorm group_name": (
        lambda w: rs.ClipGradByGlobalNorm(1, 3), TypeError, "group_name: .*got 3"),
    "a long list for a number": (
        lambda w: rs.Adam(0.1, w * 999), TypeError, r"beta1: .{,300} of type list"),
    "ClipGradByValue swapped": (
        lambda w: rs.ClipGradByValue(-1.0, 1.0), ValueError, "min: .*got 1.0.*swap"),
    # "use None for no limit" would be no remedy: max takes no None.
    "ClipGradByValue < 0": (
        lambda w: rs.ClipGradByValue(-1.0), ValueError, "max: .*got -1.0; (?!use None)"),
    "ClipGradByValue nan": (
        lambda w: rs.ClipGradByValue(1.0, math.nan), ValueError, "min: .*got nan"),
    "ParamAttr name": (lambda w: rs.ParamAttr(3), TypeError, "name: .*got 3"),
    "ParamAttr rate": (
        lambda w: rs.ParamAttr(learning_rate=-1), ValueError, "learning_rate: .*got -1"),
    "ParamAttr regularizer": (
        lambda w: rs.ParamAttr(regularizer="l2"), TypeError, "regularizer: .*'l2'"),
    "ParamAttr need_clip": (lambda w: rs.ParamAttr(need_clip=None), TypeError, "need_clip: .*None"),
    "ParamAttr trainable": (lambda w: rs.ParamAttr(trainable=1), TypeError, "trainable: .*got 1"),
    "Parameter attr": (
        lambda w: rs.Parameter(ones(), "v", {"learning_rate": 1}), TypeError, "attr: .*got {"),
    "Parameter name": (lambda w: rs.Parameter(ones(), 3), TypeError, "name: .*got 3"),
    "Parameter name ''": (lambda w: rs.Parameter(ones(), ""), ValueError, "name: .*got ''"),
    "p.learning_rate": (
        lambda w: setattr(w[0], "learning_rate", math.nan), ValueError, "learning_rate: .*nan"),
    "p.regularizer": (
        lambda w: setattr(w[0], "regularizer", "l1"), TypeError, "regularizer: .*'l1'"),
    "p.trainable": (lambda w: setattr(w[0], "trainable", None), TypeError, "trainable: .*None"),
    "p.need_clip": (lambda w: setattr(w[0], "need_clip", 0), TypeError, "need_clip: .*got 0"),
    "step(clear_grad)": (
        lambda w: rs.SGD(0.1, w).step(clear_grad=1), TypeError, "clear_grad: .*got 1"),
    "clear_grad(set_to_zero)": (
        lambda w: rs.SGD(0.1, w).clear_grad("no"), TypeError, "set_to_zero: .*got 'no'"),
    "step without parameters": (
        lambda w: rs.Adam().step(), ValueError, "no parameters.*parameters="),
    "set_lr": (lambda w: rs.SGD(0.1, w).set_lr(None), TypeError, "value: .*got None"),
    "set_lr < 0": (lambda w: rs.SGD(0.1, w).set_lr(-1), ValueError, "value: .*got -1"),
    "set_lr(schedule)": (
        lambda w: rs.SGD(0.1, w).set_lr(Rate(1)), TypeError, "value: .*got .*Rate"),
    "set_lr under a schedule": (
        lambda w: rs.SGD(Rate(1), w).set_lr(0.1), RuntimeError, "set_lr.*Rate.*set_lr_scheduler"),
    "set_lr_scheduler": (
        lambda w: rs.SGD(0.1, w).set_lr_scheduler(0.1), TypeError, "scheduler: .*got 0.1.*set_lr"),
    "set_lr_scheduler(function)": (
        lambda w: rs.SGD(0.1, w).set_lr_scheduler(lambda: 0.1), TypeError, "scheduler: .*function"),
    "set_lr_scheduler(class)": (
        lambda w: rs.SGD(0.1, w).set_lr_scheduler(rs.lr.StepDecay), TypeError,
        "scheduler: .*StepDecay"),
    **{
        f"set_num_threads({value!r})": (
            lambda w, v=value: rs.set_num_threads(v), error, "n: expected .* got ")
        for value, error in [(0, ValueError), (-1, ValueError), (1.0, TypeError),
                             ("2", TypeError), (True, TypeError)]
    },
}  # fmt: skip


@table(ARGUMENTS)
def test_arguments(bad: Make, error: Error, pattern: str) -> None:
    params, threads = TwoGroups().params, rs.get_num_threads()
    before = [(p, p.data.tobytes(), p.grad.tobytes(), repr(p), p.learning_rate) for p in params]
    with refused(error, pattern):
        bad(params)
    assert [
        (p, p.data.tobytes(), p.grad.tobytes(), repr(p), p.learning_rate) for p in params
    ] == before
    assert rs.get_num_threads() == threads


def test_a_range_that_the_dtype_cannot_hold_is_refused_by_its_own_name() -> None:
    p = rs.Parameter(ones(), "w")
    optimizer = rs.Rprop(0.1, (1e-5, 1e300), [p])
    p.grad = ones()
    with refused(ValueError, r"learning_rate_range\[1\]: .* 'w', float32, can hold, got 1e\+300"):
        optimizer.step()
    assert p.data.tobytes() == ones().tobytes()


def test_the_ring_of_asgd_keeps_its_size() -> None:
    p = rs.Parameter(ones(), "w")
    optimizer = rs.ASGD(0.1, 3, [p])
    p.grad = ones()
    optimizer.step()
    before = p.data.tobytes(), optimizer.state_dict()["w_y_0"].tobytes()
    optimizer.param_groups[0]["batch_num"] = 4
    with refused(ValueError, "batch_num: parameter 'w' has 3 slots .* got 4"):
        optimizer.step()
    optimizer.param_groups[0]["batch_num"] = 3
    assert (p.data.tobytes(), optimizer.state_dict()["w_y_0"].tobytes()) == before
    optimizer.step()
    optimizer.average_weights(0.5)  # a state that would be new
    optimizer.param_groups[0]["batch_num"] = 4
    for call in (optimizer.step, optimizer.average_weights):
        with refused(ValueError, "batch_num: parameter 'w' has 3 slots .* got 4"):
            call()
    optimizer.param_groups[0]["batch_num"] = 3
    p.data[...] = 5
    optimizer.step()
    np.testing.assert_allclose(optimizer.state_dict()["w_average_0"], (5 + p.data) / 2)


def test_a_gradient_in_any_slot_of_the_ring_is_refused() -> None:
    p = rs.Parameter(ones(), "w")
    optimizer = rs.ASGD(0.1, 3, [p])
    p.grad = ones()
    optimizer.step()
    for slot in optimizer._states["w"]["y"]:
        p.grad = slot
        with refused(ValueError, "the gradient of parameter 'w'.* overlap in memory"):
            optimizer.step()


def test_states_that_no_memory_holds() -> None:
    p = rs.Parameter(np.zeros(65536), "w")  # beyond all addresses, so it is none of overcommitment
    optimizer = rs.ASGD(0.1, 2**31 - 1, [p])
    p.grad = np.ones(65536)
    with refused(MemoryError, "states: expected room for 112589990.* smaller batch_num"):
        optimizer.step()
    assert not p.data.any()
    assert "w_step_0" not in optimizer.state_dict()


def test_the_base_class_has_no_rule() -> None:
    p = rs.Parameter(ones())
    optimizer = rs.Optimizer(0.1, [p])
    p.grad = ones()
    with refused(NotImplementedError, "Optimizer has no update rule.*Adam"):
        optimizer.step()
    assert (p.data == 1).all()


def test_a_lr_ratio_out_of_range_names_the_parameter() -> None:
    p = rs.Parameter(ones(), "v")
    optimizer = rs.AdamW(parameters=[p], lr_ratio=lambda _: -1.0)
    p.grad = ones()
    with refused(ValueError, "lr_ratio.*'v'.*got -1|'v'.*lr_ratio.*got -1"):
        optimizer.step()
    assert (p.data == 1).all()


# Methods that take gradients.


class Loss:
    """A loss that sets gradients when it is differentiated."""

    def __init__(self, *params: rs.Parameter) -> None:
        self.params = params
        self.calls = 0

    def backward(self) -> None:
        self.calls += 1
        for p in self.params:
            p.grad = ones()


def gradients(n: int) -> list[Any]:
    return [ones() for _ in range(n)]


PAIRS: Table = {
    "stranger": (
        lambda w: [(rs.Parameter(ones(), "v"), ones())], ValueError, "'v'.* no parameter.*w0"),
    "strange name": (lambda w: [("w9", ones())], ValueError, "'w9' is no parameter.*w0"),
    "number": (lambda w: [(0, ones())], ValueError, "0 is no parameter.*w0"),
    "last": (lambda w: [*((p, ones()) for p in w.params), ("v", None)], ValueError, "'v' is no"),
    "order": (lambda w: [(ones(), w.last)], ValueError, "no parameter of this optimizer.*w0"),
    "two gradients": (
        lambda w: [("w3", ones()), (w.last, ones())], ValueError, "'w3'.*two gradients.*add"),
    "bad gradient": (lambda w: [("w3", ones("f8"))], ValueError, "gradient .*'w3'.*float64"),
    "no pairs": (lambda w: 3, TypeError, "params_grads: .*pairs.*got.*int"),
    "None": (lambda w: None, TypeError, "params_grads: .*pairs.*got.*None"),
    "numbers": (lambda w: [1, 2], TypeError, "params_grads: .*pairs.*got"),
    "gradients alone": (lambda w: gradients(4), TypeError, "params_grads: .*pairs.*got"),
    "triples": (lambda w: [(w.last, ones(), 1)], TypeError, "params_grads: .*pairs.*got"),
    "dict by name": (lambda w: {"w3": ones()}, TypeError, "params_grads: .*pairs.*got.*dict"),
}  # fmt: skip


@table(PAIRS)
def test_pairs(bad: Callable[[TwoGroups], Any], error: Error, pattern: str) -> None:
    world = TwoGroups()
    with world.nothing_written(), refused(error, pattern):
        world.optimizer.apply_gradients(bad(world))


RESULTS: Table = {  # what a loss returns beside the loss
    "none": ([None] * 4, ValueError, "gradient.*backward"),
    "too few": (gradients(3), ValueError, "gradients.*4.*3"),
    "too many": (gradients(5), ValueError, "gradients.*4.*5"),
    "one array": (ones(shape=(4, 3, 4)), (TypeError, ValueError), "gradients.*list.*ndarray"),
    "iterator": (iter(gradients(4)), (TypeError, ValueError), "gradients.*list.*iterator"),
    "strange name": ({"v": ones()}, ValueError, "'v' is no parameter.*w0"),
    "bad gradient": ([*gradients(3), ones("f8")], ValueError, "gradient .*'w3'.*float64"),
}


@table(RESULTS)
def test_results_of_a_loss(bad: Any, error: Error, pattern: str) -> None:
    world = TwoGroups()
    with world.nothing_written(), refused(error, pattern):
        world.optimizer.minimize(lambda: (0.0, bad))


def test_a_loss_of_three() -> None:
    world = TwoGroups()
    with world.nothing_written(), refused(ValueError, r"\(loss, gradients\).*3"):
        world.optimizer.minimize(lambda: (0.0, ones(), ones()))


# A string is a row of letters, an array a row of arrays: neither is what was meant.
WHICH: Table = {
    "startup_program": (lambda w: 1, ValueError, "startup_program: .*None.* got 1"),
    "parameters": (lambda w: ["v"], ValueError, "'v' is no parameter.*w0"),
    "no_grad_set": (lambda w: {"v"}, ValueError, "'v' is no parameter.*w0"),
    "parameters: name": (lambda w: "w3", TypeError, "parameters: .*list.*str"),
    "parameters: one": (lambda w: w.last, TypeError, "parameters: .*list.*Parameter"),
    "parameters: array": (lambda w: w.last.data, TypeError, "parameters: .*list.*ndarray"),
    "parameters: number": (lambda w: 3, TypeError, "parameters: .*list.*int"),
    "no_grad_set: name": (lambda w: "w3", TypeError, "no_grad_set: .*str"),
    "no_grad_set: one": (lambda w: w.last, TypeError, "no_grad_set: .*Parameter"),
    "no_grad_set: array": (lambda w: w.last.data, TypeError, "no_grad_set: .*ndarray"),
    "no_grad_set: all": (lambda w: w.params, ValueError, "left to be updated"),
}


@pytest.mark.parametrize("method", ["minimize", "backward"])
@pytest.mark.parametrize(("name", "bad"), WHICH.items(), ids=WHICH)
def test_which_parameters(method: str, name: str, bad: tuple[Any, Error, str]) -> None:
    value, error, pattern = bad
    world = TwoGroups()
    with world.nothing_written(), refused(error, pattern):
        getattr(world.optimizer, method)(0.0, **{name.split(":")[0]: value(world)})


def test_callbacks() -> None:
    with refused(ValueError, "callbacks: .*None.* got "):
        TwoGroups().optimizer.backward(0.0, callbacks=[print])


def test_names_and_arguments_are_checked_before_the_loss_is_called() -> None:
    for arguments in ({"parameters": ["v"]}, {"no_grad_set": ["v"]}, {"startup_program": 1}):
        world = TwoGroups()
        with world.nothing_written(), pytest.raises(ValueError):
            world.optimizer.minimize(lambda: pytest.fail("called"), **arguments)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_loss_that_adds_parameters_is_refused(by_name: bool) -> None:
    w, new = (rs.Parameter(np.ones(2), name) for name in ("w", "new"))
    optimizer = rs.SGD(0.5, [w])

    def loss() -> Any:
        optimizer.add_param_group({"params": [new]})
        return 0.0, ({"w": np.ones(2)} if by_name else [np.ones(2)])

    pattern = r"^loss: expected .*, got 1 new .*; call add_param_group\(\) before$"
    with pytest.raises(ValueError, match=pattern):
        optimizer.minimize(loss)
    assert w.data.tolist() == new.data.tolist() == [1, 1]


def test_a_loss_that_raises_moves_nothing() -> None:
    def loss() -> Any:
        raise LookupError("not today")

    world = TwoGroups()
    with world.nothing_written(), pytest.raises(LookupError, match="not today"):
        world.optimizer.minimize(loss)


@pytest.mark.parametrize("arguments", [
    {"no_grad_set": ["a"]},
    {"parameters": ["b"]},
])  # fmt: skip
def test_gradients_of_a_refused_minimize_are_not_used_by_the_next(arguments: Any) -> None:
    a, b = rs.Parameter(ones(), "a"), rs.Parameter(ones(), "b")
    optimizer, loss = rs.SGD(1.0, [a, b]), Loss(a)
    with refused(ValueError, "gradient"):
        optimizer.minimize(loss, **arguments)
    optimizer.minimize(loss)
    assert loss.calls == 2  # the loss was differentiated anew
    assert (a.data == 0).all()


def test_an_optimizer_that_was_stepped_before_the_loss_failed_keeps_its_parameters() -> None:
    p = rs.Parameter(ones(), "v")
    optimizer = rs.SGD(1.0)

    def loss() -> float:
        p.grad = ones()
        optimizer.step()
        raise LookupError("after the step")

    with pytest.raises(LookupError, match="after the step"):
        optimizer.minimize(loss, parameters=[p])
    assert optimizer.parameters == (p,)
    assert int(optimizer.state_dict()["v_step_0"]) == 1


def test_an_optimizer_without_parameters_takes_none_in_a_refused_call() -> None:
    p = rs.Parameter(ones(), "v")
    q = rs.Parameter(ones(), "v")
    calls: dict[str, Callable[[rs.Optimizer], Any]] = {
        "shape": lambda o: o.apply_gradients([(p, ones(shape=(2,)))]),
        "no gradient": lambda o: o.minimize(0.0, parameters=[p]),
        "stranger": lambda o: o.minimize(0.0, parameters=[p], no_grad_set=["w"]),
        "loss": lambda o: o.minimize(lambda: (0.0, []), parameters=[p]),
    }
    for name, call in calls.items():
        optimizer = rs.SGD(1.0)
        with pytest.raises((TypeError, ValueError)):
            call(optimizer)
        assert optimizer.parameters == (), name
        optimizer.apply_gradients([(q, ones())])  # free for others, even of the same name
    assert (q.data == 1 - len(calls)).all()


# State dicts.


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """The state dict with other entries; ... drops one."""
    return lambda saved: {k: v for k, v in {**saved, **changes}.items() if v is not ...}


BAD_STATES: Table = {
    "None": (lambda saved: None, TypeError, "state_dict: .*dict.*None"),
    "list": (lambda saved: list(saved), TypeError, "state_dict: .*dict.*list"),
    "pairs": (lambda saved: list(saved.items()), TypeError, "state_dict: .*dict.*list"),
    "a number as key": (lambda saved: {**saved, 3: 4}, (TypeError, ValueError), "3"),
    "missing state": (changed(w3_moment1_0=...), ValueError, "'w3_moment1_0' is missing"),
    "missing count": (changed(w3_step_0=...), ValueError, "'w3_step_0' is missing"),
    "stranger": (changed(v_moment1_0=ones()), ValueError, "'v_moment1_0' belongs to no"),
    "strange state": (changed(w3_velocity_0=ones()), ValueError, "'w3_velocity_0' belongs to no"),
    "a counter too many": (changed(w3_moment1_0_0=ones()), ValueError, "'w3_moment1_0_0'"),
    # Which of the two is meant?
    "two counters": (
        changed(w3_moment1_1=ones()), ValueError, "'w3_moment1_[01]'.*'w3_moment1_[01]'"),
    "shape": (
        changed(w3_moment2_0=ones(shape=(4, 3))), ValueError,
        r"'w3_moment2_0'.*\(4, 3\).*\(3, 4\)"),
    "a broadcast": (
        changed(w3_moment2_0=ones(shape=(1, 4))), ValueError,
        r"'w3_moment2_0'.*\(1, 4\).*\(3, 4\)"),
    "dtype": (changed(w3_moment2_0=ones("f8")), ValueError, "'w3_moment2_0'.*float64.*float32"),
    "byte order": (changed(w3_moment2_0=ones(">f4")), ValueError, "'w3_moment2_0'.*>f4"),
    "None as state": (changed(w3_moment2_0=None), ValueError, "'w3_moment2_0'"),
    "text as state": (changed(w3_moment2_0="zero"), ValueError, "'w3_moment2_0'"),
    "ragged state": (changed(w3_moment2_0=[[1.0], [1.0, 2.0]]), ValueError, "'w3_moment2_0'"),
    "count < 0": (changed(w3_step_0=-1), ValueError, "'w3_step_0'.*-1"),
    "count of float": (changed(w3_step_0=2.0), ValueError, "'w3_step_0'.*2.0"),
    "count of bool": (changed(w3_step_0=True), ValueError, "'w3_step_0'.*True"),
    "counts": (changed(w3_step_0=[1, 2]), ValueError, r"'w3_step_0'.*\[1, 2\]"),
    "count beyond int64": (
        changed(w3_step_0=np.uint64(2**63)), ValueError, "'w3_step_0'.*9223372036854775808"),
    "count far beyond": (changed(w3_step_0=10**30), ValueError, "'w3_step_0'.*1000000"),
    "the last count of int64": (
        changed(w3_step_0=2**63 - 1), ValueError, "'w3_step_0'.*9223372036854775807"),
    "schedule": (changed(LR_Scheduler={"last_epoch": 1}), ValueError, "'LR_Scheduler'.*no"),
    "two wrongs": (
        changed(w3_moment2_0=..., v=1),
        ValueError, "(?=.*'w3_moment2_0' is missing)(?=.*'v' belongs)"),
}  # fmt: skip


@table(BAD_STATES)
def test_state_dicts(bad: Any, error: Error, pattern: str) -> None:
    world = TwoGroups()
    saved = world.optimizer.state_dict()
    for value in saved.values():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value += 1
    with world.nothing_written(), refused(error, pattern):
        world.optimizer.set_state_dict(bad(saved))


def test_a_schedule_that_refuses_its_state_leaves_the_states() -> None:
    p = rs.Parameter(ones(), "p")
    optimizer = rs.Momentum(rs.lr.StepDecay(0.5, 2), 0.5, [p])
    p.grad = ones()
    optimizer.step()
    before = optimizer.state_dict()
    other = {**before, "p_velocity_0": ones() * 7, "p_step_0": 9}
    for bad in ({**other, "LR_Scheduler": {"x": 1}}, {k: other[k] for k in other if k[0] == "p"}):
        with refused((TypeError, ValueError), "LR_Scheduler|last_epoch"):
            optimizer.set_state_dict(bad)
        after = optimizer.state_dict()
        assert [*after] == [*before]
        assert all(np.array_equal(after[k], before[k]) for k in before)
