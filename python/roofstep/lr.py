"""Learning-rate schedules: each gives the rate of an epoch as a closed formula of that epoch.

An epoch is one call of :meth:`LRScheduler.step`, be it a batch or a pass over the data. A schedule
knows nothing of the optimizer, which asks it for the rate. Since the rate follows from the epoch
alone, a schedule may jump (``step(epoch)``), stop and resume (``state_dict``), start anywhere
(``last_epoch``) and stand inside another one (:class:`LinearWarmup`, :class:`SequentialLR`). The
one with a memory is :class:`ReduceOnPlateau`, which follows a metric.

In the formulas ``e`` is the epoch, counted from 0, and ``lr`` is the argument ``learning_rate``.
Every rate is finite and >= 0. The last two arguments of a schedule are those of
:class:`LRScheduler`. An argument that does not fit raises TypeError (wrong kind) or ValueError
(wrong value), naming the argument and what it must be.

    >>> from roofstep import lr
    >>> scheduler = lr.LinearWarmup(lr.ExponentialDecay(0.8, gamma=0.5), 2, start_lr=0, end_lr=0.8)
    >>> lr.preview(scheduler, 5)
    [0.0, 0.4, 0.8, 0.4, 0.2]
    >>> scheduler.step()
    >>> scheduler()
    0.4
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, SupportsFloat

from roofstep import checks
from roofstep.types import Integer, Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ConstantLR",
    "CosineAnnealingDecay",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialDecay",
    "InverseSqrt",
    "InverseTimeDecay",
    "LRScheduler",
    "LambdaDecay",
    "LinearLR",
    "LinearWarmup",
    "MultiStepDecay",
    "MultiplicativeDecay",
    "NaturalExpDecay",
    "NoamDecay",
    "OneCycleLR",
    "PiecewiseDecay",
    "PolynomialDecay",
    "ReduceOnPlateau",
    "SequentialLR",
    "StepDecay",
    "WarmupStableDecay",
    "preview",
]

# The rates that a schedule may give.
RATE = "[0, inf)"


def _increasing(name: str, values: Iterable[Number]) -> tuple[Number, ...]:
    epochs = checks.sequence(name, values)
    for i, epoch in enumerate(epochs):
        checks.real(f"{name}[{i}]", epoch, "[0, inf)")
    if any(left >= right for left, right in pairwise(epochs)):
        raise ValueError(
            f"{name}: expected strictly increasing epochs, got {list(epochs)}; sort them, each once"
        )
    return epochs


def _metric(name: str, value: Any) -> float:
    """A real number, or the only element of an array or tensor of any library."""
    try:
        scalar = value if isinstance(value, Real) else value.item()
    except Exception:  # no array, or several elements: each library has its own error
        scalar = None
    if isinstance(scalar, bool) or not isinstance(scalar, Real):
        raise TypeError(
            f"{name}: expected a real number or an array of one element, got "
            f"{checks.shown(value)}; pass one, such as the mean loss, at each step of "
            "ReduceOnPlateau (a preview has none)"
        )
    return float(scalar)


# The base, and a look ahead.


class LRScheduler:
    """Base of all schedules; a subclass gives the rate of epoch ``self.last_epoch`` in `get_lr`.

    A subclass sets what `get_lr` needs before it calls ``super().__init__``, which ends with a
    first `step`: after construction ``last_epoch`` is the given one plus 1.

    Args:
        learning_rate: base rate, kept as ``base_lr``. Default 0.1.
        last_epoch: epoch before the first one, so that -1 starts at epoch 0. Default -1.
        verbose: print the rate at each step. Default False.

    Raises:
        TypeError: ``learning_rate`` is no real number, ``last_epoch`` no whole number.
        ValueError: ``learning_rate`` is negative, infinite or NaN, or ``last_epoch`` < -1.

    Example:
        >>> from roofstep import lr
        >>> class Halving(lr.LRScheduler):
        ...     def get_lr(self) -> float:
        ...         return self.base_lr / 2**self.last_epoch
        >>> scheduler = Halving(0.8)
        >>> scheduler()
        0.8
        >>> scheduler.step()
        >>> scheduler
        Halving(learning_rate=0.8, last_epoch=1)
        >>> scheduler.state_dict()
        {'last_epoch': 1, 'last_lr': 0.4}
    """

    base_lr: float
    last_lr: float
    last_epoch: int
    verbose: bool
    keys: list[str]

    def __init__(
        self, learning_rate: Number = 0.1, last_epoch: Integer = -1, verbose: bool = False
    ) -> None:
        self.base_lr = self.last_lr = checks.real("learning_rate", learning_rate, RATE)
        self.last_epoch = checks.whole("last_epoch", last_epoch, -1)
        self.verbose = checks.flag("verbose", verbose)
        self.step()

    def get_lr(self) -> Number:
        """Compute the rate of epoch ``self.last_epoch``; each schedule has its own formula."""
        raise NotImplementedError(f"{type(self).__name__}: define get_lr(self) -> float")

    def __call__(self) -> float:
        """Give the rate of the current epoch."""
        return self.last_lr

    def step(self, epoch: Integer | None = None) -> None:
        """Go to the next epoch, or straight to ``epoch``; one that is refused changes nothing."""
        before = self.last_epoch
        self.last_epoch = before + 1 if epoch is None else checks.whole("epoch", epoch, 0)
        try:
            self.last_lr = checks.real(f"{type(self).__name__}.get_lr()", self.get_lr(), RATE)
        except BaseException:
            self.last_epoch = before
            raise
        self._report()

    def _report(self) -> None:
        if self.verbose:
            name = type(self).__name__
            print(f"Epoch {self.last_epoch}: {name} set learning rate to {self.last_lr}.")

    def _go(self, epoch: int, metrics: SupportsFloat | None = None) -> None:
        """Step as an outer schedule asks for it: to `epoch`, with a metric for who follows one."""
        self.step(epoch)

    def _nested(self) -> dict[str, LRScheduler]:
        """Give the schedules inside this one under the names by which their states are saved."""
        return {}

    def state_keys(self) -> None:
        """Set ``self.keys``, the names of the attributes to save; override it to add some."""
        self.keys = ["last_epoch", "last_lr"]

    def state_dict(self) -> dict[str, Any]:
        """Give the state as plain data; the constructor's arguments are not part of it."""
        self.state_keys()
        state = {key: copy.deepcopy(getattr(self, key)) for key in self.keys}
        return state | {key: inner.state_dict() for key, inner in self._nested().items()}

    def set_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` gave, here or in Paddle.

        Raises:
            ValueError: entries are missing, unexpected or of a wrong kind: all are named, and
                nothing has changed.
        """
        faults: list[str] = []
        changes = self._read_state("", state_dict, faults)
        if faults:
            raise ValueError(
                f"state_dict: expected the state of a {type(self).__name__} with the same parts, "
                f"got another; {'; '.join(faults)}; load it into a scheduler built like its own"
            )
        for scheduler, values in changes:
            vars(scheduler).update(values)

    set_dict = set_state_dict

    def _read_state(
        self, path: str, state: object, faults: list[str]
    ) -> list[tuple[LRScheduler, dict[str, Any]]]:
        """Collect what loading would set, here and in nested schedules, and all that is wrong."""
        if not isinstance(state, Mapping):
            faults.append(f"{path or 'state_dict'}: expected a dict, got {checks.shown(state)}")
            return []
        self.state_keys()
        nested = self._nested()
        names = {key: f"{path}.{key}".lstrip(".") for key in (*self.keys, *nested, *state)}
        values: dict[str, Any] = {}
        changes: list[tuple[LRScheduler, dict[str, Any]]] = [(self, values)]
        for key, name in names.items():
            if key not in state:
                faults.append(f"{name} is missing")
            elif key not in (*self.keys, *nested):
                faults.append(f"{name} is unexpected")
            elif key in nested:
                changes += nested[key]._read_state(name, state[key], faults)
            else:
                try:
                    values[key] = self._read_value(key, name, state[key])
                except (TypeError, ValueError) as error:
                    faults.append(str(error))
        return changes

    def _read_value(self, key: str, name: str, value: Any) -> Any:
        if key == "last_epoch":
            return checks.whole(name, value, 0)
        if key == "last_lr":
            return checks.real(name, value, RATE)
        return copy.deepcopy(value)

    def plot(self, steps: Integer) -> Axes:
        """Draw :func:`preview` into pyplot's current axes and return them.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("plot needs matplotlib: pip install 'roofstep[demo]'") from error
        rates = preview(self, steps)
        axes = pyplot.gca()
        axes.plot(range(self.last_epoch, self.last_epoch + steps), rates, label=type(self).__name__)
        axes.set(xlabel="epoch", ylabel="learning rate")
        return axes

    def __repr__(self) -> str:
        """Show the constructor's arguments and the current epoch."""
        known = {"learning_rate": vars(self).get("base_lr"), **vars(self)}
        names = dict.fromkeys([*inspect.signature(type(self)).parameters, "last_epoch"])
        shown = [f"{n}={known[n]!r}" for n in names if n in known and n != "verbose"]
        return f"{type(self).__name__}({', '.join(shown)})"


def preview(scheduler: LRScheduler, steps: Integer) -> list[float]:
    """List the rates of ``steps`` epochs from the current one on, without moving ``scheduler``.

    Args:
        scheduler: any schedule but :class:`ReduceOnPlateau`, whose coming metrics are unknown.
        steps: number of epochs, >= 1.

    Raises:
        TypeError: ``scheduler`` is no LRScheduler, or comes to a ReduceOnPlateau, or ``steps`` is
            no int.
        ValueError: ``steps`` < 1, or the schedule ends earlier (:class:`OneCycleLR`).

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.StepDecay(0.8, step_size=2, gamma=0.5), 5)
        [0.8, 0.8, 0.4, 0.4, 0.2]
    """
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"scheduler: expected an LRScheduler, got {checks.shown(scheduler)}; "
            "pass one of roofstep.lr"
        )
    steps = checks.whole("steps", steps, 1)
    probe = copy.deepcopy(scheduler)
    _silence(probe)
    rates = [probe()]
    for epoch in range(probe.last_epoch + 1, probe.last_epoch + steps):
        probe._go(epoch)
        rates.append(probe())
    return rates


def _silence(scheduler: LRScheduler) -> None:
    scheduler.verbose = False
    for inner in scheduler._nested().values():
        _silence(inner)


# The schedules, simple ones first.


class ConstantLR(LRScheduler):
    """The same rate for ever: ``lr``; a part for :class:`SequentialLR`.

    Args:
        learning_rate: the rate. Default 0.1.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: ``learning_rate`` is no real number in [0, inf).

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.ConstantLR(0.1), 3)
        [0.1, 0.1, 0.1]
    """

    def get_lr(self) -> float:
        return self.base_lr


class ExponentialDecay(LRScheduler):
    """Multiply by ``gamma`` at each epoch: ``lr * gamma**e``.

    Args:
        learning_rate: rate at epoch 0.
        gamma: factor per epoch, in (0, 1).
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no real number or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.ExponentialDecay(0.8, gamma=0.5), 4)
        [0.8, 0.4, 0.2, 0.1]
    """

    def __init__(
        self, learning_rate: Number, gamma: Number, last_epoch: Integer = -1, verbose: bool = False
    ) -> None:
        self.gamma = checks.real("gamma", gamma, "(0, 1)")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        return self.base_lr * self.gamma**self.last_epoch


class NaturalExpDecay(LRScheduler):
    """Decay exponentially: ``lr * exp(-gamma * e)``.

    Args:
        learning_rate: rate at epoch 0.
        gamma: decay per epoch, > 0.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no real number or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> [round(rate, 4) for rate in lr.preview(lr.NaturalExpDecay(0.5, gamma=0.1), 3)]
        [0.5, 0.4524, 0.4094]
    """

    def __init__(
        self, learning_rate: Number, gamma: Number, last_epoch: Integer = -1, verbose: bool = False
    ) -> None:
        self.gamma = checks.real("gamma", gamma, "(0, inf)")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        return self.base_lr * math.exp(-self.gamma * self.last_epoch)


class InverseTimeDecay(LRScheduler):
    """Decay with the inverse of time: ``lr / (1 + gamma * e)``.

    Args:
        learning_rate: rate at epoch 0.
        gamma: decay per epoch, >= 0.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no real number or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.InverseTimeDecay(0.5, gamma=1), 4)
        [0.5, 0.25, 0.16666666666666666, 0.125]
    """

    def __init__(
        self, learning_rate: Number, gamma: Number, last_epoch: Integer = -1, verbose: bool = False
    ) -> None:
        self.gamma = checks.real("gamma", gamma, "[0, inf)")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        return self.base_lr / (1 + self.gamma * self.last_epoch)


class LambdaDecay(LRScheduler):
    """Scale by a function of the epoch: ``lr * lr_lambda(e)``.

    Args:
        learning_rate: the rate that is scaled.
        lr_lambda: function from the epoch to a factor >= 0. It is not part of the state; pickle
            takes a function defined in a module, but no lambda.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: ``lr_lambda`` cannot be called, or the rate it leads to is no real number.
        ValueError: the rate it leads to is negative, infinite or NaN.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.LambdaDecay(0.5, lambda epoch: 0.5**epoch), 3)
        [0.5, 0.25, 0.125]
    """

    def __init__(
        self,
        learning_rate: Number,
        lr_lambda: Callable[[int], Number],
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.lr_lambda = checks.function("lr_lambda", lr_lambda, "lambda epoch: 0.9**epoch")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> Number:
        return self.base_lr * self.lr_lambda(self.last_epoch)


class MultiplicativeDecay(LRScheduler):
    """Multiply by a function at each epoch: ``lr * lr_lambda(1) * ... * lr_lambda(e)``.

    The product is taken anew at each step, so that jumps are right: a step costs ``e`` calls.

    Args:
        learning_rate: rate at epoch 0.
        lr_lambda: function from an epoch >= 1 to a factor >= 0; see :class:`LambdaDecay`.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: ``lr_lambda`` cannot be called, or the rate it leads to is no real number.
        ValueError: the rate it leads to is negative, infinite or NaN.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.MultiplicativeDecay(0.8, lambda epoch: 1 / epoch), 3)
        [0.8, 0.8, 0.4]
    """

    def __init__(
        self,
        learning_rate: Number,
        lr_lambda: Callable[[int], Number],
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.lr_lambda = checks.function("lr_lambda", lr_lambda, "lambda epoch: 0.9**epoch")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> Number:
        return math.prod(map(self.lr_lambda, range(1, self.last_epoch + 1)), start=self.base_lr)


class StepDecay(LRScheduler):
    """Multiply by ``gamma`` every ``step_size`` epochs: ``lr * gamma**(e // step_size)``.

    Args:
        learning_rate: rate at epoch 0.
        step_size: epochs between two changes, >= 1.
        gamma: factor of a change, in [0, 1). Default 0.1.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.StepDecay(0.8, step_size=2, gamma=0.5), 6)
        [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    """

    def __init__(
        self,
        learning_rate: Number,
        step_size: Integer,
        gamma: Number = 0.1,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.step_size = checks.whole("step_size", step_size, 1)
        self.gamma = checks.real("gamma", gamma, "[0, 1)")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        return self.base_lr * self.gamma ** (self.last_epoch // self.step_size)


class MultiStepDecay(LRScheduler):
    """Multiply by ``gamma`` at each milestone: ``lr * gamma**(number of milestones <= e)``.

    Args:
        learning_rate: rate before the first milestone.
        milestones: epochs of the changes, strictly increasing.
        gamma: factor of a change, in [0, 1). Default 0.1.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: an argument is no number, or ``milestones`` no sequence of them.
        ValueError: a number is outside its interval, or ``milestones`` do not increase.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.MultiStepDecay(0.8, milestones=[1, 3], gamma=0.5), 5)
        [0.8, 0.4, 0.4, 0.2, 0.2]
    """

    def __init__(
        self,
        learning_rate: Number,
        milestones: Iterable[Number],
        gamma: Number = 0.1,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.milestones = _increasing("milestones", milestones)
        self.gamma = checks.real("gamma", gamma, "[0, 1)")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        passed = sum(milestone <= self.last_epoch for milestone in self.milestones)
        return self.base_lr * self.gamma**passed


class PiecewiseDecay(LRScheduler):
    """Hold one value between two boundaries: ``values[number of boundaries <= e]``.

    Args:
        boundaries: epochs at which the next value begins, at least one, strictly increasing.
        values: the rates, one more than boundaries.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: an argument is no sequence of real numbers.
        ValueError: ``boundaries`` are empty or do not increase, or the number of ``values`` is
            another.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.PiecewiseDecay(boundaries=[2, 3], values=[0.3, 0.2, 0.1]), 5)
        [0.3, 0.3, 0.2, 0.1, 0.1]
    """

    def __init__(
        self,
        boundaries: Iterable[Number],
        values: Iterable[Number],
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.boundaries = _increasing("boundaries", boundaries)
        if not self.boundaries:
            raise ValueError("boundaries: expected at least one epoch, got []; or use ConstantLR")
        given = checks.sequence("values", values)
        if len(given) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: expected {len(self.boundaries) + 1}, one more than boundaries, got "
                f"{len(given)}; pass one before the first boundary and one from each boundary on"
            )
        self.values = tuple(checks.real(f"values[{i}]", rate, RATE) for i, rate in enumerate(given))
        super().__init__(self.values[0], last_epoch, verbose)

    def get_lr(self) -> float:
        return self.values[sum(bool(boundary <= self.last_epoch) for boundary in self.boundaries)]


class LinearLR(LRScheduler):
    """Go from one factor to another on a line, then stay.

    ``lr * (start_factor + (end_factor - start_factor) * min(e / total_steps, 1))``

    Args:
        learning_rate: the rate that is scaled.
        total_steps: epochs until the end of the line, >= 1.
        start_factor: factor at epoch 0, in (0, 1]. Default 1/3.
        end_factor: factor from ``total_steps`` on, in [0, 1]. Default 1.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.LinearLR(0.5, total_steps=2, start_factor=0.5), 4)
        [0.25, 0.375, 0.5, 0.5]
    """

    def __init__(
        self,
        learning_rate: Number,
        total_steps: Integer,
        start_factor: Number = 1.0 / 3,
        end_factor: Number = 1.0,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.total_steps = checks.whole("total_steps", total_steps, 1)
        self.start_factor = checks.real("start_factor", start_factor, "(0, 1]")
        self.end_factor = checks.real("end_factor", end_factor, "[0, 1]")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        part = min(self.last_epoch / self.total_steps, 1)
        return self.base_lr * (self.start_factor + (self.end_factor - self.start_factor) * part)


class PolynomialDecay(LRScheduler):
    """Go to ``end_lr`` along a power of the time left, then stay or, with ``cycle``, begin again.

    ``end_lr + (lr - end_lr) * (1 - min(e / D, 1))**power`` with ``D = decay_steps``; with ``cycle``
    D grows to the first multiple of ``decay_steps`` that is >= e.

    Args:
        learning_rate: rate at epoch 0.
        decay_steps: epochs until ``end_lr`` is reached, >= 1.
        end_lr: rate at the end. Default 0.0001.
        power: exponent, > 0. Default 1, a line.
        cycle: begin again, lower, after each ``decay_steps`` epochs. Default False.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.PolynomialDecay(0.5, decay_steps=2, end_lr=0, power=2), 4)
        [0.5, 0.125, 0.0, 0.0]
    """

    def __init__(
        self,
        learning_rate: Number,
        decay_steps: Integer,
        end_lr: Number = 0.0001,
        power: Number = 1.0,
        cycle: bool = False,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.decay_steps = checks.whole("decay_steps", decay_steps, 1)
        self.end_lr = checks.real("end_lr", end_lr, RATE)
        self.power = checks.real("power", power, "(0, inf)")
        self.cycle = checks.flag("cycle", cycle)
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        cycles = max(1, math.ceil(self.last_epoch / self.decay_steps)) if self.cycle else 1
        left = 1 - min(self.last_epoch / (self.decay_steps * cycles), 1)
        return (self.base_lr - self.end_lr) * math.pow(left, self.power) + self.end_lr


class CosineAnnealingDecay(LRScheduler):
    """Swing between the rate and ``eta_min`` along a cosine of period ``2 * T_max``.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * e / T_max)) / 2``

    Source: the cosine of SGDR (Loshchilov and Hutter, 2017), arXiv:1608.03983, without restarts.

    Args:
        learning_rate: rate at epoch 0.
        T_max: epochs until ``eta_min`` is reached, >= 1.
        eta_min: rate at ``T_max``. Default 0.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.CosineAnnealingDecay(0.5, T_max=2), 3)
        [0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        learning_rate: Number,
        T_max: Integer,
        eta_min: Number = 0,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.T_max = checks.whole("T_max", T_max, 1)
        self.eta_min = checks.real("eta_min", eta_min, RATE)
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        wave = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return self.eta_min + (self.base_lr - self.eta_min) * wave


class InverseSqrt(LRScheduler):
    """Rise from 0 on a line, then fall with the inverse square root of time.

    ``lr * min(e / W, sqrt(W / e))`` with ``W = warmup_steps``: the shape of :class:`NoamDecay`,
    with the highest rate given outright.

    Source: Attention is all you need (Vaswani et al., 2017), arXiv:1706.03762.

    Args:
        learning_rate: highest rate, at epoch ``warmup_steps``.
        warmup_steps: epochs of the rise, >= 1.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.InverseSqrt(0.5, warmup_steps=1), 5)[::2]
        [0.0, 0.3535533905932738, 0.25]
    """

    def __init__(
        self,
        learning_rate: Number,
        warmup_steps: Integer,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.warmup_steps = checks.whole("warmup_steps", warmup_steps, 1)
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        if self.last_epoch < self.warmup_steps:
            return self.base_lr * self.last_epoch / self.warmup_steps
        return self.base_lr * math.sqrt(self.warmup_steps / self.last_epoch)


class NoamDecay(InverseSqrt):
    """Rise on a line, then fall with the inverse square root of time, scaled by the model's width.

    ``lr * d_model**-0.5 * min(e**-0.5, e * warmup_steps**-1.5)``, and 0 at epoch 0

    Source: Attention is all you need (Vaswani et al., 2017), arXiv:1706.03762.

    Args:
        d_model: width of the model, >= 1.
        warmup_steps: epochs of the rise, >= 1.
        learning_rate: scale of the whole. Default 1.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.NoamDecay(d_model=4, warmup_steps=4), 6)[::4]
        [0.0, 0.25]
    """

    def __init__(
        self,
        d_model: Integer,
        warmup_steps: Integer,
        learning_rate: Number = 1.0,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.d_model = checks.whole("d_model", d_model, 1)
        super().__init__(learning_rate, warmup_steps, last_epoch, verbose)

    def get_lr(self) -> float:
        return super().get_lr() / math.sqrt(self.d_model * self.warmup_steps)


class WarmupStableDecay(LRScheduler):
    """Rise from 0 on a line, hold, then fall to ``end_lr`` and stay there.

    ``lr * e / W`` while e < W; ``lr`` while e < W + S;
    then ``end_lr + (lr - end_lr) * (1 - x**power)`` with ``x = min((e - W - S) / D, 1)``,
    where W, S, D are ``warmup_steps``, ``stable_steps``, ``decay_steps``.

    Source: MiniCPM (Hu et al., 2024), arXiv:2404.06395; power 0.5 is the "1-sqrt" of Hägele et
    al. (2024), arXiv:2405.18392.

    Args:
        learning_rate: rate that is held.
        warmup_steps: epochs of the rise, >= 0.
        stable_steps: epochs held, >= 0.
        decay_steps: epochs of the fall, >= 1.
        end_lr: rate after the fall. Default 0.
        power: shape of the fall, > 0. Default 1, a line.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.WarmupStableDecay(0.5, 2, 1, 2), 7)
        [0.0, 0.25, 0.5, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(
        self,
        learning_rate: Number,
        warmup_steps: Integer,
        stable_steps: Integer,
        decay_steps: Integer,
        end_lr: Number = 0.0,
        power: Number = 1.0,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.warmup_steps = checks.whole("warmup_steps", warmup_steps, 0)
        self.stable_steps = checks.whole("stable_steps", stable_steps, 0)
        self.decay_steps = checks.whole("decay_steps", decay_steps, 1)
        self.end_lr = checks.real("end_lr", end_lr, RATE)
        self.power = checks.real("power", power, "(0, inf)")
        super().__init__(learning_rate, last_epoch, verbose)

    def get_lr(self) -> float:
        if self.last_epoch < self.warmup_steps:
            return self.base_lr * self.last_epoch / self.warmup_steps
        falling = max(self.last_epoch - self.warmup_steps - self.stable_steps, 0)
        left = 1 - math.pow(min(falling / self.decay_steps, 1), self.power)
        return (self.base_lr - self.end_lr) * left + self.end_lr


class CosineAnnealingWarmRestarts(LRScheduler):
    """Fall to ``eta_min`` along half a cosine, again and again, each time ``T_mult`` times longer.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * t / T)) / 2``, where ``t`` epochs have passed of the
    current run of ``T`` epochs; the runs last ``T_0, T_0 * T_mult, T_0 * T_mult**2, ...``

    Source: SGDR (Loshchilov and Hutter, 2017), arXiv:1608.03983.

    Args:
        learning_rate: rate at the start of each run.
        T_0: epochs of the first run, >= 1.
        T_mult: growth of the runs, >= 1. Default 1.
        eta_min: rate that a run falls to. Default 0.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError, ValueError: an argument is no number of its kind or outside its interval.

    Example:
        >>> from roofstep import lr
        >>> [round(rate, 2) for rate in lr.preview(lr.CosineAnnealingWarmRestarts(0.8, 1, 2), 7)]
        [0.8, 0.8, 0.4, 0.8, 0.68, 0.4, 0.12]
    """

    def __init__(
        self,
        learning_rate: Number,
        T_0: Integer,
        T_mult: Integer = 1,
        eta_min: Number = 0,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.T_0 = checks.whole("T_0", T_0, 1)
        self.T_mult = checks.whole("T_mult", T_mult, 1)
        self.eta_min = checks.real("eta_min", eta_min, RATE)
        super().__init__(learning_rate, last_epoch, verbose)

    def step(self, epoch: Number | None = None) -> None:
        """As in the base, but ``epoch`` may be a fraction, as in ``step(epoch + batch / batches)``.

        ``last_epoch`` is then its whole part, and the next `step()` goes to the next whole epoch.
        """
        if epoch is None:
            self._fraction = 0.0
            super().step()
        else:
            self._fraction, whole = math.modf(checks.real("epoch", epoch, "[0, inf)"))
            super().step(int(whole))

    def get_lr(self) -> float:
        passed, length = self.last_epoch, self.T_0
        if self.T_mult == 1:
            passed %= length
        while passed >= length:  # a logarithm in floats misses a restart, as at 363 = 3 + ... + 243
            passed, length = passed - length, length * self.T_mult
        wave = (1 + math.cos(math.pi * (passed + self._fraction) / length)) / 2
        return self.eta_min + (self.base_lr - self.eta_min) * wave


class CyclicLR(LRScheduler):
    """Climb to a highest rate and come down again on lines, in every cycle.

    ``lr + (max - lr) * h * scale``, where ``h`` rises from 0 to 1 over ``step_size_up`` epochs and
    falls back over ``step_size_down``, and ``scale`` is, with ``c`` the cycle counted from 1:
    'triangular' 1; 'triangular2' ``0.5**(c - 1)``; 'exp_range' ``exp_gamma**e``.

    Source: Cyclical learning rates for training neural networks (Smith, 2017), arXiv:1506.01186.

    Args:
        base_learning_rate: lowest rate, at the start of a cycle.
        max_learning_rate: highest rate, before scaling.
        step_size_up: epochs of the climb, >= 1.
        step_size_down: epochs of the way down, >= 1. Default None: as many as up.
        mode: 'triangular', 'triangular2' or 'exp_range'. Default 'triangular'.
        exp_gamma: base of 'exp_range', > 0. Default 1.
        scale_fn: function that gives the scale instead of ``mode``. Default None.
        scale_mode: what ``scale_fn`` is given: 'cycle' (c) or 'iterations' (e). Default 'cycle'.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: an argument is no number of its kind, or ``scale_fn`` cannot be called.
        ValueError: a number is outside its interval, or a mode is unknown.

    Example:
        >>> from roofstep import lr
        >>> lr.preview(lr.CyclicLR(0.25, 0.75, step_size_up=2), 6)
        [0.25, 0.5, 0.75, 0.5, 0.25, 0.5]
    """

    def __init__(
        self,
        base_learning_rate: Number,
        max_learning_rate: Number,
        step_size_up: Integer,
        step_size_down: Integer | None = None,
        mode: str = "triangular",
        exp_gamma: Number = 1.0,
        scale_fn: Callable[[int], Number] | None = None,
        scale_mode: str = "cycle",
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.base_learning_rate = checks.real("base_learning_rate", base_learning_rate, RATE)
        self.max_learning_rate = checks.real("max_learning_rate", max_learning_rate, RATE)
        self.step_size_up = checks.whole("step_size_up", step_size_up, 1)
        down = step_size_up if step_size_down is None else step_size_down
        self.step_size_down = checks.whole("step_size_down", down, 1)
        if scale_fn is not None:
            checks.function("scale_fn", scale_fn, "lambda cycle: 0.5**cycle")
        self.scale_fn = scale_fn
        modes = ("triangular", "triangular2", "exp_range")
        self.mode = checks.choice("mode", mode, *modes) if self.scale_fn is None else mode
        self.exp_gamma = checks.real("exp_gamma", exp_gamma, "(0, inf)")
        self.scale_mode = checks.choice("scale_mode", scale_mode, "cycle", "iterations")
        super().__init__(self.base_learning_rate, last_epoch, verbose)

    def get_lr(self) -> Number:
        size = self.step_size_up + self.step_size_down
        cycle, passed = divmod(self.last_epoch, size)
        height = min(passed / self.step_size_up, (size - passed) / self.step_size_down)
        climbed = (self.max_learning_rate - self.base_lr) * height
        return self.base_lr + climbed * self._scale(cycle + 1)

    def _scale(self, cycle: int) -> Number:
        if self.scale_fn is not None:
            return self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.mode == "triangular2":
            return math.pow(0.5, cycle - 1)
        return self.exp_gamma**self.last_epoch if self.mode == "exp_range" else 1.0


class OneCycleLR(LRScheduler):
    """Climb once to a highest rate, then anneal far below the first one.

    The rate passes ``max / divide_factor`` at epoch 0, ``max`` at ``P = phase_pct * total_steps -
    1`` and ``end_learning_rate`` at ``total_steps - 1``, where it stays; with ``three_phase`` it
    also passes ``max / divide_factor`` at ``2 * P``. A part x of the way from a to b it is
    ``a * left + b * (1 - left)``, for 'cos' with ``left = (1 + cos(pi * x)) / 2``, for 'linear'
    with ``left = 1 - x``.

    Source: Super-convergence (Smith and Topin, 2018), arXiv:1708.07120.

    Args:
        max_learning_rate: highest rate.
        total_steps: epochs of the cycle, >= 1; there is no epoch beyond it.
        divide_factor: what the highest rate is divided by to get the first, > 0. Default 25.
        end_learning_rate: last rate. Default 0.0001.
        phase_pct: part of the cycle spent climbing, in [0, 1]; with ``three_phase`` in [0, 0.5).
            Default 0.3.
        anneal_strategy: 'cos' or 'linear'. Default 'cos'.
        three_phase: come down as long as going up, then anneal. Default False.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: an argument is no number of its kind.
        ValueError: a number is outside its interval, ``anneal_strategy`` is unknown, or a step goes
            beyond ``total_steps``.

    Example:
        >>> from roofstep import lr
        >>> scheduler = lr.OneCycleLR(1, 6, 4, 0, phase_pct=0.5, anneal_strategy="linear")
        >>> [round(rate, 3) for rate in lr.preview(scheduler, 7)]
        [0.25, 0.625, 1.0, 0.667, 0.333, 0.0, 0.0]
    """

    def __init__(
        self,
        max_learning_rate: Number,
        total_steps: Integer,
        divide_factor: Number = 25.0,
        end_learning_rate: Number = 0.0001,
        phase_pct: Number = 0.3,
        anneal_strategy: str = "cos",
        three_phase: bool = False,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.max_learning_rate = checks.real("max_learning_rate", max_learning_rate, RATE)
        self.total_steps = checks.whole("total_steps", total_steps, 1)
        self.divide_factor = checks.real("divide_factor", divide_factor, "(0, inf)")
        self.end_learning_rate = checks.real("end_learning_rate", end_learning_rate, RATE)
        self.three_phase = checks.flag("three_phase", three_phase)
        self.phase_pct = checks.real(
            "phase_pct", phase_pct, "[0, 0.5)" if three_phase else "[0, 1]"
        )
        self.anneal_strategy = checks.choice("anneal_strategy", anneal_strategy, "cos", "linear")
        super().__init__(self.max_learning_rate / self.divide_factor, last_epoch, verbose)

    def get_lr(self) -> float:
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"epoch: expected at most total_steps = {self.total_steps} of OneCycleLR, got "
                f"{self.last_epoch}; stop stepping, or build it with more total_steps"
            )
        first, end, top = self.base_lr, self.end_learning_rate, self.max_learning_rate
        peak = self.phase_pct * self.total_steps - 1
        middle = [(2 * peak, first)] if self.three_phase else []
        points = [(0, first), (peak, top), *middle, (self.total_steps - 1, end)]
        for (start, a), (stop, b) in pairwise(points):
            if start < stop and self.last_epoch <= stop:
                x = (self.last_epoch - start) / (stop - start)
                left = (1 + math.cos(math.pi * x)) / 2 if self.anneal_strategy == "cos" else 1 - x
                return a * left + b * (1 - left)
        return end


class ReduceOnPlateau(LRScheduler):
    """Multiply by ``factor`` when a metric has not improved for more than ``patience`` epochs.

    A metric m improves, for 'min', if ``m < best - threshold * |best|`` ('rel') or
    ``m < best - threshold`` ('abs'); for 'max' if ``m > best + ...``. The first improves if it is
    neither NaN nor the worst infinity; NaN never improves. The new rate is
    ``max(rate * factor, min_lr)``.

    It starts at epoch 0 without a step. Its state besides ``last_epoch`` and ``last_lr`` is
    ``best``, ``num_bad_epochs`` and ``cooldown_counter``. An outer schedule passes the metric on by
    ``step(metrics=...)`` and starts it afresh at its epoch 0, where no metric is needed.

    Args:
        learning_rate: rate at the start.
        mode: 'min' if the metric should fall, 'max' if it should rise. Default 'min'.
        factor: factor of a reduction, in [0, 1). Default 0.1.
        patience: epochs without improvement that are borne, >= 0. Default 10.
        threshold: what an improvement must exceed, >= 0. Default 0.0001.
        threshold_mode: 'rel', as a part of ``best``, or 'abs', in units of the metric. Default
            'rel'.
        cooldown: epochs after a reduction in which the metric is not looked at, >= 0. Default 0.
        min_lr: lowest rate. Default 0.
        epsilon: a reduction by no more than this is left out, >= 0. Default 1e-8.
        verbose: print each reduction. Default False.

    Raises:
        TypeError: an argument is no number of its kind.
        ValueError: a number is outside its interval, or a mode is unknown.

    Example:
        >>> from roofstep import lr
        >>> scheduler, rates = lr.ReduceOnPlateau(0.8, factor=0.5, patience=1), []
        >>> for loss in [3.0, 2.0, 2.5, 2.0, 1.0]:
        ...     scheduler.step(loss)
        ...     rates.append(scheduler())
        >>> rates
        [0.8, 0.8, 0.8, 0.4, 0.4]
    """

    def __init__(
        self,
        learning_rate: Number,
        mode: str = "min",
        factor: Number = 0.1,
        patience: Integer = 10,
        threshold: Number = 1e-4,
        threshold_mode: str = "rel",
        cooldown: Integer = 0,
        min_lr: Number = 0,
        epsilon: Number = 1e-8,
        verbose: bool = False,
    ) -> None:
        self.mode = checks.choice("mode", mode, "min", "max")
        self.factor = checks.real("factor", factor, "[0, 1)")
        self.patience = checks.whole("patience", patience, 0)
        self.threshold = checks.real("threshold", threshold, "[0, inf)")
        self.threshold_mode = checks.choice("threshold_mode", threshold_mode, "rel", "abs")
        self.cooldown = checks.whole("cooldown", cooldown, 0)
        self.min_lr = checks.real("min_lr", min_lr, RATE)
        self.epsilon = checks.real("epsilon", epsilon, "[0, inf)")
        # Not through the base, which steps: there is no metric yet.
        self.base_lr = checks.real("learning_rate", learning_rate, RATE)
        self.verbose = checks.flag("verbose", verbose)
        self._restart()

    def _restart(self) -> None:
        self.last_epoch, self.last_lr = 0, self.base_lr
        self.best: float | None = None
        self.num_bad_epochs = self.cooldown_counter = 0

    def get_lr(self) -> float:
        return self.last_lr

    def step(  # type: ignore[override]  # Paddle's order: the metric comes first
        self, metrics: SupportsFloat, epoch: Integer | None = None
    ) -> None:
        """Go to the next epoch, or to ``epoch``, with the metric of the epoch that has ended.

        Args:
            metrics: a real number, or an array or tensor of one element; only its value is kept.
            epoch: number of the epoch. Default None: the next one.

        Raises:
            TypeError: ``metrics`` is neither, or ``epoch`` is no whole number.
            ValueError: ``epoch`` < 0.
        """
        metric = _metric("metrics", metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else checks.whole("epoch", epoch, 0)
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
        elif self._improves(metric):
            self.best, self.num_bad_epochs = metric, 0
        elif self.num_bad_epochs < self.patience:
            self.num_bad_epochs += 1
        else:
            self.num_bad_epochs, self.cooldown_counter = 0, self.cooldown
            reduced = max(self.last_lr * self.factor, self.min_lr)
            if self.last_lr - reduced > self.epsilon:
                self.last_lr = reduced
                self._report()

    def _improves(self, metric: float) -> bool:
        sign = 1 if self.mode == "min" else -1  # less is better from here on
        best = math.inf if self.best is None else sign * self.best
        if math.isfinite(best):  # inf - inf would be NaN, and nothing better than NaN
            best -= self.threshold * (abs(best) if self.threshold_mode == "rel" else 1)
        return sign * metric < best

    def _go(self, epoch: int, metrics: SupportsFloat | None = None) -> None:
        if epoch == 0:
            self._restart()
        else:
            self.step(metrics, epoch)  # type: ignore[arg-type]  # step refuses None, with the remedy

    def state_keys(self) -> None:
        self.keys = ["cooldown_counter", "best", "num_bad_epochs", "last_epoch", "last_lr"]

    def _read_value(self, key: str, name: str, value: Any) -> Any:
        if key in ("cooldown_counter", "num_bad_epochs"):
            return checks.whole(name, value, 0)
        if key == "best":
            best = math.nan if value is None else _metric(name, value)
            return None if math.isnan(best) else best  # Paddle keeps a first NaN as the best
        return super()._read_value(key, name, value)


# Schedules made of others.


class _Composite(LRScheduler):
    """Hands each epoch, counted anew, to one of the schedules inside, and the metric with it."""

    def _select(self, epoch: int) -> tuple[LRScheduler | None, int]:
        """Give the schedule of ``epoch``, None if it is our own, and the epoch it starts at."""
        raise NotImplementedError

    def step(self, epoch: Integer | None = None, metrics: SupportsFloat | None = None) -> None:
        """Go to the next epoch, or straight to ``epoch``.

        Args:
            epoch: number of the epoch. Default None: the next one.
            metrics: metric of the epoch that has ended, for a nested :class:`ReduceOnPlateau`;
                other schedules do not look at it. Default None.

        Raises:
            TypeError: ``epoch`` is no whole number, or a ReduceOnPlateau needs a metric.
            ValueError: ``epoch`` < 0, or a nested schedule ends before it.
        """
        target = self.last_epoch + 1 if epoch is None else checks.whole("epoch", epoch, 0)
        inner, start = self._select(target)
        if inner is not None:
            inner._go(target - start, metrics)
        super().step(target)

    def _go(self, epoch: int, metrics: SupportsFloat | None = None) -> None:
        self.step(epoch, metrics)


class LinearWarmup(_Composite):
    """Rise on a line, then follow another schedule, which starts at its epoch 0, or stay.

    ``start_lr + (end_lr - start_lr) * e / warmup_steps`` while ``e < warmup_steps``; then the rate
    of the inner schedule at epoch ``e - warmup_steps``, or the number given.

    Source: Accurate, large minibatch SGD (Goyal et al., 2017), arXiv:1706.02677.

    Args:
        learning_rate: what follows: a schedule, which from now on is moved by this one, or a rate.
        warmup_steps: epochs of the rise, >= 1.
        start_lr: rate at epoch 0.
        end_lr: rate that the line ends at, > ``start_lr``.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: ``learning_rate`` is neither, or an argument is no number of its kind.
        ValueError: a number is outside its interval, or ``end_lr <= start_lr``.

    Example:
        >>> from roofstep import lr
        >>> plateau = lr.ReduceOnPlateau(0.8, factor=0.5, patience=0)
        >>> scheduler = lr.LinearWarmup(plateau, warmup_steps=2, start_lr=0, end_lr=0.8)
        >>> rates = [scheduler()]
        >>> for loss in [4.0, 3.0, 2.0, 2.0]:
        ...     scheduler.step(metrics=loss)
        ...     rates.append(scheduler())
        >>> rates
        [0.0, 0.4, 0.8, 0.8, 0.4]
    """

    def __init__(
        self,
        learning_rate: Number | LRScheduler,
        warmup_steps: Integer,
        start_lr: Number,
        end_lr: Number,
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.learning_rate = learning_rate
        self._after = (
            learning_rate
            if isinstance(learning_rate, LRScheduler)
            else ConstantLR(checks.real("learning_rate, if no LRScheduler", learning_rate, RATE))
        )
        self.warmup_steps = checks.whole("warmup_steps", warmup_steps, 1)
        self.start_lr = checks.real("start_lr", start_lr, RATE)
        self.end_lr = checks.real("end_lr", end_lr, f"({self.start_lr}, inf)")
        super().__init__(self.start_lr, last_epoch, verbose)

    def _nested(self) -> dict[str, LRScheduler]:
        return {"LinearWarmup_LR": self._after} if self._after is self.learning_rate else {}

    def _select(self, epoch: int) -> tuple[LRScheduler | None, int]:
        return (None, 0) if epoch < self.warmup_steps else (self._after, self.warmup_steps)

    def get_lr(self) -> float:
        if self.last_epoch >= self.warmup_steps:
            return self._after()
        climbed = (self.end_lr - self.start_lr) * self.last_epoch / self.warmup_steps
        return climbed + self.start_lr


class SequentialLR(_Composite):
    """Follow one schedule after another; each starts at its own epoch 0 when its turn comes.

    The rate of ``schedules[i]`` at epoch ``e - milestones[i - 1]`` (``e`` for the first), where i
    is the number of milestones <= e.

    Args:
        schedules: at least one schedule, from now on moved by this one.
        milestones: epochs at which the next schedule begins, one fewer than schedules, >= 1,
            strictly increasing.
        last_epoch, verbose: see :class:`LRScheduler`.

    Raises:
        TypeError: ``schedules`` is no sequence of LRScheduler, or ``milestones`` none of int.
        ValueError: the numbers of both do not fit, or ``milestones`` do not increase.

    Example:
        >>> from roofstep import lr
        >>> parts = [lr.ConstantLR(0.1), lr.ExponentialDecay(0.8, gamma=0.5)]
        >>> lr.preview(lr.SequentialLR(parts, milestones=[2]), 5)
        [0.1, 0.1, 0.8, 0.4, 0.2]
    """

    def __init__(
        self,
        schedules: Iterable[LRScheduler],
        milestones: Iterable[Integer],
        last_epoch: Integer = -1,
        verbose: bool = False,
    ) -> None:
        self.schedules = checks.sequence("schedules", schedules)
        for i, schedule in enumerate(self.schedules):
            if not isinstance(schedule, LRScheduler):
                raise TypeError(
                    f"schedules[{i}]: expected an LRScheduler, got {checks.shown(schedule)}; "
                    "wrap a constant rate in ConstantLR"
                )
        given = enumerate(checks.sequence("milestones", milestones))
        self.milestones = tuple(checks.whole(f"milestones[{i}]", epoch, 1) for i, epoch in given)
        _increasing("milestones", self.milestones)
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                f"schedules: expected {len(self.milestones) + 1}, one more than milestones, got "
                f"{len(self.schedules)}; pass the epoch at which each one but the first begins"
            )
        super().__init__(self.schedules[0].base_lr, last_epoch, verbose)

    def _nested(self) -> dict[str, LRScheduler]:
        return {f"SequentialLR_{i}": schedule for i, schedule in enumerate(self.schedules)}

    def _select(self, epoch: int) -> tuple[LRScheduler, int]:
        i = sum(milestone <= epoch for milestone in self.milestones)
        return self.schedules[i], self.milestones[i - 1] if i else 0

    def get_lr(self) -> float:
        schedule, _ = self._select(self.last_epoch)
        return schedule()
