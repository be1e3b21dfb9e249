"""The Optimizer base class: parameters, groups, states, and the one way a step takes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from roofstep import _core, checks, groups, plan, state, threads
from roofstep.clip import ClipGradBase, as_clip
from roofstep.gradients import Directory, Gradients, as_pairs, as_row, differentiate
from roofstep.parameter import Parameter
from roofstep.regularizer import as_regularizer

Array = np.ndarray[Any, Any]
Pair = tuple[Parameter, Array]
Which = Iterable[Parameter | Array | str]


class Optimizer:
    """What all optimizers share; a subclass says which rule steps and which settings it takes.

    A step clips the gradients, decays, and updates, in this order and in one pass over the memory.
    Parameters without a gradient are left as they are, states and step counts included. Everything
    is checked before the first byte is written. An optimizer belongs to one thread at a time.

    Args:
        learning_rate: a number >= 0, or a schedule: an object that gives the rate when called and
            moves on by ``step()``, such as those of `roofstep.lr`. The user steps the schedule.
        parameters: a list or tuple of `Parameter` (or of bare NumPy arrays, which are wrapped); or
            of groups, dicts with ``params`` and, where they differ from the optimizer's,
            ``learning_rate`` (a factor), ``weight_decay``, ``grad_clip`` and the rule's own
            settings. In a group an absent key means the optimizer's value, None means none. None
            leaves the parameters to `minimize` or `apply_gradients`.
        weight_decay: a number (L2), `L1Decay`, `L2Decay`, or None. It is added to the gradient
            after clipping; a parameter's own regularizer wins over it.
        grad_clip: `ClipGradByGlobalNorm`, `ClipGradByNorm`, `ClipGradByValue`, or None. Parameters
            with ``need_clip=False`` are left out.
        name: shown in the repr.

    Attributes:
        param_groups: the groups with the settings in force, a list of dicts. Settings may be
            edited; they are checked and take effect at the next step.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a value is out of range, parameters are empty or twice there, a group has an
            unknown key, or a parameter cannot be stepped in place.
    """

    # The rule's own settings, all of which a group may set, and how each is checked.
    _settings: ClassVar[dict[str, checks.Check]] = {}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        parameters: Iterable[Any] | None = None,
        weight_decay: Any = None,
        grad_clip: ClipGradBase | None = None,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        self._learning_rate = checks.learning_rate("learning_rate", learning_rate)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name: expected a str or None, got {name!r}; pass its str()")
        self._name = name
        self._defaults: dict[str, Any] = {
            "learning_rate": 1.0,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
            **settings,
        }
        self._defaults = self._complete({})
        self.param_groups: list[dict[str, Any]] = []
        self._parameters: dict[str, Parameter] = {}
        self._states: dict[str, dict[str, Array]] = {}
        self._counts = np.zeros(0, np.int64)
        self._numbers = np.ones(0)  # see plan.Keeps.number
        self._lock = threading.Lock()
        self._plan: plan.Plan | None = None
        self._norms: list[_core.Norm] | None = None
        if parameters is not None:
            self._add(parameters)

    def __repr__(self) -> str:
        settings = {**self._defaults, "learning_rate": self._learning_rate}
        settings |= {"name": self._name} if self._name is not None else {}
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

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        """The coefficients l1 and l2 of coupled decay, and that of decoupled decay."""
        regularizer = parameter.regularizer or group["weight_decay"]
        return (regularizer.l1, regularizer.l2, 0.0) if regularizer else (0.0, 0.0, 0.0)

    def _multiplier(self, name: str, parameter: Parameter) -> float:
        """The parameter's own factor on the learning rate."""
        return parameter.learning_rate

    def _initial(self, group: Mapping[str, Any], state: str) -> float:
        """What a state of a parameter in this group begins with."""
        return 0.0

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group's settings under the names of the rule's fields, perhaps among others."""
        return dict(group)

    # Parameters and groups.

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters in the order given; a bare array is here as its `Parameter`."""
        return tuple(self._parameters.values())

    def _complete(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group with what it leaves out, every setting checked."""
        complete = {**self._defaults, **group}
        for key, value in complete.items():
            if key == "learning_rate":
                complete[key] = checks.non_negative("learning_rate of a group", value)
            elif key == "weight_decay":
                complete[key] = self._check_decay(key, value)
            elif key == "grad_clip":
                complete[key] = as_clip(key, value)
            elif key in self._settings:
                complete[key] = self._settings[key](key, value)
            elif key == "params":
                complete[key] = tuple(value)
            else:
                known = ("params", "learning_rate", "weight_decay", "grad_clip", *self._settings)
                raise ValueError(
                    f"{key!r} is no setting of {type(self).__name__}, whose groups take "
                    f"{', '.join(known)}; remove it or correct its spelling"
                )
        return complete

    def _add(self, parameters: Iterable[Any]) -> None:
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
            owners[id(parameter.data)] = name
            added[name] = parameter
        self._parameters.update(added)
        self._counts = np.concatenate([self._counts, np.zeros(len(added), np.int64)])
        self._numbers = np.concatenate([self._numbers, np.ones(len(added))])
        self.param_groups += new_groups
        self._plan = None

    # The step.

    def step(self, clear_grad: bool = False) -> None:
        """Update every parameter that has a gradient, in place.

        Args:
            clear_grad: also zero the gradients, in the same pass over the memory; they stay as
                buffers. (The method `clear_grad` drops them instead.)

        Raises:
            TypeError, ValueError: there are no parameters, a setting was edited to a bad value, the
                schedule gives no finite rate, a parameter or gradient cannot be used, or memory
                overlaps. Nothing has been written then.
            RuntimeError: another thread is stepping this optimizer.
        """
        self._step(None, checks.flag("clear_grad", clear_grad))

    def _step(self, gradients: tuple[Array | None, ...] | None, clear_grad: bool = False) -> None:
        """Step by the gradients given, one or None for each parameter, or by their own `.grad`."""
        if not self._parameters:
            raise ValueError(
                f"{type(self).__name__} has no parameters to step; pass parameters=[...] to it, "
                f"or to minimize()"
            )
        learning_rate = self.get_lr()  # asked first and once: a schedule may do as it likes
        with self._alone():
            while True:
                current = self._current_plan()
                for kind in current.kinds:
                    factor = checks.non_negative(
                        "learning_rate of a group", kind.group["learning_rate"]
                    )
                    kind.settings.learning_rate = learning_rate * factor * kind.multiplier
                missing = _core.step(
                    current.entries,
                    gradients,
                    self._counts,
                    self._numbers,
                    clear_grad,
                    threads.get_num_threads(),
                )
                if not missing:
                    break
                self._create_states(current, missing)
            self._norms = current.norms

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuses two threads at once: a step lets go of the GIL while it writes."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"this {type(self).__name__} is being stepped by another thread; give each thread "
                f"an optimizer of its own, or a lock around this one"
            )
        try:
            yield
        finally:
            self._lock.release()

    @property
    def last_grad_norm(self) -> float | None:
        """The L2 norm of the gradients in the last step, before clipping.

        It is that over all gradients of which the step took a norm to clip them, 0.0 if none of
        these was there; None if no norm clips, or before the first step.
        ``ClipGradByGlobalNorm(math.inf)`` measures and never clips.
        """
        if not self._norms:
            return None
        values = [norm.value for norm in self._norms]
        return values[0] if len(values) == 1 else math.hypot(*values)

    def _current_plan(self) -> plan.Plan:
        if self._plan is None or not self._plan.holds_for(self.param_groups):
            for group in self.param_groups:
                group.update(self._complete(group))
            self._plan = plan.make(self, self.param_groups, self._parameters, self._states)
        return self._plan

    def _create_states(self, current: plan.Plan, indices: Sequence[int]) -> None:
        """New states for parameters that have their first gradient."""
        names = tuple(self._parameters)
        wanted = [
            (s, names[i])
            for i in indices
            for s in current.keeps[names[i]].states
            if s not in self._states.get(names[i], {})
        ]
        wanted.sort(key=lambda pair: pair[0])  # by state: a pass then reads long runs of memory
        arrays = state.zeros(self._parameters[name].data for _, name in wanted)
        for (s, name), array in zip(wanted, arrays, strict=True):
            begin = current.keeps[name].states[s]
            with np.errstate(over="ignore"):
                fits = np.isfinite(array.dtype.type(begin))
            if not fits:
                raise ValueError(
                    f"initial value of {s!r} of parameter {name!r}: expected a number that "
                    f"{array.dtype} can hold, got {begin}; make it smaller"
                )
            if begin:
                array.fill(begin)
        for (s, name), array in zip(wanted, arrays, strict=True):
            self._states.setdefault(name, {})[s] = array
        self._plan = None

    # Gradients.

    def backward(
        self,
        loss: Any,
        startup_program: None = None,
        parameters: Which | None = None,
        no_grad_set: Which | None = None,
        callbacks: None = None,
    ) -> list[Pair]:
        """The gradients of a loss, as `minimize` gets them: a list of (parameter, gradient).

        Gradients that it lets a loss compute stay on the parameters.

        Args:
            loss: see `minimize`.
            startup_program: of static graphs; None.
            parameters: see `minimize`.
            no_grad_set: see `minimize`.
            callbacks: of static graphs; None.

        Raises:
            TypeError, ValueError: see `minimize`.
        """
        _only_none(startup_program=startup_program, callbacks=callbacks)
        with self._moving(parameters, no_grad_set) as chosen:
            gradients, _ = differentiate(loss, self._parameters, chosen)
            return self._pairs(gradients, chosen)

    def apply_gradients(self, params_grads: Iterable[tuple[Any, Array | None]]) -> list[Any]:
        """Clip, decay and update by these gradients, whatever `.grad` holds.

        Args:
            params_grads: pairs of a parameter (or its array, or its name) and its gradient;
                parameters that are not named, or with None, are left as they are. An optimizer
                without parameters takes those of the pairs.

        Returns:
            An empty list, where static graphs return operators.

        Raises:
            TypeError, ValueError: a pair names no parameter of this optimizer or one twice, and as
                `step`. Nothing has been written then.
        """
        pairs = as_pairs(params_grads)
        with self._adopting([which for which, _ in pairs] or None):
            self._step(tuple(Directory(self._parameters).arrange(pairs)))
        return []

    def minimize(
        self,
        loss: Any,
        startup_program: None = None,
        parameters: Which | None = None,
        no_grad_set: Which | None = None,
    ) -> tuple[list[Any], list[Pair]]:
        """Get the gradients of a loss and step by them.

        Args:
            loss: a callable, which is called and returns ``loss``, having set the gradients (all
                that are on the parameters then are used), or ``(loss, gradients)``, a list in the
                order of all parameters or a dict by name; or a loss with ``.backward()``, which is
                called when no parameter to be updated holds a gradient; or any loss whose gradients
                are on the parameters already.
            startup_program: of static graphs; None.
            parameters: only these, given as parameters, arrays or names, are updated. An optimizer
                made without parameters takes them for good.
            no_grad_set: these are not updated.

        Returns:
            ``(optimize_ops, params_grads)``: an empty list, and the pairs of the update. Gradients
            that came about by calling ``loss`` or its ``backward`` are dropped from the parameters
            after the update, so that none is used twice; the pairs keep them.

        Raises:
            TypeError, ValueError: there is no gradient, a name is unknown, and as `step`. Nothing
                has been written then.

        Example:
            >>> import numpy as np, roofstep
            >>> w = roofstep.Parameter(np.array([3.0]))
            >>> opt = roofstep.SGD(0.25, [w])
            >>> for _ in range(3):
            ...     _ = opt.minimize(lambda: ((w.data**2).sum(), [2 * w.data]))
            >>> w.data
            array([0.375])
        """
        _only_none(startup_program=startup_program)
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
        had_none = not self._parameters
        if had_none and parameters is not None:
            self._add(parameters)
        try:
            yield
        except BaseException:
            if had_none and not self._counts.any():  # no update has come about
                self._parameters, self.param_groups, self._states = {}, [], {}
                self._counts, self._numbers, self._plan = np.zeros(0, np.int64), np.ones(0), None
            raise

    def _pairs(self, gradients: Gradients, chosen: set[int]) -> list[Pair]:
        """The pairs of the parameters that are to move and have a gradient."""
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
                moves whatever has momentum.

        Raises:
            TypeError, ValueError: a gradient to be filled is no writable array. Nothing has been
                written then.
        """
        held = [(n, p) for n, p in self._parameters.items() if p.grad is not None]
        if not checks.flag("set_to_zero", set_to_zero):
            for _, parameter in held:
                parameter.grad = None
            return
        for name, parameter in held:
            _core.check_clearable(parameter.grad, name)
        for _, parameter in held:
            parameter.grad[...] = 0  # type: ignore[index]

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

    def set_lr(self, value: float) -> None:
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

    def set_lr_scheduler(self, scheduler: Callable[[], float]) -> None:
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
        """Copies of all states and step counts, and the state of the schedule.

        Returns:
            ``{parameter}_{state}_0`` and ``{parameter}_step_0`` for every parameter that has been
            stepped, ``LR_Scheduler`` if a schedule is in use.
        """
        with self._alone():
            saved = self._save()
        if hasattr(self._learning_rate, "state_dict"):
            saved["LR_Scheduler"] = self._learning_rate.state_dict()
        return saved

    def set_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, so that training goes on bit for bit.

        Parameters of which it says nothing begin anew.

        Args:
            state_dict: arrays by name; any counter may stand at the end of a name.

        Raises:
            ValueError: names, shapes or dtypes do not fit; the message lists all that do not, and
                nothing has been changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"state_dict: expected a dict, got a {type(state_dict).__name__}; "
                f"pass what state_dict() returned"
            )
        entries = {key: value for key, value in state_dict.items() if key != "LR_Scheduler"}
        problems, adopt = self._match(entries)
        schedule = self._learning_rate
        load = getattr(schedule, "set_state_dict", getattr(schedule, "load_state_dict", None))
        if load and "LR_Scheduler" not in state_dict:
            problems.append("'LR_Scheduler' is missing, and a schedule is in use")
        elif not load and "LR_Scheduler" in state_dict:
            problems.append("'LR_Scheduler' is there, and no schedule is in use that could load it")
        if problems:
            raise ValueError(
                "state_dict does not fit this optimizer, and nothing was changed:\n  "
                + "\n  ".join(problems)
            )
        with self._alone():
            if load:
                load(state_dict["LR_Scheduler"])  # refuses before it changes anything
            adopt()

    def _save(self) -> dict[str, Any]:
        """Copies of what the steps so far have left, for `state_dict`."""
        saved: dict[str, Any] = {}
        keeps = self._current_plan().keeps
        for i, (name, parameter) in enumerate(self._parameters.items()):
            if not self._counts[i]:
                continue
            own, kept = self._states.get(name, {}), keeps[name]
            for s, begin in kept.states.items():  # one may be new since a setting was edited
                array = own[s].copy() if s in own else np.full_like(parameter.data, begin)
                saved[state.key(name, s)] = array
            saved[state.key(name, "step")] = np.array(self._counts[i])
            if kept.number:
                saved[state.key(name, kept.number)] = np.array(self._numbers[i])
        return saved

    def _match(self, entries: Mapping[str, Any]) -> tuple[list[str], Callable[[], None]]:
        """What of saved entries does not fit, each as a sentence; and how to take them over."""
        keeps = self._current_plan().keeps
        for name, parameter in self._parameters.items():
            _core.check_parameter(parameter.data, name)
        states, steps, numbers, problems = state.match(
            entries, {name: (p.data, keeps[name]) for name, p in self._parameters.items()}
        )
        laid_out = {} if problems else self._laid_out(states)  # memory may end here
        counts = np.array([steps.get(name, 0) for name in self._parameters], np.int64)
        carried = np.array([numbers.get(name, 1.0) for name in self._parameters])

        def adopt() -> None:
            self._states, self._counts, self._numbers = laid_out, counts, carried
            self._plan = None

        return problems, adopt

    def _laid_out(self, states: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Array]]:
        """Copies of states in memory of our own, each laid out as its parameter."""
        row = [(name, s, array) for name, named in states.items() for s, array in named.items()]
        memory = state.zeros(self._parameters[name].data for name, _, _ in row)
        copies: dict[str, dict[str, Array]] = {}
        for (name, s, array), own in zip(row, memory, strict=True):
            own[...] = array
            copies.setdefault(name, {})[s] = own
        return copies

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: all but what is made anew."""
        return {**self.__dict__, "_plan": None, "_norms": None, "_lock": None}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        self._lock = threading.Lock()
        self._states = self._laid_out(self._states)

    clear_gradients = clear_grad
    load_state_dict = set_state_dict


def _only_none(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None, got {value!r}; it belongs to static graphs, leave it out"
            )
