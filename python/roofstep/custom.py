"""The gradients of parameters with a user's clip or regularizer, made before the one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roofstep import _core, checks, regularizer, threads
from roofstep.clip import ClipGradBase, ClipGradByGlobalNorm, is_fused
from roofstep.gradients import Directory, Gradients, as_pairs
from roofstep.parameter import Parameter
from roofstep.regularizer import WeightDecayRegularizer
from roofstep.types import Array


@dataclass(frozen=True)
class Task:
    """What is done to the gradient of one parameter, in this order, and no more by the pass."""

    name: str
    parameter: Parameter
    clip: ClipGradBase | None
    scale: float  # where a regularizer follows; else the pass scales
    regularizer: WeightDecayRegularizer | None


def clip_of(group: Mapping[str, Any], parameter: Parameter) -> ClipGradBase | None:
    """The clip of a parameter; a user's looks at `need_clip` itself, as in Paddle."""
    clip: ClipGradBase | None = group["grad_clip"]
    return clip if parameter.need_clip or not is_fused(clip) else None


def regularizer_of(group: Mapping[str, Any], parameter: Parameter) -> WeightDecayRegularizer | None:
    """The user's regularizer of a parameter, if it has one."""
    found = regularizer.decay_of(group, parameter)
    is_users = isinstance(found, WeightDecayRegularizer) and not regularizer.is_fused(found)
    return found if is_users else None


def clips(groups: Iterable[Mapping[str, Any]]) -> set[int]:
    """The identities of the clips that the pass leaves to Python for all their parameters.

    They are the users', and a global norm where a user's regularizer comes after it for one of its
    parameters: the norm needs the gradients of all.
    """
    found = set()
    for group in groups:
        for parameter in group["params"]:
            clip = clip_of(group, parameter) if parameter.trainable else None
            if clip is None:
                continue
            is_global = isinstance(clip, ClipGradByGlobalNorm)
            if not is_fused(clip) or (is_global and regularizer_of(group, parameter) is not None):
                found.add(clip._identity)
    return found


def are_finite(tasks: Mapping[int, Task], gradients: Sequence[Any]) -> bool:
    """Whether the gradients are of which these make others.

    Raises:
        TypeError, ValueError: a gradient does not fit its parameter.
    """
    norm = _core.Norm(math.inf)
    rows = [(t.name, t.parameter.data, gradients[i]) for i, t in tasks.items()]
    norm.measure([row for row in rows if row[2] is not None], threads.get_num_threads())
    return norm.finite


def prepare(
    tasks: Mapping[int, Task], gradients: Sequence[Any], clear_grad: bool, grad_scale: float
) -> tuple[tuple[Array | None, ...], list[_core.Norm]]:
    """The gradients for the pass, and the norms that were taken here to clip them.

    The bits are those of the pass, but for a clip together with ``rescale_grad``: the pass rounds
    their product once.

    Args:
        tasks: by the position of their parameter.
        gradients: of all parameters.
        clear_grad: whether the pass zeroes the gradients that it was given for these.
        grad_scale: these gradients are divided by it first of all.

    Raises:
        TypeError, ValueError: a gradient, or what a user's function returned, does not fit its
            parameter. Whatever else a user's function raises passes through.
    """
    made: Gradients = list(gradients)
    for i, task in tasks.items():
        if made[i] is not None:
            _core.check_gradient(made[i], task.parameter.data, task.name)
            if grad_scale != 1:
                array = _scaled(task, 1 / grad_scale, made[i])
                made[i] = task.parameter.as_own(array)
    norms: list[_core.Norm] = []
    by_clip: dict[int, dict[int, Task]] = {}
    for i, task in tasks.items():
        if task.clip is not None:
            by_clip.setdefault(task.clip._identity, {})[i] = task
    for of_clip in by_clip.values():
        norms += _clip(of_clip, made)
    for i, task in tasks.items():
        gradient = made[i]
        if gradient is not None and task.regularizer is not None:
            made[i] = _regularized(task, task.regularizer, gradient)
    if clear_grad:
        made = [_apart(g, own) for g, own in zip(made, gradients, strict=True)]
    return tuple(made), norms


def _clip(tasks: Mapping[int, Task], gradients: Gradients) -> list[_core.Norm]:
    """Clips the gradients of the parameters that share a clip; returns the norms that it took."""
    clip = next(iter(tasks.values())).clip
    assert clip is not None
    shared: dict[int, _core.Norm] = {}
    norms = {i: clip.norm(shared) if is_fused(clip) else None for i in tasks}
    there = {i: (task.parameter, g) for i, task in tasks.items() if (g := gradients[i]) is not None}
    if is_fused(clip):
        pairs = clip.apply([*there.values()], [norms[i] for i in there])
        for i, (_, gradient) in zip(there, pairs, strict=True):
            gradients[i] = gradient
    elif there:
        who = f"what {type(clip).__name__} returned"
        returned = as_pairs(clip([*there.values()]), who)
        try:
            row = Directory({tasks[i].name: tasks[i].parameter for i in there}).arrange(returned)
        except ValueError as error:
            raise ValueError(f"{who}: {error}") from None
        for i, value in zip(there, row, strict=True):
            gradients[i] = None if value is None else _checked(value, tasks[i], who)
    return [*{norm: None for norm in norms.values() if norm is not None}]


def _regularized(task: Task, regularizer: WeightDecayRegularizer, gradient: Array) -> Array:
    array = _core.as_numpy(gradient, task.name)
    if task.scale != 1:
        scale = checks.rounded(f"rescale_grad for parameter {task.name!r}", task.scale, array.dtype)
        array = _scaled(task, scale, gradient)
        gradient = task.parameter.as_own(array)
    term = regularizer(task.parameter, gradient, None)
    term = _checked(term, task, f"what {type(regularizer).__name__} returned")
    with np.errstate(all="ignore"):
        return np.asarray(array + _core.as_numpy(term, task.name))


def _scaled(task: Task, factor: float, gradient: Any) -> Array:
    array = _core.as_numpy(gradient, task.name)
    with np.errstate(all="ignore"):
        return np.asarray(array.dtype.type(factor) * array)


def _checked(value: Any, task: Task, who: str) -> Array:
    """Refuses what would be broadcast or cast. Of no dimensions, NumPy's arithmetic is a scalar."""
    array: Array = np.asarray(value) if isinstance(value, np.generic) else value
    _core.check_gradient(array, task.parameter.data, task.name, f"{who} for parameter ")
    return array


def _apart(gradient: Array | None, own: Array | None) -> Array | None:
    """A gradient that may be read while the parameter's own is zeroed."""
    if gradient is None or own is None or gradient is own:
        return gradient
    array = _core.as_numpy(gradient, "gradient")
    return array.copy() if np.may_share_memory(array, _core.as_numpy(own, "gradient")) else gradient
