"""The Optimizer base class: parameters, groups, states, and the one way a step takes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager, suppress
from typing import Any, ClassVar

import numpy as np

from roofstep import _core, checkpoint, checks, groups, plan, state, tensors, threads
from roofstep.clip import as_clip
from roofstep.gradients import Directory, Gradients, as_pairs, as_row, differentiate
from roofstep.libraries import static_graphs
from roofstep.parameter import Gradient, Pair, Parameter, Parameters, Steppable, Which
from roofstep.regularizer import Decay, FusedDecay, as_regularizer, decay_of
from roofstep.types import Array, Clip, Group, Number, Rate, Schedule

States = dict[str, dict[str, Array]]  # by the names of the parameter and of the state


class _Averaged(_core.Swapped, ContextDecorator):
    """A block of `with`, or a decorator; it may be entered again when it was left."""


class Optimizer:
    """What all optimizers share; a subclass says which rule steps and which settings it takes.

    A step clips the gradients, decays, and updates, in this order and in one pass over the memory.
    Parameters without a gradient are left as they are, states and step counts included. Everything
    is checked before the first byte is written. An optimizer belongs to one thread at a time: while
    one steps it, or runs its program, `state_dict` too is refused in others, with a RuntimeError.
    Several threads may step several optimizers at once, which may share clips, schedules and
    gradients that none of them zeroes. A fork waits for passes over memory that are under way: in
    the child all parameters are whole and can be stepped, but not by an optimizer that another
    thread was stepping.

    NumPy arrays and the tensors of torch and Paddle may stand side by side. A tensor is called
    ``param_{i}`` by its position, one of Paddle's by its ``name``; what Paddle's ParamAttr put on
    it is in force. torch's autograd is told of every write: a backward pass that needs the values
    from before a step refuses. States are NumPy arrays in all cases. In a static program of Paddle
    `minimize` is called once, and every run of the program is a step.

    A sparse gradient has some rows of its parameter, as that of an embedding: `SelectedRows`, or
    what torch and Paddle make with ``sparse=True``. `SGD`, `Adagrad`, `Adam` and `AdamW` take it.

    Args:
        learning_rate: a number >= 0, or a schedule: an object that gives the rate when called and
            moves on by ``step()``, such as those of `roofstep.lr`. The user steps the schedule.
        parameters: a list, a tuple or an iterator of `Parameter`, or of bare NumPy arrays, torch
            tensors (``model.parameters()``) or Paddle tensors, which are wrapped: a tensor is
            stepped where it lies, by its own ``grad``; or of groups, dicts with ``params`` and,
            where they differ from the optimizer's, ``learning_rate`` (a factor), ``weight_decay``,
            ``grad_clip``, ``average_decay`` (see `average_weights`) and the rule's own settings. In
            a group an absent key means the optimizer's value, None means none. A typed program that
            keeps groups in a variable declares it, ``groups: list[roofstep.types.Group]``. None
            leaves the parameters to `minimize` or `apply_gradients`.
        weight_decay: a number (L2), `L1Decay`, `L2Decay`, a `WeightDecayRegularizer` of your own,
            or None. It is added to the gradient after clipping; a parameter's own regularizer wins
            over it.
        grad_clip: `ClipGradByGlobalNorm`, `ClipGradByNorm`, `ClipGradByValue`, a `ClipGradBase` of
            your own, or None. Parameters with ``need_clip=False`` are left out.
        name: shown in the repr, and known in the names of states that Paddle saved.
        skip_nonfinite: True looks at all gradients before anything is written, and skips the step
            if an element of one is infinite or NaN: parameters, states, step counts and averages
            stay as they are, gradients are zeroed if ``clear_grad`` asks for it. Gradients that
            count in a norm cost nothing more; others are read once more. What counts is the
            gradient as it was given, before ``grad_scale``, clips and decay, and what a clip or
            regularizer of your own made of it; an infinity that comes about later, as by a small
            ``grad_scale``, is not seen. The first skipped step warns. Default False.

    Attributes:
        param_groups: the groups with the settings in force, a list of dicts. Settings may be
            edited; they are checked and take effect at the next step.
        last_error: what the last step in a run of a Paddle program failed with, or None; Paddle
            raises a SystemError in its place.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a value is out of range, parameters are empty or twice there, a group has an
            unknown key, or a parameter cannot be stepped in place.
    """

    last_error: BaseException | None = None

    # The rule's own settings, all of which a group may set, and how each is checked.
    _settings: ClassVar[dict[str, checks.Check]] = {}
    # Those of all optimizers that its groups do not take.
    _refused: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        parameters: Parameters | None = None,
        weight_decay: Decay = None,
        grad_clip: Clip | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
        **settings: Any,
    ) -> None:
        self._learning_rate = checks.learning_rate("learning_rate", learning_rate)
        self._name = None if name is None else checks.text("name", name)
        self._skip_nonfinite = checks.flag("skip_nonfinite", skip_nonfinite)
        self._defaults: dict[str, Any] = {
            "learning_rate": 1.0,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
            "average_decay": None,
            **settings,
        }
        for key in self._refused:
            del self._defaults[key]
        self._defaults = self._complete({})
        self.param_groups: list[dict[str, Any]] = []
        self._parameters: dict[str, Parameter] = {}
        self._states: States = {}
        self._counts = np.zeros(0, np.int64)
        self._numbers = np.ones(0)  # see plan.Keeps.number
        self._alone = threads.alone(type(self).__name__)
        self._plan: plan.Plan | None = None
        self._norms: list[_core.Norm] | None = None
        self._skipped_steps = 0
        self._last_step_applied: bool | None = None
        self._has_warned = False
        if parameters is not None:
            self._add(parameters)

    def __repr__(self) -> str:
        settings = {**self._defaults, "learning_rate": self._learning_rate}
        settings |= {"name": self._name} if self._name is not None else {}
        settings |= {"skip_nonfinite": True} if self._skip_nonfinite else {}
        listed = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"{type(self).__name__}({listed}, {len(self._parameters)} parameters)"

    # What a subclass says.

    def _rule(self, group: Mapping[str, Any]) -> str:
        """The name of the group's rule in csrc/rules.hpp."""
        raise NotImplementedError(
            f"{type(self).__name__} has no update rule; use a subclass such as roofstep.Adam"
        )

    def _check_decay(self, name: str, value: Any) -> Any:
        return as_regularizer(name, value)

    def _check_own(self, name: str, parameter: Parameter) -> None:
        """Refuses what a parameter asks for and cannot get from this optimizer."""

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        """The coefficients l1 and l2 of coupled decay, and that of decoupled decay."""
        regularizer = decay_of(group, parameter)
        if not isinstance(regularizer, FusedDecay):
            return (0.0, 0.0, 0.0)
        return (regularizer.l1, regularizer.l2, 0.0)

    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool:
        """Whether the rule's trust ratio is taken, for a parameter with these decays."""
        return False

    def _absent(self, group: Mapping[str, Any]) -> str:
        """What a sparse gradient does to the rows that it has not: `Absent` in csrc/engine.hpp."""
        return "refused"

    def _multiplier(self, name: str, parameter: Parameter) -> float:
        """The parameter's own factor on the learning rate."""
        return parameter.learning_rate

    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float:
        """What a state of a parameter in this group begins with."""
        return 0.0

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group's settings under the names of the rule's fields, perhaps among others."""
        return dict(group)

    # Parameters and groups.

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters in the order given; a bare array or tensor is here as its `Parameter`."""
        return tuple(self._parameters.values())

    def _complete(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group with what it leaves out, every setting checked."""
        complete = {**self._defaults, **group}
        common = {"params", "learning_rate", "weight_decay", "grad_clip", "average_decay"}
        known = [*sorted(common - {*self._refused}), *self._settings]
        for key, value in complete.items():
            if key not in known:
                raise ValueError(
                    f"{key!r} is no setting of {type(self).__name__}, whose groups take "
                    f"{', '.join(known)}; remove it or correct its spelling (learning_rate is a "
                    f"factor on the optimizer's)"
                )
            if key == "params":
                complete[key] = checks.sequence("'params' of a group", value)
            elif key == "learning_rate":
                complete[key] = checks.non_negative("learning_rate of a group", value)
            elif key == "weight_decay":
                complete[key] = self._check_decay(key, value)
            elif key == "grad_clip":
                complete[key] = as_clip(key, value)
            elif key == "average_decay":
                complete[key] = None if value is None else checks.fraction(key, value)
            else:
                complete[key] = self._settings[key](key, value)
        return complete

    def add_param_group(self, group: Group) -> None:
        """Take more parameters, as one more group; before or between steps.

        Args:
            group: a dict as in `parameters`. Parameters without a name go on counting.

        Raises:
            TypeError: it is no dict, or an element of its ``params`` is no parameter.
            ValueError: it has no ``params``, an unknown key or a bad value, or a parameter is there
                already or cannot be stepped in place. Nothing has been changed then.
            RuntimeError: another thread is stepping this optimizer.

        Example:
            >>> import numpy as np, roofstep
            >>> body, head = roofstep.Parameter(np.zeros(3)), roofstep.Parameter(np.zeros(2))
            >>> opt = roofstep.Adam(0.001, parameters=[head])
            >>> opt.add_param_group({"params": [body], "learning_rate": 0.1})  # thawed, and slower
            >>> len(opt.parameters)
            2
        """
        if not isinstance(group, Mapping):
            raise TypeError(
                f"group: expected a dict, got a {type(group).__name__}; "
                f"pass {{'params': [parameter, ...]}}"
            )
        self._alone.run(self._add, [group])

    def _add(self, parameters: Parameters) -> None:
        new_groups = [self._complete(group) for group in groups.read(parameters)]
        owners = {id(p.data): name for name, p in self._parameters.items()}
        added: dict[str, Parameter] = {}
        for parameter in (p for group in new_groups for p in group["params"]):
            name = parameter.name or f"param_{len(self._parameters) + len(added)}"
            if id(parameter.data) in owners:
                raise ValueError(
                    f"parameter {name!r} is there twice, first as {owners[id(parameter.data)]!r}; "
                    f"give each parameter once, in one group"
                )
            if name in added or name in self._parameters:
                raise ValueError(
                    f"parameter {name!r}: another parameter has this name; states are kept by "
                    f"name, so give each one of its own"
                )
            _core.check_parameter(parameter.data, name)
            self._check_own(name, parameter)
            owners[id(parameter.data)] = name
            added[name] = parameter
        all_parameters = {**self._parameters, **added}
        taken = {
            "_parameters": all_parameters,
            "_counts": np.concatenate([self._counts, np.zeros(len(added), np.int64)]),
            "_numbers": np.concatenate([self._numbers, np.ones(len(added))]),
            "_plan": None,
        }
        old = len(self.param_groups)
        try:
            self.param_groups += new_groups
            vars(self).update(taken)  # all in one call, as Ctrl-C may come between two
        except BaseException:
            if self._parameters is not all_parameters:
                del self.param_groups[old:]
            raise

    # The step.

    def step(self, clear_grad: bool = False, *, grad_scale: Number = 1.0) -> None:
        """Update every parameter that has a gradient, in place.

        Whatever fails, and be it Ctrl-C or a lack of memory, leaves all as it was before the step,
        or as it is after it, with parameters, states, counts and `last_grad_norm` in accord.

        Args:
            clear_grad: also zero the gradients, in the same pass over the memory; they stay as
                buffers. (The method `clear_grad` drops them instead.) Those of a step that is
                skipped are zeroed, too, as something may be added to them next.
            grad_scale: every gradient is divided by it first of all, in the same pass: the factor
                on the loss by which small gradients do not vanish in float16. Its inverse must be a
                normal number of float32, so it is from 2.94e-39 to 8.5e37. ``skip_nonfinite`` looks
                at the gradients before: what overflows by the division alone, as 1e30 by 1e-20 in
                float32, is not seen and makes infinite weights. Default 1.0.

        Raises:
            TypeError, ValueError: there are no parameters, a setting was edited to a bad value, the
                schedule gives no finite rate, a parameter or gradient cannot be used, or memory
                overlaps. Nothing has been written then.
            MemoryError: there is none for the states. Nothing has been written then.
            RuntimeError: another thread is stepping this optimizer.

        Example:
            >>> import numpy as np, roofstep, warnings
            >>> w = roofstep.Parameter(np.zeros(2, "float32"))
            >>> opt = roofstep.SGD(0.5, [w], skip_nonfinite=True)
            >>> scale = 65536.0
            >>> for gradient in ([1.0, 2.0], [1.0, np.inf], [1.0, 0.0]):
            ...     w.grad = np.array(gradient, "float32") * np.float32(scale)
            ...     with warnings.catch_warnings():
            ...         warnings.simplefilter("ignore", RuntimeWarning)
            ...         opt.step(grad_scale=scale)
            ...     if not opt.last_step_applied:
            ...         scale /= 2
            >>> w.data, opt.skipped_steps, scale
            (array([-1., -1.], dtype=float32), 1, 32768.0)
        """
        if type(grad_scale) is not float or grad_scale != 1:
            grad_scale = checks.positive("grad_scale", grad_scale)
        self._step(None, checks.flag("clear_grad", clear_grad), grad_scale)

    def _step(
        self,
        gradients: tuple[Array | None, ...] | None,
        clear_grad: bool = False,
        grad_scale: float = 1.0,
    ) -> None:
        """Step by the gradients given, one or None for each parameter, or by their own `.grad`."""
        if not self._parameters:
            raise ValueError(
                f"{type(self).__name__} has no parameters to step; pass parameters=[...] to it, "
                f"or to minimize()"
            )
        learning_rate = self.get_lr()  # asked first and once: a schedule may do as it likes
        found = self._alone.run(self._step_alone, learning_rate, gradients, clear_grad, grad_scale)
        if found is not None and not self._has_warned:
            self._has_warned = True
            plan.warn_of_skip([*self._parameters][found], stacklevel=3)

    def _step_alone(
        self,
        learning_rate: float,
        gradients: tuple[Array | None, ...] | None,
        clear_grad: bool,
        grad_scale: float,
    ) -> int | None:
        """The same; the position of a gradient for which the step is skipped, if it is."""
        current, states = self._current_plan(), self._states
        row = self._parameters.values()
        gradients, measured = current.prepare(row, gradients, clear_grad, grad_scale)

        def rate(group: plan.Group) -> float:
            factor = group["learning_rate"]
            return learning_rate * checks.non_negative("learning_rate of a group", factor)

        norms = current.norms + measured if measured else current.norms
        done: dict[str, Any] = {"_norms": norms, "_last_step_applied": True}
        skipped = {"_skipped_steps": self._skipped_steps + 1, "_last_step_applied": False}
        while True:
            outcome = current.step(
                rate,
                gradients,
                self._counts,
                self._numbers,
                clear_grad,
                grad_scale,
                ((vars(self), done),),
                skipped=((vars(self), skipped),),
            )
            if not isinstance(outcome, list):
                return outcome
            states = self._with_new(states, outcome)
            current = self._make_plan(states)
            done = {
                "_plan": current,
                "_states": states,
                "_norms": current.norms + measured,
                "_last_step_applied": True,
            }

    @property
    def last_step_applied(self) -> bool | None:
        """Whether the last step has moved the parameters; one that was skipped has not.

        None before the first step. A schedule that counts updates asks this before its ``step()``.
        """
        return self._last_step_applied

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped, by ``skip_nonfinite``; a state dict keeps the number."""
        return self._skipped_steps

    @property
    def last_grad_norm(self) -> float | None:
        """The L2 norm of the gradients in the last step that was not skipped, before clipping.

        It is that over all gradients of which the step took a norm to clip them, 0.0 if none of
        these was there; None if no norm clips, or before the first step.
        ``ClipGradByGlobalNorm(math.inf)`` measures and never clips.
        """
        return plan.combined(self._norms)

    # Averaged weights.

    def average_weights(self, decay: Number | None = 0.999) -> None:
        r"""Average the weights from now on: a running mean, in the pass that updates them.

        .. math:: a \leftarrow a + (1 - d)(p - a)

        after each update of a parameter; a begins as the parameter before its next update. It is
        kept as the state ``average`` and read with `averaged`. Groups may set ``average_decay`` to
        average alone, or with another decay; this call sets it in all groups, so edit those that
        are to differ afterwards. (Polyak & Juditsky, Acceleration of stochastic
        approximation by averaging, 1992.)

        Args:
            decay: :math:`d` in [0, 1), or None to stop. Default 0.999.

        Raises:
            TypeError, ValueError: ``decay`` is no number in there, or a setting was edited to a bad
                value. Nothing has been changed then.
            NotImplementedError: the optimizer keeps no averages, as `roofstep.LBFGS`.
            RuntimeError: another thread is stepping this optimizer.

        Example:
            >>> import numpy as np, roofstep
            >>> w = roofstep.Parameter(np.array([8.0]))
            >>> opt = roofstep.SGD(1.0, [w])
            >>> opt.average_weights(decay=0.75)
            >>> w.grad = np.array([4.0])
            >>> opt.step()
            >>> with opt.averaged():
            ...     print(w.data)
            [7.]
            >>> w.data
            array([4.])
        """
        checked = None if decay is None else checks.fraction("decay", decay)
        self._require_averages()
        self._alone.run(self._set_average, checked)

    def _set_average(self, decay: float | None) -> None:
        new = {"average_decay": decay}
        groups = [self._complete({**group, **new}) for group in self.param_groups]
        keeps = plan.make(self, groups, self._parameters, self._states).keeps
        attributes = {"_plan": None, "_states": self._still_kept(keeps)}
        settings = [(held, new) for held in (self._defaults, *self.param_groups)]
        _core.put((*settings, (vars(self), attributes)))

    def _require_averages(self) -> None:
        if "average_decay" in self._refused:
            raise NotImplementedError(
                f"average_weights: {type(self).__name__} keeps no averages; take another optimizer"
            )

    def averaged(self) -> _Averaged:
        """A block in which the parameters hold their averaged weights, as to evaluate with them.

        As a decorator it makes such a block of each call.

        The two are exchanged in place, when the block begins and again when it ends, so that
        nothing may write to the parameters inside. Parameters that have not been stepped since
        averaging began are left as they are. Blocks of two optimizers over the same parameters must
        lie one within the other: if they end crosswise, averages are left as weights. See
        `average_weights`.

        Raises:
            ValueError: no weights are averaged, a parameter is no longer what it was, or memory
                overlaps. Nothing has been written then.
            RuntimeError: inside the block, whatever reads or writes states or groups: `step`,
                `state_dict`, `set_state_dict`, `add_param_group`, `average_weights`, this, and
                copies.
            NotImplementedError: the optimizer keeps no averages.
        """
        self._require_averages()
        return _Averaged(self._alone, self._with_averages)

    def _with_averages(self) -> tuple[_core.Exchange, list[Any]]:
        if all(group.get("average_decay") is None for group in self.param_groups):
            raise ValueError("no weights are averaged; call average_weights(), and step, first")
        self._current_plan()  # drops averages of groups that have stopped
        begun = [
            (name, parameter, self._states[name]["average"])
            for name, parameter in self._parameters.items()
            if "average" in self._states.get(name, {})
        ]
        exchange = _core.Exchange(tuple([(name, p.live, average) for name, p, average in begun]))
        return exchange, [p.data for _, p, _ in begun if p.counts_writes]

    def _current_plan(self) -> plan.Plan:
        if self._plan is None or not self._plan.holds_for(self.param_groups):
            for group in self.param_groups:
                group.update(self._complete(group))
            made = self._make_plan(self._states)
            vars(self).update(_plan=made, _states=self._still_kept(made.keeps))
            return made
        return self._plan

    def _still_kept(self, keeps: Mapping[str, plan.Keeps]) -> States:
        """The states without those of an option that is now off: they would begin anew."""
        return {
            name: {s: array for s, array in own.items() if s in keeps[name].states}
            for name, own in self._states.items()
        }

    def _make_plan(self, states: States) -> plan.Plan:
        return plan.make(self, self.param_groups, self._parameters, states, self._skip_nonfinite)

    def _with_new(self, states: States, indices: Sequence[int]) -> States:
        """These states, and new ones for parameters that have their first gradient."""
        # Made anew, as a state may begin with a group's learning rate, which no plan looks at.
        keeps = self._make_plan(states).keeps
        names = [[*self._parameters][i] for i in indices]
        all_states = dict(states)
        for name, s, array in state.begin(names, keeps, self._parameters, states):
            all_states[name] = {**all_states.get(name, {}), s: array}
        return all_states

    # Gradients.

    def backward(
        self,
        loss: Any,
        startup_program: Any = None,
        parameters: Which | None = None,
        no_grad_set: Which | None = None,
        callbacks: None = None,
    ) -> list[Pair]:
        """The gradients of a loss, as `minimize` gets them: a list of (parameter, gradient).

        Gradients that it lets a loss compute stay on the parameters.

        Args:
            loss: see `minimize`.
            startup_program: see `minimize`.
            parameters: see `minimize`.
            no_grad_set: see `minimize`.
            callbacks: None; Paddle has the argument and calls none.

        Raises:
            TypeError, ValueError: see `minimize`.
        """
        if (static := static_graphs([loss])) is not None:
            found: list[Pair] = static.backward(
                self, loss, startup_program, parameters, no_grad_set, callbacks
            )
            return found
        checks.only_none(startup_program=startup_program, callbacks=callbacks)
        with self._moving(parameters, no_grad_set) as chosen:
            gradients, _ = differentiate(loss, self._parameters, chosen)
            return self._pairs(gradients, chosen)

    def apply_gradients(
        self, params_grads: Iterable[tuple[Steppable | str, Gradient | None]]
    ) -> list[Any]:
        """Clip, decay and update by these gradients, whatever ``.grad`` holds.

        Args:
            params_grads: pairs of a parameter (or its array or tensor, or its name) and its
                gradient; parameters that are not named, or with None, are left as they are. An
                optimizer without parameters takes those of the pairs. Pairs of values of a static
                program put the update into it.

        Returns:
            An empty list, or in a static program what stands for its operators.

        Raises:
            TypeError, ValueError: a pair names no parameter of this optimizer or one twice, and as
                `step`. Nothing has been written then.
        """
        pairs = as_pairs(params_grads)
        if (static := static_graphs(which for which, _ in pairs)) is not None:
            updates: list[Any] = static.apply_gradients(self, pairs)
            return updates
        with self._adopting([which for which, _ in pairs] or None):
            self._step(tuple(Directory(self._parameters).arrange(pairs)))
        return []

    def minimize(
        self,
        loss: Any,
        startup_program: Any = None,
        parameters: Which | None = None,
        no_grad_set: Which | None = None,
    ) -> tuple[list[Any], list[Pair]]:
        """Get the gradients of a loss and step by them.

        Args:
            loss: a callable, which is called and returns ``loss``, having set the gradients (all
                that are on the parameters then are used), or ``(loss, gradients)``, a list in the
                order of all parameters or a dict by name; or a loss with ``.backward()``, which is
                called when no parameter to be updated holds a gradient; or any loss whose gradients
                are on the parameters already. Or a value of one element in a static program of
                Paddle: then the update is put into the program, and each of its runs makes it.
            startup_program: None, or the one that goes with a static program, where it is not the
                default: when it is run again, states begin anew.
            parameters: only these, given as parameters, arrays or names, are updated. An optimizer
                made without parameters takes them for good.
            no_grad_set: these are not updated. In a static program it may also hold other values,
                which no gradient then passes.

        Returns:
            ``(optimize_ops, params_grads)``: an empty list, and the pairs of the update. Gradients
            that came about by calling ``loss`` or its ``backward`` are dropped from the parameters
            after the update, so that none is used twice; the pairs keep them. In a static program a
            list of one object that stands for the operators, and pairs of values.

        Raises:
            TypeError, ValueError: there is no gradient, a name is unknown, and as `step`. Nothing
                has been written then. What is raised in a run of a static program stops it, and is
                `last_error`.

        Example:
            >>> import numpy as np, roofstep
            >>> w = roofstep.Parameter(np.array([3.0]))
            >>> opt = roofstep.SGD(0.25, [w])
            >>> for _ in range(3):
            ...     _ = opt.minimize(lambda: ((w.data**2).sum(), [2 * w.data]))
            >>> w.data
            array([0.375])
        """
        if (static := static_graphs([loss])) is not None:
            found: tuple[list[Any], list[Pair]] = static.minimize(
                self, loss, startup_program, parameters, no_grad_set
            )
            return found
        checks.only_none(startup_program=startup_program)
        with self._moving(parameters, no_grad_set) as chosen:
            gradients, obtained = differentiate(loss, self._parameters, chosen)
            try:
                pairs = self._pairs(gradients, chosen)
                self.apply_gradients(pairs)
            finally:
                for parameter in obtained:
                    parameter.grad = None
        return [], pairs

    @contextmanager
    def _moving(self, parameters: Which | None, no_grad_set: Which | None) -> Iterator[set[int]]:
        """The positions of the parameters that these two arguments of `minimize` leave to move."""
        given, kept = as_row("parameters", parameters), as_row("no_grad_set", no_grad_set)
        adopts = not self._parameters
        with self._adopting(given):
            directory = Directory(self._parameters)
            chosen = {*range(len(self._parameters))}
            if given is not None and not adopts:
                chosen = {*map(directory.find, given)}
            chosen -= {*map(directory.find, kept or ())}
            chosen = {i for i in chosen if self.parameters[i].trainable}
            if not chosen:
                raise ValueError(
                    "no parameter is left to be updated; name some in `parameters`, fewer in "
                    "`no_grad_set`, or make some trainable"
                )
            yield chosen

    @contextmanager
    def _adopting(self, parameters: Iterable[Any] | None) -> Iterator[None]:
        """Lets an optimizer without parameters take these for good, if what follows succeeds."""
        added = parameters is not None and not self._parameters
        try:
            if added:
                try:
                    self._alone.run(self._add, parameters)
                except Exception:
                    added = False  # what is refused is not there
                    raise
            yield
        except BaseException:
            if added:
                self._alone.run(self._forget_unless_stepped)
            raise

    def _forget_unless_stepped(self) -> None:
        if self._last_step_applied is None:  # one that was skipped, and warned, is a step
            vars(self).update(
                _parameters={},
                param_groups=[],
                _states={},
                _counts=np.zeros(0, np.int64),
                _numbers=np.ones(0),
                _plan=None,
            )

    def _pairs(self, gradients: Gradients, chosen: set[int]) -> list[Pair]:
        """The pairs of the parameters that are to move and have a gradient."""
        if len(gradients) != len(self._parameters):
            raise ValueError(
                f"loss: expected to be called with all parameters there, got "
                f"{len(self._parameters) - len(gradients)} new ones from within it; call "
                f"add_param_group() before"
            )
        pairs = [
            (p, g)
            for i, (p, g) in enumerate(zip(self.parameters, gradients, strict=True))
            if g is not None and i in chosen
        ]
        if not pairs:
            raise ValueError(
                "loss: no parameter to be updated has a gradient; set p.grad first, pass a loss "
                "with .backward(), or a function that returns (loss, gradients)"
            )
        return pairs

    def clear_grad(self, set_to_zero: bool = False) -> None:
        """Drop the gradients, so that no later step can use them again.

        Args:
            set_to_zero: keep the arrays and fill them with zeros instead. A later step then still
                moves whatever has momentum. Sparse gradients are refused.

        Raises:
            TypeError, ValueError: a gradient to be filled is no writable dense array. Nothing has
                been written then.
        """
        held = [(n, p) for n, p in self._parameters.items() if p.grad is not None]
        if not checks.flag("set_to_zero", set_to_zero):
            for _, parameter in held:
                parameter.grad = None
            return
        for name, parameter in held:
            _core.check_clearable(parameter.grad, name)
        for name, parameter in held:
            _core.as_numpy(parameter.grad, name)[...] = 0
        tensors.count_writes([p.grad for _, p in held if p.counts_writes])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """`clear_grad` under PyTorch's name."""
        self.clear_grad(not checks.flag("set_to_none", set_to_none))

    # The learning rate.

    def get_lr(self) -> float:
        """The learning rate of the next step: the number, or what the schedule gives now.

        After ``schedule.step()`` it is that of the step to come, no longer that of the last one.
        """
        if callable(self._learning_rate):
            return checks.non_negative("learning_rate of the schedule", self._learning_rate())
        return float(self._learning_rate)

    def set_lr(self, value: Number) -> None:
        """Set the learning rate of later steps.

        Raises:
            TypeError, ValueError: ``value`` is no number >= 0.
            RuntimeError: a schedule is in use, which would overrule the number.
        """
        if callable(self._learning_rate):
            raise RuntimeError(
                f"set_lr: the schedule {self._learning_rate!r} is in use and would overrule the "
                f"number; change the schedule, or give another to set_lr_scheduler()"
            )
        if callable(value):
            raise TypeError(
                f"value: expected a number, got {value!r}; use set_lr_scheduler() for it"
            )
        self._learning_rate = checks.non_negative("value", value)

    def set_lr_scheduler(self, scheduler: Schedule) -> None:
        """Take the learning rate from this schedule, in place of the number or schedule so far.

        Raises:
            TypeError: it does not give a rate when called and move on by ``step()``.
        """
        if not checks.is_schedule(scheduler):
            raise TypeError(
                f"scheduler: expected a schedule such as roofstep.lr.StepDecay, "
                f"got {scheduler!r}; for a number use set_lr()"
            )
        self._learning_rate = scheduler

    # The state.

    def state_dict(self) -> dict[str, Any]:
        """All that training goes on from: states, step counts, settings, the schedule; as copies.

        Returns:
            ``{parameter}_{state}_0`` and ``{parameter}_step_0``, arrays, for every parameter that
            has been stepped; an average that has not begun is left out. The rest is plain data,
            which survives json: ``learning_rate``, the number, or ``LR_Scheduler``, the state of
            the schedule; ``param_groups``, a list of dicts with the names of their ``params`` and
            their settings; ``defaults``, what a group takes that leaves a setting out;
            ``grad_clips``, the clips, to which the settings ``grad_clip`` point by position; with
            ``skip_nonfinite`` also `skipped_steps`.
            Functions are left out, and of a clip or regularizer of your own there is the name of
            its class alone. `save` writes all of it to a file, from the memory in use.

        Raises:
            TypeError, ValueError: a setting was edited to a bad value.
            RuntimeError: another thread is stepping this optimizer.

        Example:
            >>> import numpy as np, roofstep
            >>> w = roofstep.Parameter(np.zeros(2), name="w")
            >>> saved = roofstep.Momentum(0.1, parameters=[w], weight_decay=0.5).state_dict()
            >>> saved["learning_rate"], saved["param_groups"][0]["weight_decay"]
            (0.1, {'class': 'L2Decay', 'coeff': 0.5})
        """
        return self._alone.run(self._state_dict)

    def _state_dict(self) -> dict[str, Any]:
        return checkpoint.save(self, self._checkpoint(), self._parameters)

    def set_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, so that training goes on bit for bit.

        Parameters of which it says nothing begin anew. Functions stay as they are here, as does a
        clip or regularizer of your own if it is of the class that was saved.

        A state that Paddle saved, ``paddle.load("x.pdopt")`` or what pickle makes of that file, is
        taken over as well: its powers of beta are read as step counts. It holds no settings, so
        construct with those it was saved with, and with its ``name`` if it had one. Where it holds
        no count, of which the update makes no use either, the count begins with 1.

        Args:
            state_dict: arrays by name; any counter may stand at the end of a name.

        Raises:
            TypeError: it is no dict.
            ValueError: names, shapes, dtypes, settings or the groups do not fit; the message lists
                all that does not, and nothing has been changed.
            RuntimeError: another thread is stepping this optimizer.
        """
        self._alone.run(self._set_state_dict, state_dict)

    def _set_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._adopt(checkpoint.read(state_dict, self, self._checkpoint(), self._parameters))

    def _adopt(self, found: checkpoint.Found) -> None:
        new, load = found.settings, found.load
        attributes = found.attributes | {
            "_learning_rate": new.learning_rate,
            "_defaults": new.defaults,
            "_skipped_steps": new.skipped_steps,
        }
        groups = zip(self.param_groups, new.groups, strict=True)
        # Copied, as a schedule may give the very lists that it then overwrites.
        old = copy.deepcopy(new.learning_rate.state_dict()) if load else None
        try:
            if load:  # that of another library may refuse only now
                load(found.schedule)
            tensors.count_writes(found.counted)
            _core.put((*groups, (vars(self), attributes)), found.exchange)
        except BaseException:
            if load and self._defaults is not new.defaults:
                with suppress(Exception):  # what failed first is what is told
                    load(old)
            raise
        for parameter in self._parameters.values():
            parameter.expect_other_memory()

    def save(self, path: str | os.PathLike[str], parameters: bool = False) -> None:
        """Write what `state_dict` holds to a safetensors file, whole or not at all.

        Whatever fails, and whenever the process is killed, there is the file from before or the
        new one, on the disk when this returns: it is written beside it, as
        ``.{name}.{16 hex digits}.tmp``, a long name cut, and put in its place. What a killed
        process has left there is removed by the next call for this path. Several processes may save
        to one path; the last one stays.

        States are written from where they lie, in blocks of 1 MB, with no copy of them in memory.
        The arrays are called ``states/{key}``, with the key that `state_dict` has, and
        ``parameters/{name}``, and any reader of safetensors has them. Each has a checksum, as has
        the header, so that `load` finds damage. Nothing in the file is ever executed. On a terminal
        a bar is shown above 1 GB, if tqdm is installed: ``pip install 'roofstep[checkpoint]'``.

        Args:
            path: of the file, a str or os.PathLike; ``.safetensors`` is the usual ending. The
                directory must be there. A symbolic link is followed.
            parameters: whether to write the values of the parameters too, all of them. Default
                False.

        Raises:
            TypeError: an argument is of another type; or the state of the schedule holds something
                that is neither plain data nor an array of NumPy.
            ValueError: ``path`` names no file, as one that ends in a separator; there is no regular
                file at it but something else; the state of the schedule is more than 100 levels
                deep; or a setting was edited to a bad value. Nothing has been written then.
            OSError: the file cannot be written, as when the disk is full; what was there is there.
                Should the directory alone not reach the disk, the message says that the new file is
                in place, but perhaps not on the disk.
            RuntimeError: another thread is stepping this optimizer.

        Example:
            >>> import numpy as np, roofstep
            >>> w = roofstep.Parameter(np.array([1.0, 2.0]), name="w")
            >>> opt = roofstep.Momentum(0.5, parameters=[w])
            >>> w.grad = np.array([1.0, 0.0])
            >>> opt.step()
            >>> opt.save("checkpoint.safetensors", parameters=True)
            >>> from safetensors.numpy import load_file  # one that others may use
            >>> for name, array in sorted(load_file("checkpoint.safetensors").items()):
            ...     print(name, array)
            parameters/w [0.5 2. ]
            states/w_step_0 1
            states/w_velocity_0 [1. 0.]
        """
        checked, whether = checks.path("path", path), checks.flag("parameters", parameters)
        self._alone.run(self._write, checked, whether)

    def _write(self, path: str, parameters: bool) -> None:
        checkpoint.write(path, self, self._checkpoint(), self._parameters, parameters)

    def load(self, path: str | os.PathLike[str], parameters: bool | None = None) -> None:
        """Take over what `save` wrote, so that training goes on bit for bit.

        It is `set_state_dict` of what is in the file. The new states are in memory before the old
        ones go (those of `LBFGS` twice, for a moment); so are the new values of the parameters,
        which are then written to where the parameters lie. Until all has been read and its
        checksums agree, nothing changes.

        Args:
            path: of the file.
            parameters: whether to take over the values of the parameters too: True refuses a file
                that has not all of them, False leaves them as they are; None takes them over if the
                file has any. Default None.

        Raises:
            TypeError: an argument is of another type.
            ValueError: ``path`` names no file; the file is cut off, damaged, of another version or
                of another program; or its names, shapes, dtypes, settings or groups do not fit, all
                of which is listed. Nothing has been changed then.
            OSError: the file cannot be read. Nothing has been changed then.
            RuntimeError: another thread is stepping this optimizer.

        Example:
            >>> import numpy as np, roofstep
            >>> roofstep.Adam(0.25, parameters=[np.zeros(2)]).save("checkpoint.safetensors")
            >>> opt = roofstep.Adam(parameters=[np.ones(2)])
            >>> opt.load("checkpoint.safetensors")
            >>> opt.get_lr()
            0.25
        """
        checked = checks.path("path", path)
        whether = parameters if parameters is None else checks.flag("parameters", parameters)
        self._alone.run(self._read, checked, whether)

    def _read(self, path: str, parameters: bool | None) -> None:
        current = self._checkpoint()
        self._adopt(checkpoint.load(path, self, current, self._parameters, parameters))

    def _checkpoint(self) -> checkpoint.Checkpoint:
        groups = [self._complete(group) for group in self.param_groups]
        told = self._skip_nonfinite or self._skipped_steps > 0
        skipped = self._skipped_steps if told else None
        return checkpoint.Checkpoint(self._learning_rate, self._complete({}), groups, skipped)

    def _save(self) -> dict[str, Any]:
        """What the steps so far have left, for a state dict; arrays are those in use."""
        keeps = self._current_plan().keeps
        return checkpoint.entries.save(
            self._states, self._counts, self._numbers, self._parameters, keeps
        )

    def _match(
        self, saved: Mapping[str, Any], groups: list[plan.Group], ours: bool, problems: list[str]
    ) -> dict[str, Any]:
        """The attributes for such entries and such groups; adds what does not fit."""
        kept = checkpoint.match(saved, groups, ours, self, self._parameters, self._name, problems)
        states = (
            {}
            if problems
            else state.laid_out(kept.states, self._parameters, checkpoint.entries.fill)
        )
        counts = np.array([kept.counts.get(name, 0) for name in self._parameters], np.int64)
        numbers = np.array([kept.numbers.get(name, 1.0) for name in self._parameters])
        return {"_states": states, "_counts": counts, "_numbers": numbers, "_plan": None}

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: all but what is made anew."""
        return self._alone.run(self._getstate)

    def _getstate(self) -> dict[str, Any]:
        found = dict(self.__dict__)
        del found["_alone"]  # and what stands for it is the last to be copied
        return {**found, "_plan": None, "_norms": None, "_alone": threads.Undisturbed(self._alone)}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        undisturbed = attributes["_alone"]
        self._alone = threads.alone(type(self).__name__)
        # copy.copy gives the very objects: of these it shares the parameters and the schedule.
        self._parameters, self._defaults = dict(self._parameters), dict(self._defaults)
        self.param_groups = [dict(group) for group in self.param_groups]
        self._states = state.laid_out(self._states, self._parameters)
        self._counts, self._numbers = self._counts.copy(), self._numbers.copy()
        if undisturbed is not None:  # of copy.copy
            undisturbed.require()

    clear_gradients = clear_grad
    load_state_dict = set_state_dict
