"""What the groups of an optimizer come to for the kernels, made anew when a setting changes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from roofstep import _core, custom
from roofstep.clip import is_fused
from roofstep.parameter import Parameter

Array = np.ndarray[Any, Any]
Group = dict[str, Any]

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


@dataclass(frozen=True)
class State:
    """An array kept for a parameter: of its shape, or with several slots of its shape."""

    begin: float | None  # what it is filled with at first; None: the parameter itself
    slots: int | None = None

    def shape(self, parameter: Array) -> tuple[int, ...]:
        """The shape of the array for this parameter."""
        return parameter.shape if self.slots is None else (self.slots, *parameter.shape)

    def first(self, parameter: Array) -> Array:
        """What it holds at first."""
        begin = parameter if self.begin is None else self.begin
        return np.array(np.broadcast_to(begin, self.shape(parameter)), parameter.dtype)


@dataclass
class Keeps:
    """What is kept of a parameter, beside the count of its updates."""

    states: dict[str, State]
    number: str | None  # one number, which begins with 1


@dataclass
class Plan:
    """The arguments of a step, and from what they were made."""

    entries: _core.Entries
    keeps: dict[str, Keeps]  # by the name of the parameter
    kinds: list[Kind]
    norms: list[_core.Norm]
    tasks: dict[int, custom.Task]  # by the position of the parameter; nearly always none
    _sources: list[Any]
    _rates: list[int]  # where in these a group's learning rate stands, which may change
    _looks: list[Callable[[], Any]]  # for settings that change without notice; see Parameter.watch
    _seen: list[Any]  # what these gave

    def holds_for(self, groups: Iterable[Group]) -> bool:
        """Whether nothing has changed that a plan depends on."""
        sources = _sources(groups)
        if len(sources) != len(self._sources):
            return False
        for i in self._rates:
            sources[i] = None
        if not all(map(operator.is_, sources, self._sources)):
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
) -> Plan:
    """The plan for these parameters, in their order, whatever the order of the groups.

    Raises:
        ValueError: the groups hold other parameters than these.
    """
    rows = members(groups, parameters)
    sources, rates = _sources(groups), _rates(groups)
    for i in rates:
        sources[i] = None
    looks = _looks(parameters.values())
    seen = [look() for look in looks]  # first, so that nothing changes unseen meanwhile
    entries: dict[str, tuple[Any, ...]] = {}
    keeps: dict[str, Keeps] = {}
    kinds: dict[tuple[Any, ...], Kind] = {}
    shared_norms: dict[int, _core.Norm] = {}
    norms: dict[int, _core.Norm] = {}
    tasks: dict[str, custom.Task] = {}
    left_to_python = custom.clips(groups)
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
            if regularizer is not None or id(clip) in left_to_python:
                tasks[name] = custom.Task(name, parameter, clip, scale, regularizer)
                clip = None
            if regularizer is not None:
                l1, l2, scale = 0.0, 0.0, 1.0
            norm = clip.norm(shared_norms) if is_fused(clip) else None
            if norm is not None:
                norms[id(norm)] = norm
            low, high = clip.bounds if is_fused(clip) else (-math.inf, math.inf)
            multiplier = family._multiplier(name, parameter)
            key = (id(group), l1, l2, decay, low, high, scale, multiplier)
            if key not in kinds:
                settings = _core.Settings(
                    rule,
                    fields,
                    l1=l1,
                    l2=l2,
                    decay=decay,
                    scale=scale,
                    clip_min=low,
                    clip_max=high,
                    adapts=family._adapts(group, l2, decay),
                    average_decay=group["average_decay"],
                    absent=family._absent(group),
                )
                kinds[key] = Kind(settings, group, multiplier)
            held = _held(kept, states.get(name, {}), rule, name)
            entries[name] = (name, parameter.walked, kinds[key].settings, norm, held)
    return Plan(
        _core.Entries(
            tuple(entries[name] for name in parameters),
            [i for i, parameter in enumerate(parameters.values()) if parameter.counts_writes],
        ),
        keeps,
        list(kinds.values()),
        list(norms.values()),
        {i: tasks[name] for i, name in enumerate(parameters) if name in tasks},
        sources,
        rates,
        looks,
        seen,
    )


def _looks(parameters: Iterable[Parameter]) -> list[Callable[[], Any]]:
    rows: dict[type[Parameter], list[Any]] = {}
    for parameter in parameters:
        rows.setdefault(type(parameter), []).append(parameter.walked)
    return [look for cls, walked in rows.items() if (look := cls.watch(walked))]


def _keeps(
    family: Family,
    rule: str,
    fields: Mapping[str, Any],
    group: Group,
    name: str,
    parameter: Parameter,
) -> Keeps:
    _, names, number, ring = RULES[rule]
    kept = {s: State(family._initial(group, name, parameter, s)) for s in names}
    if ring:
        kept[names[-1]] = State(kept[names[-1]].begin, fields[ring])
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
    return tuple(own[s] for s in kept.states) if all(s in own for s in kept.states) else None


def _sources(groups: Iterable[Group]) -> list[Any]:
    sources: list[Any] = [Parameter.revision]
    for group in groups:
        sources += group
        sources += group.values()
    return sources


def _rates(groups: Iterable[Group]) -> list[int]:
    """The places of the learning rates in the sources: they are read at every step."""
    found, end = [], 1
    for group in groups:
        found += [end + len(group) + i for i, key in enumerate(group) if key == "learning_rate"]
        end += 2 * len(group)
    return found
