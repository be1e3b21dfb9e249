"""LBFGS: a quasi-Newton method that evaluates the loss itself; no rule of csrc/."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NoReturn, SupportsFloat

import numpy as np

from roofstep import checks, plan
from roofstep.lbfgs.curvature import dot
from roofstep.lbfgs.line_search import Trial, Try, strong_wolfe
from roofstep.lbfgs.progress import Progress, restored
from roofstep.lbfgs.space import Evaluation, Part, Space
from roofstep.optimizer import Optimizer
from roofstep.parameter import Parameter, Parameters
from roofstep.regularizer import Decay, L1Decay, L2Decay
from roofstep.types import Array, Integer, Number, Rate


def _line_search(name: str, value: object) -> str:
    if not isinstance(value, str) or value != "strong_wolfe":
        raise ValueError(
            f"{name}: expected None or 'strong_wolfe', got {value!r}; pass one of these"
        )
    return value


class LBFGS(Optimizer):
    r"""The BFGS method with limited memory, for losses without noise.

    .. math:: p \leftarrow p - \eta H \nabla f(p)

    where f is the loss with the penalties of weight decay, and H its inverse Hessian as the last
    ``history_size`` pairs tell it: the steps :math:`s` and changes of the gradient :math:`y` of
    which :math:`y^T s > 10^{-10}` and no product overflows, over :math:`(y^T s / y^T y) I` of the
    latest. The length :math:`\eta` is the learning rate (in the very first iteration times
    :math:`\min(1, 1 / \sum |\nabla f|)`), or with "strong_wolfe" the result of a line search that
    begins with it.

    (Liu & Nocedal, On the limited memory BFGS method for large scale optimization, 1989; Nocedal &
    Wright, Numerical Optimization, 2006, algorithms 7.4 and 7.5, and 3.5 and 3.6 for the search.)

    All groups are one vector, float64 if any parameter is, else float32; inner products and
    lengths are always float64, and their bits depend on no BLAS and no number of threads. It takes
    the memory of two vectors for each pair and some ten more. The pairs are those of one function:
    they are forgotten when another set of parameters is trainable, or a dtype or decay has changed.

    ``state_dict`` has what it remembers under ``state``, with Paddle's names and arrays among it,
    and its own settings under ``search``; ``set_state_dict`` takes Paddle's too. A line search ends
    as in Paddle, where torch stops it at ``max_eval``.

    Args:
        learning_rate: :math:`\eta`, a number >= 0 or a schedule, read once in a step. Default 1.0.
        max_iter: the most iterations in a step, >= 1. Default 20.
        max_eval: no new iteration after so many evaluations in a step, >= 1; a line search is
            finished. Default None, which is ``max_iter * 5 // 4``.
        tolerance_grad: a step ends where no element of the gradient is larger. Default 1e-7.
        tolerance_change: a step ends where the loss, or every parameter, changes by less, or where
            the slope along the direction is flatter. Default 1e-9.
        history_size: how many pairs are kept, >= 1. Default 100.
        line_search_fn: None, or "strong_wolfe". Default None.
        parameters: see `Optimizer`, but not None; groups may set weight_decay alone.
        weight_decay: a number c or ``L2Decay(c)`` adds :math:`c/2 \|p\|^2` to the loss,
            ``L1Decay(c)`` adds :math:`c \|p\|_1`, and their gradients to the gradient; a
            parameter's own regularizer wins. Default None.
        grad_clip: None. The changes of clipped gradients are those of no function.
        name: shown in the repr.

    There is no ``skip_nonfinite``: what a step does where the loss or a gradient is not finite,
    `step` says. ``last_step_applied`` tells whether the last one has moved the parameters.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, ``grad_clip`` is
            given, a learning-rate factor of a group or a parameter is not 1, or the penalty of a
            regularizer is not known.

    Example:
        >>> import numpy as np, roofstep
        >>> p = roofstep.Parameter(np.array([-1.0, 2.0]))
        >>> opt = roofstep.LBFGS(line_search_fn="strong_wolfe", max_iter=50, parameters=[p])
        >>> def closure():  # Rosenbrock's valley
        ...     x, y = p.data
        ...     p.grad = np.array([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)])
        ...     return 100 * (y - x**2) ** 2 + (1 - x) ** 2
        >>> opt.step(closure)
        104.0
        >>> np.round(p.data, 5)
        array([1., 1.])
    """

    # The settings that are not those of a group, and how each is checked.
    _search_settings: ClassVar[dict[str, checks.Check]] = {
        "max_iter": partial(checks.whole, least=1),
        "max_eval": checks.optional(partial(checks.whole, least=1)),
        "tolerance_grad": checks.non_negative,
        "tolerance_change": checks.non_negative,
        "history_size": partial(checks.whole, least=1),
        "line_search_fn": checks.optional(_line_search),
    }
    _refused = ("average_decay",)

    def __init__(
        self,
        learning_rate: Rate = 1.0,
        max_iter: Integer = 20,
        max_eval: Integer | None = None,
        tolerance_grad: Number = 1e-7,
        tolerance_change: Number = 1e-9,
        history_size: Integer = 100,
        line_search_fn: str | None = None,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: None = None,
        name: str | None = None,
    ) -> None:
        given = {
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        self._search = {key: self._search_settings[key](key, v) for key, v in given.items()}
        if parameters is None:
            raise TypeError(
                "parameters: expected a list of parameters or of groups, got None; LBFGS cannot "
                "take them later, pass parameters=[...]"
            )
        super().__init__(learning_rate, parameters, weight_decay, grad_clip, name)
        self._progress = Progress(self._search["history_size"])

    def __repr__(self) -> str:
        settings = {
            "learning_rate": self._learning_rate,
            **self._search,
            "weight_decay": self._defaults["weight_decay"],
        }
        settings |= {"name": self._name} if self._name is not None else {}
        listed = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"{type(self).__name__}({listed}, {len(self._parameters)} parameters)"

    def _complete(self, group: Mapping[str, Any]) -> dict[str, Any]:
        complete = super()._complete(group)
        if complete["grad_clip"] is not None:
            raise ValueError(
                f"grad_clip: expected None, got {complete['grad_clip']!r}; LBFGS learns the "
                f"curvature from changes of the gradient, which clipping would falsify: leave it "
                f"out, line_search_fn='strong_wolfe' keeps steps in bounds"
            )
        _require_one("learning_rate of a group", complete["learning_rate"])
        return complete

    def _check_decay(self, name: str, value: Any) -> Any:
        value = super()._check_decay(name, value)
        if value is None or type(value) in (L1Decay, L2Decay):
            return value
        raise TypeError(
            f"{name}: expected a number, L1Decay, L2Decay or None, got {value!r}; LBFGS must know "
            f"the penalty itself and not its gradient alone, add it to the loss in the closure"
        )

    def _check_own(self, name: str, parameter: Parameter) -> None:
        self._check_decay(f"regularizer of {name!r}", parameter.regularizer)
        _require_one(f"learning_rate of {name!r}", self._multiplier(name, parameter))

    def _parts(self, groups: list[plan.Group]) -> list[Part]:
        """The trainable parameters of all groups, in the order in which they were given."""
        parts = {}
        for group, named in plan.members(groups, self._parameters):
            group.update(self._complete(group))
            for name, parameter in named:
                self._check_own(name, parameter)
                l1, l2, _ = self._decays(group, name, parameter)
                parts[name] = Part(name, parameter, l1, l2)
        return [parts[name] for name, p in self._parameters.items() if p.trainable]

    def step(self, closure: Callable[[], SupportsFloat]) -> float:  # type: ignore[override]
        """Iterate, at most ``max_iter`` times, until a tolerance is met.

        A parameter without a gradient has the gradient 0; one that is not trainable stays.

        Without a line search a step ends as soon as it has come to a point where the loss or the
        gradient is not finite; the next one then begins there, and ends at once. A line search goes
        to no such point.

        Should the closure fail, the parameters go back to where the iteration at hand began, and
        the next step goes on from there.

        Args:
            closure: drops or zeroes the gradients, computes the loss, sets every parameter's
                ``grad``, and returns the loss: a number, or an array or tensor of one element.

        Returns:
            The loss at the beginning, as the closure returned it, without penalties.

        Raises:
            TypeError, ValueError: the closure is none or returns no number, a setting was edited to
                a bad value, the schedule gives no finite rate, a parameter or gradient cannot be
                used, or memory overlaps.
            RuntimeError: another thread is stepping this optimizer, or the closure put another
                array in place of a parameter.
        """
        checks.function("closure", closure, "lambda: set_gradients_and_return_loss()")
        learning_rate = self.get_lr()  # asked first and once: a schedule may do as it likes
        return self._alone.run(self._search_alone, closure, learning_rate)

    def _search_alone(self, closure: Callable[[], SupportsFloat], learning_rate: float) -> float:
        space = Space(self._parts(self.param_groups), self._parameters)
        progress = self._progress
        iterations = progress.iterations
        try:
            begin = space.evaluate(closure)
            if progress.kind != space.kind:  # only now: the closure may have failed
                progress.begin_anew(self._search["history_size"], space.kind)
                iterations = 0
            return self._iterate(space, closure, learning_rate, begin)
        finally:
            progress.evaluations += space.evaluations
            self._last_step_applied = progress.iterations > iterations

    def _iterate(
        self,
        space: Space,
        closure: Callable[[], SupportsFloat],
        learning_rate: float,
        at: Evaluation,
    ) -> float:
        progress, search = self._progress, self._search
        most = search["max_eval"] or search["max_iter"] * 5 // 4
        first = at.own
        for left in reversed(range(search["max_iter"])):
            if not at.is_finite or at.largest <= search["tolerance_grad"]:
                break
            direction = progress.direction_from(at)
            slope = dot(at.gradient, direction)
            length = learning_rate
            if not progress.iterations:
                length *= min(1.0, 1.0 / float(np.abs(at.gradient).sum(dtype=np.float64)))
            if not slope <= -search["tolerance_change"] or length == 0:
                break
            reach = float(np.abs(direction).max())
            with space.returning() as origin:
                if search["line_search_fn"]:
                    begin = Trial(0.0, at.loss, slope, at)
                    found = strong_wolfe(
                        _along(space, closure, origin, direction), begin, length, reach
                    )
                    at, length = found.at, found.length
                space.move(origin, length, direction)
                if left and not search["line_search_fn"]:
                    at = space.evaluate(closure)
            progress.length = length
            progress.iterations += 1
            if (
                space.evaluations >= most
                or length * reach <= search["tolerance_change"]
                or abs(at.loss - progress.loss) < search["tolerance_change"]
            ):
                break
        return first

    def _save(self) -> dict[str, Any]:
        space = Space(self._parts(self.param_groups), self._parameters)
        return {"search": dict(self._search), "state": self._progress.save(space)}

    def _match(
        self, saved: Mapping[str, Any], groups: list[plan.Group], ours: bool, problems: list[str]
    ) -> dict[str, Any]:
        search = self._search
        if ours:  # Paddle's and torch's own are the constructor's
            search = checks.restored(
                "'search'", saved.get("search"), self._search_settings, problems
            )
        space = Space(self._parts(groups), self._parameters)
        most = search.get("history_size", self._search["history_size"])
        progress = restored(saved.get("state"), space, most, problems)
        problems += [
            f"{key!r} belongs to nothing that LBFGS keeps"
            for key in saved
            if key not in ("state", "search")
        ]
        return {"_search": search, "_progress": progress}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        super().__setstate__(attributes)
        self._progress = copy.deepcopy(self._progress)

    def minimize(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see `step`.

        Raises:
            NotImplementedError: always.
        """
        _refuse("minimize")

    def apply_gradients(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: see `step`.

        Raises:
            NotImplementedError: always.
        """
        _refuse("apply_gradients")


def _along(
    space: Space, closure: Callable[[], SupportsFloat], origin: Array, direction: Array
) -> Try:
    """The loss as a function of the length along a direction."""

    def attempt(length: float) -> Trial:
        space.move(origin, length, direction)
        at = space.evaluate(closure)
        slope = dot(at.gradient, direction)
        fits = at.is_finite and math.isfinite(slope)
        return Trial(length, at.loss if fits else math.inf, slope, at)

    return attempt


def _require_one(name: str, factor: float) -> None:
    if factor != 1:
        raise ValueError(
            f"{name}: expected 1, got {factor}; a step of LBFGS has one length for all parameters, "
            f"leave the factor out"
        )


def _refuse(method: str) -> NoReturn:
    raise NotImplementedError(
        f"LBFGS has no {method}(): it evaluates the loss several times in a step; write a function "
        f"that sets the gradients and returns the loss, and call step(function)"
    )
