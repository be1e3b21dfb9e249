"""What training goes on from, written as a state dict and read back: all of it, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from roofstep import _core, checks, plan, state
from roofstep.checkpoint import entries, file, paddle, plain, settings
from roofstep.parameter import Parameter
from roofstep.plan import Group

# What the names of arrays in a file begin with.
_STATES, _PARAMETERS, _OTHERS = "states/", "parameters/", "others/"


@dataclass
class Checkpoint:
    """The settings of an optimizer."""

    learning_rate: Any
    defaults: Group
    groups: list[Group]  # with every setting in force
    skipped_steps: int | None = None  # None: it is not said


@dataclass
class Found:
    """What a state dict comes to."""

    settings: Checkpoint
    attributes: dict[str, Any]  # of the optimizer, for the rest
    load: Callable[[Any], object] | None  # by which the schedule takes over a state
    schedule: Any  # that state
    exchange: _core.Exchange | None = None  # which puts values into parameters
    counted: list[Any] = field(default_factory=list)  # those of them that count such writes


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
    return entries.copied(family._save()) | copy.deepcopy(_plain(current, parameters))


def _plain(current: Checkpoint, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    names = _names(parameters)
    return {
        **settings.save(current.learning_rate, current.defaults, current.groups, names),
        **({} if current.skipped_steps is None else {"skipped_steps": current.skipped_steps}),
    }


def read(
    state_dict: Mapping[str, Any],
    family: Family,
    current: Checkpoint,
    parameters: Mapping[str, Parameter],
    source: str = "state_dict",
    also: Iterable[str] = (),
) -> Found:
    """What the state dict comes to. Nothing is changed here.

    Args:
        state_dict: see `roofstep.Optimizer.set_state_dict`.
        family: the optimizer.
        current: what is in use, and stays where the state dict is silent.
        parameters: by name.
        source: where it came from, for the message.
        also: what else does not fit, as sentences.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict: expected a dict, got a {type(state_dict).__name__}; "
            f"pass what state_dict() returned"
        )
    problems = [*also]
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
            f"{source} does not fit this optimizer, and nothing was changed:\n  "
            + "\n  ".join(problems)
        )
    schedule = copy.deepcopy(state_dict["LR_Scheduler"]) if load else None
    return Found(Checkpoint(learning_rate, defaults, groups, skipped), taken, load, schedule)


def write(
    path: str,
    family: Family,
    current: Checkpoint,
    parameters: Mapping[str, Parameter],
    with_parameters: bool,
) -> None:
    """Write the state dict to a file, from the memory in which its arrays lie."""
    arrays: dict[str, Any] = {}
    others = _plain(current, parameters)
    for key, value in family._save().items():
        if isinstance(value, np.ndarray):
            arrays[_STATES + key] = value
        else:
            others[key] = value
    if with_parameters:
        arrays |= {_PARAMETERS + name: p.live for name, p in parameters.items()}

    def take(where: plain.Path, value: Any) -> str:
        name = _OTHERS + "/".join(map(str, where))
        known = type(value) in (np.ndarray, file.Rows) or isinstance(value, np.generic)
        if not known or value.dtype not in file.NAMES:
            raise TypeError(
                f"{plain.shown(where)}: expected numbers, text, lists, dicts and NumPy's arrays, "
                f"got {checks.shown(value)}; keep it as such, or save state_dict() yourself"
            )
        if name in arrays:
            raise ValueError(f"{plain.shown(where)}: {name!r} is there twice; rename one of them")
        arrays[name] = np.asarray(value) if isinstance(value, np.generic) else value
        return name

    text = plain.dumps(others, take)
    file.write(path, arrays, text)


def load(
    path: str,
    family: Family,
    current: Checkpoint,
    parameters: Mapping[str, Parameter],
    with_parameters: bool | None,
) -> Found:
    """What `read` gives for a file that `write` wrote. Nothing is changed here.

    Args:
        path: of the file.
        family: the optimizer.
        current: what is in use.
        parameters: by name.
        with_parameters: whether to load their values; None if they are there.
    """
    with file.reading(path) as saved:
        values = _named(saved, _PARAMETERS)
        if with_parameters is False or not (values or with_parameters):
            problems, values = [], {}
        else:
            problems = entries.differences(values, parameters)
        states = _named(saved, _STATES)
        rest = {n: s for n, s in saved.tensors.items() if n.startswith(_OTHERS)}
        total = sum(s.nbytes for row in (values, states, rest) for s in row.values())
        with file.progress("load", total) as saved.done:
            arrays = {name: stored.array() for name, stored in rest.items()}
            try:
                others = plain.loads(saved.settings, arrays.__getitem__)
                _ = others["param_groups"]
            except (LookupError, TypeError, ValueError) as error:
                saved.refuse(f"one with settings that save() never wrote: {error}")
            found = read({**others, **states}, family, current, parameters, repr(path), problems)
            found.exchange, found.counted = _staged(values, parameters)
    return found


def _named(saved: file.Saved, beginning: str) -> dict[str, file.Stored]:
    """The arrays whose names begin like this, by the rest of the names."""
    length = len(beginning)
    return {n[length:]: s for n, s in saved.tensors.items() if n.startswith(beginning)}


def _staged(
    values: Mapping[str, file.Stored], parameters: Mapping[str, Parameter]
) -> tuple[_core.Exchange, list[Any]]:
    """What puts these values into the parameters, and the tensors that count such writes."""
    taken = [(name, parameters[name]) for name in values]
    memory = state.zeros((plan.State(0.0), parameter.live) for _, parameter in taken)
    for stored, array in zip(values.values(), memory, strict=True):
        stored.read_into(array)
    pairs = ((name, p.live, array) for (name, p), array in zip(taken, memory, strict=True))
    return _core.Exchange(tuple(pairs)), [p.data for _, p in taken if p.counts_writes]


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
