"""What an optimizer must hold after any calls in any order, by the oracle: see test_machine.py."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import reference as ref
import roofstep as rs
from test_exact import OPTIMIZERS

Group = dict[str, Any]

# The schedules: how one is made, and independently its rate at an epoch.
SCHEDULES: dict[str, tuple[Callable[[], Any], Callable[[int], float]]] = {
    "exponential": (lambda: rs.lr.ExponentialDecay(0.5, 0.9), lambda e: 0.5 * 0.9**e),
    "step": (lambda: rs.lr.StepDecay(0.3, 2, 0.5), lambda e: 0.3 * 0.5 ** (e // 2)),
    "piecewise": (
        lambda: rs.lr.PiecewiseDecay([2, 5], [0.1, 0.3, 0.0]),
        lambda e: (0.1, 0.3, 0.0)[(e >= 2) + (e >= 5)],
    ),
}

# Of these `weight_decay` is decoupled; that of the others is added to the gradient.
DECOUPLED = ("AdamW", "Lion", "Adan")
NO_DECAY = ("Rprop", "Lamb")
KEYS = ("learning_rate", "weight_decay", "grad_clip", "average_decay")


# What no state dict holds.
FUNCTIONS = ("lr_ratio", "apply_decay_param_fun", "exclude_from_weight_decay_fn")


@dataclass(eq=False, repr=False)
class Member:
    """A parameter: its values in the memory order of the real one, and what is kept of it."""

    index: int
    p: np.ndarray
    axes: tuple[int, ...]  # outermost in memory first
    attr: dict[str, Any]  # the arguments of a ParamAttr; a regularizer is ("l1" or "l2", factor)
    state: ref.State = field(default_factory=dict)
    steps: int = 0
    number: float = 1.0  # what NAdam carries over

    def __repr__(self) -> str:
        return f"p{self.index}"


@dataclass
class Rows:
    """A sparse gradient, and the dense one of the same meaning."""

    dense: np.ndarray
    there: np.ndarray


@dataclass
class Model:
    """An optimizer: settings as they were given, and what the oracle makes of them.

    Clips are places in `clips`, so that copies of a model share norms as their groups do.
    """

    name: str
    options: dict[str, Any]  # every option of the class, as in OPTIMIZERS
    defaults: Group  # what a group takes that leaves a setting out
    clips: list[tuple[Any, Any]]  # the package's and the oracle's
    skip: bool
    lr: float
    schedule: str | None = None
    epoch: int = 0
    groups: list[Group] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # the group of each member
    skipped: int = 0
    applied: bool | None = None
    warned: bool = False
    norm: float | None = None

    def __deepcopy__(self, memo: Any) -> Model:
        made = replace(self)
        for name in ("defaults", "groups", "members", "owners"):
            setattr(made, name, copy.deepcopy(getattr(self, name)))
        return made

    def moves(self, place: int) -> bool:
        """Whether the group has a parameter that may be moved."""
        return any(m.attr["trainable"] for m in self.members if self.owners[m.index] == place)

    def take_state(self, then: Model) -> None:
        """What a state dict holds: all but the parameters and what is asked of each of them."""
        for m, old in zip(self.members, then.members, strict=True):
            m.state, m.steps, m.number = copy.deepcopy(old.state), old.steps, old.number
        pairs = zip([self.defaults, *self.groups], [then.defaults, *then.groups], strict=True)
        self.defaults, *self.groups = (
            {**old, **{k: v for k, v in now.items() if k in FUNCTIONS}} for now, old in pairs
        )
        self.lr, self.epoch, self.skipped = then.lr, then.epoch, then.skipped

    def rate(self) -> float:
        return SCHEDULES[self.schedule][1](self.epoch) if self.schedule else self.lr

    def settings(self, m: Member) -> ref.Settings:
        """All that is in force for a member, as the oracle knows it."""
        group = self.groups[self.owners[m.index]]
        multiplier = m.attr["learning_rate"]
        if self.options.get("lr_ratio"):
            multiplier *= 0.3
        lr = self.rate() * group["learning_rate"] * multiplier
        numbers = {k: group[k] for k in self.options.keys() & group.keys() - {*KEYS}}
        decay = group["weight_decay"] if self.name in DECOUPLED else None
        options = {**self.options, **numbers, "learning_rate": lr, "weight_decay": decay or 0.0}
        meaning = OPTIMIZERS[self.name].meaning(options, m.index)
        coupled = m.attr["regularizer"]
        if coupled is None and self.name not in (*DECOUPLED, *NO_DECAY):
            coupled = group["weight_decay"]
        kind, factor = coupled or ("l2", 0.0)
        place = group["grad_clip"] if m.attr["need_clip"] else None
        return ref.Settings(
            **{
                **meaning,
                "lr": lr,
                "l1": factor if kind == "l1" else 0.0,
                "l2": factor if kind == "l2" else 0.0,
                "clip": None if place is None else self.clips[place][1],
                "average": group["average_decay"],
            }
        )

    def rings_fit(self, place: int) -> bool:
        """Whether the group's batch_num is that of the slots that its members have."""
        slots = self.groups[place]["batch_num"]
        own = [m for m in self.members if self.owners[m.index] == place and "y" in m.state]
        return all(len(m.state["y"]) == slots for m in own)

    def settle(self) -> None:
        """What an option kept that is now off is gone."""
        for m in self.members:
            s = self.settings(m)
            kept = {*ref.kept(s.rule), *(["average"] if s.average is not None else [])}
            m.state = {k: v for k, v in m.state.items() if k in kept}

    def begin(self, m: Member, s: ref.Settings) -> ref.State:
        """The states of a member, with those that it lacks as they begin."""
        state = {}
        for name in ref.RULES[s.rule].states:
            slots = ref.RULES[s.rule].ring if name == ref.RULES[s.rule].states[-1] else ""
            shape = (int(s.hyper[slots]), *m.p.shape) if slots else m.p.shape
            state[name] = np.full(shape, s.initial.get(name, 0.0), m.p.dtype)
        return {**state, **m.state}

    def step(self, gradients: Mapping[int, np.ndarray | Rows], scale: float = 1.0) -> None:
        """A step by these gradients, by the positions of their parameters."""
        self.settle()
        dense = {i: g.dense if isinstance(g, Rows) else g for i, g in gradients.items()}
        moving = {m.index: self.settings(m) for m in self.members if m.attr["trainable"]}
        stepped = {i: s for i, s in moving.items() if i in dense}
        if self.skip and not all(np.isfinite(dense[i]).all() for i in stepped):
            self.skipped += 1
            self.applied = False
            return
        with np.errstate(all="ignore"):
            factors = self._factors(moving, dense, 1 / scale)
            for i, s in stepped.items():
                self._update(self.members[i], gradients[i], s, factors.get(i, 1 / scale))
        self.applied = True

    def _factors(
        self, moving: Mapping[int, ref.Settings], dense: Mapping[int, np.ndarray], unscale: float
    ) -> dict[int, float]:
        one_norm: dict[Any, list[int]] = {}
        for i, s in moving.items():
            if isinstance(s.clip, ref.Norm | ref.GlobalNorm):
                key = s.clip if isinstance(s.clip, ref.GlobalNorm) else (s.clip, i)
                one_norm.setdefault(key, []).append(i)
        values, factors = [], {}
        for indices in one_norm.values():
            rows = [ref.memory_order(self.members[i].p, dense[i]) for i in indices if i in dense]
            values.append(unscale * ref.norm(rows))
            for i in indices:
                factors[i] = unscale * ref.clip_factor(values[-1], moving[i].clip.limit)
        self.norm = None if not values else values[0] if len(values) == 1 else math.hypot(*values)
        return factors

    def _update(self, m: Member, g: np.ndarray | Rows, s: ref.Settings, factor: float) -> None:
        m.steps += 1
        m.state = self.begin(m, s)
        if s.rule == "NAdam":
            product = m.number
            m.number *= ref.mu(s.hyper["beta1"], s.hyper["momentum_decay"], m.steps)
            s = replace(s, hyper={**s.hyper, "carried": product})
        if isinstance(g, Rows):  # of lazy mode: the rows that are there, as if they were all
            p, state = m.p[g.there], {k: v[g.there] for k, v in m.state.items()}
            ref.update(p, g.dense[g.there], m.steps, state, s, factor)
            for whole, part in ((m.p, p), *((m.state[k], v) for k, v in state.items())):
                whole[g.there] = part
        else:
            ref.update(m.p, g, m.steps, m.state, s, factor)

    def entries(self) -> Iterator[tuple[str, Member, Any]]:
        """What a state dict has in arrays: the key, whose it is, and the values."""
        self.settle()
        for m in self.members:
            if not m.steps:
                continue
            s = self.settings(m)
            for name, value in self.begin(m, s).items():
                yield f"p{m.index}_{name}_0", m, value
            yield f"p{m.index}_step_0", m, np.int64(m.steps)
            if s.rule == "NAdam":
                yield f"p{m.index}_mu_product_0", m, np.float64(m.number)
