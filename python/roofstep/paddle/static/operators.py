"""The operators that are put into programs, and what is done when Paddle runs them."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Sequence
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

_numbers = itertools.count()


def put_step(optimizer: Optimizer, pairs: list[Pair]) -> None:
    """One operator for all parameters, after all that reads them before and before what follows.

    Of an operator in place Paddle knows that it writes, and lets it wait for those that read. So
    each parameter is reshaped to its shape on the way in, and assigned to itself on the way out.
    """
    ready = [paddle._C_ops.reshape_(value, [*value.shape]) for value, _ in pairs]
    step = _Step("step", optimizer, [value.name for value, _ in pairs])
    done = _put(step, [*ready, *(gradient for _, gradient in pairs)])
    for (value, _), written in zip(pairs, done, strict=True):
        paddle._C_ops.assign_out_(written, value)
    for value in (*ready, *done):
        value.stop_gradient = True  # or the next backward pass of the program would ask for theirs


def put_watch(optimizer: Optimizer, startup: Any, names: Sequence[str]) -> None:
    """An operator in the startup program by which the optimizer learns of new beginnings."""
    filled = {
        operator.attrs()["parameter_name"]: operator.operand_source(0)
        for operator in startup.global_block().ops
        if operator.name() == "builtin.set_parameter"
    }
    watched = [name for name in names if name in filled]
    if watched:
        with paddle.static.program_guard(startup):
            _put(_Watch("watch", optimizer, watched), [filled[name] for name in watched])


def _put(call: _Call, inputs: Sequence[Value]) -> list[Value]:
    made: list[Value] = paddle._C_ops._run_python_op(
        *inputs,
        name=call.operator,
        input_names=[f"in{i}" for i in range(len(inputs))],
        output_names=[f"out{i}" for i in range(call.outputs)],
        attrs={"infer_meta_fn_ptr": call.infer, "fn_ptr": call},
        inplace_map={},  # which would end the process
    )
    return made


class _Call:
    """What Paddle calls for an operator; its outputs are its first inputs, as they are.

    Args:
        kind: what the operator does.
        optimizer: whose parameters the inputs are.
        names: theirs, in the order of the inputs.

    Attributes:
        operator: its name, of which Paddle knows one function alone, and which its errors have.
        outputs: how many it has.
    """

    def __init__(self, kind: str, optimizer: Optimizer, names: Sequence[str]) -> None:
        self.operator = f"roofstep_{kind}_{next(_numbers)}"
        self._optimizer, self._names = optimizer, names
        self.outputs = len(names)

    def __call__(self, *tensors: Any) -> Any:
        with _turn, paddle.base.dygraph.base.guard():
            try:
                self._act(tensors)
            except BaseException as error:
                self._optimizer.last_error = error
                errors.last[self.operator] = error
                _log.error("%r failed in a run", self._optimizer, exc_info=error)
                raise
            self._optimizer.last_error = None
            errors.last.pop(self.operator, None)
        return tensors[: self.outputs] if self.outputs > 1 else tensors[0]

    def infer(self, *tensors: Any) -> Any:
        """The shapes of the outputs; Paddle ends the process if this raises."""
        made = tuple(
            paddle.static.MetaTensor(shape=t.shape, dtype=t.dtype) for t in tensors[: self.outputs]
        )
        return made if self.outputs > 1 else made[0]

    def _act(self, tensors: Sequence[Any]) -> None:
        raise NotImplementedError

    def _own(self, name: str) -> StaticParameter:
        parameter = self._optimizer._parameters[name]
        assert isinstance(parameter, StaticParameter)
        return parameter

    def _begin_anew(self, parameters: Sequence[StaticParameter]) -> None:
        """Forgets what the steps so far have left of these."""
        if parameters:
            self._optimizer._alone.run(self._forget, parameters)

    def _forget(self, parameters: Sequence[StaticParameter]) -> None:
        optimizer = self._optimizer
        states = dict(optimizer._states)
        for i, (name, parameter) in enumerate(optimizer._parameters.items()):
            if parameter in parameters:
                states.pop(name, None)
                optimizer._counts[i], optimizer._numbers[i] = 0, 1
        vars(optimizer).update(_states=states, _plan=None)


class _Watch(_Call):
    """A startup program has filled parameters, and their states begin anew with them.

    In another scope than that of the last step they do when this is stepped. What was loaded before
    the first step stays.
    """

    def _act(self, tensors: Sequence[Any]) -> None:
        rows = zip(map(self._own, self._names), tensors, strict=True)
        self._begin_anew([parameter for parameter, tensor in rows if parameter.was_filled(tensor)])


class _Step(_Call):
    """A step by gradients, which follow the parameters, in the memory of the scope."""

    def _act(self, tensors: Sequence[Any]) -> None:
        optimizer, count = self._optimizer, len(self._names)
        gradients = dict(zip(self._names, tensors[count:], strict=True))
        rows = [*zip(map(self._own, self._names), tensors[:count], strict=True)]
        held = (bool(optimizer._states.get(name)) for name in self._names)
        self._begin_anew(
            [p for (p, tensor), has in zip(rows, held, strict=True) if p.is_new(tensor, has)]
        )
        try:
            for parameter, tensor in rows:
                parameter.enter(tensor)
            optimizer._step(tuple(gradients.get(name) for name in optimizer._parameters))
        finally:
            for parameter, _ in rows:
                parameter.leave()
