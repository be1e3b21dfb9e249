"""The settings of an optimizer as plain data for its state dict, and back through the checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from roofstep import checks
from roofstep.clip import ClipGradBase, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from roofstep.lr import LRScheduler
from roofstep.plan import Group
from roofstep.regularizer import L1Decay, L2Decay, WeightDecayRegularizer

KEYS = (
    *("learning_rate", "LR_Scheduler", "defaults", "param_groups", "grad_clips"),
    "skipped_steps",
)

# What can be made anew from its name and arguments. Others are the user's.
_CLASSES = {
    known.__name__: known
    for known in (ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, L1Decay, L2Decay)
}


def save(
    learning_rate: Any, defaults: Group, groups: Iterable[Group], names: Mapping[int, str]
) -> dict[str, Any]:
    """All settings but functions, as numbers, text, lists and dicts.

    Args:
        learning_rate: the number, or the schedule.
        defaults: what a group takes that leaves a setting out.
        groups: the groups, complete.
        names: the names of parameters by their id.
    """
    saved: dict[str, Any] = {}
    if not callable(learning_rate):
        saved["learning_rate"] = float(learning_rate)
    elif hasattr(learning_rate, "state_dict"):
        saved["LR_Scheduler"] = learning_rate.state_dict()
    clips: list[ClipGradBase] = []
    saved["defaults"] = _plain(defaults, clips)
    saved["param_groups"] = [
        {"params": [names[id(p)] for p in group["params"]], **_plain(group, clips)}
        for group in groups
    ]
    saved["grad_clips"] = [_described(clip) for clip in clips]
    return saved


def _plain(settings: Group, clips: list[ClipGradBase]) -> dict[str, Any]:
    plain = {}
    for key, value in settings.items():
        if isinstance(value, ClipGradBase):
            # By its place in a list, so that groups which share a norm still share it afterwards.
            identities = [clip._identity for clip in clips]
            if value._identity not in identities:
                clips.append(value)
                identities.append(value._identity)
            plain[key] = identities.index(value._identity)
        elif key != "params" and not _is_function(value):
            plain[key] = _described(value)
    return plain


def _described(value: Any) -> Any:
    if isinstance(value, (ClipGradBase, WeightDecayRegularizer)):
        name = type(value).__name__
        if _CLASSES.get(name) is not type(value):
            return {"class": name}
        arguments = inspect.signature(type(value)).parameters
        return {"class": name, **{a: getattr(value, a) for a in arguments}}
    return list(value) if isinstance(value, tuple) else value


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (ClipGradBase, WeightDecayRegularizer))


class Reader:
    """Reads settings back; what does not fit is collected, and nothing is changed.

    Args:
        saved: a state dict.
        check: what a setting comes to by the checks of the constructor, from its name and value.
        problems: where mismatches are added, as sentences.
    """

    def __init__(
        self, saved: Mapping[str, Any], check: Callable[[str, Any], Any], problems: list[str]
    ) -> None:
        self._saved = saved
        self._check = check
        self._problems = problems
        self._descriptions = self._list("grad_clips")
        self._clips: dict[int, ClipGradBase] = {}

    def defaults(self, current: Group) -> Group:
        """The saved ones, or where there are none the current ones."""
        if "defaults" not in self._saved:
            return current
        return self._settings("'defaults'", self._saved["defaults"], current)

    def groups(self, current: list[Group], names: Mapping[int, str]) -> list[Group]:
        """The groups with the saved settings, or where there are none the current ones."""
        if "param_groups" not in self._saved:
            return current
        found = dict(enumerate(current))
        places = {
            frozenset(names.get(id(p), "") for p in group.get("params", ())): place
            for place, group in found.items()
        }
        for number, group in enumerate(self._list("param_groups")):
            what = f"'param_groups'[{number}]"
            held = group.get("params") if isinstance(group, Mapping) else None
            if not isinstance(held, (list, tuple)) or not all(isinstance(n, str) for n in held):
                self._problems.append(f"{what} is no group with a list of names as 'params'")
                continue
            place = places.pop(frozenset(held), None)
            if place is None:
                self._problems.append(f"{what} holds {[*held]}, and no group here holds the same")
            else:
                rest = {key: value for key, value in group.items() if key != "params"}
                found[place] = self._settings(what, rest, current[place])
        for place in places.values():
            own = [names.get(id(p), "") for p in current[place].get("params", ())]
            self._problems.append(
                f"a group here holds {own}, and none in 'param_groups' holds the same; what came "
                f"later is to be added after the loading"
            )
        return list(found.values())

    def learning_rate(self, current: Any) -> tuple[Any, Callable[[Any], object] | None]:
        """The learning rate, and if it is a schedule with a state, how that is loaded."""
        number, state = "learning_rate" in self._saved, "LR_Scheduler" in self._saved
        load = getattr(current, "set_state_dict", getattr(current, "load_state_dict", None))
        if load and not state:
            self._problems.append("'LR_Scheduler' is missing, and a schedule is in use")
        elif state and not load:
            self._problems.append(
                "'LR_Scheduler' is there, and no schedule is in use that could load it"
            )
        elif state and getattr(load, "__func__", None) is LRScheduler.set_state_dict:
            current._read_state("LR_Scheduler", self._saved["LR_Scheduler"], self._problems)
        if number and callable(current):
            self._problems.append("'learning_rate' is there, and a schedule is in use")
        elif number:
            try:
                current = checks.non_negative("'learning_rate'", self._saved["learning_rate"])
            except (TypeError, ValueError) as error:
                self._problems.append(str(error))
        elif "param_groups" in self._saved and not callable(current):
            self._problems.append("'learning_rate' is missing, and no schedule is in use")
        return current, load

    def skipped_steps(self) -> int:
        """The count of skipped steps; 0 where there is none."""
        try:
            return checks.whole("'skipped_steps'", self._saved.get("skipped_steps", 0), 0)
        except (TypeError, ValueError) as error:
            self._problems.append(str(error))
            return 0

    def _list(self, key: str) -> list[Any]:
        value = self._saved.get(key, [])
        if not isinstance(value, (list, tuple)):
            self._problems.append(f"{key!r} is no list: {value!r}")
            return []
        return list(value)

    def _settings(self, what: str, saved: Any, current: Group) -> Group:
        if not isinstance(saved, Mapping):
            self._problems.append(f"{what} is no dict: {saved!r}")
            return current
        found = dict(current)
        for key in saved:
            if key not in current:
                self._problems.append(f"{what}: {key!r} is no setting of this optimizer")
        for key, value in current.items():
            if key == "params" or _is_function(value):
                continue
            if key in saved:
                found[key] = self._setting(what, key, saved[key], value)
            elif value is not None:  # else a function may have been there
                self._problems.append(f"{what}: {key!r} is missing")
        return found

    def _setting(self, what: str, key: str, saved: Any, current: Any) -> Any:
        try:
            if key == "grad_clip" and saved is not None:
                return self._clip(saved, current)
            return self._same(key, saved, current)
        except (TypeError, ValueError) as error:
            text = str(error)  # begins with the setting, or with an argument of a clip or decay
            self._problems.append(f"{what}: {text if text.startswith(key) else f'{key}: {text}'}")
            return current

    def _clip(self, place: Any, current: Any) -> Any:
        if isinstance(place, bool) or place not in range(len(self._descriptions)):
            raise ValueError(f"grad_clip: {place!r} is no place in 'grad_clips'")
        if place not in self._clips:
            if not isinstance(description := self._descriptions[place], Mapping):
                raise ValueError(f"grad_clip: {description!r} in 'grad_clips' is no clip")
            clip = self._same("grad_clip", description, current)
            if any(clip._identity == other._identity for other in self._clips.values()):
                raise ValueError(f"grad_clip: {clip!r} is one object here, and was several")
            self._clips[place] = clip
        return self._clips[place]

    def _same(self, key: str, saved: Any, current: Any) -> Any:
        """The setting that would be saved like this again; such is not AdamW's decay in Adam."""
        value = self._check(key, _revived(key, saved, current))
        if _described(value) != _described(saved):
            raise ValueError(f"{key}: {saved!r} would mean {value!r} here")
        return value


def _revived(key: str, saved: Any, current: Any) -> Any:
    """A clip or a regularizer from its description, or the one in use if it is the user's own."""
    if _is_function(saved):
        raise ValueError(f"{key}: {saved!r} is a function; those are the constructor's")
    if not isinstance(saved, Mapping):
        return saved
    name, arguments = saved.get("class"), {k: v for k, v in saved.items() if k != "class"}
    if arguments and name in _CLASSES:
        return _CLASSES[name](**arguments)
    if type(current).__name__ != name:
        raise ValueError(
            f"{key}: {dict(saved)!r} says too little to make one, and the one in use is "
            f"{current!r}; construct the optimizer with one"
        )
    return current
