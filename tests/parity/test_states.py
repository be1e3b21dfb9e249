"""Training that goes on in roofstep from the state that Paddle has come to."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import BARS, Made, Ours, Paddles, Run, agree, both, last, paddle
from table import FAMILIES
from test_optimizers import groups, held

BEFORE, AFTER = range(10), range(10, 20)


def as_it_is(state: Mapping[str, Any], path: Path) -> Any:
    return state


def in_arrays(state: Mapping[str, Any], path: Path) -> Any:
    return {k: np.array(v) if isinstance(v, paddle.Tensor) else v for k, v in state.items()}


def saved_and_loaded(state: Mapping[str, Any], path: Path) -> Any:
    paddle.save(state, str(path / "state.pdopt"))
    return paddle.load(str(path / "state.pdopt"))


def saved_and_unpickled(state: Mapping[str, Any], path: Path) -> Any:
    paddle.save(state, str(path / "state.pdopt"))
    return pickle.loads((path / "state.pdopt").read_bytes())


WAYS = [as_it_is, in_arrays, saved_and_loaded, saved_and_unpickled]
FILES = WAYS[2:]


def goes_on(ours: Ours, paddles: Paddles, state: Any, act: Any) -> None:
    """Loads the state and the values into ours, and compares the steps after that."""
    for name, parameter in ours.parameters.items():
        parameter.data[...] = paddles.value(paddles.parameters[name])
    ours.optimizer.set_state_dict(state)
    agree(ours, paddles, AFTER, act)


def step(run: Run, number: int) -> None:
    run.optimizer.step()


def move_schedule(run: Run, number: int) -> None:
    run.optimizer.step()
    run.optimizer._learning_rate.step()


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize(
    ("cls", "way"),
    [
        pytest.param(cls, way, id=f"{cls}-{way.__name__}")
        for cls in FAMILIES
        for way in WAYS
        if (cls != "SGD" or way not in FILES)  # Paddle writes no file for a state of nothing
    ],
)
def test_state(cls: str, way: Any, dtype: str, tmp_path: Path) -> None:
    """In every form that Paddle's state dict may come in; its counters are never 0 here."""
    family = FAMILIES[cls]
    for options in ({}, family.options):
        settings = family.base | options
        ours, paddles = both(cls, settings, dtype, family.names)
        last(paddles, BEFORE)
        goes_on(ours, paddles, way(paddles.optimizer.state_dict(), tmp_path), step)
        held(ours, paddles, cls, settings)


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("cls", FAMILIES)
def test_state_of_groups(cls: str, dtype: str, tmp_path: Path) -> None:
    """With betas of their own, which the step counts must be found by."""
    family = FAMILIES[cls]
    clip = Made("ClipGradByValue", 0.75)
    ours, paddles = both(
        cls,
        family.base,
        dtype,
        family.names,
        groups=groups(family, family.names, clip, {}),
    )
    last(paddles, BEFORE)
    goes_on(ours, paddles, paddles.optimizer.state_dict(), step)


@pytest.mark.parametrize("cls", [cls for cls, family in FAMILIES.items() if family.moves_rate])
def test_state_with_a_schedule_and_a_name(cls: str, tmp_path: Path) -> None:
    family = FAMILIES[cls]
    schedule = Made("lr.LinearWarmup", Made("lr.ExponentialDecay", 2**-7, 0.875), 5, 0.0, 2**-7)
    settings = family.base | {"learning_rate": schedule, "name": "own"}
    ours, paddles = both(cls, settings, "float64", family.names)
    last(paddles, BEFORE, move_schedule)
    goes_on(ours, paddles, in_arrays(paddles.optimizer.state_dict(), tmp_path), move_schedule)


@pytest.mark.parametrize("cls", FAMILIES)
def test_state_with_the_default_settings(cls: str) -> None:
    """Whose powers Paddle rounds."""
    family = FAMILIES[cls]
    given = {"learning_rate": 0.001}
    ours, paddles = both(cls, given, "float32", family.names)
    last(paddles, BEFORE)
    goes_on(ours, paddles, paddles.optimizer.state_dict(), step)
