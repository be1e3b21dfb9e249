"""What training goes on from, written as a state dict and read back: all of it, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from roofstep import _core, plan
from roofstep.checkpoint import entries, paddle, settings
from roofstep.parameter import Parameter
from roofstep.plan import Group


@dataclass
class Checkpoint:
    """The settings of an optimizer."""

    learning_rate: Any
    defaults: Group
    groups: list[Group]  # with every setting in force
    skipped_steps: int | None = None  # None: it is not said


class Family(plan.Family, Protocol):
    """What this file asks of an optimizer."""

    def _complete(self, group: Mapping[str, Any]) -> Group: ...
    def _save(self) -> dict[str, Any]: ...
    def _match(
        self, saved: Mapping[str, Any], groups: list[Group], ours: bool, problems: list[str]
    ) -> dict[str, Any]: ...


def save(
    family: Family, current: Checkpoint, parameters: Mapping[str, Parameter]
) -> dict[str, Any]:
    """The state dict: arrays, which are copies, and plain data."""
    names = _names(parameters)
    return {
        **family._save(),
        **settings.save(current.learning_rate, current.defaults, current.groups, names),
        **({} if current.skipped_steps is None else {"skipped_steps": current.skipped_steps}),
    }


def read(
    state_dict: Mapping[str, Any],
    family: Family,
    current: Checkpoint,
    parameters: Mapping[str, Parameter],
) -> tuple[Checkpoint, dict[str, Any], Callable[[Any], object] | None]:
    """The settings that the state dict comes to, the optimizer's new attributes for the rest of it.

    The last is what loads the state of the schedule, if there is one. Nothing is changed here.

    Args:
        state_dict: see `roofstep.Optimizer.set_state_dict`.
        family: the optimizer.
        current: what is in use, and stays where the state dict is silent.
        parameters: by name.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict: expected a dict, got a {type(state_dict).__name__}; "
            f"pass what state_dict() returned"
        )
    problems: list[str] = []
    reader = settings.Reader(state_dict, lambda k, v: family._complete({k: v})[k], problems)
    defaults = reader.defaults(current.defaults)
    groups = reader.groups(current.groups, _names(parameters))
    learning_rate, load = reader.learning_rate(current.learning_rate)
    skipped = reader.skipped_steps()
    for name, parameter in parameters.items():
        _core.check_parameter(parameter.data, name)
    rest = {key: value for key, value in state_dict.items() if key not in settings.KEYS}
    taken = family._match(rest, groups, "param_groups" in state_dict, problems)
    if problems:
        raise ValueError(
            "state_dict does not fit this optimizer, and nothing was changed:\n  "
            + "\n  ".join(problems)
        )
    return Checkpoint(learning_rate, defaults, groups, skipped), taken, load


def match(
    saved: Mapping[str, Any],
    groups: list[Group],
    ours: bool,
    family: plan.Family,
    parameters: Mapping[str, Parameter],
    optimizer_name: str | None,
    problems: list[str],
) -> entries.Kept:
    """What entries hold that we have saved, or perhaps Paddle; adds what does not fit."""
    keeps = plan.make(family, groups, parameters, {}).keeps
    rules = _rules(family, groups, parameters)
    if not ours and paddle.made(saved, rules):
        found = paddle.sort(saved, keeps, rules, optimizer_name, problems)
    else:
        found = entries.sort(saved, entries.parts(keeps), problems, entries.means(keeps))
    return entries.read(found, parameters, keeps, problems)


def as_paddle(
    saved: Mapping[str, Any],
    groups: list[Group],
    family: plan.Family,
    parameters: Mapping[str, Parameter],
    optimizer_name: str | None,
    counter: int,
) -> dict[str, Any]:
    """The entries that Paddle would have saved in the place of these, and the schedule's state."""
    keeps = plan.make(family, groups, parameters, {}).keeps
    rules = _rules(family, groups, parameters)
    written: dict[str, Any] = paddle.write(saved, keeps, rules, optimizer_name, counter)
    if "LR_Scheduler" in saved:
        written["LR_Scheduler"] = saved["LR_Scheduler"]
    return written


def _rules(
    family: plan.Family, groups: list[Group], parameters: Mapping[str, Parameter]
) -> dict[str, tuple[str, Group]]:
    names = _names(parameters)
    return {names[id(p)]: (family._rule(g), g) for g in groups for p in g["params"]}


def _names(parameters: Mapping[str, Parameter]) -> dict[int, str]:
    return {id(parameter): name for name, parameter in parameters.items()}
