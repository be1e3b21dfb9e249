"""Static graphs: the methods of an optimizer where the loss or the pairs are of a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from roofstep.gradients import as_row
from roofstep.paddle.static import operators
from roofstep.paddle.static.errors import raise_step_errors
from roofstep.paddle.static.operators import Pair
from roofstep.paddle.static.parameter import StaticParameter, Value, dtype_of
from roofstep.parameter import Parameter

if TYPE_CHECKING:
    from roofstep.optimizer import Optimizer

__all__ = [
    "Update",
    "apply_gradients",
    "as_parameter",
    "backward",
    "minimize",
    "raise_step_errors",
]


def as_parameter(value: Value) -> StaticParameter:
    """A value among the ``parameters`` of an optimizer."""
    _require_value("parameters", value)
    if not _is_named(value):
        raise ValueError(
            f"parameters: expected parameters of a program, got the value {value}; name those of "
            f"its layers, as in parameters=layer.parameters()"
        )
    return StaticParameter(value)


class Written:
    """The parameters of an `Update`, with a sentence for who tries to fetch it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __repr__(self) -> str:
        return ", ".join(self.names)

    def __str__(self) -> str:  # Paddle begins its message with it
        return (
            "What minimize() returned is in fetch_list, and cannot be fetched. Every "
            "Executor.run() of the program makes the update; fetch values, as in "
            f"fetch_list=[loss]. Update({self!r})"
        )


class Update(tuple[Written]):
    """What stands for the operators that `minimize` has put into a program; it is not fetched.

    It is a tuple, as a list of results may hold one: what Paddle then refuses, and names, is what
    is in it.
    """

    __slots__ = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the parameters."""
        return self[0].names

    def __repr__(self) -> str:
        return f"Update({self[0]!r})"

    def __str__(self) -> str:
        return str(self[0])


def minimize(
    optimizer: Optimizer, loss: Value, startup_program: Any, parameters: Any, no_grad_set: Any
) -> tuple[list[Update], list[Pair]]:
    """Put the update into the program of a loss; see `roofstep.Optimizer.minimize`.

    Example:
        >>> import numpy as np, paddle, roofstep
        >>> paddle.enable_static()
        >>> main, startup = paddle.static.Program(), paddle.static.Program()
        >>> with paddle.static.program_guard(main, startup):
        ...     x = paddle.static.data("x", [None, 2])
        ...     loss = paddle.nn.Linear(2, 1)(x).square().mean()
        ...     optimizer = roofstep.Adam(0.1)
        ...     operators, params_grads = optimizer.minimize(loss)
        >>> executor = paddle.static.Executor()
        >>> executor.run(startup)
        []
        >>> feed = {"x": np.ones((4, 2), "float32")}
        >>> losses = [executor.run(main, feed, [loss])[0].item() for _ in range(50)]
        >>> losses[-1] < 0.1 * losses[0]
        True
        >>> paddle.disable_static()
    """
    pairs = backward(optimizer, loss, startup_program, parameters, no_grad_set, None)
    return _apply(optimizer, pairs, startup_program), pairs


def backward(
    optimizer: Optimizer,
    loss: Value,
    startup_program: Any,
    parameters: Any,
    no_grad_set: Any,
    callbacks: Any,
) -> list[Pair]:
    """See `roofstep.Optimizer.backward`."""
    _require_value("loss", loss)
    if int(np.prod(loss.shape)) != 1:
        raise ValueError(
            f"loss: expected one element, got shape {[*loss.shape]}; take its mean() or sum()"
        )
    if callbacks is not None:
        raise ValueError(
            f"callbacks: expected None, got {callbacks!r}; Paddle's programs call none, leave it "
            f"out"
        )
    program = loss.block.program
    left_out = as_row("no_grad_set", no_grad_set) or []
    chosen = _chosen(optimizer, program, parameters, left_out)
    kept = [which for which in left_out if isinstance(which, paddle.pir.Value)]
    with paddle.static.program_guard(program, startup_program):
        pairs = paddle.static.append_backward(loss, chosen, {*kept} or None)
    found = [(value, gradient) for value, gradient in pairs if gradient is not None]
    if not found:
        raise ValueError(
            "loss: it depends on no parameter that is to be updated; minimize what follows from one"
        )
    return found


def apply_gradients(optimizer: Optimizer, params_grads: Iterable[Pair]) -> list[Update]:
    """See `roofstep.Optimizer.apply_gradients`."""
    return _apply(optimizer, params_grads, None)


def _chosen(
    optimizer: Optimizer, program: Any, parameters: Any, left_out: list[Any]
) -> list[Value]:
    """The parameters of the program that are to be updated."""
    # As they were made, which is the order of a layer's parameters; a program has the last first.
    values = reversed(program.global_block().all_parameters())
    there = {value.name: value for value in values}

    def name(argument: str, which: Any) -> str:
        if not isinstance(which, str):
            which = which.name if isinstance(which, Parameter) or _is_named(which) else repr(which)
        if which not in there:
            raise ValueError(
                f"{argument}: {which!r} is no parameter of the program of this loss, which has "
                f"{', '.join(there)}"
            )
        return str(which)

    if parameters is not None:
        given = [name("parameters", which) for which in as_row("parameters", parameters) or ()]
    elif _adopts(optimizer):
        given = [*there]
    else:
        given = [known for known in optimizer._parameters if known in there]
    kept = {
        name("no_grad_set", which)
        for which in left_out
        if not isinstance(which, paddle.pir.Value) or _is_named(which)
    }
    chosen = [there[n] for n in given if n not in kept and not there[n].stop_gradient]
    if not chosen:
        raise ValueError(
            "no parameter of the program of this loss is left to be updated; name some in "
            "`parameters`, fewer in `no_grad_set`, or make some trainable"
        )
    return chosen


def _is_named(which: Any) -> bool:
    """Whether this is a parameter of a program, or another value that it keeps by name."""
    return isinstance(which, paddle.pir.Value) and which.persistable and which.has_name


def _adopts(optimizer: Optimizer) -> bool:
    """Whether the optimizer was made without parameters, and takes those that minimize finds."""
    return all(isinstance(p, StaticParameter) and p.adopted for p in optimizer.parameters)


def _apply(
    optimizer: Optimizer, params_grads: Iterable[Pair], startup_program: Any
) -> list[Update]:
    pairs: list[Pair] = []
    for value, gradient in params_grads:
        if gradient is not None:
            _require_value("params_grads", value)
            _require_value("params_grads", gradient)
            pairs.append((value, gradient))
    if not pairs:
        raise ValueError("params_grads: expected a pair with a gradient, got none; name some")
    _take_on(optimizer, [value for value, _ in pairs])
    names = [value.name for value, _ in pairs]
    program = pairs[0][0].block.program
    with paddle.static.program_guard(program, startup_program):
        operators.put_step(optimizer, pairs)
        operators.put_watch(optimizer, paddle.static.default_startup_program(), names)
    return [Update([Written(names)])]


def _take_on(optimizer: Optimizer, values: list[Value]) -> None:
    """Lets the optimizer have these parameters; refuses what is not one of its own."""
    known, adopts = optimizer._parameters, _adopts(optimizer)
    new, seen = [], set()
    for value in values:
        if value.name in seen:
            raise ValueError(f"parameter {value.name!r} has two gradients; add them up first")
        seen.add(value.name)
        own = known.get(value.name)
        if own is None and adopts:
            new.append(StaticParameter(value, adopted=True))
        elif own is None:
            raise ValueError(
                f"{value.name!r} is no parameter of this optimizer; name one of those that it was "
                f"given: {', '.join(known)}"
            )
        elif not isinstance(own, StaticParameter):
            raise ValueError(
                f"parameter {value.name!r} of this optimizer is a tensor outside of the program; "
                f"make an optimizer for the program's"
            )
        elif ([*own.array.shape], own.array.dtype) != ([*value.shape], dtype_of(value)):
            raise ValueError(
                f"parameter {value.name!r}: expected {own.array.dtype} of shape "
                f"{own.array.shape}, as in the program before, got {dtype_of(value)} of "
                f"shape {(*value.shape,)}; make an optimizer for each program"
            )
    if new:
        optimizer.add_param_group({"params": new})


def _require_value(name: str, value: Any) -> None:
    if not isinstance(value, paddle.pir.Value):
        legacy = paddle.base.framework.Variable in type(value).__mro__
        remedy = (
            "leave the environment variable FLAGS_enable_pir_api at 1"
            if legacy
            else "build it in the program, after paddle.enable_static()"
        )
        raise TypeError(
            f"{name}: expected values of a program in Paddle's present IR (PIR), got a "
            f"{type(value).__name__}{' of its former IR' if legacy else ''}; {remedy}"
        )
