"""LBFGS: known minima, an independent inverse Hessian, the Wolfe conditions, resume, refusals."""

from __future__ import annotations

import copy
import math
import pickle
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import roofstep as rs
from roofstep.lbfgs.curvature import Curvature, add_scaled, dot
from roofstep.lbfgs.line_search import Trial, _minimizer, strong_wolfe
from roofstep.lbfgs.space import Evaluation

Array = np.ndarray[Any, Any]
Function = Callable[[Array], tuple[float, Array]]
SEARCHES = pytest.mark.parametrize("search", [None, "strong_wolfe"])


def rosenbrock(x: Array) -> tuple[float, Array]:
    a, b = x[:-1], x[1:]
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * a * (b - a * a) - 2 * (1 - a)
    gradient[1:] += 200 * (b - a * a)
    return float((100 * (b - a * a) ** 2 + (1 - a) ** 2).sum()), gradient


def quadratic(scales: Any) -> Function:
    scales = np.asarray(scales, float)
    return lambda x: (float((scales * x * x).sum() / 2 + x.sum()), scales * x + 1)


def logistic(x: Array) -> tuple[float, Array]:
    random = np.random.default_rng(3)
    features, labels = random.standard_normal((60, x.size)), random.random(60) > 0.5
    z = (features * x).sum(axis=1)
    wrong = 1 / (1 + np.exp(-z)) - labels
    return float((np.logaddexp(0, z) - labels * z).mean()), (features * wrong[:, None]).mean(axis=0)


def parameters(dtype: str = "f8", seed: int = 0) -> list[rs.Parameter]:
    """Eight elements in several shapes and memory layouts."""
    x = np.random.default_rng(seed).standard_normal(8).astype(dtype)
    return [
        rs.Parameter(np.asfortranarray(x[:4].reshape(2, 2)), "fortran"),
        rs.Parameter(x[4:7].reshape(3, 1).copy().T, "row"),
        rs.Parameter(np.array(x[7]), "scalar"),
        rs.Parameter(np.zeros((0, 3), dtype), "empty"),
    ]


def point(params: list[rs.Parameter]) -> Array:
    return np.concatenate([p.data.ravel() for p in params])


class Closure:
    """A function of all parameters, each in C order; remembers where it was called."""

    def __init__(self, function: Function, params: list[rs.Parameter]) -> None:
        self.function, self.params = function, params
        self.points: list[Array] = []

    def __call__(self) -> float:
        x = point(self.params)
        self.points.append(x)
        loss, gradient = self.function(x.astype("f8"))
        begin = 0
        for p in self.params:
            end = begin + p.data.size
            p.grad = gradient[begin:end].reshape(p.data.shape).astype(p.data.dtype)
            begin = end
        return loss


def made(function: Function, **options: Any) -> tuple[rs.LBFGS, Closure]:
    params = options.pop("params", None) or parameters()
    return rs.LBFGS(parameters=params, **options), Closure(function, params)


def run(optimizer: rs.LBFGS, closure: Closure, steps: int) -> Array:
    for _ in range(steps):
        optimizer.step(closure)
    return point(closure.params)


# Minima.


@pytest.mark.parametrize(("dtype", "bar"), [("f8", 1e-7), ("f4", 1e-3)])
def test_rosenbrock(dtype: str, bar: float) -> None:
    params = parameters(dtype, seed=2)
    optimizer, closure = made(
        rosenbrock, line_search_fn="strong_wolfe", tolerance_change=0.0, params=params
    )
    first = closure.function(point(closure.params).astype("f8"))[0]
    assert optimizer.step(closure) == first
    assert np.abs(run(optimizer, closure, 9) - 1).max() < bar


@SEARCHES
def test_an_ill_conditioned_quadratic(search: str | None) -> None:
    scales = np.logspace(0, 4, 8)
    optimizer, closure = made(quadratic(scales), line_search_fn=search, tolerance_change=0.0)
    np.testing.assert_allclose(run(optimizer, closure, 20), -1 / scales, rtol=0, atol=1e-8)


def test_logistic_regression_with_decay() -> None:
    """The minimum of the penalised loss: its gradient is that of the penalty, reversed."""
    optimizer, closure = made(
        logistic, line_search_fn="strong_wolfe", weight_decay=0.1, tolerance_change=0.0
    )
    x = run(optimizer, closure, 3)
    np.testing.assert_allclose(logistic(x)[1], -0.1 * x, atol=1e-6)


def test_the_first_iterations_by_hand() -> None:
    """f = x^2/2 * 4 from 1: g = 4, length min(1, 1/4); then H = s/y = 1/4 and the minimum."""
    p = rs.Parameter(np.array([1.0]))
    optimizer, closure = made(lambda x: (2 * float(x[0] ** 2), 4 * x), params=[p], max_iter=1)
    optimizer.step(closure)
    assert p.data == 1 - 0.25 * 4
    p.data[...] = 0.5  # as if the first step had led there
    optimizer.step(closure)
    s, y = -1.0, 2.0 - 4.0
    assert p.data == 0.5 - s / y * 2.0


# The inverse Hessian.


def explicit_inverse(pairs: list[tuple[Array, Array]], most: int) -> Array:
    """BFGS's matrix, by its definition, from a multiple of the unit matrix (N & W, 7.16, 7.20)."""
    useful = [(s, y) for s, y in pairs if s @ y > 1e-10]
    n = pairs[0][0].size
    inverse = np.eye(n)
    if useful:
        s, y = useful[-1]
        inverse *= (s @ y) / (y @ y)
    for s, y in useful[-most:]:
        rho = 1 / (y @ s)
        shift = np.eye(n) - rho * np.outer(y, s)
        inverse = shift.T @ inverse @ shift + rho * np.outer(s, s)
    return inverse


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 12))
def test_the_direction_is_that_of_the_explicit_matrix(seed: int, most: int, count: int) -> None:
    random = np.random.default_rng(seed)
    n = 5
    root = random.standard_normal((n, n))
    hessian = root @ root.T + np.eye(n)
    curvature = Curvature(most)
    pairs = []
    gradient = random.standard_normal(n)
    for i in range(count):
        direction, length = random.standard_normal(n), random.uniform(0.1, 2)
        sign = -1 if i % 4 == 2 else 1  # a pair of negative curvature: not to be taken in
        after = gradient + sign * length * hessian @ direction
        curvature.learn(after, gradient, direction, length)
        pairs.append((length * direction, after - gradient))
        gradient = after
    expected = -(explicit_inverse(pairs, most) @ gradient if pairs else gradient)
    found = curvature.descent(gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    assert len(curvature.pairs) == min(most, sum(s @ y > 1e-10 for s, y in pairs))


def test_memory_of_pairs_is_used_again() -> None:
    random = np.random.default_rng(0)
    curvature = Curvature(3)
    seen = set()
    for i in range(20):
        curvature.learn(random.random(4) + 1, np.zeros(4), random.random(4), 1.0)
        seen |= {id(array) for pair in curvature.pairs for array in (pair.y, pair.s)}
        assert len(curvature.pairs) == min(3, i + 1)
    assert len(seen) == 2 * (3 + 1)  # one pair more than is kept


@pytest.mark.parametrize("change", [1e200, 3e300])
@pytest.mark.parametrize("length", [1.0, 1e-200, 1e300])
def test_pairs_whose_products_overflow_are_left_out(change: float, length: float) -> None:
    curvature = Curvature(2)
    direction = np.array([-1.0, 1.0])
    curvature.learn(change * direction, np.zeros(2), direction, length)
    assert not curvature.pairs
    assert curvature.descent(np.array([2.0, 3.0])).tolist() == [-2, -3]


def test_products_do_not_depend_on_blas() -> None:
    n = 100_003  # several blocks
    a, b = np.random.default_rng(1).standard_normal((2, n))
    assert abs(dot(a, b) - math.fsum(a * b)) < 1e-9
    blocks = [float((a[i : i + 16384] * b[i : i + 16384]).sum()) for i in range(0, n, 16384)]
    total = 0.0
    for block in blocks:
        total += block
    assert dot(a, b) == total
    a4, b4 = a.astype("f4"), b.astype("f4")
    assert dot(a4, b4) == dot(a4.astype("f8"), b4.astype("f8"))
    c = a.copy()
    add_scaled(c, 0.3, b)
    np.testing.assert_array_equal(c, a + 0.3 * b)
    assert dot(a[:0], b[:0]) == 0


# The line search.


@pytest.mark.parametrize("function", [rosenbrock, quadratic(np.logspace(0, 3, 8)), logistic])
@pytest.mark.parametrize("rate", [1.0, 0.01, 30.0])
def test_strong_wolfe_conditions_hold_wherever_it_goes(function: Function, rate: float) -> None:
    optimizer, closure = made(
        function, learning_rate=rate, max_iter=1, max_eval=99, line_search_fn="strong_wolfe"
    )
    moves = 0
    for _ in range(12):
        x = point(closure.params)
        optimizer.step(closure)
        step = point(closure.params) - x
        (f0, g0), (f1, g1) = function(x), function(x + step)
        if np.abs(g0).max() <= 1e-5:  # later, rounding decides
            break
        assert f1 <= f0 + 1e-4 * (g0 @ step) + 1e-12
        assert abs(g1 @ step) <= 0.9 * abs(g0 @ step) + 1e-12
        moves += 1
    assert moves > 3


def search(f: Callable[[float], tuple[float, float]], length: float) -> tuple[Trial, list[float]]:
    lengths = []

    def attempt(t: float) -> Trial:
        lengths.append(t)
        loss, slope = f(t)
        fits = math.isfinite(loss) and math.isfinite(slope)
        return Trial(t, loss if fits else math.inf, slope, here)

    here = Evaluation(0.0, 0.0, np.zeros(1), 0.0)
    return strong_wolfe(attempt, Trial(0.0, *f(0.0), here), length, 1.0), lengths


def test_a_fall_too_small_for_its_length_is_not_taken() -> None:
    found, _ = search(lambda t: (-5e-5, 0.0) if t == 1 else (-t, -1.0 + t), 1.0)
    assert found.length != 1


@pytest.mark.parametrize("length", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steep", [2.0, 5.0, 50.0])
@pytest.mark.parametrize("narrow", [100.0, 1000.0])
def test_a_search_finds_a_narrow_valley(length: float, steep: float, narrow: float) -> None:
    """Down by 1 and up by `steep`; flat enough only in the bend between them."""

    def f(t: float) -> tuple[float, float]:
        z = narrow * (t - 0.3)
        rise = (steep + 1) / (1 + math.exp(-z)) if z > -700 else 0.0
        return -t + (steep + 1) / narrow * float(np.logaddexp(0, z)), rise - 1

    found, _ = search(f, length)
    (loss, slope), (begin, fall) = f(found.length), f(0.0)
    assert loss <= begin + 1e-4 * found.length * fall
    assert abs(slope) <= 0.9 * abs(fall)


def test_two_trials_at_one_length_have_no_cubic() -> None:
    trial = Trial(1.0, 0.0, -1.0, Evaluation(0.0, 0.0, np.zeros(1), 0.0))
    assert _minimizer(trial, trial, 1.0, 3.0) == 2.0


@pytest.mark.parametrize("nowhere", [math.nan, math.inf, -math.inf])
def test_a_search_backs_out_of_where_nothing_is_defined(nowhere: float) -> None:
    found, lengths = search(lambda t: ((t - 1) ** 2, 2 * (t - 1)) if t < 1.5 else (nowhere, 1), 9.0)
    assert 0 < found.length < 1.5
    assert len(lengths) < 10
    found, _ = search(lambda t: (1.0 - t, -1.0) if t == 0 else (nowhere, nowhere), 1.0)
    assert found.length == 0


@pytest.mark.parametrize(
    "f",
    [
        lambda t: (-t, -1.0),  # falls for ever
        lambda t: (0.0 if t == 0 else 1.0, -1.0),  # falls never
        lambda t: (
            -t,
            -1.0 if t < 1 else math.sin(1e9 * min(t, 1e9)),
        ),  # slopes of another function
        lambda t: (1e200 * (t - 1) * (t - 1), 2e200 * (t - 1)),
        lambda t: (-1e-300 * t, -1e-300),
    ],
)
@pytest.mark.parametrize("length", [5e-324, 1e-300, 1.0, 1e300])
def test_a_search_ends(f: Any, length: float) -> None:
    found, lengths = search(f, length)
    assert len(lengths) <= 26
    assert found.loss <= f(0.0)[0]


# Steps.


@SEARCHES
def test_the_limits_of_a_step(search: str | None) -> None:
    optimizer, closure = made(rosenbrock, line_search_fn=search, max_iter=3, max_eval=99)
    optimizer.step(closure)
    state = optimizer.state_dict()["state"]
    assert state["n_iter"] == 3
    assert state["func_evals"] == len(closure.points)
    if search is None:  # the last point is evaluated by the next step
        assert len(closure.points) == 3
    optimizer, closure = made(rosenbrock, line_search_fn=search, max_eval=2)
    optimizer.step(closure)
    assert optimizer.state_dict()["state"]["n_iter"] == 1
    optimizer, closure = made(rosenbrock, line_search_fn=search, tolerance_grad=1e9)
    before = point(closure.params)
    optimizer.step(closure)
    assert len(closure.points) == 1
    np.testing.assert_array_equal(point(closure.params), before)
    optimizer, closure = made(rosenbrock, line_search_fn=search, tolerance_change=1e9)
    optimizer.step(closure)
    assert len(closure.points) == 1  # the slope is flatter than that


@pytest.mark.parametrize(
    ("function", "rate"),
    [
        (lambda x: (1e8 * float(x.sum()), np.full_like(x, 1e8)), 5e-10),  # the parameters
        (lambda x: (0.0, np.ones_like(x)), 1.0),  # the loss
    ],
)
def test_a_step_ends_where_nothing_changes_any_more(function: Function, rate: float) -> None:
    optimizer, closure = made(function, learning_rate=rate, params=[rs.Parameter(np.zeros(1))])
    optimizer.step(closure)
    assert optimizer.state_dict()["state"]["n_iter"] == 1


def test_max_eval_is_five_quarters_of_max_iter() -> None:
    def evaluations(max_eval: int | None) -> int:
        optimizer, closure = made(
            rosenbrock, learning_rate=0.1, line_search_fn="strong_wolfe", max_iter=16,
            max_eval=max_eval,
        )  # fmt: skip
        optimizer.step(closure)
        return len(closure.points)

    assert evaluations(19) < evaluations(20) < evaluations(21)
    assert evaluations(None) == evaluations(20)


@SEARCHES
def test_the_rate_is_read_at_each_step(search: str | None) -> None:
    rate = rs.lr.StepDecay(0.25, step_size=1, gamma=0.5)
    p, q = rs.Parameter(np.array([3.0])), rs.Parameter(np.array([3.0]))
    with_schedule, f = made(logistic, params=[p], learning_rate=rate, line_search_fn=search)
    with_number, g = made(logistic, params=[q], learning_rate=9.0, line_search_fn=search)
    for k in range(3):
        with_number.set_lr(0.25 * 0.5**k)
        assert with_schedule.get_lr() == with_number.get_lr()
        with_schedule.step(f)
        with_number.step(g)
        rate.step()
        assert p.data == q.data
    with_number.set_lr(0.0)
    count = len(g.points)
    with_number.step(g)
    assert p.data == q.data
    assert len(g.points) == count + 1


def test_layouts_dtypes_and_groups_make_no_difference() -> None:
    """One vector, whatever it is cut into; a float32 among float64 is rounded, nothing else."""

    def trajectory(params: list[rs.Parameter], rows: Any) -> Array:
        optimizer = rs.LBFGS(parameters=rows, line_search_fn="strong_wolfe")
        return run(optimizer, Closure(quadratic(np.logspace(0, 2, 8)), params), 2)

    alone = [rs.Parameter(point(parameters()))]
    several, grouped, mixed = parameters(), parameters(), parameters()
    expected = trajectory(alone, alone)
    np.testing.assert_array_equal(trajectory(several, several), expected)
    groups = [{"params": grouped[2:]}, {"params": grouped[:2], "weight_decay": None}]
    # In another order the same sums have other roundings.
    np.testing.assert_allclose(trajectory(grouped, groups), expected, rtol=1e-6)
    mixed[2] = rs.Parameter(mixed[2].data.astype("f4"), "scalar")
    np.testing.assert_allclose(trajectory(mixed, mixed), expected, rtol=1e-4, atol=1e-5)
    assert mixed[2].data.dtype == "f4"


@pytest.mark.parametrize("decay", [rs.L1Decay(0.1), rs.L2Decay(0.1)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_penalty_is_summed_in_the_same_order_in_every_layout(decay: Any, dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal((50, 5, 6, 7)).astype(dtype)
    for value in values:
        losses = set()
        for axes in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
            array = np.array(value.transpose(axes), order="C").transpose(np.argsort(axes))
            p = rs.Parameter(array)
            p.grad = np.ones_like(value)
            optimizer = rs.LBFGS(parameters=[p], max_iter=1, weight_decay=decay)
            optimizer.step(lambda: 0.0)
            losses.add(optimizer.state_dict()["state"]["prev_loss"])
        assert len(losses) == 1


def test_missing_gradients_count_as_zero_and_the_untrainable_stays() -> None:
    a, b = rs.Parameter(np.array([3.0])), rs.Parameter(np.array([3.0]))
    c = rs.Parameter(np.array([3.0]), attr=rs.ParamAttr(trainable=False))
    optimizer = rs.LBFGS(parameters=[a, b, c])

    def closure() -> float:
        a.grad, c.grad = 2 * a.data, 2 * c.data
        return float(a.data[0] ** 2)

    optimizer.step(closure)
    assert abs(a.data[0]) < 1e-7
    assert b.data == c.data == 3
    assert optimizer.state_dict()["state"]["d"].shape == (2,)


@pytest.mark.parametrize("change", ["trainable", "decay", "dtype"])
@pytest.mark.parametrize("loaded", [False, True])
def test_pairs_of_another_function_are_forgotten(change: str, loaded: bool) -> None:
    def changed(params: list[rs.Parameter], optimizer: rs.LBFGS) -> None:
        if change == "trainable":
            params[0].trainable = False
        elif change == "decay":
            optimizer.param_groups[0]["weight_decay"] = 0.5
        else:
            params[0].data = params[0].data.astype("f4")

    optimizer, closure = made(rosenbrock, max_iter=4)
    run(optimizer, closure, 1)
    if loaded:
        optimizer.set_state_dict(optimizer.state_dict())
    anew = copy.deepcopy(closure.params)
    changed(closure.params, optimizer)
    other = rs.LBFGS(parameters=anew, max_iter=4)
    changed(anew, other)
    np.testing.assert_array_equal(
        run(optimizer, closure, 1), run(other, Closure(rosenbrock, anew), 1)
    )


def test_a_step_that_fails_at_once_forgets_nothing() -> None:
    """Not even where a setting has made the loss another one, and is set back."""
    optimizer, closure = made(rosenbrock, max_iter=4)
    run(optimizer, closure, 1)
    other = copy.deepcopy(optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    with pytest.raises(TypeError):
        optimizer.step(lambda: "loss")
    optimizer.param_groups[0]["weight_decay"] = None
    again = Closure(rosenbrock, list(other.parameters))
    np.testing.assert_array_equal(run(optimizer, closure, 1), run(other, again, 1))


@SEARCHES
@pytest.mark.parametrize("where", ["first", "later"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_ends_a_step(
    search: str | None, where: str, value: float, what: str
) -> None:
    calls = []

    def function(x: Array) -> tuple[float, Array]:
        calls.append(x)
        loss, gradient = rosenbrock(x)
        if len(calls) >= (1 if where == "first" else 4):
            loss, gradient = (value, gradient) if what == "loss" else (loss, gradient * value)
        return loss, gradient

    optimizer, closure = made(function, line_search_fn=search)
    first = optimizer.step(closure)
    x = point(closure.params)
    assert np.isfinite(x).all()
    if search:
        assert any(np.array_equal(x, good) for good in calls[: 1 if where == "first" else 3])
    assert len(calls) <= 1 + (0 if where == "first" else 3 if search is None else 29)
    if where == "first":
        np.testing.assert_array_equal(x, calls[0])
        assert what == "gradient" or first == value or math.isnan(value)
    optimizer.step(closure)
    np.testing.assert_array_equal(point(closure.params), x)


@SEARCHES
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_closure_that_fails_leaves_the_iteration_undone(search: str | None, at: int) -> None:
    """The next step goes on as if the iteration had not been begun."""

    def failing(x: Array) -> tuple[float, Array]:
        if len(closure.points) == at:
            raise KeyboardInterrupt
        return rosenbrock(x)

    optimizer, closure = made(failing, line_search_fn=search, learning_rate=0.1)
    begin = point(closure.params)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    x = point(closure.params)
    state = optimizer.state_dict()["state"]
    done = state["n_iter"]
    assert state.get("alpha", 0.0) == 0  # so that no pair is made of what did not come about
    other, steady = made(rosenbrock, line_search_fn=search, learning_rate=0.1, max_eval=99)
    np.testing.assert_array_equal(point(steady.params), begin)
    for _ in range(done):
        other._search["max_iter"] = 1
        other.step(steady)
    np.testing.assert_array_equal(x, point(steady.params))
    other._search["max_iter"] = 20
    optimizer._search["max_eval"] = 99
    np.testing.assert_array_equal(run(optimizer, closure, 1), run(other, steady, 1))


# Decay.


@SEARCHES
@pytest.mark.parametrize("decay", [rs.L2Decay(0.25), rs.L1Decay(0.25), 0.25])
def test_decay_is_part_of_the_loss(search: str | None, decay: Any) -> None:
    def penalised(x: Array) -> tuple[float, Array]:
        loss, gradient = logistic(x)
        if isinstance(decay, rs.L1Decay):
            return loss + 0.25 * float(np.abs(x).sum()), gradient + 0.25 * np.sign(x)
        return loss + 0.125 * float((x * x).sum()), gradient + 0.25 * x

    options = {"line_search_fn": search, "max_iter": 6}
    optimizer, closure = made(logistic, weight_decay=decay, **options)
    other, by_hand = made(penalised, **options)
    first = logistic(point(closure.params))[0]
    assert optimizer.step(closure) == first  # the closure's own
    other.step(by_hand)
    np.testing.assert_allclose(point(closure.params), point(by_hand.params), rtol=1e-10)
    assert len(closure.points) == len(by_hand.points)


def test_decay_by_group_and_by_parameter() -> None:
    values = [np.array([1.0]) for _ in range(4)]
    a, b, c = (rs.Parameter(v) for v in values[:3])
    d = rs.Parameter(values[3], attr=rs.ParamAttr(regularizer=rs.L2Decay(4.0)))
    groups = [{"params": [a, d]}, {"params": [b], "weight_decay": 1.0},
              {"params": [c], "weight_decay": None}]  # fmt: skip
    optimizer = rs.LBFGS(parameters=groups, weight_decay=2.0, max_iter=1)
    for p in optimizer.parameters:
        p.grad = np.array([1.0])
    optimizer.step(lambda: 0.0)
    gradients = 1 + np.array([2.0, 1.0, 0.0, 4.0])
    np.testing.assert_allclose(
        [p.data[0] for p in (a, b, c, d)], 1 - gradients / gradients.sum(), rtol=1e-15
    )


# States.


@SEARCHES
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("done", [0, 1, 3])
@pytest.mark.parametrize("way", ["dict", "pickle", "deepcopy"])
def test_training_resumes_bit_for_bit(search: str | None, dtype: str, done: int, way: str) -> None:
    def make(params: list[rs.Parameter]) -> rs.LBFGS:
        return rs.LBFGS(
            0.5, 4, history_size=3, line_search_fn=search, parameters=params, weight_decay=0.01
        )

    params = parameters(dtype)
    optimizer, closure = make(params), Closure(rosenbrock, params)
    run(optimizer, closure, done)
    if way == "dict":
        copies = copy.deepcopy(params)
        again = rs.LBFGS(parameters=copies)  # which has other settings
        again.set_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    elif way == "pickle":
        again = pickle.loads(pickle.dumps(optimizer))
    else:
        again = copy.deepcopy(optimizer)
    other = Closure(rosenbrock, list(again.parameters))
    for _ in range(4):
        assert optimizer.step(closure) == again.step(other)
        assert point(params).tobytes() == point(other.params).tobytes()
    assert pickle.dumps(plain(optimizer)) == pickle.dumps(plain(again))


def plain(optimizer: rs.LBFGS) -> dict[str, Any]:
    state = optimizer.state_dict()["state"]
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()}


def test_a_shallow_copy_remembers_by_itself() -> None:
    optimizer, closure = made(rosenbrock, max_iter=3)
    optimizer.step(closure)
    twin = copy.copy(optimizer)
    before = plain(twin)
    optimizer.step(closure)
    assert plain(twin) == before != plain(optimizer)


def test_a_state_dict_is_plain_and_a_copy() -> None:
    optimizer, closure = made(rosenbrock)
    assert optimizer.state_dict()["state"] == {"func_evals": 0, "n_iter": 0}
    run(optimizer, closure, 1)
    state = optimizer.state_dict()["state"]
    assert state["shapes"] == {"fortran": [2, 2], "row": [1, 3], "scalar": [], "empty": [0, 3]}
    for key in ("d", "prev_flat_grad"):
        assert state[key].shape == (8,)
    assert state["old_yk"].shape == state["old_sk"].shape == (len(state["ro"]), 8)
    before = plain(optimizer)
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.fill(7)
    assert plain(optimizer) == before
    saved = optimizer.state_dict()
    optimizer.set_state_dict(saved)
    saved["state"]["d"].fill(7)
    saved["state"]["old_sk"].fill(7)
    assert plain(optimizer) == before


def test_paddles_dict_is_read() -> None:
    """Lists of vectors, numbers as arrays, scratch memory, no shapes."""
    optimizer, closure = made(rosenbrock)
    again, other = made(rosenbrock)
    run(optimizer, closure, 1)
    state = optimizer.state_dict()["state"]
    del state["shapes"]
    theirs = {
        **state,
        "old_yk": list(state["old_yk"]),
        "old_sk": list(state["old_sk"]),
        "ro": [np.array(ro) for ro in state["ro"]],
        "H_diag": np.array(state["H_diag"]),
        "al": [None] * 100,
    }
    for p, q in zip(closure.params, other.params, strict=True):
        q.data[...] = p.data
    again.set_state_dict({"state": theirs})
    np.testing.assert_array_equal(run(optimizer, closure, 1), run(again, other, 1))
    again.set_state_dict({"state": {}})
    assert again.state_dict()["state"] == {"func_evals": 0, "n_iter": 0}


def test_settings_that_do_not_fit_are_listed_with_the_rest() -> None:
    optimizer, closure = made(rosenbrock)
    run(optimizer, closure, 1)
    good = optimizer.state_dict()
    before = repr(optimizer), plain(optimizer)
    search = {**good["search"], "max_iter": 0, "line_search_fn": "x", "other": 1}
    del search["tolerance_grad"]
    bad = {**good, "search": search, "state": {**good["state"], "n_iter": -1}}
    with pytest.raises(ValueError, match="nothing was changed") as refusal:
        optimizer.set_state_dict(bad)
    for part in ("max_iter", "line_search_fn", "'other'", "'tolerance_grad' is missing", "n_iter"):
        assert part in str(refusal.value)
    with pytest.raises(ValueError, match="'search' is missing"):
        optimizer.set_state_dict({k: v for k, v in good.items() if k != "search"})
    assert (repr(optimizer), plain(optimizer)) == before


def test_no_averages() -> None:
    optimizer, _ = made(rosenbrock)
    with pytest.raises(NotImplementedError, match="keeps no averages"):
        optimizer.average_weights()
    with pytest.raises(NotImplementedError, match="keeps no averages"), optimizer.averaged():
        pass


def test_a_state_dict_that_does_not_fit_lists_all_and_changes_nothing() -> None:
    optimizer, closure = made(rosenbrock, history_size=2)
    run(optimizer, closure, 1)
    before = plain(optimizer)
    good = optimizer.state_dict()["state"]
    bad = {
        **good,
        "func_evals": 1.5,
        "d": good["d"][1:],
        "prev_flat_grad": good["prev_flat_grad"].astype("f4"),
        "alpha": "1",
        "old_sk": [*good["old_sk"], good["d"]],
        "shapes": {"w": [8]},
        "old_dirs": [],
    }
    del bad["H_diag"]
    with pytest.raises(ValueError, match="nothing was changed") as caught:
        optimizer.set_state_dict({"state": bad, "w_moment_0": 1, "LR_Scheduler": {}})
    for key in ("func_evals", "'d'", "prev_flat_grad", "alpha", "old_sk", "shapes", "old_dirs",
                "'H_diag' is missing", "w_moment_0", "LR_Scheduler"):  # fmt: skip
        assert key in str(caught.value)
    wrongs = (
        {},
        {"state": 3},
        {"state": {"n_iter": 3}},
        {"state": {"n_iter": -1, "func_evals": 0}},
        {"state": {**good, "old_yk": np.array(5)}},
        {"state": {**good, "old_yk": "ab"}},
        {"state": {**good, "d": [[1.0], [1.0, 2.0]]}},
        {"state": {**good, "shapes": np.ones(2)}},
        {"state": {**good, "shapes": {"w": np.zeros(0)}}},
        {"state": {**good, "H_diag": math.nan}},
        {"state": {**good, "alpha": math.inf}},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match="nothing was changed"):
            optimizer.set_state_dict(wrong)
    assert plain(optimizer) == before
    smaller, _ = made(rosenbrock, history_size=1)
    with pytest.raises(ValueError, match="history_size=1"):
        smaller.set_state_dict({"state": good})


def test_pairs_of_another_function_are_not_saved() -> None:
    optimizer, closure = made(rosenbrock)
    run(optimizer, closure, 1)
    before = plain(optimizer)
    closure.params[0].trainable = False
    assert plain(optimizer) == {"func_evals": before["func_evals"], "n_iter": 0}
    closure.params[0].trainable = True
    assert plain(optimizer) == before


def test_repr() -> None:
    optimizer = rs.LBFGS(parameters=[np.zeros(1)], weight_decay=0.5, name="l")
    assert repr(optimizer) == (
        "LBFGS(learning_rate=1.0, max_iter=20, max_eval=None, tolerance_grad=1e-07, "
        "tolerance_change=1e-09, history_size=100, line_search_fn=None, "
        "weight_decay=L2Decay(coeff=0.5), name='l', 1 parameters)"
    )


# Refusals.


class Own(rs.L2Decay):
    """A user's penalty."""


def parameter(**attr: Any) -> rs.Parameter:
    return rs.Parameter(np.ones(2), "w", rs.ParamAttr(**attr))


CLIP = rs.ClipGradByValue(1.0)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "max_iter": ({"max_iter": 0}, ValueError, "max_iter"),
    "max_iter of float": ({"max_iter": 2.0}, TypeError, "max_iter"),
    "max_eval": ({"max_eval": 0}, ValueError, "max_eval"),
    "tolerance_grad": ({"tolerance_grad": -1.0}, ValueError, "tolerance_grad"),
    "tolerance_change": ({"tolerance_change": "1"}, TypeError, "tolerance_change"),
    "history_size": ({"history_size": 0}, ValueError, "history_size"),
    "line_search_fn": ({"line_search_fn": "armijo"}, ValueError, "strong_wolfe"),
    "line_search_fn of another type": ({"line_search_fn": np.ones(2)}, ValueError, "strong_wolfe"),
    "learning_rate": ({"learning_rate": -1.0}, ValueError, "learning_rate"),
    "no parameters": ({"parameters": None}, TypeError, "parameters"),
    "grad_clip": ({"grad_clip": CLIP}, ValueError, "grad_clip.*curvature"),
    "a user's decay": ({"weight_decay": Own(0.1)}, TypeError, "weight_decay.*penalty"),
    "a parameter's own decay": (
        {"parameters": [parameter(regularizer=Own(0.1))]}, TypeError, "'w'.*penalty"),
    "a parameter's factor": ({"parameters": [parameter(learning_rate=2.0)]}, ValueError, "'w'"),
    "grad_clip of a group": (
        {"parameters": [{"params": [parameter()], "grad_clip": CLIP}]}, ValueError, "grad_clip"),
    "learning_rate of a group": (
        {"parameters": [{"params": [parameter()], "learning_rate": 0.5}]}, ValueError, "learning"),
    "max_iter of a group": (
        {"parameters": [{"params": [parameter()], "max_iter": 5}]}, ValueError, "max_iter"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "error", "pattern"), REFUSED.values(), ids=REFUSED)
def test_arguments_are_refused(
    options: dict[str, Any], error: type[Exception], pattern: str
) -> None:
    with pytest.raises(error, match=pattern) as caught:
        rs.LBFGS(**{"parameters": [parameter()], **options})
    assert re.search(r"; \w", str(caught.value))


def edit_clip(p: rs.Parameter, optimizer: rs.LBFGS) -> None:
    optimizer.param_groups[0]["grad_clip"] = CLIP


def edit_rate(p: rs.Parameter, optimizer: rs.LBFGS) -> None:
    optimizer.param_groups[0]["learning_rate"] = 2.0


def edit_factor(p: rs.Parameter, optimizer: rs.LBFGS) -> None:
    p.learning_rate = 2.0


def edit_data(p: rs.Parameter, optimizer: rs.LBFGS) -> None:
    p.data = np.ones(4)[::2]


def edit_params(p: rs.Parameter, optimizer: rs.LBFGS) -> None:
    optimizer.param_groups[0]["params"] = ()


@pytest.mark.parametrize("edit", [edit_clip, edit_rate, edit_factor, edit_data, edit_params])
def test_what_was_edited_is_refused_before_the_closure_is_called(edit: Any) -> None:
    p = parameter()
    optimizer = rs.LBFGS(parameters=[p])
    edit(p, optimizer)
    with pytest.raises(ValueError, match=r"; \w"):
        optimizer.step(lambda: pytest.fail("called"))


GRADIENTS: dict[str, tuple[Any, str]] = {
    "dtype": (np.ones(2, "f4"), "dtype"),
    "shape": (np.ones(3), "shape"),
    "a list": ([1.0, 1.0], "NumPy array"),
    "a mask": (np.ma.ones(2), "mask"),
}


@SEARCHES
@pytest.mark.parametrize(("bad", "pattern"), GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("at", [1, 2])
def test_gradients_are_refused(search: str | None, bad: Any, pattern: str, at: int) -> None:
    p = parameter()
    optimizer = rs.LBFGS(parameters=[p], line_search_fn=search)
    calls = []

    def closure() -> float:
        calls.append(None)
        p.grad = bad if len(calls) == at else 3 * p.data
        return 1.5 * float((p.data**2).sum())

    with pytest.raises((TypeError, ValueError), match=f"gradient of parameter 'w'.*{pattern}"):
        optimizer.step(closure)
    np.testing.assert_array_equal(p.data, np.ones(2))
    optimizer.step(closure)
    np.testing.assert_allclose(p.data, 0, atol=1e-7)


LOSSES = [None, "1", True, [1.0], np.ones(2), 1j, np.array(1j), (1.0, [])]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_that_are_no_number_are_refused(loss: Any) -> None:
    p = parameter()
    p.grad = np.ones(2)
    with pytest.raises(TypeError, match=r"closure: expected it to return the loss.*; \w"):
        rs.LBFGS(parameters=[p]).step(lambda: loss)
    np.testing.assert_array_equal(p.data, np.ones(2))


@pytest.mark.parametrize(
    "loss", [1, 1.0, np.float32(1), np.array(1.0), np.ones((1, 1)), np.int8(1)]
)
def test_losses_of_one_element_are_numbers(loss: Any) -> None:
    first = rs.LBFGS(parameters=[parameter()]).step(lambda: loss)
    assert type(first) is float
    assert first == 1


def test_a_closure_may_put_no_other_array_in_place() -> None:
    p = parameter()

    def closure() -> float:
        p.grad = np.ones(2)
        p.data = p.data.copy()
        return 1.0

    with pytest.raises(RuntimeError, match=r"'w'.*another from the closure"):
        rs.LBFGS(parameters=[p]).step(closure)


def test_overlapping_parameters_are_refused() -> None:
    memory = np.ones(3)
    a, b = rs.Parameter(memory[:2], "a"), rs.Parameter(memory[1:], "b")

    def closure() -> float:
        a.grad, b.grad = np.ones(2), np.ones(2)
        return 1.0

    with pytest.raises(ValueError, match="overlap"):
        rs.LBFGS(parameters=[a, b]).step(closure)
    np.testing.assert_array_equal(memory, np.ones(3))


@pytest.mark.parametrize(
    ("attr", "error"),
    [
        (rs.ParamAttr(learning_rate=0.5), ValueError),
        (rs.ParamAttr(regularizer=Own(0.5)), TypeError),
    ],
)
def test_parameters_that_no_step_would_take_are_not_added(attr: Any, error: Any) -> None:
    optimizer = rs.LBFGS(parameters=[parameter()])
    before = repr(optimizer), len(optimizer.param_groups)
    with pytest.raises(error, match="'late'"):
        optimizer.add_param_group({"params": [rs.Parameter(np.zeros(1), "late", attr)]})
    assert (repr(optimizer), len(optimizer.param_groups)) == before


def test_other_ways_to_step_are_refused() -> None:
    optimizer = rs.LBFGS(parameters=[parameter()])
    for way in (lambda: optimizer.minimize(lambda: 1.0), lambda: optimizer.apply_gradients([])):
        with pytest.raises(NotImplementedError, match=r"call step\(function\)"):
            way()
    for closure in (None, True, 1.0):
        with pytest.raises(TypeError, match="closure: expected a function"):
            optimizer.step(closure)  # type: ignore[arg-type]


def test_two_threads_are_refused() -> None:
    p = parameter()
    optimizer = rs.LBFGS(parameters=[p])
    errors = []

    def other() -> None:
        try:
            optimizer.step(lambda: 1.0)
        except RuntimeError as error:
            errors.append(str(error))

    def closure() -> float:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return 1.0

    optimizer.step(closure)
    assert len(errors) == 1
    assert "another thread" in errors[0]
    optimizer.step(lambda: 1.0)


def test_the_users_floating_point_settings_do_not_stop_a_step() -> None:
    """They hold in the closure, though."""
    p = rs.Parameter(np.full(2, 1e30, "f4"))
    seen = []

    def closure() -> float:
        seen.append(np.geterr()["over"])
        p.grad = np.array([1e38, -1e38], "f4")
        return -1.0

    with np.errstate(all="raise"):
        rs.LBFGS(1e30, parameters=[p], weight_decay=1e30).step(closure)
    assert set(seen) == {"raise"}
