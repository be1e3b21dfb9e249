"""What the groups of an optimizer come to for the kernels, made anew when a setting changes.

There are no generators on the way of a step: CPython 3.11 does not survive one without memory.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from roofstep import _core, custom, threads
from roofstep.clip import is_fused
from roofstep.parameter import Parameter
from roofstep.types import Array

Group = dict[str, Any]
Gradients = tuple[Array | None, ...]
Records = tuple[tuple[dict[Any, Any], dict[Any, Any]], ...]

RULES = _core.rules()


class Family(Protocol):
    """What a plan asks of an optimizer class."""

    def _rule(self, group: Mapping[str, Any]) -> str: ...
    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]: ...
    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool: ...
    def _absent(self, group: Mapping[str, Any]) -> str: ...
    def _multiplier(self, name: str, parameter: Parameter) -> float: ...
    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float: ...
    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass
class Kind:
    """Parameters that a step treats alike; only their learning rate changes from step to step."""

    settings: _core.Settings
    group: Group
    multiplier: float
    scale: float
    bounds: tuple[float, float]


@dataclass(frozen=True)
class State:
    """An array kept for a parameter: of its shape, or with several slots of its shape."""

    begin: float | None  # what it is filled with at first; None: the parameter itself
    slots: int | None = None

    def shape(self, parameter: Array) -> tuple[int, ...]:
        """The shape of the array for this parameter."""
        return parameter.shape if self.slots is None else (self.slots, *parameter.shape)


@dataclass
class Keeps:
    """What is kept of a parameter, beside the count of its updates."""

    states: dict[str, State]
    number: str | None  # one number, which begins with 1


class Held:
    """The very objects that groups held, but for their learning rates, which every step reads.

    Args:
        groups: dicts.
        rate: the key of the learning rate.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], rate: str) -> None:
        self._row: list[Any] = []
        self._rates = []
        for group in groups:
            first = len(self._row) + len(group)
            self._rates += [first + i for i, key in enumerate(group) if key == rate]
            self._row += [*group, *group.values()]
        for i in self._rates:
            self._row[i] = None

    def still_in(self, groups: Iterable[Mapping[str, Any]]) -> bool:
        """Whether these groups hold the same."""
        row: list[Any] = []
        for group in groups:
            row += group
            row += group.values()
        if len(row) != len(self._row):
            return False
        for i in self._rates:
            row[i] = None
        return all(map(operator.is_, row, self._row))


@dataclass
class Plan:
    """The arguments of a step, and from what they were made."""

    entries: _core.Entries
    keeps: dict[str, Keeps]  # by the name of the parameter
    kinds: list[Kind]
    norms: list[_core.Norm]
    tasks: dict[int, custom.Task]  # by the position of the parameter; nearly always none
    watches: bool  # for gradients that are not finite: every one counts in some norm
    _held: Held
    _revision: object
    _looks: list[Callable[[], Any]]  # for settings that change without notice; see `_looks`
    _seen: list[Any]  # what these gave

    def prepare(
        self,
        parameters: Iterable[Parameter],
        gradients: Gradients | None,
        clear_grad: bool,
        grad_scale: float,
    ) -> tuple[Gradients | None, list[_core.Norm]]:
        """What a step is given as gradients, and the norms that were taken to make them.

        If it is to skip what is not finite, a user's function sees no such gradient: the step is
        given it as it is, and finds it.
        """
        if not self.tasks:
            return gradients, []
        row: tuple[Any, ...] = gradients or tuple([p.grad for p in parameters])
        if self.watches and not custom.are_finite(self.tasks, row):
            return row, []
        return custom.prepare(self.tasks, row, clear_grad, grad_scale)

    def step(
        self,
        learning_rate: Callable[[Group], float],
        gradients: Gradients | None,
        counts: Array,
        numbers: Array,
        clear_grad: bool = False,
        grad_scale: float = 1.0,
        records: Records = (),
        shown: tuple[tuple[Array, Array], ...] = (),
        skipped: Records = (),
    ) -> list[int] | int | None:
        """Step every parameter that has a gradient; None when all are.

        While any lacks states, nothing is written, and the positions of these are returned. If a
        gradient is not finite and the plan watches, nothing is written either, but for gradients
        that are zeroed, and the position of the first such is returned.

        Args:
            learning_rate: that of a group.
            gradients: one or None for each parameter; None takes the parameters' own.
            counts: the updates so far of each parameter (int64), which are counted on.
            numbers: the one number of each (float64), see `Keeps`.
            clear_grad: also zero the parameters' own gradients.
            grad_scale: gradients are divided by it first of all.
            records: dicts, and entries that are put into them by the call that writes: Ctrl-C may
                come between any two lines of Python.
            shown: rows of floats, and the counts or numbers that these show after the step.
            skipped: what is put in the place of `records` if the step is skipped.
        """
        for kind in self.kinds:
            kind.settings.learning_rate = learning_rate(kind.group) * kind.multiplier
        return self.entries.step(
            gradients,
            counts,
            numbers,
            clear_grad,
            threads.wanted(),
            grad_scale,
            self.watches,
            records,
            shown,
            skipped,
        )

    def holds_for(self, groups: Iterable[Group]) -> bool:
        """Whether nothing has changed that a plan depends on."""
        if self._revision is not Parameter.revision or not self._held.still_in(groups):
            return False
        return [look() for look in self._looks] == self._seen


def members(
    groups: Iterable[Group], parameters: Mapping[str, Parameter]
) -> list[tuple[Group, list[tuple[str, Parameter]]]]:
    """Every group with its parameters and their names.

    Raises:
        ValueError: the groups hold other parameters than these.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    found: list[tuple[Group, list[tuple[str, Parameter]]]] = []
    for group in groups:
        if "params" not in group:
            raise ValueError("param_groups: a group has no 'params' any more; put them back")
        found.append((group, []))
        for parameter in group["params"]:
            name = names.pop(id(parameter), "")
            if not name:
                raise ValueError(
                    f"param_groups: {parameter!r} is new there, or twice; add new ones by "
                    f"add_param_group(), and make another optimizer to exchange some"
                )
            found[-1][1].append((name, parameter))
    for name in names.values():
        raise ValueError(
            f"param_groups: parameter {name!r} is no longer in any 'params'; to leave it as it is, "
            f"set its `trainable` to False"
        )
    return found


def make(
    family: Family,
    groups: Sequence[Group],
    parameters: Mapping[str, Parameter],
    states: Mapping[str, Mapping[str, Array]],
    watches: bool = False,
) -> Plan:
    """The plan for these parameters, in their order, whatever the order of the groups.

    Raises:
        ValueError: the groups hold other parameters than these.
    """
    rows = members(groups, parameters)
    held_now = Held(groups, "learning_rate")
    revision = Parameter.revision
    looks = _looks(groups, parameters.values())
    seen = [look() for look in looks]  # first, so that nothing changes unseen meanwhile
    entries: dict[str, tuple[Any, ...]] = {}
    keeps: dict[str, Keeps] = {}
    kinds: dict[tuple[Any, ...], Kind] = {}
    shared_norms: dict[int, _core.Norm] = {}
    norms: dict[int, _core.Norm] = {}
    tasks: dict[str, custom.Task] = {}
    left_to_python = custom.clips(groups)
    watch = _core.Norm(math.inf) if watches else None  # of gradients that count in no other norm
    for group, named in rows:
        rule = family._rule(group)
        fields = family._fields(group)
        for name, parameter in named:
            kept = keeps[name] = _keeps(family, rule, fields, group, name, parameter)
            if not parameter.trainable:
                entries[name] = (name, parameter.walked, None, None, None)
                continue
            clip = custom.clip_of(group, parameter)
            l1, l2, decay = family._decays(group, name, parameter)
            scale = group.get("rescale_grad", 1.0)
            regularizer = custom.regularizer_of(group, parameter)
            by_python = clip is not None and clip._identity in left_to_python
            if regularizer is not None or by_python:
                tasks[name] = custom.Task(name, parameter, clip, scale, regularizer)
                clip = None
            if regularizer is not None:
                l1, l2, scale = 0.0, 0.0, 1.0
            norm = clip.norm(shared_norms) if is_fused(clip) else None
            if norm is not None:
                norms[id(norm)] = norm
            else:
                norm = watch
            bounds = clip.bounds if is_fused(clip) else (-math.inf, math.inf)
            multiplier = family._multiplier(name, parameter)
            key = (id(group), l1, l2, decay, bounds, scale, multiplier)
            if key not in kinds:
                settings = settings_of(family, group, (l1, l2, decay), scale, bounds)
                kinds[key] = Kind(settings, group, multiplier, scale, bounds)
            held = _held(kept, states.get(name, {}), rule, name)
            entries[name] = (name, parameter.walked, kinds[key].settings, norm, held)
    return Plan(
        _core.Entries(
            tuple([entries[name] for name in parameters]),
            [i for i, parameter in enumerate(parameters.values()) if parameter.counts_writes],
            [i for i, name in enumerate(parameters) if name in tasks],
        ),
        keeps,
        list(kinds.values()),
        list(norms.values()),
        {i: tasks[name] for i, name in enumerate(parameters) if name in tasks},
        watches,
        held_now,
        revision,
        looks,
        seen,
    )


def settings_of(
    family: Family,
    group: Group,
    decays: tuple[float, float, float],
    scale: float,
    bounds: tuple[float, float],
) -> _core.Settings:
    """What the kernels are told of parameters of this group, but for the learning rate."""
    l1, l2, decay = decays
    # By position: pybind11 ends the process where it has no memory to look at a keyword.
    return _core.Settings(
        family._rule(group),
        family._fields(group),
        l1,
        l2,
        decay,
        scale,
        bounds[0],
        bounds[1],
        family._adapts(group, l2, decay),
        group["average_decay"],
        family._absent(group),
    )


def _looks(groups: Iterable[Group], parameters: Iterable[Parameter]) -> list[Callable[[], Any]]:
    rows: dict[type[Parameter], list[Any]] = {}
    for parameter in parameters:
        rows.setdefault(type(parameter), []).append(parameter.walked)
    of_paddle = {
        clip._identity: vars(clip._of_paddle).copy  # its settings are attributes
        for group in groups
        if is_fused(clip := group.get("grad_clip")) and clip._of_paddle is not None
    }
    of_parameters = [look for cls, walked in rows.items() if (look := cls.watch(walked))]
    return [*of_parameters, *of_paddle.values()]


def _keeps(
    family: Family,
    rule: str,
    fields: Mapping[str, Any],
    group: Group,
    name: str,
    parameter: Parameter,
) -> Keeps:
    _, names, number, ring, mean = RULES[rule]
    kept = {s: State(family._initial(group, name, parameter, s)) for s in names}
    if ring:
        kept[names[-1]] = State(kept[names[-1]].begin, fields[ring])
    if mean:
        if group["average_decay"] is not None:
            raise ValueError(
                f"average_decay: expected None for parameter {name!r}, as its rule {rule!r} keeps "
                f"a mean of the weights already, got {group['average_decay']!r}; do without it"
            )
        kept[mean] = State(None)
    if group["average_decay"] is not None:
        kept["average"] = State(None)
    return Keeps(kept, number)


def _held(kept: Keeps, own: Mapping[str, Array], rule: str, name: str) -> tuple[Array, ...] | None:
    """The states in the order of the rule; None if some are still to be made."""
    for s, state in kept.states.items():
        if state.slots is not None and s in own and state.slots != own[s].shape[0]:
            raise ValueError(
                f"{RULES[rule][3]}: parameter {name!r} has {own[s].shape[0]} slots in its state "
                f"{s!r}, got {state.slots}; set it back, or make a new optimizer"
            )
    return tuple([own[s] for s in kept.states]) if kept.states.keys() <= own.keys() else None


def warn_of_skip(name: str, stacklevel: int) -> None:
    """Warn that a step was skipped for the gradient of this parameter."""
    warnings.warn(
        f"the gradient of parameter {name!r} is not finite: this step is skipped, as others will "
        f"be without another warning; see skipped_steps and last_step_applied",
        RuntimeWarning,
        stacklevel=stacklevel + 1,
    )


def combined(norms: Sequence[_core.Norm] | None) -> float | None:
    """The norm over all that these were taken of; None if there are none."""
    if not norms:
        return None
    values = [norm.value for norm in norms]
    return values[0] if len(values) == 1 else math.hypot(*values)
