"""Static graphs: minimize puts one operator into a program, and its runs step the optimizer."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import paddle

from roofstep import _core, checks
from roofstep.gradients import as_row
from roofstep.parameter import ParamAttr, Parameter
from roofstep.regularizer import as_regularizer

if TYPE_CHECKING:
    from roofstep.optimizer import Optimizer

Array = np.ndarray[Any, Any]
Value = Any  # paddle.pir.Value, of which nothing is kept: one whose program is gone ends a process
Pair = tuple[Value, Value]

_log = logging.getLogger("roofstep.paddle")

# Paddle runs operators in threads of its own, several at a time, and its mode is the process's.
_turn = threading.Lock()


class StaticParameter(Parameter):
    """A parameter of a static program, as an optimizer knows it: by its name.

    `Optimizer.minimize` makes them, or an optimizer of the values among its ``parameters``. Its
    settings are those that Paddle's ParamAttr gave it; later changes are made here.

    Args:
        value: the parameter in a program.
        adopted: whether minimize has found it, and may find more.

    Attributes:
        data: the tensor in the scope, as the last run had it; zeros before the first run.

    Raises:
        ValueError: it is neither float32 nor float64.
    """

    __slots__ = ("_at", "_initialised_at", "_scope", "adopted")

    def __init__(self, value: Value, adopted: bool = False) -> None:
        name, dtype = value.name, str(value.dtype).rpartition(".")[2].lower()
        if dtype not in ("float32", "float64"):
            raise ValueError(
                f"parameter {name!r}: expected dtype float32 or float64, got {dtype}; make it of "
                f"one of these"
            )
        self._attr = ParamAttr(
            name=name,
            learning_rate=value.optimize_attr["learning_rate"],
            regularizer=as_regularizer(f"regularizer of {name!r}", value.regularizer),
            need_clip=value.need_clip is not False,
            trainable=not value.stop_gradient,
        )
        self.data = np.zeros(value.shape, dtype)
        self.adopted = adopted
        self._at: int | None = None  # where the tensor lay in the last run
        self._initialised_at: int | None = None  # where a startup program has since put another
        self._scope: Any = None  # where it is, if that was the global scope in the last run

    @property
    def grad(self) -> NoReturn:  # type: ignore[override]
        """There is none: a gradient passes by within a run."""
        raise RuntimeError(
            f"parameter {self.name!r} is of a static program, where gradients exist in a run "
            f"alone; call minimize(loss) once, then Executor.run() for every step"
        )

    @property
    def array(self) -> Array:
        """A NumPy array over the memory in the scope; zeros before the first run."""
        return _core.as_numpy(self.data, str(self.name))

    @property
    def live(self) -> Array:
        """The same; refuses if it is not the memory that the next run will use."""
        if self._at is None or (self._scope and _pointer(self._scope, self.name) != self._at):
            raise RuntimeError(
                f"parameter {self.name!r} has other memory since its last step, or had none yet; "
                f"run its program first"
            )
        return self.array

    def as_own(self, array: Array) -> Any:
        """A tensor over the array's memory, for a user's clip or regularizer."""
        return paddle.from_dlpack(array)

    def check(self, tensor: Any) -> None:
        """Refuses a tensor that the states of this parameter do not belong to."""
        at = tensor.data_ptr()
        if self._at in (None, at) or self._initialised_at == at:
            return
        if self._scope is None or _pointer(self._scope, self.name) != at:
            raise RuntimeError(
                f"parameter {self.name!r} was stepped in another scope before, and its states "
                f"belong to the values there; run the startup program in this scope, so that it "
                f"begins anew, or build a program with an optimizer of its own for each scope"
            )

    def take(self, tensor: Any) -> bool:
        """Is over this tensor from now on; returns whether its states begin anew."""
        at = tensor.data_ptr()
        begins = self._at is not None and self._initialised_at == at
        if at != self._at:
            scope = paddle.static.global_scope()
            self._scope = scope if _pointer(scope, self.name) == at else None
        self.data, self._at, self._initialised_at = tensor, at, None
        return begins

    def initialised(self, tensor: Any) -> None:
        """Remembers that a startup program has filled this tensor."""
        self._initialised_at = tensor.data_ptr()

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"copy: expected parameters that have a value of their own, got {self.name!r}, which "
            f"is of a static program; save state_dict(), and load it into another optimizer"
        )


def as_parameter(value: Value) -> StaticParameter:
    """A value among the ``parameters`` of an optimizer."""
    _require_value("parameters", value)
    if not value.has_name or not value.persistable:
        raise ValueError(
            f"parameters: expected parameters of a program, got the value {value}; name those of "
            f"its layers, as in parameters=layer.parameters()"
        )
    return StaticParameter(value)


def _pointer(scope: Any, name: str | None) -> int | None:
    """Where the parameter of this name lies in a scope."""
    found = scope.find_var(name)
    return None if found is None else int(found.get_tensor()._ptr())


class Update:
    """What stands for the operators that `minimize` has put into a program; it is not fetched."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __repr__(self) -> str:
        return f"Update({', '.join(self.names)})"

    def __str__(self) -> str:  # Paddle begins its message with it
        return (
            "What minimize() returned is in fetch_list, and cannot be fetched. Every "
            "Executor.run() of the program makes the update; fetch values, as in "
            f"fetch_list=[loss]. {self!r}"
        )


# The methods of an optimizer, where the loss or the pairs are of a program.


def minimize(
    optimizer: Optimizer, loss: Value, startup_program: Any, parameters: Any, no_grad_set: Any
) -> tuple[list[Update], list[Pair]]:
    """See `roofstep.Optimizer.minimize`."""
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
    chosen = _chosen(optimizer, program, parameters, no_grad_set)
    kept = [which for which in as_row("no_grad_set", no_grad_set) or () if not _is_name(which)]
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


def _chosen(optimizer: Optimizer, program: Any, parameters: Any, no_grad_set: Any) -> list[Value]:
    """The parameters of the program that are to be updated."""
    # As they were made, which is the order of a layer's parameters; a program has the last first.
    values = reversed(program.global_block().all_parameters())
    there = {value.name: value for value in values}

    def names(argument: str, row: Any) -> list[str]:
        found = [
            which if isinstance(which, str) else which.name
            for which in as_row(argument, row) or ()
            if _is_name(which) or which.persistable
        ]
        for name in found:
            if name not in there:
                raise ValueError(
                    f"{argument}: {name!r} is no parameter of the program of this loss, which has "
                    f"{', '.join(there)}"
                )
        return found

    given = names("parameters", parameters)
    if parameters is None:
        given = [*there] if _adopts(optimizer) else [n for n in optimizer._parameters if n in there]
    kept = {*names("no_grad_set", no_grad_set)}
    chosen = [there[n] for n in given if n not in kept and not there[n].stop_gradient]
    if not chosen:
        raise ValueError(
            "no parameter of the program of this loss is left to be updated; name some in "
            "`parameters`, fewer in `no_grad_set`, or make some trainable"
        )
    return chosen


def _is_name(which: Any) -> bool:
    return isinstance(which, (str, Parameter))


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
        _put_step(_Step(optimizer, names), pairs)
        _put_watch(optimizer, paddle.static.default_startup_program(), names)
    return [Update(names)]


def _take_on(optimizer: Optimizer, values: list[Value]) -> None:
    """Lets the optimizer have these parameters; refuses what is not one of its own."""
    known, adopts = optimizer._parameters, _adopts(optimizer)
    new, seen = [], set()
    for value in values:
        if value.name in seen:
            raise ValueError(f"parameter {value.name!r} has two gradients; add them up first")
        seen.add(value.name)
        own = known.get(value.name)
        made = StaticParameter(value, adopted=True)
        if own is None and adopts:
            new.append(made)
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
        elif (own.array.shape, own.array.dtype) != (made.data.shape, made.data.dtype):
            raise ValueError(
                f"parameter {value.name!r}: expected {own.array.dtype} of shape "
                f"{own.array.shape}, as in the program before, got {made.data.dtype} of "
                f"shape {made.data.shape}; make an optimizer for each program"
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


# The operators.


def _put_operator(
    call: Any, infer: Any, kind: str, inputs: Sequence[Value], outputs: int
) -> list[Value]:
    made: list[Value] = paddle._C_ops._run_python_op(
        *inputs,
        name=paddle.utils.unique_name.generate(f"roofstep_{kind}"),
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


def _put_step(step: _Step, pairs: list[Pair]) -> None:
    """One operator for all parameters, after all that reads them before and before what follows.

    An operator in place, of which Paddle knows that it writes, waits for those that read a
    parameter: nothing is done to it on the way in, and it is assigned to itself on the way out.
    """
    ready = [paddle._C_ops.reshape_(value, [*value.shape]) for value, _ in pairs]
    gradients = [gradient for _, gradient in pairs]
    infer = functools.partial(_like, len(pairs))
    done = _put_operator(step, infer, "step", [*ready, *gradients], len(pairs))
    for (value, _), written in zip(pairs, done, strict=True):
        paddle._C_ops.assign_out_(written, value)


def _put_watch(optimizer: Optimizer, startup: Any, names: Sequence[str]) -> None:
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

    What has been loaded for parameters that have never been stepped stays.
    """

    def __init__(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        self._optimizer, self._names = optimizer, names

    def __call__(self, *tensors: Any) -> Any:
        with _turn:
            for name, tensor in zip(self._names, tensors, strict=True):
                _own(self._optimizer, name).initialised(tensor)
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
                _errors[:] = [error]
                _log.error("the step of %r failed in a run: %s", self._optimizer, error)
                raise
        self._optimizer.last_error = None
        return tensors[:count] if count > 1 else tensors[0]

    def _step(self, tensors: Sequence[Any], gradients: Mapping[str, Any]) -> None:
        optimizer = self._optimizer
        rows = [(n, _own(optimizer, n), t) for n, t in zip(self._names, tensors, strict=True)]
        for _, parameter, tensor in rows:
            parameter.check(tensor)
        anew = {name for name, parameter, tensor in rows if parameter.take(tensor)}
        if anew:
            _begin_anew(optimizer, anew)
        optimizer._step(tuple(gradients.get(name) for name in optimizer._parameters))


def _own(optimizer: Optimizer, name: str) -> StaticParameter:
    parameter = optimizer._parameters[name]
    assert isinstance(parameter, StaticParameter)
    return parameter


def _begin_anew(optimizer: Optimizer, names: set[str]) -> None:
    """Forgets what the steps so far have left of these parameters."""
    with optimizer._alone:
        for i, name in enumerate(optimizer._parameters):
            if name in names:
                optimizer._states.pop(name, None)
                optimizer._counts[i], optimizer._numbers[i] = 0, 1
        optimizer._plan = None


# Errors in a run.

_errors: list[BaseException] = []  # that of the last step that failed
_of_paddle = paddle.static.Executor.run


@functools.wraps(_of_paddle)
def _run(*arguments: Any, **options: Any) -> Any:
    _errors.clear()
    try:
        return _of_paddle(*arguments, **options)
    except SystemError:
        if not _errors:
            raise
        error = _errors.pop()
    raise error


def raise_step_errors(enabled: bool = True) -> None:
    """Let ``Executor.run`` raise the error of a step as itself.

    Paddle makes a SystemError of it, which has neither its text nor its cause. The error itself is
    logged (``roofstep.paddle``) and is ``optimizer.last_error`` in either case. This replaces the
    method ``paddle.static.Executor.run`` by one that calls it, for the whole process.

    Args:
        enabled: False puts Paddle's method back. Default True.

    Raises:
        TypeError: ``enabled`` is no bool.
        RuntimeError: something else has replaced the method since.

    Example:
        >>> import paddle, roofstep.paddle
        >>> roofstep.paddle.raise_step_errors()
        >>> roofstep.paddle.raise_step_errors(False)
    """
    old, new = (_of_paddle, _run) if checks.flag("enabled", enabled) else (_run, _of_paddle)
    if paddle.static.Executor.run not in (old, new):
        raise RuntimeError(
            f"Executor.run: expected Paddle's own method or ours, got "
            f"{paddle.static.Executor.run!r}; take that back first"
        )
    paddle.static.Executor.run = new
