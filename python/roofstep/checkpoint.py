"""What training goes on from, written as a state dict and read back: all of it, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from roofstep import _core, entries, paddle_state, plan, settings, state
from roofstep.parameter import Parameter
from roofstep.plan import Group

Array = np.ndarray[Any, Any]


@dataclass
class Checkpoint:
    """All that training goes on from, beside the parameters."""

    learning_rate: Any
    defaults: Group
    groups: list[Group]  # with every setting in force
    states: dict[str, dict[str, Array]]
    counts: Array
    numbers: Array


class Family(plan.Family, Protocol):
    """What this file asks of an optimizer class."""

    def _complete(self, group: Mapping[str, Any]) -> Group: ...


def save(
    current: Checkpoint, parameters: Mapping[str, Parameter], keeps: Mapping[str, plan.Keeps]
) -> dict[str, Any]:
    """The state dict: arrays, which are copies, and plain data."""
    return {
        **entries.save(current.states, current.counts, current.numbers, parameters, keeps),
        **settings.save(
            current.learning_rate, current.defaults, current.groups, _names(parameters)
        ),
    }


def read(
    state_dict: Mapping[str, Any],
    current: Checkpoint,
    parameters: Mapping[str, Parameter],
    family: Family,
    name: str | None,
) -> Checkpoint:
    """What the state dict comes to. Nothing is changed, except by its schedule when all else fits.

    Args:
        state_dict: see `roofstep.Optimizer.set_state_dict`.
        current: what is in use, and stays where the state dict is silent.
        parameters: by name.
        family: the optimizer.
        name: the optimizer's name.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict: expected a dict, got a {type(state_dict).__name__}; "
            f"pass what state_dict() returned"
        )
    problems: list[str] = []
    names = _names(parameters)
    reader = settings.Reader(state_dict, lambda k, v: family._complete({k: v})[k], problems)
    defaults = reader.defaults(current.defaults)
    groups = reader.groups(current.groups, names)
    learning_rate, load = reader.learning_rate(current.learning_rate)

    keeps = plan.make(family, groups, parameters, {}).keeps
    for label, parameter in parameters.items():
        _core.check_parameter(parameter.data, label)
    rest = {key: value for key, value in state_dict.items() if key not in settings.KEYS}
    rules = {names[id(p)]: (family._rule(g), g) for g in groups for p in g["params"]}
    if "param_groups" not in state_dict and paddle_state.made(rest, rules):
        found = paddle_state.sort(rest, keeps, rules, name, problems)
    else:
        found = entries.sort(rest, entries.parts(keeps), problems)
    kept = entries.read(found, parameters, keeps, problems)
    if problems:
        raise ValueError(
            "state_dict does not fit this optimizer, and nothing was changed:\n  "
            + "\n  ".join(problems)
        )

    restored = Checkpoint(
        learning_rate,
        defaults,
        groups,
        state.laid_out(kept.states, parameters),
        np.array([kept.counts.get(label, 0) for label in parameters], np.int64),
        np.array([kept.numbers.get(label, 1.0) for label in parameters]),
    )
    if load:
        load(state_dict["LR_Scheduler"])  # one of another library may refuse only now
    return restored


def _names(parameters: Mapping[str, Parameter]) -> dict[int, str]:
    return {id(parameter): name for name, parameter in parameters.items()}
