"""Paddle's static graphs: the bits of dynamic mode, Paddle's own numbers, ordering, refusals."""

from __future__ import annotations

import contextlib
import copy
import doctest
import importlib
import logging
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import roofstep
import roofstep.paddle
from harness import BARS, PADDLE, SHAPES, Made, Ours, Run, close, paddle
from harness import gradients as some_or_none
from table import FAMILIES
from test_optimizers import groups

Array = np.ndarray[Any, Any]
STEPS = range(6)

# Paddle's backward pass warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place':UserWarning")

# Classes that Paddle lacks, with arguments.
OURS_ALONE = {"LARS": {"learning_rate": 0.1}, "Lion": {}, "Adan": {}}
CLASSES = {**{cls: family.base for cls, family in FAMILIES.items()}, **OURS_ALONE}


@contextlib.contextmanager
def static_mode() -> Iterator[None]:
    paddle.enable_static()
    try:
        yield
    finally:
        paddle.disable_static()


def gradients(step: int, dtype: str) -> dict[str, Array]:
    """As in dynamic mode, but all there: a program has them all."""
    return {
        name: np.zeros(SHAPES[name], dtype) if value is None else np.asarray(value, dtype)
        for name, value in some_or_none(step).items()
    }


class Dynamic(Run):
    """A run of roofstep on Paddle's tensors."""

    library = roofstep

    def advance(self, step: int) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = paddle.to_tensor(gradients(step, self.dtype)[name])
        self.optimizer.step()

    @staticmethod
    def parameter(name: str, array: Array, attributes: Mapping[str, Any] | None) -> Any:
        attr = paddle.ParamAttr(**(attributes or {}))
        parameter = paddle.create_parameter(list(array.shape), str(array.dtype), attr=attr)
        parameter.name = name
        parameter.set_value(array)
        return parameter

    @staticmethod
    def value(parameter: Any) -> Array:
        return np.array(parameter.numpy())


class Static(Run):
    """A program whose loss has the gradients that are fed, and an optimizer's update in it."""

    library = roofstep

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.main, self.startup = paddle.static.Program(), paddle.static.Program()
        self.scope, self.executor = paddle.static.Scope(), None
        with self.built():
            super().__init__(*arguments, **options)
            terms = []
            for name, value in self.parameters.items():
                fed = paddle.static.data(f"grad_of_{name}", value.shape, self.dtype)
                terms.append((value * fed).sum())
            self.loss = paddle.add_n(terms)
            self.result = self.minimize()
        self.start()

    def minimize(self) -> Any:
        return self.optimizer.minimize(self.loss)

    @contextlib.contextmanager
    def built(self) -> Iterator[None]:
        with static_mode(), paddle.static.program_guard(self.main, self.startup):
            yield

    def start(self) -> None:
        with static_mode(), paddle.static.scope_guard(self.scope):
            self.executor = paddle.static.Executor()
            self.executor.run(self.startup)

    def advance(self, step: int, fetch_list: Any = ()) -> list[Array]:
        feed = {f"grad_of_{n}": g for n, g in gradients(step, self.dtype).items()}
        feed = {name: feed[name] for name in (f"grad_of_{n}" for n in self.parameters)}
        with static_mode(), paddle.static.scope_guard(self.scope):
            found: list[Array] = self.executor.run(
                self.main, feed=feed, fetch_list=[self.loss, *fetch_list]
            )
        return found

    def values(self) -> dict[str, Array]:
        found = {n: self.scope.find_var(n).get_tensor() for n in self.parameters}
        return {name: np.array(tensor).copy() for name, tensor in found.items()}  # the first views

    @staticmethod
    def parameter(name: str, array: Array, attributes: Mapping[str, Any] | None) -> Any:
        begin = paddle.nn.initializer.Assign(array)
        attr = paddle.ParamAttr(name=name, initializer=begin, **(attributes or {}))
        return paddle.create_parameter(list(array.shape), str(array.dtype), attr=attr)


class StaticOfPaddle(Static):
    """The same with Paddle's own optimizer."""

    library = PADDLE


class Adopting(Static):
    """The same with an optimizer that is made without parameters."""

    def __init__(self, cls: str, settings: Mapping[str, Any], *arguments: Any) -> None:
        super().__init__(cls, {**settings, "parameters": None}, *arguments)


def same_bits(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].tobytes() == b[n].tobytes() and a[n].dtype == b[n].dtype for n in a
    )


def agree(static: Static, dynamic: Dynamic, steps: range = STEPS) -> None:
    """Steps both, and compares the bits of parameters and states."""
    for step in steps:
        before = static.values()
        static.advance(step)
        dynamic.advance(step)
        assert same_bits(static.values(), dynamic.values()), step
        assert not same_bits(static.values(), before)
        assert static.optimizer.last_grad_norm == dynamic.optimizer.last_grad_norm
    ours, theirs = static.optimizer.state_dict(), dynamic.optimizer.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == theirs[key].tobytes(), key
        else:
            assert value == theirs[key], key


def pair(*arguments: Any, **options: Any) -> tuple[Static, Dynamic]:
    return Static(*arguments, **options), Dynamic(*arguments, **options)


# The bits of dynamic mode.


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("cls", CLASSES)
def test_every_optimizer_has_the_bits_of_dynamic_mode(cls: str, dtype: str) -> None:
    others = FAMILIES[cls].options if cls in FAMILIES else {}
    for settings in (CLASSES[cls], CLASSES[cls] | others):
        agree(*pair(cls, settings, dtype))


CLIPS = {
    "value": Made("ClipGradByValue", 0.5),
    "norm": Made("ClipGradByNorm", 0.5),
    "global norm": Made("ClipGradByGlobalNorm", 1.5),
    "skipping": Made("ClipGradByGlobalNorm", 1.5, auto_skip_clip=True),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("cls", ["SGD", "AdamW", "Lamb"])
def test_clips(cls: str, clip: str) -> None:
    agree(*pair(cls, CLASSES[cls] | {"grad_clip": CLIPS[clip]}, "float32"))


@pytest.mark.parametrize("cls", FAMILIES)
def test_groups(cls: str) -> None:
    family = FAMILIES[cls]
    clip = Made("ClipGradByValue", 0.75)
    rows = groups(family, family.names, clip, {})
    agree(*pair(cls, family.base, "float32", family.names, groups=rows))


@pytest.mark.parametrize("decay", ["L1Decay", "L2Decay"])
def test_weight_decay_and_the_attributes_of_parameters(decay: str) -> None:
    static, dynamic = (
        made(
            "Momentum",
            CLASSES["Momentum"]
            | {"weight_decay": 0.25, "grad_clip": Made("ClipGradByGlobalNorm", 1.5)},
            "float32",
            attributes={
                "row": {"regularizer": getattr(paddle.regularizer, decay)(0.5)},
                "matrix": {"need_clip": False},
                "big": {"learning_rate": 0.5},
            },
        )
        for made in (Static, Dynamic)
    )
    agree(static, dynamic)
    with_row = static.optimizer.parameters[2]
    assert with_row.regularizer == getattr(roofstep, decay)(0.5) or with_row.regularizer.coeff == 0.5
    assert [p.need_clip for p in static.optimizer.parameters] == [True, True, True, False, True]
    assert [p.learning_rate for p in static.optimizer.parameters] == [1, 1, 1, 1, 0.5]
