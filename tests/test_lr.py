"""Every schedule against an independent formula, walked, jumped, resumed and nested."""

from __future__ import annotations

import copy
import doctest
import inspect
import itertools
import json
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from roofstep import lr
from roofstep.lr import LRScheduler

EPOCHS = 100
SCHEDULES = {
    kind
    for name, kind in vars(lr).items()
    if inspect.isclass(kind) and issubclass(kind, LRScheduler) and not name.startswith("_")
} - {LRScheduler}


# The table.


class Case:
    """A schedule with its arguments and, independently, the rate of each epoch."""

    def __init__(
        self, kind: type[LRScheduler], rate: Callable[[int], float], **arguments: Any
    ) -> None:
        self.kind, self.rate, self._arguments = kind, rate, arguments

    @property
    def arguments(self) -> dict[str, Any]:
        return copy.deepcopy(self._arguments)  # schedules among them are moved by the outer one

    def make(self, **more: Any) -> LRScheduler:
        return self.kind(**self.arguments, **more)


def sawtooth(epoch: int) -> float:
    return 1 / (1 + epoch % 7)


def telescope(epoch: int) -> float:
    return epoch / (epoch + 1)


def half_cosine(x: float, a: float, b: float) -> float:
    """From a to b, by another identity than 1 + cos."""
    return a * math.cos(math.pi * x / 2) ** 2 + b * math.sin(math.pi * x / 2) ** 2


def line(*points: tuple[float, float]) -> Callable[[int], float]:
    return lambda e: float(np.interp(e, *zip(*points, strict=True)))


def polynomial(e: int) -> float:
    end = next(n for n in itertools.count(30, 30) if n >= e)
    return float(Fraction(0.01) + (Fraction(0.5) - Fraction(0.01)) * (1 - Fraction(e, end)) ** 2)


def restarts(T_0: int, T_mult: int) -> Callable[[int], float]:
    def run(n: int) -> Iterator[float]:
        return (half_cosine(t / n, 0.5, 0.01) for t in range(n))

    lengths = itertools.islice((T_0 * T_mult**k for k in itertools.count()), EPOCHS)
    rates = [*itertools.islice(itertools.chain.from_iterable(map(run, lengths)), EPOCHS)]
    return lambda e: rates[e]


def triangle(scale: Callable[[int], float]) -> Callable[[int], float]:
    heights = [0, 1 / 4, 1 / 2, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    return lambda e: 0.1 + (0.7 - 0.1) * heights[e % 10] * scale(e)


def one_cycle(e: int) -> float:
    x, a, b = ((e / 35), 0.02, 0.5) if e <= 35 else ((min(e, 119) - 35) / 84, 0.5, 0.001)
    return half_cosine(x, a, b)


def plateau() -> LRScheduler:
    return lr.ReduceOnPlateau(0.8, factor=0.5, patience=9, epsilon=0)


def plateau_rate(e: int) -> float:
    return 0.8 * 0.5 ** (max(e - 1, 0) // 10)


FLAT = 1.0  # the metric of every epoch: the first is the best, none improves on it

BASE = {"learning_rate": 0.5}
COSINE = lr.CosineAnnealingDecay(0.5, T_max=30, eta_min=0.01)
CYCLE = {"base_learning_rate": 0.1, "max_learning_rate": 0.7}
RAMPS = {"step_size_up": 4, "step_size_down": 6}
CASES = [
    Case(lr.ConstantLR, lambda e: 0.5, **BASE),
    Case(
        lr.ExponentialDecay, lambda e: float(Fraction(0.5) * Fraction(0.9) ** e), **BASE, gamma=0.9
    ),
    Case(lr.NaturalExpDecay, lambda e: 0.5 * math.pow(math.e, -e / 20), **BASE, gamma=0.05),
    Case(
        lr.InverseTimeDecay,
        lambda e: float(Fraction(0.5) / (1 + Fraction(0.1) * e)),
        **BASE,
        gamma=0.1,
    ),
    Case(lr.LambdaDecay, lambda e: 0.5 / ([*range(1, 8)] * 15)[e], **BASE, lr_lambda=sawtooth),
    Case(lr.MultiplicativeDecay, lambda e: 0.5 / (e + 1), **BASE, lr_lambda=telescope),
    Case(
        lr.StepDecay,
        lambda e: [0.5 * 0.3**k for k in range(15) for _ in range(7)][e],
        **BASE,
        step_size=7,
        gamma=0.3,
    ),
    Case(
        lr.MultiStepDecay,
        lambda e: ([0.5] * 10 + [0.15] + [0.045] * 49 + [0.0135] * 40)[e],
        **BASE,
        milestones=[10, 11, 60],
        gamma=0.3,
    ),
    Case(
        lr.PiecewiseDecay,
        lambda e: ([0.1] * 10 + [0.4] + [0] * 49 + [0.2] * 40)[e],
        boundaries=[10, 11, 60],
        values=[0.1, 0.4, 0, 0.2],
    ),
    Case(
        lr.LinearLR,
        line((0, 0.45), (40, 0.1)),
        **BASE,
        total_steps=40,
        start_factor=0.9,
        end_factor=0.2,
    ),
    Case(lr.PolynomialDecay, line((0, 0.5), (30, 0.01)), **BASE, decay_steps=30, end_lr=0.01),
    Case(lr.PolynomialDecay, polynomial, **BASE, decay_steps=30, end_lr=0.01, power=2, cycle=True),
    Case(
        lr.CosineAnnealingDecay,
        lambda e: half_cosine(e / 30, 0.5, 0.01),
        **BASE,
        T_max=30,
        eta_min=0.01,
    ),
    Case(lr.InverseSqrt, lambda e: 0.5 * e / 9 if e < 9 else 1.5 * e**-0.5, **BASE, warmup_steps=9),
    Case(
        lr.NoamDecay,
        lambda e: 0.5 * 64**-0.5 * min(max(e, 1) ** -0.5, e * 9**-1.5),
        **BASE,
        d_model=64,
        warmup_steps=9,
    ),
    Case(
        lr.WarmupStableDecay,
        line((0, 0), (5, 0.5), (55, 0.5), (75, 0.1)),
        **BASE,
        warmup_steps=5,
        stable_steps=50,
        decay_steps=20,
        end_lr=0.1,
    ),
    Case(
        lr.WarmupStableDecay,
        lambda e: 0.5 * (1 - math.sqrt(e) / 9) if e < 81 else 0,
        **BASE,
        warmup_steps=0,
        stable_steps=0,
        decay_steps=81,
        power=0.5,
    ),
    *(
        Case(lr.CosineAnnealingWarmRestarts, restarts(3, n), **BASE, T_0=3, T_mult=n, eta_min=0.01)
        for n in (1, 2, 3)
    ),
    Case(lr.CyclicLR, triangle(lambda e: 1), **CYCLE, **RAMPS),
    Case(lr.CyclicLR, triangle(lambda e: 2.0 ** -(e // 10)), **CYCLE, **RAMPS, mode="triangular2"),
    Case(
        lr.CyclicLR,
        triangle(lambda e: float(Fraction(0.99) ** e)),
        **CYCLE,
        **RAMPS,
        mode="exp_range",
        exp_gamma=0.99,
    ),
    Case(
        lr.CyclicLR,
        triangle(lambda e: 1 - 1 / (e // 10 + 2)),
        **CYCLE,
        **RAMPS,
        scale_fn=telescope,
    ),
    Case(
        lr.CyclicLR,
        triangle(lambda e: 1 / (1 + e % 7)),
        **CYCLE,
        **RAMPS,
        scale_fn=sawtooth,
        scale_mode="iterations",
    ),
    Case(
        lr.CyclicLR,
        lambda e: 0.1 + 0.6 * [0, 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2][e % 10],
        **CYCLE,
        step_size_up=5,
    ),
    Case(lr.OneCycleLR, one_cycle, max_learning_rate=0.5, total_steps=120, end_learning_rate=0.001),
    Case(
        lr.OneCycleLR,
        line((0, 0.05), (47, 0.5), (94, 0.05), (119, 1e-4)),
        max_learning_rate=0.5,
        total_steps=120,
        divide_factor=10,
        phase_pct=0.4,
        anneal_strategy="linear",
        three_phase=True,
    ),
    Case(lr.ReduceOnPlateau, plateau_rate, learning_rate=0.8, factor=0.5, patience=9, epsilon=0),
    Case(
        lr.ReduceOnPlateau,
        # The best is the first, at 1; reduced at 12 and, with the cooldown, every 14 from there.
        lambda e: [0.8, 0.08, 0.008, 0.001][min((e + 2) // 14, 3)],
        learning_rate=0.8,
        mode="max",
        threshold=0.1,
        threshold_mode="abs",
        cooldown=3,
        min_lr=0.001,
    ),
    Case(
        lr.LinearWarmup,
        lambda e: 0.1 + 0.02 * e if e < 20 else 0.5,
        **BASE,
        warmup_steps=20,
        start_lr=0.1,
        end_lr=0.5,
    ),
    Case(
        lr.LinearWarmup,
        lambda e: 0.04 * e if e < 20 else half_cosine((e - 20) / 30, 0.5, 0.01),
        learning_rate=COSINE,
        warmup_steps=20,
        start_lr=0,
        end_lr=0.8,
    ),
    Case(
        lr.LinearWarmup,
        lambda e: 0.04 * e if e < 20 else plateau_rate(e - 20),
        learning_rate=plateau(),
        warmup_steps=20,
        start_lr=0,
        end_lr=0.8,
    ),
    Case(
        lr.SequentialLR,
        lambda e: 0.8 if e < 25 else half_cosine((e - 25) / 30, 0.5, 0.01),
        schedules=[lr.ConstantLR(0.8), COSINE],
        milestones=[25],
    ),
    Case(
        lr.SequentialLR,
        lambda e: (
            [plateau_rate(n) for n in range(25)]
            + [0.5] * 10
            + [0.05] * 10
            + [0.005] * 5
            + [0.08 * n for n in range(10)]
            + [plateau_rate(n) for n in range(EPOCHS)]
        )[e],
        schedules=[
            plateau(),
            lr.StepDecay(0.5, 10, 0.1),
            lr.LinearWarmup(plateau(), 10, 0, 0.8),
        ],
        milestones=[25, 50],
    ),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.__name__)


def parts(scheduler: LRScheduler) -> list[LRScheduler]:
    inner = scheduler._nested().values()
    return [scheduler, *itertools.chain.from_iterable(map(parts, inner))]


def follows_metric(scheduler: LRScheduler) -> bool:
    return any(isinstance(part, lr.ReduceOnPlateau) for part in parts(scheduler))


MEMORYLESS = [case for case in CASES if not follows_metric(case.make())]
each_memoryless = pytest.mark.parametrize("case", MEMORYLESS, ids=lambda case: case.kind.__name__)


def advance(scheduler: LRScheduler, epoch: int | None = None, metric: Any = FLAT) -> float:
    if isinstance(scheduler, lr.ReduceOnPlateau):
        scheduler.step(metric, epoch)
    elif follows_metric(scheduler):
        scheduler.step(epoch, metrics=metric)
    else:
        scheduler.step(epoch)
    return scheduler()


def walk(scheduler: LRScheduler, steps: int = EPOCHS) -> list[float]:
    """The rates of `steps` epochs; the scheduler ends at the last of them."""
    return [scheduler(), *(advance(scheduler) for _ in range(steps - 1))]


def close(rates: list[float], expected: list[float]) -> None:
    assert all(type(rate) is float for rate in rates)
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=0)


# What holds for every schedule.


def test_table_is_complete() -> None:
    assert {case.kind for case in CASES} == SCHEDULES
    assert {*lr.__all__} == {kind.__name__ for kind in SCHEDULES} | {"LRScheduler", "preview"}
    for kind in SCHEDULES:
        tried = set().union(*(case.arguments for case in CASES if case.kind is kind))
        assert tried | {"last_epoch", "verbose"} >= {*inspect.signature(kind).parameters}, kind


PADDLE = """
LRScheduler(learning_rate=0.1
NoamDecay(d_model, warmup_steps, learning_rate=1.0
PiecewiseDecay(boundaries, values
NaturalExpDecay(learning_rate, gamma
InverseTimeDecay(learning_rate, gamma
PolynomialDecay(learning_rate, decay_steps, end_lr=0.0001, power=1.0, cycle=False
LinearWarmup(learning_rate, warmup_steps, start_lr, end_lr
ExponentialDecay(learning_rate, gamma
MultiStepDecay(learning_rate, milestones, gamma=0.1
StepDecay(learning_rate, step_size, gamma=0.1
LambdaDecay(learning_rate, lr_lambda
MultiplicativeDecay(learning_rate, lr_lambda
CosineAnnealingDecay(learning_rate, T_max, eta_min=0
OneCycleLR(max_learning_rate, total_steps, divide_factor=25.0, end_learning_rate=0.0001, \
phase_pct=0.3, anneal_strategy='cos', three_phase=False
CyclicLR(base_learning_rate, max_learning_rate, step_size_up, step_size_down=None, \
mode='triangular', exp_gamma=1.0, scale_fn=None, scale_mode='cycle'
LinearLR(learning_rate, total_steps, start_factor=0.3333333333333333, end_factor=1.0
CosineAnnealingWarmRestarts(learning_rate, T_0, T_mult=1, eta_min=0
"""
PLATEAU = """ReduceOnPlateau(learning_rate, mode='min', factor=0.1, patience=10, threshold=0.0001, \
threshold_mode='rel', cooldown=0, min_lr=0, epsilon=1e-08, verbose=False)"""


def test_signatures_are_those_of_paddle() -> None:
    expected = [line + ", last_epoch=-1, verbose=False)" for line in PADDLE.split("\n") if line]
    for shown in [*expected, PLATEAU]:
        kind = getattr(lr, shown.partition("(")[0])
        parameters = inspect.signature(kind).parameters.values()
        plain = [str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters]
        assert f"{kind.__name__}({', '.join(plain)})" == shown


def test_base_rate() -> None:
    warmup = lr.LinearWarmup(0.5, 3, start_lr=0.1, end_lr=0.2)
    for scheduler in [lr.PiecewiseDecay([5], [0.1, 0.2]), warmup, lr.SequentialLR([warmup], [])]:
        assert scheduler.base_lr == 0.1
    assert lr.OneCycleLR(0.5, 9, divide_factor=5).base_lr == 0.1


@each
def test_formula(case: Case) -> None:
    close(walk(case.make()), [case.rate(e) for e in range(EPOCHS)])


@each_memoryless
def test_jumps_equal_walking(case: Case) -> None:
    walked = walk(case.make())
    jumper = case.make()
    for epoch in np.random.default_rng(0).permutation(EPOCHS):
        assert advance(jumper, epoch) == walked[epoch]
        assert type(jumper.last_epoch) is int
        assert case.make(last_epoch=epoch - 1)() == walked[epoch]
        assert jumper.get_lr() == jumper()  # it may be asked again


def by_state(scheduler: LRScheduler, case: Case) -> LRScheduler:
    resumed = case.make()
    resumed.set_dict(json.loads(json.dumps(scheduler.state_dict())))
    return resumed


RESUMES: list[Callable[[LRScheduler, Case], LRScheduler]] = [
    by_state,
    lambda scheduler, case: pickle.loads(pickle.dumps(scheduler)),
    lambda scheduler, case: copy.deepcopy(scheduler),
]


@each
@pytest.mark.parametrize("resume", RESUMES, ids=["state_dict", "pickle", "deepcopy"])
def test_resume_equals_uninterrupted(case: Case, resume: Any) -> None:
    whole = walk(case.make())
    scheduler = case.make()
    for epoch in range(EPOCHS):
        if epoch % 9 == 0:
            stopped, before = scheduler, repr(scheduler)
            scheduler = resume(stopped, case)
            assert repr(scheduler) == before
        assert scheduler() == whole[epoch]
        advance(scheduler)
    assert repr(stopped) == before  # the two share nothing that moves


@each
def test_repr(case: Case) -> None:
    scheduler = case.make()
    advance(scheduler)
    shown = repr(scheduler)
    assert re.fullmatch(rf"{case.kind.__name__}\(.*, last_epoch=1\)", shown), shown
    for name, value in case.arguments.items():
        if isinstance(value, int | float | str):
            assert f"{name}={value!r}" in shown or f"{name}={float(value)!r}" in shown
        assert f"{name}=" in shown


@each
def test_preview_moves_nothing(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = case.make()
    advance(scheduler, 5)
    for part in parts(scheduler):
        part.verbose = True
    before = scheduler.state_dict()
    assert lr.preview(scheduler, 1) == [scheduler()]
    if follows_metric(scheduler):
        with pytest.raises(TypeError, match=r"metrics: .*a preview has none"):
            lr.preview(scheduler, EPOCHS)
    else:
        assert lr.preview(scheduler, EPOCHS - 5) == walk(case.make())[5:]
    assert scheduler.state_dict() == before
    assert all(part.verbose for part in parts(scheduler))
    assert capsys.readouterr().out == ""


@each
@pytest.mark.parametrize("outer", ["warmup", "second"])
def test_nesting(case: Case, outer: str) -> None:
    inner = case.make()
    if outer == "warmup":
        scheduler: LRScheduler = lr.LinearWarmup(inner, 8, start_lr=0, end_lr=1)
        start, first = 8, [e / 8 for e in range(8)]
    else:
        scheduler = lr.SequentialLR([lr.StepDecay(1, 5, 0.5), inner], [12])
        start, first = 12, [1.0] * 5 + [0.5] * 5 + [0.25] * 2
    expected = first + [case.rate(e) for e in range(EPOCHS - start)]
    close(walk(scheduler), expected)
    assert inner.last_epoch == EPOCHS - start - 1
    advance(scheduler, start)  # back to where the inner one begins, a plateau too
    close(walk(scheduler, EPOCHS - start), expected[start:])
    if not follows_metric(scheduler):
        close([advance(scheduler, e) for e in reversed(range(EPOCHS))], expected[::-1])


@each
def test_verbose(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler = case.make(verbose=True)
    rates = walk(scheduler, 30)
    lines = [
        f"Epoch {epoch}: {case.kind.__name__} set learning rate to {rate}."
        for epoch, rate in enumerate(rates)
        if case.kind is not lr.ReduceOnPlateau or (epoch and rate != rates[epoch - 1])
    ]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    "rate", [1, 0, Fraction(1, 2), np.float16(0.5), np.float32(0.1), np.float64(0.1), np.int8(3)]
)
def test_any_real_rate(rate: Any) -> None:
    scheduler = lr.ConstantLR(rate)
    assert scheduler() == float(rate)
    assert type(scheduler()) is float


# Refusals.


@each
def test_every_argument_is_checked(case: Case) -> None:
    arguments = case.arguments
    if "scale_fn" in arguments:
        del arguments["scale_fn"]  # which stands for the mode
    for name, parameter in inspect.signature(case.kind).parameters.items():
        number = re.fullmatch(r"(float|int)( \| (None|LRScheduler))?", parameter.annotation)
        for bad in [object(), *([True, "1", -2, math.nan, math.inf, None, 1j] if number else [])]:
            if bad is None is parameter.default:
                continue
            with pytest.raises((TypeError, ValueError)) as refusal:
                case.kind(**{**arguments, name: bad})
            assert re.match(rf"{name}\b.*: expected .+, got .+; .+", str(refusal.value)), name


WARM = {"learning_rate": 0.1, "warmup_steps": 3, "start_lr": 0.0, "end_lr": 0.1}
REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lr.ConstantLR("0.1"), TypeError, "real number in [0, inf), got '0.1' of type str; "),
    (lambda: lr.ConstantLR(0.1, last_epoch=1.0), TypeError, "last_epoch: expected an int >= -1"),
    (lambda: lr.ConstantLR(0.1).step(-1), ValueError, "epoch: expected an int >= 0, got -1"),
    (lambda: lr.ConstantLR(0.1).step(1.5), TypeError, "epoch: expected an int >= 0, got 1.5"),
    (lambda: lr.ExponentialDecay(0.1, 1), ValueError, "gamma: expected a real number in (0, 1)"),
    (lambda: lr.ExponentialDecay(0.1, 0), ValueError, "in (0, 1), got 0.0"),
    (lambda: lr.NaturalExpDecay(0.1, 0), ValueError, "gamma: expected a real number in (0, inf)"),
    (lambda: lr.StepDecay(0.1, 0), ValueError, "step_size: expected an int >= 1, got 0"),
    (lambda: lr.StepDecay(0.1, 5.0), TypeError, "step_size: expected an int >= 1, got 5.0"),
    (lambda: lr.StepDecay(0.1, 5, 1), ValueError, "gamma: expected a real number in [0, 1)"),
    (lambda: lr.MultiStepDecay(0.1, 5), TypeError, "milestones: expected a list, got 5"),
    (lambda: lr.MultiStepDecay(0.1, "12"), TypeError, "milestones: expected a list, got '12'"),
    (lambda: lr.MultiStepDecay(0.1, [5, 5]), ValueError, "strictly increasing epochs, got [5, 5]"),
    (lambda: lr.MultiStepDecay(0.1, [5, "6"]), TypeError, "milestones[1]: expected a real number"),
    (lambda: lr.MultiStepDecay(0.1, [math.inf]), ValueError, "milestones[0]: expected a real"),
    (lambda: lr.MultiStepDecay(0.1, [5], 1), ValueError, "gamma: expected a real number in [0, 1)"),
    (lambda: lr.PiecewiseDecay([], [1]), ValueError, "boundaries: expected at least one epoch"),
    (lambda: lr.PiecewiseDecay([1], [1]), ValueError, "values: expected 2, one more than"),
    (lambda: lr.PiecewiseDecay([1], [1, 2, 3]), ValueError, "got 3; pass one before"),
    (lambda: lr.PiecewiseDecay([1], [1, -2]), ValueError, "values[1]: expected a real number"),
    (lambda: lr.PiecewiseDecay([2, 1], [1, 2, 3]), ValueError, "boundaries: expected strictly"),
    (lambda: lr.LinearLR(0.1, 5, 0), ValueError, "start_factor: expected a real number in (0, 1]"),
    (
        lambda: lr.LinearLR(0.1, 5, 1, 1.1),
        ValueError,
        "end_factor: expected a real number in [0, 1]",
    ),
    (lambda: lr.PolynomialDecay(0.1, 5, 0, 0), ValueError, "power: expected a real number in (0,"),
    (
        lambda: lr.PolynomialDecay(0.1, 5, cycle=1),
        TypeError,
        "cycle: expected True or False, got 1",
    ),
    (lambda: lr.WarmupStableDecay(0.1, 0, 0, 1, power=0), ValueError, "power: expected a real"),
    (lambda: lr.CyclicLR(0.1, 1, 5, exp_gamma=0), ValueError, "exp_gamma: expected a real"),
    (lambda: lr.LambdaDecay(0.1, 0.9), TypeError, "lr_lambda: expected a function"),
    (
        lambda: lr.LambdaDecay(0.1, lambda e: -1),
        ValueError,
        "LambdaDecay.get_lr(): expected a real",
    ),
    (lambda: lr.LambdaDecay(0.1, lambda e: math.nan), ValueError, "got nan"),
    (
        lambda: lr.CyclicLR(0.1, 1, 5, mode="sine"),
        ValueError,
        "mode: expected one of ('triangular'",
    ),
    (lambda: lr.CyclicLR(0.1, 1, 5, scale_fn=1), TypeError, "scale_fn: expected a function"),
    (lambda: lr.CyclicLR(0.1, 1, 5, scale_mode=""), ValueError, "one of ('cycle', 'iterations')"),
    (lambda: lr.OneCycleLR(1, 9, anneal_strategy="x"), ValueError, "one of ('cos', 'linear')"),
    (lambda: lr.OneCycleLR(1, 9, divide_factor=0), ValueError, "divide_factor: expected a real"),
    (
        lambda: lr.OneCycleLR(1, 9, phase_pct=0.5, three_phase=True),
        ValueError,
        "phase_pct: expected a real number in [0, 0.5), got 0.5",
    ),
    (
        lambda: lr.CosineAnnealingWarmRestarts(0.1, 5).step(math.inf),
        ValueError,
        "epoch: expected a real number in [0, inf), got inf",
    ),
    (lambda: plateau().step(1, epoch=-1), ValueError, "epoch: expected an int >= 0, got -1"),
    (lambda: lr.OneCycleLR(1, 9).step(10), ValueError, "epoch: expected at most total_steps = 9"),
    (lambda: lr.ReduceOnPlateau(0.1, "mean"), ValueError, "mode: expected one of ('min', 'max')"),
    (lambda: lr.ReduceOnPlateau(0.1, factor=1), ValueError, "factor: expected a real number in [0"),
    (lambda: lr.LinearWarmup(**{**WARM, "end_lr": 0}), ValueError, "real number in (0.0, inf)"),
    (
        lambda: lr.LinearWarmup(**{**WARM, "learning_rate": "x"}),
        TypeError,
        "learning_rate, if no LRScheduler: expected",
    ),
    (
        lambda: lr.SequentialLR([], []),
        ValueError,
        "schedules: expected 1, one more than milestones",
    ),
    (
        lambda: lr.SequentialLR([0.1], []),
        TypeError,
        "schedules[0]: expected an LRScheduler, got 0.1",
    ),
    (
        lambda: lr.SequentialLR([lr.ConstantLR()] * 3, [5, 4]),
        ValueError,
        "milestones: expected strictly increasing",
    ),
    (
        lambda: lr.SequentialLR([lr.ConstantLR()] * 2, [0]),
        ValueError,
        "milestones[0]: expected an int >= 1",
    ),
    (lambda: lr.preview(0.1, 3), TypeError, "scheduler: expected an LRScheduler, got 0.1"),
    (lambda: lr.preview(lr.ConstantLR(), 0), ValueError, "steps: expected an int >= 1, got 0"),
    (LRScheduler, NotImplementedError, "LRScheduler: define get_lr"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSALS, ids=[m for *_, m in REFUSALS])
def test_refusals(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


LIMITS: list[tuple[type[LRScheduler], tuple[Any, ...]]] = [
    (lr.ConstantLR, (0, -1)),
    (lr.InverseTimeDecay, (0, 0)),
    (lr.StepDecay, (0.1, 1, 0)),
    (lr.MultiStepDecay, (0.1, [], 0)),
    (lr.MultiStepDecay, (0.1, np.array([0, 0.5, 3]), 0.999)),
    (lr.PiecewiseDecay, (range(3), [0, 1e3, 0, 1])),
    (lr.LinearLR, (0.1, 1, 1, 0)),
    (lr.LinearLR, (0.1, 1, 1e-9, 1)),
    (lr.PolynomialDecay, (0.1, 1, 0, 1e-9)),
    (lr.CosineAnnealingDecay, (0.1, 1, 0)),
    (lr.InverseSqrt, (0.1, 1)),
    (lr.NoamDecay, (1, 1)),
    (lr.WarmupStableDecay, (0.1, 0, 0, 1, 0, 1e-9)),
    (lr.CosineAnnealingWarmRestarts, (0.1, 1, 1, 0)),
    (lr.CyclicLR, (0, 0, 1, 1, "TRIANGULAR", 1e-9)),
    (lr.CyclicLR, (0.2, 0.1, 1, None, "exp_range", 1.5)),
    (lr.OneCycleLR, (0, 1, 1e-9, 0, 0)),
    (lr.OneCycleLR, (0.1, 1, 1, 0, 0.499, "Linear", True)),
    (lr.ReduceOnPlateau, (0, "Min", 0, 0, 0, "ABS", 0, 0, 0)),
    (lr.LinearWarmup, (0, 1, 0, 1e-9)),
    (lr.SequentialLR, ([lr.ConstantLR()], ())),
    (lr.SequentialLR, ((lr.ConstantLR(), lr.ConstantLR()), [1])),
]


@pytest.mark.parametrize(("kind", "arguments"), LIMITS)
def test_limits_are_accepted(kind: type[LRScheduler], arguments: tuple[Any, ...]) -> None:
    assert walk(kind(*arguments), 2)[0] >= 0


def test_refused_step_changes_nothing() -> None:
    cycle = lr.OneCycleLR(0.5, 9, last_epoch=8)
    nest = lr.SequentialLR([lr.ConstantLR(), lr.LinearWarmup(plateau(), 2, 0, 1)], [3])
    advance(nest, 5)
    for scheduler, step in [(cycle, cycle.step), (nest, nest.step), (nest, lambda: nest.step(9))]:
        before = scheduler.state_dict()
        with pytest.raises((TypeError, ValueError)):
            step()
        assert scheduler.state_dict() == before


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.kind in (lr.StepDecay, lr.ReduceOnPlateau)] + CASES[-2:]
)
def test_refused_state_changes_nothing(case: Case) -> None:
    scheduler = case.make()
    good = scheduler.state_dict()
    nested = [key for key, value in good.items() if isinstance(value, dict)]

    def refused(state: Any) -> str:
        with pytest.raises(ValueError, match=r"^state_dict: expected .+, got .+; .+") as refusal:
            scheduler.set_state_dict(state)
        assert scheduler.state_dict() == good
        return str(refusal.value)

    assert "state_dict: expected a dict, got 3" in refused(3)
    message = refused({"last_epoch": "3", "T_cur": 1})
    for fault in ["last_epoch: expected an int", "last_lr is missing", "T_cur is unexpected"]:
        assert fault in message
    assert "last_lr: expected a real number" in refused(
        good | {"last_epoch": 3, "last_lr": math.nan}
    )
    for key in nested:
        assert f"{key} is missing" in refused({k: v for k, v in good.items() if k != key})
        assert f"{key}: expected a dict" in refused(good | {"last_epoch": 3, key: 1})
        assert f"{key}.x is unexpected" in refused(
            good | {"last_epoch": 3, key: good[key] | {"x": 1}}
        )


# Single schedules.


def test_warm_restarts_are_counted_exactly() -> None:
    scheduler = lr.CosineAnnealingWarmRestarts(0.5, T_0=3, T_mult=3)
    for k in range(1, 30):
        scheduler.step(3 * (3**k - 1) // 2)  # 363 for k = 5
        assert scheduler() == 0.5
    scheduler.step(3.0 + 9 * 0.25)
    assert scheduler() == pytest.approx(half_cosine(0.25, 0.5, 0), rel=1e-12)
    assert scheduler.last_epoch == 5
    scheduler.step()
    assert (scheduler.last_epoch, scheduler()) == (6, pytest.approx(0.375, rel=1e-12))


@pytest.mark.parametrize(
    ("steps", "part"), [(10, 0.3), (10, 0.1), (10, 1), (10, 0), (1, 1), (1, 0)]
)
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle_ends_at_its_end(steps: int, part: float, strategy: str) -> None:
    scheduler = lr.OneCycleLR(0.5, steps, 5, 0.01, part, strategy)
    rates = walk(scheduler, steps + 1)
    assert rates[steps] == 0.01
    assert max(rates) <= 0.5
    assert rates[steps - 1] == (0.5 if part == 1 and steps > 1 else 0.01)
    if part == 0.1:
        assert rates[0] == 0.5  # a climb of no length


def test_one_element_metrics_of_any_kind() -> None:
    class Tensor:
        def item(self) -> float:
            return 0.5

    metrics = [1, 0.5, Fraction(1, 2), Tensor(), np.array(0.5), np.array([[0.5]])]
    metrics += [np.dtype(code).type(0.5) for code in "efdg"] + [np.int64(1), np.uint8(1)]
    for metric in metrics:
        scheduler = lr.ReduceOnPlateau(0.1)
        scheduler.step(metric)
        assert type(scheduler.best) is float
        assert scheduler.state_dict()["best"] in (0.5, 1.0)
    array = np.array([0.5])
    scheduler.step(array)
    array[:] = 9
    assert scheduler.best == 0.5
    for metric in [None, "1", True, np.True_, 1j, np.zeros(2), np.zeros(0), [1.0], np.array("a")]:
        with pytest.raises(TypeError, match=r"metrics: expected a real number or an array of one"):
            scheduler.step(metric)
    assert scheduler.last_epoch == 2


@pytest.mark.parametrize(
    ("mode", "threshold_mode", "metrics", "best"),
    [
        ("min", "rel", [-100.0, -100.5], [-100.0, -100.0]),  # not by a hundredth
        ("min", "rel", [-100.0, -101.5], [-100.0, -101.5]),
        ("min", "rel", [100.0, 99.5, 98.5], [100.0, 100.0, 98.5]),
        ("max", "rel", [-100.0, -99.5, -98.5], [-100.0, -100.0, -98.5]),
        ("MAX", "Rel", [100.0, 100.5, 101.5], [100.0, 100.0, 101.5]),
        ("min", "abs", [0.0, -0.008, -0.02], [0.0, 0.0, -0.02]),
        ("max", "abs", [0.0, 0.008, 0.02], [0.0, 0.0, 0.02]),
        ("min", "rel", [math.nan, 3.0, math.nan, 2.0], [None, 3.0, 3.0, 2.0]),
        (
            "min",
            "rel",
            [math.inf, 3.0, math.inf, -math.inf, 1.0],
            [None, 3.0, 3.0, -math.inf, -math.inf],
        ),
        ("max", "rel", [-math.inf, 3.0, math.inf, 4.0], [None, 3.0, math.inf, math.inf]),
    ],
)
def test_plateau_improvement(mode: str, threshold_mode: str, metrics: Any, best: Any) -> None:
    scheduler = lr.ReduceOnPlateau(0.1, mode, threshold=0.01, threshold_mode=threshold_mode)
    bad = 0
    previous = None
    for metric, expected in zip(metrics, best, strict=True):
        scheduler.step(metric)
        bad = bad + 1 if expected == previous else 0
        assert (scheduler.best, scheduler.num_bad_epochs) == (expected, bad)
        previous = expected


def test_plateau_leaves_out_tiny_reductions() -> None:
    scheduler = lr.ReduceOnPlateau(0.1, factor=0.9, patience=0, epsilon=0.0095, min_lr=0.05)
    assert walk(scheduler, 6) == pytest.approx([0.1, 0.1, 0.09, 0.09, 0.09, 0.09], rel=1e-12)
    assert walk(lr.ReduceOnPlateau(0.1, patience=0, min_lr=0.2), 5) == [0.1] * 5
    assert walk(lr.ReduceOnPlateau(1, factor=0.5, patience=0, epsilon=0.5), 5) == [1] * 5


def test_metric_reaches_through_every_nest() -> None:
    inner = plateau()
    scheduler = lr.LinearWarmup(lr.SequentialLR([lr.ConstantLR(), inner], [2]), 3, 0, 1)
    for epoch in range(1, 9):
        scheduler.step(metrics=np.array([10.0 - epoch]) if epoch > 5 else None)
    assert (inner.best, inner.last_epoch) == (2.0, 3)


# Loading what Paddle saved.


def test_states_of_paddle_load() -> None:
    decay = lr.CosineAnnealingDecay(0.5, T_max=10)
    decay.set_state_dict({"last_epoch": np.int64(4), "last_lr": np.float64(0.25)})
    assert decay.state_dict() == {"last_epoch": 4, "last_lr": 0.25}
    assert {type(value) for value in decay.state_dict().values()} == {int, float}

    warmup = lr.LinearWarmup(lr.CosineAnnealingDecay(0.5, T_max=10), 5, 0, 0.5)
    state = {"last_epoch": 9, "last_lr": 0.3, "LinearWarmup_LR": {"last_epoch": 4, "last_lr": 0.3}}
    warmup.set_state_dict(state)
    assert warmup.state_dict() == state
    assert advance(warmup) == pytest.approx(0.25, rel=1e-12)

    state = {
        "cooldown_counter": 0,
        "best": 2.5,
        "num_bad_epochs": 9,
        "last_epoch": 12,
        "last_lr": 0.8,
    }
    for best, kept in [(2.5, 2.5), (np.array([2.5]), 2.5), (None, None), (math.nan, None)]:
        scheduler = plateau()
        scheduler.set_state_dict(state | {"best": best})
        assert scheduler.state_dict() == state | {"best": kept}
    scheduler.set_state_dict(state)
    assert advance(scheduler, metric=3) == 0.4


# Classes of the user.


class Halving(LRScheduler):
    def __init__(self, learning_rate: float, every: int = 1, last_epoch: int = -1) -> None:
        self.every = every
        super().__init__(learning_rate, last_epoch)

    def get_lr(self) -> float:
        return self.base_lr * 0.5 ** (self.last_epoch // self.every)


class Recursive(LRScheduler):
    """Multiplies the last rate and counts the steps in a state of its own."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        super().__init__(0.8)

    def get_lr(self) -> float:
        self.seen.append(self.last_epoch)
        return self.last_lr * 0.5 if self.last_epoch else self.base_lr

    def state_keys(self) -> None:
        super().state_keys()
        self.keys += ["seen"]


def test_subclass_of_the_user() -> None:
    scheduler = Halving(0.8, every=2)
    assert lr.preview(scheduler, 4) == walk(scheduler, 4) == [0.8, 0.8, 0.4, 0.4]
    assert repr(scheduler) == "Halving(learning_rate=0.8, every=2, last_epoch=3)"
    assert Halving(0.8, last_epoch=2)() == 0.1
    assert walk(lr.LinearWarmup(Halving(0.8), 1, 0, 1), 3) == [0, 0.8, 0.4]

    recursive = Recursive()
    assert lr.preview(recursive, 3) == walk(recursive, 3) == [0.8, 0.4, 0.2]
    state = recursive.state_dict()
    assert state == {"last_epoch": 2, "last_lr": 0.2, "seen": [0, 1, 2]}
    advance(recursive)
    resumed = Recursive()
    resumed.set_state_dict(state)
    assert advance(resumed) == recursive() == 0.1
    assert state["seen"] == [0, 1, 2]
    assert resumed.seen == recursive.seen == [0, 1, 2, 3]


# Plot and documentation.


def test_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("agg")
    scheduler = lr.StepDecay(0.5, 3, last_epoch=4)
    axes = scheduler.plot(7)
    (drawn,) = axes.get_lines()
    assert [*drawn.get_xdata()] == [*range(5, 12)]
    assert [*drawn.get_ydata()] == lr.preview(scheduler, 7)
    assert drawn.get_label() == "StepDecay"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")
    assert lr.ConstantLR().plot(3) is axes  # several share one picture
    mpl.pyplot.close("all")

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'roofstep\[demo\]'"):
        scheduler.plot(7)


def test_documentation() -> None:
    results = doctest.testmod(lr)
    assert results.failed == 0
    assert results.attempted > 2 * len(SCHEDULES)
    for kind in SCHEDULES:
        for part in ("Args:", "Raises:", "Example:", *inspect.signature(kind).parameters):
            assert part in str(kind.__doc__), (kind, part)
