"""What the groups of an optimizer come to for the kernels, made anew when a setting changes."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from roofstep import _core
from roofstep.clip import ClipGradBase
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
    def _multiplier(self, name: str, parameter: Parameter) -> float: ...
    def _initial(self, group: Mapping[str, Any], state: str) -> float: ...
    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass
class Kind:
    """Parameters that a step treats alike; only their learning rate changes from step to step."""

    settings: _core.Settings
    group: Group
    multiplier: float


@dataclass
class Keeps:
    """What a rule keeps of a parameter, beside the count of its updates."""

    states: dict[str, float]  # arrays of its shape, and what they begin with
    number: str | None  # one number, which begins with 1


@dataclass
class Plan:
    """The arguments of a step, and from what they were made."""

    entries: tuple[tuple[Any, ...], ...]  # see csrc/gather.hpp
    keeps: dict[str, Keeps]  # by the name of the parameter
    kinds: list[Kind]
    norms: list[_core.Norm]
    _sources: list[Any]

    def holds_for(self, groups: Iterable[Group]) -> bool:
        """Whether nothing has changed that a plan depends on."""
        sources = _sources(groups)
        return len(sources) == len(self._sources) and all(map(operator.is_, sources, self._sources))


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
                    f"param_groups: {parameter!r} is new there, or twice; the parameters of an "
                    f"optimizer cannot be exchanged, make another one for them"
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
    groups: Iterable[Group],
    parameters: Mapping[str, Parameter],
    states: Mapping[str, Mapping[str, Array]],
) -> Plan:
    """The plan for these parameters, in their order, whatever the order of the groups.

    Raises:
        ValueError: the groups hold other parameters than these.
    """
    entries: dict[str, tuple[Any, ...]] = {}
    keeps: dict[str, Keeps] = {}
    kinds: dict[tuple[Any, ...], Kind] = {}
    shared_norms: dict[ClipGradBase, _core.Norm] = {}
    norms: dict[int, _core.Norm] = {}
    for group, named in members(groups, parameters):
        rule = family._rule(group)
        _, names_of_states, number = RULES[rule]
        kept = Keeps({s: family._initial(group, s) for s in names_of_states}, number)
        fields = family._fields(group)
        for name, parameter in named:
            keeps[name] = kept
            if not parameter.trainable:
                entries[name] = (name, parameter, None, None, None)
                continue
            clip = group["grad_clip"] if parameter.need_clip else None
            norm = clip.norm(shared_norms) if clip else None
            if norm is not None:
                norms[id(norm)] = norm
            low, high = clip.bounds if clip else (-math.inf, math.inf)
            l1, l2, decay = family._decays(group, name, parameter)
            multiplier = family._multiplier(name, parameter)
            key = (id(group), l1, l2, decay, low, high, multiplier)
            if key not in kinds:
                settings = _core.Settings(
                    rule,
                    fields,
                    l1=l1,
                    l2=l2,
                    decay=decay,
                    scale=group.get("rescale_grad", 1.0),
                    clip_min=low,
                    clip_max=high,
                )
                kinds[key] = Kind(settings, group, multiplier)
            own = states.get(name, {})
            held = tuple(own[s] for s in kept.states if s in own)
            complete = held if len(held) == len(kept.states) else None
            entries[name] = (name, parameter, kinds[key].settings, norm, complete)
    return Plan(
        tuple(entries[name] for name in parameters),
        keeps,
        list(kinds.values()),
        list(norms.values()),
        _sources(groups),
    )


def _sources(groups: Iterable[Group]) -> list[Any]:
    """A group's learning rate is none of them, it is read at every step; but its presence is."""
    sources: list[Any] = [Parameter.revision]
    for group in groups:
        sources += [value for key, value in group.items() if key != "learning_rate"]
        sources.append("learning_rate" in group)
    return sources
