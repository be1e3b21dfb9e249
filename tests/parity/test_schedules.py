"""Every schedule against Paddle's, over 100 epochs, for every argument of its constructor."""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any

import pytest

import roofstep
from harness import BARS, PADDLE, SCHEDULES, Library, Made, error

EPOCHS = 100
BAR = BARS["float64"]


def _halving(library: Library) -> type:
    """A schedule of a user's own."""

    class Halving(library.lr.LRScheduler):  # type: ignore[misc, name-defined]
        def get_lr(self) -> float:
            return self.base_lr * 0.5 ** (self.last_epoch // 10)

    return Halving


# The arguments of a schedule, and another value of each that changes its rates.
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LRScheduler": ({}, {"learning_rate": 0.3}),
    "NoamDecay": (
        {"d_model": 64, "warmup_steps": 10},
        {"d_model": 16, "warmup_steps": 25, "learning_rate": 2},
    ),
    "PiecewiseDecay": (
        {"boundaries": [10, 20, 60], "values": [0.5, 0.3, 0.4, 0.1]},
        {"boundaries": [1, 30, 99], "values": [0.1, 0.2, 0.3, 0.4]},
    ),
    "NaturalExpDecay": (
        {"learning_rate": 0.5, "gamma": 0.1},
        {"learning_rate": 0.3, "gamma": 0.01},
    ),
    "InverseTimeDecay": ({"learning_rate": 0.5, "gamma": 0.1}, {"learning_rate": 0.3, "gamma": 2}),
    "PolynomialDecay": (
        {"learning_rate": 0.5, "decay_steps": 30},
        {"learning_rate": 0.3, "decay_steps": 70, "end_lr": 0.01, "power": 2.5, "cycle": True},
    ),
    "LinearWarmup": (
        {"learning_rate": 0.5, "warmup_steps": 20, "start_lr": 0, "end_lr": 0.5},
        {
            "learning_rate": Made("lr.ExponentialDecay", 0.5, 0.9),
            "warmup_steps": 50,
            "start_lr": 0.1,
            "end_lr": 0.7,
        },
    ),
    "ExponentialDecay": (
        {"learning_rate": 0.5, "gamma": 0.9},
        {"learning_rate": 0.3, "gamma": 0.99},
    ),
    "MultiStepDecay": (
        {"learning_rate": 0.5, "milestones": [10, 50, 90]},
        {"learning_rate": 0.3, "milestones": (1, 99), "gamma": 0.5},
    ),
    "StepDecay": (
        {"learning_rate": 0.5, "step_size": 30},
        {"learning_rate": 0.3, "step_size": 7, "gamma": 0.9},
    ),
    "LambdaDecay": (
        {"learning_rate": 0.5, "lr_lambda": lambda e: 0.95**e},
        {"learning_rate": 0.3, "lr_lambda": lambda e: 1 / (1 + e)},
    ),
    "ReduceOnPlateau": (
        {"learning_rate": 0.5, "patience": 3, "factor": 0.5},
        {
            "learning_rate": 0.3,
            "mode": "max",
            "factor": 0.9,
            "patience": 0,
            "threshold": 0.3,
            "threshold_mode": "abs",
            "cooldown": 5,
            "min_lr": 0.1,
            "epsilon": 0.05,
        },
    ),
    "CosineAnnealingDecay": (
        {"learning_rate": 0.5, "T_max": 30},
        {"learning_rate": 0.3, "T_max": 7, "eta_min": 0.01},
    ),
    "MultiplicativeDecay": (
        {"learning_rate": 0.5, "lr_lambda": lambda e: 0.95},
        {"learning_rate": 0.3, "lr_lambda": lambda e: 1 - 1 / (e + 1)},
    ),
    "OneCycleLR": (
        {"max_learning_rate": 0.5, "total_steps": 110},
        {
            "max_learning_rate": 0.3,
            "total_steps": 120,
            "divide_factor": 10.0,
            "end_learning_rate": 0.01,
            "phase_pct": 0.4,
            "anneal_strategy": "linear",
            "three_phase": True,
        },
    ),
    "CyclicLR": (
        {"base_learning_rate": 0.1, "max_learning_rate": 0.5, "step_size_up": 7},
        {
            "base_learning_rate": 0.2,
            "max_learning_rate": 0.3,
            "step_size_up": 12,
            "step_size_down": 3,
            "mode": "triangular2",
            "exp_gamma": 0.95,
            "scale_fn": lambda x: 1 / (x + 1),
            "scale_mode": "iterations",
        },
    ),
    "LinearLR": (
        {"learning_rate": 0.5, "total_steps": 30},
        {"learning_rate": 0.3, "total_steps": 90, "start_factor": 0.1, "end_factor": 0.5},
    ),
    "CosineAnnealingWarmRestarts": (
        {"learning_rate": 0.5, "T_0": 7},
        {"learning_rate": 0.3, "T_0": 3, "T_mult": 2, "eta_min": 0.01},
    ),
}
# What an argument needs beside it to change anything.
WITH = {
    ("CyclicLR", "exp_gamma"): {"mode": "exp_range"},
    ("CyclicLR", "scale_mode"): {"scale_fn": lambda x: 1 / (x + 1)},
    ("ReduceOnPlateau", "epsilon"): {"patience": 0},
    ("ReduceOnPlateau", "threshold_mode"): {"threshold": 0.06, "patience": 0},
}
LATER = {"last_epoch": 4}
# The entry on docs/differences-from-paddle.md of what does not agree.
LISTED = {
    ("CosineAnnealingDecay", "last_epoch"): "schedules-start-and-jump-anywhere",
    ("LinearLR", "last_epoch"): "schedules-start-and-jump-anywhere",
}
EVERY_ARGUMENT = [
    (cls, argument)
    for cls in SCHEDULES
    for argument in inspect.signature(getattr(PADDLE.lr, cls)).parameters
]


def make(library: Library, cls: str, settings: dict[str, Any]) -> Any:
    """A schedule of this library."""
    if cls == "LRScheduler":
        return _halving(library)(**settings)
    return Made(f"lr.{cls}", **settings).of(library)


def pair(cls: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The same schedule of either library."""
    return make(roofstep, cls, settings), make(PADDLE, cls, settings)


def metric(epoch: int) -> float:
    """It falls, stays, falls and rises."""
    return 3 - 0.1 * min(epoch, 20) + (0.02 * (epoch - 60) if epoch > 60 else -0.5 * (epoch > 40))


def advance(schedule: Any, epoch: int) -> None:
    """To the next epoch, with the metric of the one that ends."""
    if type(schedule).__name__ == "ReduceOnPlateau":
        schedule.step(metric(epoch))
    else:
        schedule.step()


def follow(ours: Any, theirs: Any, start: int = 0, stop: int = EPOCHS) -> list[float]:
    """Compares the rates from one epoch to another, and gives them."""
    rates = []
    for epoch in range(start, stop):
        assert ours.last_epoch == theirs.last_epoch
        assert error(ours(), theirs()) <= BAR, f"epoch {epoch}: {ours()} and {theirs()}"
        rates.append(ours())
        advance(ours, epoch)
        advance(theirs, epoch)
    return rates


def test_every_schedule_is_in_the_table() -> None:
    assert list(TABLE) == SCHEDULES


@pytest.mark.parametrize(("cls", "argument"), EVERY_ARGUMENT)
def test_argument(cls: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It changes the rates, as in Paddle; `verbose` only prints them."""
    base, others = TABLE[cls]
    base = base | WITH.get((cls, argument), {})
    rates = follow(*pair(cls, base))
    if argument == "verbose":
        said = []
        for library in (roofstep, PADDLE):
            schedule = make(library, cls, base | {"verbose": True})
            for epoch in range(EPOCHS):
                advance(schedule, epoch)
            lines = capsys.readouterr().out.splitlines()
            said.append([re.sub(r"to \S+$", "", line) for line in lines])
        assert said[0]
        assert said[0] == said[1]
    elif (cls, argument) not in LISTED:
        changed = base | {argument: {**LATER, **others}[argument]}
        assert max(map(error, rates, follow(*pair(cls, changed)))) > 1e-3


@pytest.mark.parametrize("cls", SCHEDULES)
def test_all_arguments_at_once(cls: str) -> None:
    follow(*pair(cls, TABLE[cls][0] | TABLE[cls][1]))


@pytest.mark.parametrize("settings", [0, 1])
@pytest.mark.parametrize("cls", [cls for cls in SCHEDULES if cls != "ReduceOnPlateau"])
def test_after_a_warmup(cls: str, settings: int) -> None:
    """See a-metric-after-a-warmup for the one that is left out."""
    base, others = TABLE[cls]
    inside = base | others if settings else base
    follow(
        *(
            library.lr.LinearWarmup(make(library, cls, inside), 10, 0.0, 0.5)
            for library in (roofstep, PADDLE)
        )
    )


@pytest.mark.parametrize("cls", SCHEDULES)
def test_state(cls: str) -> None:
    """Paddle's state is taken over, at any epoch, and so is our own."""
    for settings in (TABLE[cls][0], TABLE[cls][0] | TABLE[cls][1]):
        ours, theirs = pair(cls, settings)
        follow(ours, theirs, stop=37)
        resumed, again = make(roofstep, cls, settings), make(roofstep, cls, settings)
        state = theirs.state_dict()
        resumed.set_state_dict(copy.deepcopy(state))
        again.set_state_dict(ours.state_dict())
        assert ours.state_dict().keys() == state.keys()
        follow(resumed, copy.deepcopy(theirs), 37)
        follow(again, theirs, 37)


JUMPS = [5, 50, 3, 99, 0, 12]


@pytest.mark.parametrize(
    "cls", [cls for cls in SCHEDULES if cls not in ("LinearLR", "ReduceOnPlateau")]
)
def test_jumps(cls: str) -> None:
    """And the steps after them. See schedules-start-and-jump-anywhere for what is left out."""
    for settings in (TABLE[cls][0], TABLE[cls][0] | TABLE[cls][1]):
        ours, theirs = pair(cls, settings)
        for epoch in JUMPS:
            ours.step(epoch)
            theirs.step(epoch)
            if epoch < 99:
                follow(ours, theirs, epoch, epoch + 3)
            assert error(ours(), theirs()) <= BAR


def test_fractions_of_an_epoch() -> None:
    ours, theirs = pair("CosineAnnealingWarmRestarts", TABLE["CosineAnnealingWarmRestarts"][0])
    for epoch in (0.5, 2.25, 6.875, 13.5):
        ours.step(epoch)
        theirs.step(epoch)
        assert error(ours(), theirs()) <= BAR
