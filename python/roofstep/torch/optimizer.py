"""The base of the optimizers for torch: torch.optim.Optimizer, but a step is one fused pass."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat, takewhile
from operator import is_
from typing import Any, ClassVar

import numpy as np
import torch
from torch.optim.optimizer import ParamsT

from roofstep import _core, checks, plan, state, threads
from roofstep.clip import ClipGradByGlobalNorm, as_clip, is_fused
from roofstep.parameter import Parameter
from roofstep.plan import Held, Plan
from roofstep.torch.state import (
    Own,
    Row,
    Seen,
    as_number,
    may_change,
    number_of,
    scalar_dtype,
)
from roofstep.torch.tensors import TorchParameter
from roofstep.types import Array, Clip

Group = dict[str, Any]

# What GradScaler sets on an optimizer for the time of a step.
SCALING = ("grad_scale", "found_inf")


@dataclass
class Run:
    """What one call steps: all parameters, or one of them alone inside a backward pass."""

    tensors: list[torch.Tensor]
    groups: list[Group]  # of each tensor
    parameters: dict[str, TorchParameter]
    plan: Plan
    states: dict[str, dict[str, Any]]  # by the rule's names
    counts: Array
    numbers: Array
    rows: dict[str, Row]  # what torch keeps as numbers, by its names
    held: Held
    seen: Seen
    sizes: list[int]  # of the groups


class Optimizer(torch.optim.Optimizer):
    """What the optimizers for torch share; see one of them, such as `roofstep.torch.AdamW`.

    Whatever a user changes in ``state`` and ``param_groups`` is in force at the next step.

    Args:
        params: as torch's optimizers take them.
        defaults: the settings of groups that leave them out.
        grad_clip: `roofstep.ClipGradByGlobalNorm` or another clip of roofstep, or None. It can be
            exchanged: it is the attribute ``grad_clip``.
        step_in_backward: True lets a backward pass update each parameter as soon as its gradient is
            complete, and drop the gradient.
        skip_nonfinite: see `SGD`.

    Raises:
        TypeError, ValueError: a setting or a parameter is none that this optimizer can step.
    """

    # How each setting of a group is checked, beside `lr`.
    _settings: ClassVar[dict[str, checks.Check]] = {}
    # What torch calls the rule's states, and its one number.
    _names: ClassVar[dict[str, str]] = {}
    _number: ClassVar[str | None] = None
    # Whether torch keeps the number of the step.
    _keeps_step: ClassVar[bool] = True

    # What a copy has beside what torch gives it.
    _of_pickles = ("grad_clip", "_step_in_backward", "_skip_nonfinite", "_skipped_steps")

    # torch.amp.GradScaler then leaves it to `step` to divide by its scale.
    _step_supports_amp_scaling: ClassVar[bool] = True

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        grad_clip: Clip | None,
        step_in_backward: bool,
        skip_nonfinite: bool = False,
    ) -> None:
        self.grad_clip = grad_clip
        self._step_in_backward = checks.flag("step_in_backward", step_in_backward)
        self._skip_nonfinite = checks.flag("skip_nonfinite", skip_nonfinite)
        if step_in_backward and skip_nonfinite:
            raise ValueError(
                "skip_nonfinite: expected False together with step_in_backward=True, got True; "
                "parameters are moved before all gradients are there, so leave one of the two out"
            )
        self._begin()
        super().__init__(params, defaults)

    def _begin(self) -> None:
        self._alone = threads.alone(type(self).__name__)
        self._skipped_steps = 0
        self._last_step_applied: bool | None = None
        self._has_warned = False
        self._runs: dict[int | None, Run] = {}  # by the id of a tensor that is stepped alone
        self._norms: dict[int | None, list[_core.Norm]] = {}
        # What is stepped in backward passes, by its id, which another may have later.
        self._hooked: dict[int, weakref.ref[torch.Tensor]] = {}

    # What a subclass says.

    def _rule(self, group: Mapping[str, Any]) -> str:
        """The name of the group's rule in csrc/rules.hpp."""
        raise NotImplementedError(
            f"{type(self).__name__} has no update rule; use a subclass such as roofstep.torch.Adam"
        )

    def _fields(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group's settings under the names of the rule's fields, perhaps among others."""
        return dict(group)

    def _decays(
        self, group: Mapping[str, Any], name: str, parameter: Parameter
    ) -> tuple[float, float, float]:
        """The coefficients l1 and l2 of coupled decay, and that of decoupled decay."""
        decay = group["weight_decay"] or 0.0
        return (0.0, 0.0, decay) if group.get("decoupled_weight_decay") else (0.0, decay, 0.0)

    def _adapts(self, group: Mapping[str, Any], l2: float, decay: float) -> bool:
        """Whether the rule's trust ratio is taken, for a parameter with these decays."""
        return False

    def _absent(self, group: Mapping[str, Any]) -> str:
        """What a sparse gradient does to the rows that it has not: `Absent` in csrc/engine.hpp."""
        return "refused"

    def _multiplier(self, name: str, parameter: Parameter) -> float:
        """The parameter's own factor on the learning rate."""
        return 1.0

    def _initial(
        self, group: Mapping[str, Any], name: str, parameter: Parameter, state: str
    ) -> float:
        """What a state of a parameter in this group begins with."""
        return 0.0

    def _first_number(self, group: Mapping[str, Any]) -> float:
        """What the rule's one number begins with."""
        return 1.0

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take more parameters, as one more group.

        Args:
            param_group: a dict with ``params``, and the settings that differ from the defaults.

        Raises:
            TypeError, ValueError: a setting or a parameter is none that this optimizer can step, or
                a parameter is there already. The groups are as before then.
            RuntimeError: another thread is stepping this optimizer.
        """
        self._alone.run(self._add_param_group, param_group)

    def _add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            self._complete(group, [])
            ids = [id(tensor) for tensor in group["params"]]
            if len({*ids}) != len(ids):
                raise ValueError("params: a parameter is twice in one group; give each once")
            for i, tensor in enumerate(group["params"]):
                _core.check_parameter(tensor, self._name(group, i))
        except BaseException:
            self.param_groups.pop()
            raise
        self._runs.clear()
        self._watch(group["params"])

    def _members(self, only: torch.Tensor | None = None) -> dict[str, tuple[Group, torch.Tensor]]:
        """All parameters with their groups by name, or this one if it is in any."""
        if only is not None:
            group = self._group_of(only)
            if group is None:
                return {}
            i = next(i for i, tensor in enumerate(group["params"]) if tensor is only)
            return {self._name(group, i): (group, only)}
        row = [(group, tensor) for group in self.param_groups for tensor in group["params"]]
        names = [*chain.from_iterable(g.get("param_names", ()) for g in self.param_groups)]
        if len({*names}) != len(row):  # none were given, or one twice
            names = [f"param_{i}" for i in range(len(row))]
        return dict(zip(names, row, strict=True))

    def _name(self, group: Group, i: int) -> str:
        """That of the group's i-th parameter, for a message."""
        if "param_names" in group:
            return str(group["param_names"][i])
        before = takewhile(lambda other: other is not group, self.param_groups)
        return f"param_{sum(len(other['params']) for other in before) + i}"

    def _group_of(self, tensor: torch.Tensor) -> Group | None:
        groups: list[Group] = self.param_groups
        for group in groups:
            if any(map(is_, group["params"], repeat(tensor))):
                return group
        return None

    def _complete(self, group: Group, parameters: Sequence[TorchParameter]) -> plan.Group:
        """The group for a plan, every setting checked."""
        for name in ("capturable", "differentiable"):
            if group.get(name):
                raise ValueError(
                    f"{name}: expected False, got {group[name]!r}; a fused step on a CPU is "
                    f"neither captured in a graph nor differentiated, so leave it out"
                )
        clip = as_clip("grad_clip", self.grad_clip)
        of_all = isinstance(clip, ClipGradByGlobalNorm) or not (clip is None or is_fused(clip))
        if self._step_in_backward and of_all:
            raise ValueError(
                f"grad_clip: expected one that looks at each gradient by itself together with "
                f"step_in_backward=True, got {clip!r}, which needs all gradients first; use "
                f"ClipGradByNorm or ClipGradByValue, or leave step_in_backward out"
            )
        self._rate(group)
        checked = {}
        for key, check in self._settings.items():
            if key not in group:
                raise ValueError(f"param_groups: a group has no {key!r} any more; put it back")
            checked[key] = check(key, as_number(key, group[key]))
        return {
            "weight_decay": None,
            **checked,
            "params": list(parameters),
            "grad_clip": clip,
            "average_decay": None,
            "rescale_grad": -1.0 if group.get("maximize") else 1.0,
            "of": group,
            "given": {key: group[key] for key in self._settings},
        }

    def _rate(self, group: Mapping[str, Any]) -> float:
        return checks.non_negative("lr", as_number("lr", group["lr"]))

    # The step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Args:
            closure: is called first, to compute the loss and the gradients anew.

        Returns:
            What the closure returned, or None.

        Raises:
            TypeError, ValueError: a setting was edited to a bad value, a parameter, a gradient or a
                state cannot be used, or memory overlaps. Nothing has been written then.
            MemoryError: there is none for the states. Nothing has been written then.
            RuntimeError: another thread is stepping this optimizer.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            found = self._alone.run(self._step_unless_skipped)
        except BaseException:
            for name in SCALING:  # it would go on from these in the next step
                self.__dict__.pop(name, None)
            raise
        if found is not None and not self._has_warned:
            self._has_warned = True
            plan.warn_of_skip([*self._members()][found], stacklevel=3)
        return loss

    def _step_unless_skipped(self) -> int | None:
        """Steps what this kind of optimizer steps, unless GradScaler has found an infinity.

        Returns the position of a gradient for which the step is skipped, if it is.
        """
        grad_scale, found_inf = (as_number(n, getattr(self, n, None)) for n in SCALING)
        if not self._step_in_backward:
            if found_inf:
                self.__dict__.update(self._skipped())
                return None
            found: int | None = self._step(None, 1.0 if grad_scale is None else grad_scale)
            return found
        if grad_scale is not None or found_inf is not None:
            raise ValueError(
                "step_in_backward: expected losses that no GradScaler scales, got its step; "
                "backward passes have moved the parameters by scaled gradients already, so "
                "leave one of the two out"
            )
        row = [tensor for group in self.param_groups for tensor in group["params"]]
        self._watch(row)  # some may have been frozen before
        for tensor in row:
            if tensor.grad is not None:
                self._step(tensor)
        return None

    def _skipped(self) -> dict[str, Any]:
        """What is noted of a step that is skipped."""
        return {"_skipped_steps": self._skipped_steps + 1, "_last_step_applied": False}

    # torch.compile leaves it as it is. (Its public name would import the compiler at once.)
    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    def _step(
        self,
        tensor: torch.Tensor | None,
        grad_scale: float = 1.0,
        gradients: plan.Gradients | None = None,
        records: plan.Records = (),
    ) -> int | None:
        """Steps all parameters, or this one; as `_step_unless_skipped`."""
        key = None if tensor is None else id(tensor)
        run = self._current(tensor)
        for row in run.rows.values():
            row.read()
        made, measured = run.plan.prepare(run.parameters.values(), gradients, False, grad_scale)
        new: dict[torch.Tensor, Own] = {}

        def rate(group: plan.Group) -> float:
            return self._rate(group["of"])

        while True:
            self._foresee(run)
            outcome = run.plan.step(
                rate,
                made,
                run.counts,
                run.numbers,
                grad_scale=grad_scale,
                records=(
                    *self._kept(new),
                    (self._runs, {key: run}),
                    (self._norms, {key: run.plan.norms + measured}),
                    (self.__dict__, {"_last_step_applied": True}),
                    *records,
                ),
                shown=tuple((row.shown, row.numbers) for row in run.rows.values()),
                skipped=((self.__dict__, self._skipped()),),
            )
            if not isinstance(outcome, list):
                break
            # A run made anew, as a state may begin with a rate, which no run looks at.
            new = self._new_states(self._make(tensor), outcome)
            run = self._make(tensor, new)
        if outcome is None:
            for row in run.rows.values():
                row.note()
        return outcome

    def _current(self, tensor: torch.Tensor | None) -> Run:
        """The run of all parameters, or of one, as things stand."""
        key = None if tensor is None else id(tensor)
        run = self._runs.get(key)
        if run is None or not self._holds(run, tensor) or not self._settle(run):
            run = self._runs[key] = self._make(tensor)
        return run

    def _holds(self, run: Run, tensor: torch.Tensor | None) -> bool:
        """Whether the parameters and their states are those of the run."""
        if not run.seen.still(self._owns(tensor)):
            return False
        if tensor is not None:
            return self._group_of(tensor) is run.groups[0]
        rows = [group["params"] for group in self.param_groups]
        return [*map(len, rows)] == run.sizes and all(map(is_, chain(*rows), run.tensors))

    def _settle(self, run: Run) -> bool:
        """Whether the run has the settings in force, be it by taking over other numbers.

        Some schedules change numbers at every step, and a plan is made in microseconds for each
        parameter.
        """
        kinds = run.plan.kinds
        unseen = any(may_change(value) for k in kinds for value in k.group["given"].values())
        if not unseen and run.held.still_in(self._watched()):
            return True
        if run.plan.tasks:
            return False
        known = {*map(id, self.param_groups)}
        taken = []
        for kind in kinds:
            old, of = kind.group, kind.group["of"]
            given = {key: of.get(key) for key in self._settings}
            changed = {k: v for k, v in given.items() if v is not old["given"][k] or may_change(v)}
            refused = of.get("capturable") or of.get("differentiable")
            if refused or "maximize" in changed or not of.keys() >= given.keys():
                return False
            if id(of) not in known or old["grad_clip"] is not self.grad_clip:
                return False
            checked = {k: self._settings[k](k, as_number(k, v)) for k, v in changed.items()}
            new = {**old, **checked, "given": given}
            if self._rule(new) != self._rule(old):
                return False
            decays = self._decays(new, "", old["params"][0])
            taken.append((kind, new, plan.settings_of(self, new, decays, kind.scale, kind.bounds)))
        for kind, group, settings in taken:
            kind.settings.assign(settings)
            kind.group = group
        run.held = Held(self._watched(), "lr")
        return True

    def _watched(self) -> list[Mapping[str, Any]]:
        return [*self.param_groups, {"grad_clip": self.grad_clip}]

    def _owns(
        self, tensor: torch.Tensor | None, new: Mapping[torch.Tensor, Own] | None = None
    ) -> list[Own | None]:
        """What is kept, or of this one; and will be when `new` is there."""
        if tensor is not None:
            return [(new or {}).get(tensor, self.state.get(tensor))]
        return [*({**self.state, **new} if new else self.state).values()]

    def _has_states(self, tensor: torch.Tensor) -> bool:
        own = self.state.get(tensor, {})
        return any(own.get(key) is not None for key in self._names.values())

    def _make(
        self, tensor: torch.Tensor | None, new: Mapping[torch.Tensor, Own] | None = None
    ) -> Run:
        """The run of all parameters, or of one; `new` stands in the place of states as they are."""
        members = self._members(tensor)
        new = new or {}
        owns = [new.get(one, self.state.get(one)) for _, one in members.values()]
        parameters = {name: TorchParameter(one, name) for name, (_, one) in members.items()}
        of_group: dict[int, list[TorchParameter]] = {}
        for name, (group, _) in members.items():
            of_group.setdefault(id(group), []).append(parameters[name])
        groups = [
            self._complete(group, of_group.get(id(group), ()))
            for group in self.param_groups
            if tensor is None or id(group) in of_group
        ]
        counts = np.zeros(len(members), np.int64)
        scalars = {key: np.ones(len(members)) for key in self._scalars()} | {"step": counts}
        states = {}
        for i, ((name, (_, one)), own) in enumerate(zip(members.items(), owns, strict=True)):
            if own:
                kept = {s: own[key] for s, key in self._names.items() if own.get(key) is not None}
                states[name] = kept
                for key in self._scalars():
                    scalars[key][i] = number_of(own, key, name)
                if not self._keeps_step:  # there is only a first update, and the later ones
                    counts[i] = bool(kept) and (one not in new or self._has_states(one))
        made = plan.make(self, groups, parameters, states, self._skip_nonfinite)
        rows = {key: Row(key, scalars[key]) for key in self._scalars()}
        for key, row in rows.items():
            for own, shown in zip(owns, row.tensor, strict=True):
                if own:
                    own[key] = shown
        return Run(
            [one for _, one in members.values()],
            [group for group, _ in members.values()],
            parameters,
            made,
            states,
            counts,
            scalars.get(str(self._number), np.ones(len(members))),
            rows,
            Held(self._watched(), "lr"),
            Seen(self._owns(tensor, new), self._scalars(), self._names.values()),
            [len(group["params"]) for group in self.param_groups],
        )

    def _scalars(self) -> list[str]:
        """torch's names of the numbers that it keeps of each parameter."""
        return [*["step"] * self._keeps_step, *filter(None, [self._number])]

    def _new_states(self, run: Run, indices: Iterable[int]) -> dict[torch.Tensor, Own]:
        """All that is to be kept of parameters that have their first gradient."""
        positions = {[*run.parameters][i]: i for i in indices}
        made = state.begin(positions, run.plan.keeps, run.parameters, run.states)
        new: dict[torch.Tensor, Own] = {}
        for i in positions.values():
            own = new[run.tensors[i]] = dict(self.state.get(run.tensors[i], {}))
            first = {"step": 0.0, self._number: self._first_number(run.groups[i])}
            for key in self._scalars():
                own.setdefault(key, torch.tensor(first.get(key, 1.0), dtype=scalar_dtype()))
        for name, s, array in made:
            new[run.tensors[positions[name]]][self._names[s]] = torch.from_numpy(array)
        return new

    def _kept(self, new: Mapping[torch.Tensor, Own]) -> plan.Records:
        """Where these are put: users may hold the dicts that are there."""
        there = [(self.state[one], own) for one, own in new.items() if one in self.state]
        return (
            *there,
            (self.state, {one: own for one, own in new.items() if one not in self.state}),
        )

    def _foresee(self, run: Run) -> None:
        """Sets numbers that have a closed form in the step to what they will be after it."""

    @property
    def last_grad_norm(self) -> float | None:
        """The L2 norm of the gradients in the last step, before clipping.

        It is that over all gradients of which the step took a norm to clip them; None if no norm
        clips, or before the first step. ``ClipGradByGlobalNorm(math.inf)`` measures and never
        clips. With ``step_in_backward`` it is over the latest gradient of each parameter.
        """
        return plan.combined([*chain.from_iterable(self._norms.values())])

    @property
    def last_step_applied(self) -> bool | None:
        """Whether the last step has moved the parameters; None before the first step.

        It has not if it was skipped, by ``skip_nonfinite`` or by torch's GradScaler.
        """
        return self._last_step_applied

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped; torch's state dicts have no place for it."""
        return self._skipped_steps

    # Inside backward passes.

    def _watch(self, tensors: Sequence[torch.Tensor]) -> None:
        if not self._step_in_backward:
            return
        reference = weakref.ref(self)  # what a parameter holds must not keep the optimizer

        def step(tensor: torch.Tensor) -> None:
            optimizer = reference()
            if optimizer is not None and optimizer._group_of(tensor) is not None:
                optimizer._alone.run(optimizer._use_up, tensor)

        for tensor in tensors:
            known = self._hooked.get(id(tensor))
            if tensor.requires_grad and (known is None or known() is not tensor):
                handle = tensor.register_post_accumulate_grad_hook(step)
                weakref.finalize(self, handle.remove)
                self._hooked[id(tensor)] = weakref.ref(tensor)

    def _use_up(self, tensor: torch.Tensor) -> None:
        """Steps this one, and drops its gradient."""
        gradient, stepped = tensor.grad, dict[str, bool]()
        try:
            tensor.grad = None
            self._step(tensor, gradients=(gradient,), records=((stepped, {"yes": True}),))
        except BaseException:
            if not stepped:
                tensor.grad = gradient
            raise

    # Checkpoints.

    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    def state_dict(self) -> dict[str, Any]:
        """The state and the groups, as torch has them: the tensors are those in use.

        Raises:
            RuntimeError: another thread is stepping this optimizer.
        """
        state: dict[str, Any] = self._alone.run(super().state_dict)
        return state

    def __getstate__(self) -> dict[str, Any]:
        return self._alone.run(self._getstate)

    def _getstate(self) -> dict[str, Any]:
        found = super().__getstate__()
        kept = {name: getattr(self, name) for name in self._of_pickles}
        return {**found, **kept, "_alone": threads.Undisturbed(self._alone)}  # copied last

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For `load_state_dict`, pickle and copies: what fits is taken over, as copies."""
        is_new = "defaults" in state
        if is_new:
            self._begin()
            self.__dict__.update({name: state[name] for name in self._of_pickles})
        defaults = state["defaults"] if is_new else self.defaults
        groups = [{**defaults, **group} for group in state["param_groups"]]
        for group in groups:
            self._complete(dict(group), [])
        undisturbed = state.get("_alone")
        taken = {key: value for key, value in state.items() if key != "_alone"}
        self._alone.run(self._take, {**taken, "param_groups": groups})
        if undisturbed is not None:  # of copy.copy
            undisturbed.require()
        if is_new:
            self._watch([tensor for group in groups for tensor in group["params"]])

    def _take(self, state: dict[str, Any]) -> None:
        own = self._laid_out(state["state"], state["param_groups"])
        super().__setstate__({**state, "state": own})
        self._runs.clear()

    def _laid_out(self, owns: Mapping[Any, Own], groups: Sequence[Group]) -> Any:
        """A state with its tensors in memory of our own, each laid out as its parameter."""
        row = [tensor for group in groups for tensor in group["params"]]
        parameters = {f"param_{i}": TorchParameter(tensor) for i, tensor in enumerate(row)}
        kept: dict[str, dict[str, Array]] = {}
        for name, parameter in parameters.items():
            own = owns.get(parameter.data, {})
            for key in self._names.values():
                if own.get(key) is None:
                    continue
                is_tensor = isinstance(own[key], torch.Tensor)
                shape = tuple(own[key].shape) if is_tensor else "no tensor"
                if shape != parameter.data.shape:
                    raise ValueError(
                        f"state_dict: expected {key!r} of {name} in the shape "
                        f"{tuple(parameter.data.shape)}, got {shape}; load the state of an "
                        f"optimizer of the same parameters in the same order"
                    )
                kept.setdefault(name, {})[key] = own[key].detach().numpy()
            for key in self._scalars() if own else ():
                number_of(own, key, name)
        copies = state.laid_out(kept, parameters)
        new: defaultdict[Any, Own] = defaultdict(dict, owns)  # a user's own entries as they are
        for name, parameter in parameters.items():
            if parameter.data in owns:
                mine = copies.get(name, {})
                new[parameter.data] = {
                    key: torch.from_numpy(mine[key]) if key in mine else copy.deepcopy(value)
                    for key, value in owns[parameter.data].items()
                }
        return new
