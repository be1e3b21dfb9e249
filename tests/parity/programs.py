"""Runs in Paddle's static graphs, and on its tensors, that are fed the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import roofstep
from harness import PADDLE, SHAPES, Array, Paddles, Run, paddle
from harness import gradients as some_or_none


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

    give = staticmethod(Paddles.give)
    value = staticmethod(Paddles.value)


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
