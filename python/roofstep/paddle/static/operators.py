"""The operators that are put into programs, and what is done when Paddle runs them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import paddle

from roofstep.paddle.static import errors
from roofstep.paddle.static.parameter import StaticParameter, Value

if TYPE_CHECKING:
    from roofstep.optimizer import Optimizer

Pair = tuple[Value, Value]

_log = logging.getLogger("roofstep.paddle")

# Paddle runs operators in threads of its own, several at a time, and its mode is the process's.
_turn = threading.Lock()


def _put_operator(
    call: Any, infer: Any, kind: str, inputs: Sequence[Value], outputs: int
) -> list[Value]:
    made: list[Value] = paddle._C_ops._run_python_op(
        *inputs,
        name=f"roofstep_{kind}_{len(inputs)}_{outputs}",  # Paddle keeps one arity for each name
        input_names=[f"in{i}" for i in range(len(inputs))],
        output_names=[f"out{i}" for i in range(outputs)],
        attrs={"infer_meta_fn_ptr": infer, "fn_ptr": call},
        inplace_map={},
    )
    return made


def _like(count: int, *tensors: Any) -> Any:
    """The shapes of an operator whose outputs are its first inputs; it must not raise."""
    made = tuple(paddle.static.MetaTensor(shape=t.shape, dtype=t.dtype) for t in tensors[:count])
    return made if count > 1 else made[0]


def put_step(optimizer: Optimizer, pairs: list[Pair]) -> None:
    """One operator for all parameters, after all that reads them before and before what follows.

    An operator in place, of which Paddle knows that it writes, waits for those that read a
    parameter: nothing is done to it on the way in, and it is assigned to itself on the way out.
    """
    ready = [paddle._C_ops.reshape_(value, [*value.shape]) for value, _ in pairs]
    gradients = [gradient for _, gradient in pairs]
    infer = functools.partial(_like, len(pairs))
    step = _Step(optimizer, [value.name for value, _ in pairs])
    done = _put_operator(step, infer, "step", [*ready, *gradients], len(pairs))
    for (value, _), written in zip(pairs, done, strict=True):
        paddle._C_ops.assign_out_(written, value)


def put_watch(optimizer: Optimizer, startup: Any, names: Sequence[str]) -> None:
    """An operator in the startup program by which the optimizer learns of new beginnings."""
    filled: dict[str, Value] = {}
    for operator in startup.global_block().ops:
        if operator.name() == "builtin.set_parameter":
            filled[operator.attrs()["parameter_name"]] = operator.operand_source(0)
    watched = [name for name in names if name in filled]
    if watched:
        with paddle.static.program_guard(startup):
            values = [filled[name] for name in watched]
            infer = functools.partial(_like, 1)
            _put_operator(_Watch(optimizer, watched), infer, "watch", values, 1)


class _Watch:
    """Called when a startup program has filled parameters: their states begin anew with them.

    In another scope than that of the last step they do when this is stepped. What was loaded before
    the first step stays.
    """

    def __init__(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        self._optimizer, self._names = optimizer, names

    def __call__(self, *tensors: Any) -> Any:
        with _turn:
            rows = zip(self._names, tensors, strict=True)
            filled = {n for n, t in rows if _own(self._optimizer, n).was_filled(t)}
            _begin_anew(self._optimizer, filled)
        return tensors[0]


class _Step:
    """Called in each run of a program: a step by these gradients, in the memory of the scope."""

    def __init__(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        self._optimizer, self._names = optimizer, names

    def __call__(self, *tensors: Any) -> Any:
        count = len(self._names)
        with _turn, paddle.base.dygraph.base.guard():
            try:
                self._step(tensors[:count], dict(zip(self._names, tensors[count:], strict=True)))
            except BaseException as error:
                self._optimizer.last_error = error
                errors.last[:] = [error]
                _log.error("the step of %r failed in a run", self._optimizer, exc_info=error)
                raise
        self._optimizer.last_error = None
        return tensors[:count] if count > 1 else tensors[0]

    def _step(self, tensors: Sequence[Any], gradients: Mapping[str, Any]) -> None:
        optimizer = self._optimizer
        rows = [(n, _own(optimizer, n), t) for n, t in zip(self._names, tensors, strict=True)]
        _begin_anew(optimizer, {n for n, parameter, tensor in rows if parameter.is_new(tensor)})
        for _, parameter, tensor in rows:
            parameter.take(tensor)
        optimizer._step(tuple(gradients.get(name) for name in optimizer._parameters))


def _own(optimizer: Optimizer, name: str) -> StaticParameter:
    parameter = optimizer._parameters[name]
    assert isinstance(parameter, StaticParameter)
    return parameter


def _begin_anew(optimizer: Optimizer, names: set[str]) -> None:
    """Forgets what the steps so far have left of these parameters."""
    if not names:
        return
    with optimizer._alone:
        for i, name in enumerate(optimizer._parameters):
            if name in names:
                optimizer._states.pop(name, None)
                optimizer._counts[i], optimizer._numbers[i] = 0, 1
        optimizer._plan = None
