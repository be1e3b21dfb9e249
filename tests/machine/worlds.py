"""An optimizer of the package and its arrays, held to a model: see test_machine.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import roofstep as rs
from draws import takes_skip
from model import FUNCTIONS, NO_DECAY, SCHEDULES, Group, Member, Model, Rows
from test_exact import CLASSES, OPTIMIZERS, same_bits

GUARD = 7.0  # before and behind every parameter


def as_decay(decay: Any) -> Any:
    """What an oracle's ("l1" or "l2", factor) is here; a number stays one."""
    if not isinstance(decay, tuple):
        return decay
    return rs.L1Decay(decay[1]) if decay[0] == "l1" else rs.L2Decay(decay[1])


def as_setting(key: str, value: Any, model: Model, in_use: Iterable[Any] = ()) -> Any:
    """What stands for a setting of the model; of clips the one that is in use already, if any is.

    A copied or loaded optimizer has other objects, and one norm is one object.
    """
    if key == "grad_clip" and value is not None:
        clip = model.clips[value][0]
        return next((other for other in in_use if repr(other) == repr(clip)), clip)
    return as_decay(value) if key == "weight_decay" else value


def as_attribute(key: str, value: Any) -> Any:
    return as_decay(value) if key == "regularizer" else value


def root(array: np.ndarray) -> np.ndarray:
    """The array whose memory it is; between them NumPy may put objects of its own."""
    found = array
    while (base := getattr(array, "base", None)) is not None:
        array = base
        found = array if isinstance(array, np.ndarray) else found
    return found


def flat(array: np.ndarray) -> np.ndarray:
    """The very memory of an array that is dense in some order of its dimensions."""
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    return array.transpose(axes).reshape(-1)


def repeats(array: np.ndarray) -> bool:
    """Whether two elements lie in one place."""
    places = np.zeros(array.shape, np.int64)
    for axis, (n, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        places += (np.arange(n) * stride).reshape(
            [-1 if a == axis else 1 for a in range(array.ndim)]
        )
    return len(np.unique(places)) < places.size


class World:
    """The real one, whose memory is as hard as the model's; or a plain one, in C order."""

    def __init__(self, plain: bool = False) -> None:
        self.plain = plain
        self.parameters: list[rs.Parameter] = []
        self.guarded: list[tuple[np.ndarray, np.ndarray]] = []  # the memory, and its guards
        self.schedule: Any = None
        self.optimizer: Any = None

    # Made from a model.

    def array(self, m: Member) -> np.ndarray:
        """The values of a member in memory of their own."""
        flat = m.p.transpose(m.axes)
        if self.plain:
            return np.array(flat, order="C")
        before = 1 + m.index % 16
        memory = np.full(m.p.size + before + 16, GUARD, m.p.dtype)
        guards = np.ones(len(memory), bool)
        guards[before : before + m.p.size] = False
        self.guarded.append((memory, guards))
        own = memory[before : before + m.p.size].reshape(flat.shape)
        own[...] = flat
        return own.transpose(np.argsort(m.axes)) if m.p.ndim else own

    def parameter(self, m: Member) -> rs.Parameter:
        attr = rs.ParamAttr(**{k: as_attribute(k, v) for k, v in m.attr.items()})
        return rs.Parameter(self.array(m), f"p{m.index}", attr)

    def _made(self, model: Model, groups: list[Any], keep: Iterable[str] | None = None) -> Any:
        """The optimizer; with `keep` all but these options are another's, to be loaded over."""
        entry = OPTIMIZERS[model.name]
        options = {k: v for k, v in model.options.items() if keep is None or k in keep}
        given = {k: v for k, v in options.items() if v != entry.options[k][0]}
        if keep is None and model.name not in NO_DECAY:
            given["weight_decay"] = as_decay(model.defaults["weight_decay"])
        if keep is None:
            given["grad_clip"] = as_setting("grad_clip", model.defaults["grad_clip"], model)
        if takes_skip(model.name):
            given["skip_nonfinite"] = model.skip
        lr = model.lr if keep is None else entry.options["learning_rate"][0]
        self.schedule = SCHEDULES[model.schedule][0]() if model.schedule else None
        given["learning_rate"] = self.schedule or lr
        return CLASSES[model.name](parameters=groups, **given)

    def construct(self, model: Model) -> None:
        self.parameters = [self.parameter(m) for m in model.members]
        groups = [self._group(model, i) for i in range(len(model.groups))]
        row = groups[0]["params"] if len(groups) == 1 == len(groups[0]) else groups
        self.optimizer = self._made(model, row)

    def _group(self, model: Model, place: int) -> Group:
        own = model.groups[place]["own"]
        mine = [p for p, i in zip(self.parameters, model.owners, strict=True) if i == place]
        used = self._clips()
        return {"params": mine, **{k: as_setting(k, v, model, used) for k, v in own.items()}}

    def _clips(self) -> list[Any]:
        """Those in use."""
        if self.optimizer is None:
            return []
        groups = (self.optimizer._defaults, *self.optimizer.param_groups)
        return [group["grad_clip"] for group in groups]

    def add_group(self, model: Model) -> None:
        self.parameters += [self.parameter(m) for m in model.members[len(self.parameters) :]]
        self.optimizer.add_param_group(self._group(model, len(model.groups) - 1))

    def fresh(self, model: Model) -> Any:
        """One that has only what a state dict has not: parameters, functions, flags."""
        self.guarded = []
        parameters = [self.parameter(m) for m in model.members]
        groups = []
        for place, group in enumerate(model.groups):
            mine = [p for p, i in zip(parameters, model.owners, strict=True) if i == place]
            groups.append({"params": mine, **{k: group[k] for k in FUNCTIONS if k in group}})
        return self._made(model, groups, FUNCTIONS)

    def become(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.parameters = list(optimizer.parameters)
        self.schedule = optimizer._learning_rate if self.schedule else None
        if not {id(root(p.data)) for p in self.parameters} & {id(m) for m, _ in self.guarded}:
            self.guarded = []

    def put(self, m: Member) -> None:
        self.parameters[m.index].data = self.array(m)

    def edit(self, place: int, key: str, value: Any, model: Model) -> None:
        wanted = as_setting(key, value, model, self._clips())
        self.optimizer.param_groups[place][key] = wanted

    # Gradients.

    def as_given(self, model: Model, m: Member, gradient: Any) -> np.ndarray | Rows:
        """What the oracle is given for a gradient."""
        if isinstance(gradient, np.ndarray):
            return gradient.copy()
        dense = np.zeros(m.p.shape, m.p.dtype)
        with np.errstate(all="ignore"):
            np.add.at(dense, gradient.rows, gradient.values)
        lazy = model.groups[model.owners[m.index]].get("lazy_mode", False)
        return Rows(dense, np.unique(gradient.rows)) if lazy else dense

    def gradients(self, model: Model) -> dict[int, np.ndarray | Rows]:
        """Those on the parameters."""
        held = {m: self.parameters[m.index].grad for m in model.members}
        return {m.index: self.as_given(model, m, g) for m, g in held.items() if g is not None}

    def give(self, model: Model, gradients: Mapping[int, np.ndarray | Rows]) -> None:
        """Puts them on the parameters in plain memory; lazy rows stay rows."""
        for m in model.members:
            g = gradients.get(m.index)
            if isinstance(g, Rows):
                g = rs.SelectedRows(g.there, g.dense[g.there])
            elif g is not None:
                g = np.array(g.transpose(m.axes), order="C")
            self.parameters[m.index].grad = g

    def can_clear(self, model: Model) -> bool:
        """Whether the gradients of a step can be zeroed in it."""
        held = [self.parameters[m.index].grad for m in model.members if m.attr["trainable"]]
        held = [g for g in held if g is not None]
        return can_fill(held) and not any(
            np.shares_memory(a, b) for a, b in itertools.combinations(held, 2)
        )

    def gradient_memory(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """All memory that gradients are views of, and what is in it."""
        held = [p.grad for p in self.parameters if p.grad is not None]
        roots = [root(g if isinstance(g, np.ndarray) else g.values) for g in held]
        return {id(r): (r, r.copy(order="K")) for r in roots}

    def check_gradient_memory(
        self, before: Mapping[int, tuple[np.ndarray, np.ndarray]], zeroed: Iterable[int]
    ) -> None:
        """Zeros in the gradients of these parameters, and all else as it was."""
        for i in zeroed:
            g = self.parameters[i].grad
            if g is None or not g.size:
                continue
            memory, expected = before[id(root(g))]
            offset = g.ctypes.data - memory.ctypes.data
            np.ndarray(g.shape, g.dtype, flat(expected).data, offset, g.strides)[...] = 0
        for memory, expected in before.values():
            assert same_bits(memory, expected)

    # Held to a model.

    def check_parameters(self, model: Model) -> None:
        for m, p in zip(model.members, self.parameters, strict=True):
            expected = m.p.transpose(m.axes) if self.plain else m.p
            assert same_bits(p.data, expected), f"p{m.index} after {m.steps} updates"
            assert self.plain or p.data.transpose(m.axes).flags.c_contiguous, "another order"
        for memory, guards in self.guarded:
            assert (memory[guards] == GUARD).all(), "written beside a parameter"

    def check(self, model: Model) -> None:
        """States, counts, settings and the rate."""
        self.check_parameters(model)
        saved = self.optimizer.state_dict()
        found = {k: v for k, v in saved.items() if isinstance(v, np.ndarray)}
        expected = {key: (m, value) for key, m, value in model.entries()}
        assert found.keys() == expected.keys()
        for key, (m, value) in expected.items():
            if self.plain and value.ndim:
                ring = value.ndim - m.p.ndim
                value = value.transpose([*range(ring), *(a + ring for a in m.axes)])
            assert same_bits(found[key], value), f"{key} after {m.steps} updates"
        assert self.optimizer.get_lr() == model.rate()
        assert self.schedule is None or self.schedule.last_epoch == model.epoch
        assert self.optimizer.skipped_steps == model.skipped
        for group, there in zip(model.groups, self.optimizer.param_groups, strict=True):
            for key, value in there.items():
                if key != "params":
                    wanted = as_setting(key, group[key], model)
                    assert repr(value) == repr(wanted) or value == wanted, key

    def outcome(self) -> tuple[Any, Any]:
        return self.optimizer.last_grad_norm, self.optimizer.last_step_applied

    def snapshot(self, look: bool, gradients: bool) -> Any:
        """All that may be seen of it, and which objects hold it."""
        opt = self.optimizer
        seen = opt.state_dict() if look else {}
        kept = {k: v.tobytes() if isinstance(v, np.ndarray) else repr(v) for k, v in seen.items()}
        states = [
            (n, s, id(a), a.tobytes()) for n, own in opt._states.items() for s, a in own.items()
        ]
        memory = self.gradient_memory() if gradients else {}
        return (
            kept,
            states,
            opt._counts.tolist(),
            opt._numbers.tolist(),
            repr(self.outcome()),
            opt.skipped_steps,
            repr(opt._learning_rate),
            [p.data.tobytes() for p in self.parameters],
            [id(p.data) for p in opt.parameters],
            [id(p.grad) for p in self.parameters if gradients],
            [now.tobytes() for now, _ in memory.values()],
            [{k: seen_as(v) for k, v in group.items()} for group in opt.param_groups],
            {k: seen_as(v) for k, v in opt._defaults.items()},
            [memory.tobytes() for memory, _ in self.guarded],
        )


def seen_as(setting: Any) -> Any:
    """A setting by its value, or if it is a clip or a function by its identity."""
    return id(setting) if callable(setting) else repr(setting)


def can_fill(gradients: Iterable[Any]) -> bool:
    """Whether all are writable arrays, each element in a place of its own."""
    return all(
        isinstance(g, np.ndarray) and g.flags.writeable and not repeats(g)
        for g in gradients
        if g is not None
    )
