"""What a torch optimizer of roofstep keeps: checkpoints both ways, copies, edits, hooks."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import roofstep.torch
from pairs import DTYPES, OPTIONS, Pair, Side

CASES = [(name, options) for name, row in OPTIONS.items() for options in row]
every_class = pytest.mark.parametrize("name", OPTIONS)
every_case = pytest.mark.parametrize(("name", "options"), CASES)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Also that of torch's scalars."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def follow(source: Side, target: Side) -> None:
    """Lets the target have the parameters of the source."""
    with torch.no_grad():
        for p, q in zip(target.parameters, source.parameters, strict=True):
            p.copy_(q)


# Checkpoints.


@every_case
@pytest.mark.parametrize("way", ["from torch", "to torch"])
def test_a_checkpoint_is_gone_on_with(
    name: str, options: dict[str, Any], way: str, dtype: torch.dtype
) -> None:
    """Through a file: the same numbers as if nothing had happened, and the same as torch's."""
    uninterrupted = Pair(name, dtype, **options)
    uninterrupted.run(range(7))
    source, target = uninterrupted.sides if way == "from torch" else uninterrupted.sides[::-1]
    other = type(target.optimizer)
    resumed = Pair(name, dtype)  # with the defaults: settings are part of a checkpoint
    side = resumed.mine if other.__module__.startswith("roofstep") else resumed.theirs
    follow(source, side)
    side.optimizer.load_state_dict(source.saved())
    source.run(range(7, 20))
    side.run(range(7, 20))
    pair = copy.copy(resumed)
    pair.mine, pair.theirs = (side, source) if side is resumed.mine else (source, side)
    pair.compare()


@every_case
def test_the_layout_is_that_of_torch(name: str, options: dict[str, Any]) -> None:
    """Keys, order, types, shapes and dtypes; of a fresh optimizer and of one that has stepped."""
    pair = Pair(name, **options)
    for steps in (range(0), range(4)):
        pair.run(steps)
        theirs, mine = (side.optimizer.state_dict() for side in pair.sides)
        assert mine["param_groups"] == theirs["param_groups"]
        assert [*mine] == [*theirs]
        assert [*mine["state"]] == [*theirs["state"]]
        for key, expected in theirs["state"].items():
            found = mine["state"][key]
            assert {*found} == {*expected}
            for kept, value in expected.items():
                assert type(found[kept]) is type(value)
                if value is not None:
                    assert found[kept].dtype == value.dtype
                    assert found[kept].shape == value.shape


@every_class
def test_a_file_of_roofstep_holds_nothing_else(name: str) -> None:
    """No more bytes than torch's, but for what a view of a shared storage takes."""
    pair = Pair(name, **OPTIONS[name][-1])
    pair.run(range(4))
    sizes = []
    for side in pair.sides:
        file = io.BytesIO()
        torch.save(side.optimizer.state_dict(), file)
        sizes.append(file.tell())
    assert sizes[1] <= 1.1 * sizes[0]


@every_class
def test_loading_copies(name: str) -> None:
    """What was loaded stays as it was while the optimizer goes on."""
    pair = Pair(name, **OPTIONS[name][-1])
    pair.run(range(4))
    saved = copy.deepcopy(pair.mine.optimizer.state_dict())
    given = copy.deepcopy(saved)
    pair.mine.optimizer.load_state_dict(given)
    pair.mine.run(range(4, 8))
    for key, state in saved["state"].items():
        for kept, value in state.items():
            same = value is None or torch.equal(given["state"][key][kept], value)
            assert same, kept


@every_class
def test_a_checkpoint_with_a_rate_that_is_a_tensor(name: str) -> None:
    pair = Pair(name)
    for side in pair.sides:
        side.optimizer.param_groups[0]["lr"] = torch.tensor(0.05)
        side.run(range(3))
    saved = [side.saved() for side in pair.sides]
    for side, given in zip(pair.sides, saved[::-1], strict=True):
        side.optimizer.load_state_dict(given)
        assert side.optimizer.param_groups[0]["lr"].item() == pytest.approx(0.05)
    pair.run(range(3, 6))
    pair.compare()


@every_class
def test_a_checkpoint_of_an_older_torch(name: str) -> None:
    """Its steps were plain numbers, and its groups had fewer settings."""
    pair = Pair(name, **OPTIONS[name][0])
    pair.run(range(4))
    saved = pair.theirs.saved()
    for own in saved["state"].values():
        own.update({"step": int(own["step"])} if "step" in own else {})
    for group in saved["param_groups"]:
        for key in ("foreach", "maximize", "differentiable", "capturable", "fused"):
            group.pop(key, None)
        group.pop("decoupled_weight_decay", None)
    for side in pair.sides:
        side.optimizer.load_state_dict(copy.deepcopy(saved))
    pair.run(range(4, 8))
    pair.compare()


def test_a_checkpoint_of_sgd_may_say_that_there_is_no_momentum_yet() -> None:
    pair = Pair("SGD", momentum=0.9, dampening=0.5)
    saved = pair.theirs.optimizer.state_dict()
    saved["state"] = {i: {"momentum_buffer": None} for i in range(8)}
    for side in pair.sides:
        side.optimizer.load_state_dict(copy.deepcopy(saved))
    pair.run(range(4))
    pair.compare()


@every_class
def test_a_checkpoint_of_another_dtype_is_rounded(name: str) -> None:
    """To that of the parameter, as torch does it."""
    source = Pair(name, torch.float64)
    source.theirs.run(range(4))
    pair = Pair(name, torch.float32)
    for side in pair.sides:
        side.optimizer.load_state_dict(source.theirs.saved())
    pair.run(range(4, 8))
    pair.compare()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_checkpoint_of_sgd_without_steps(momentum: float) -> None:
    pair = Pair("SGD", momentum=momentum, dampening=0.4)
    for side in pair.sides:
        side.optimizer.load_state_dict(side.saved())
    pair.run(range(6))
    pair.compare()


@every_class
def test_a_checkpoint_of_other_groups_is_refused_as_by_torch(name: str) -> None:
    saved = Pair(name, groups=lambda row: [{"params": row[:2]}, {"params": row[2:]}])
    pair = Pair(name)
    for side, source in zip(pair.sides, saved.sides, strict=True):
        with pytest.raises(ValueError, match="different number of parameter groups"):
            side.optimizer.load_state_dict(source.optimizer.state_dict())


def test_a_checkpoint_of_other_shapes_is_refused() -> None:
    """torch takes it, and fails in the next step."""
    source, target = ([torch.ones(n, requires_grad=True)] for n in (3, 4))
    first = torch.optim.Adam(source)
    source[0].grad = torch.ones(3)
    first.step()
    optimizer = roofstep.torch.Adam(target)
    with pytest.raises(ValueError, match=r"state_dict.*\(4,\).*\(3,\)"):
        optimizer.load_state_dict(first.state_dict())
    assert not optimizer.state


# Copies.


def deep_copies(side: Side) -> Side:
    """Its parameters and its optimizer, copied together."""
    other = copy.copy(side)
    other.parameters, other.optimizer = copy.deepcopy((side.parameters, side.optimizer))
    return other


def pickled(side: Side) -> Side:
    """The same, through pickle."""
    other = copy.copy(side)
    both = pickle.dumps((side.parameters, side.optimizer))
    other.parameters, other.optimizer = pickle.loads(both)
    return other


class Slow:
    """Stands among the defaults, and steps the optimizer when it is copied."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def __reduce__(self) -> tuple[Any, ...]:
        self.optimizer.step()
        return int, ()


@pytest.mark.parametrize("copied", [deep_copies, pickled])
def test_a_copy_during_which_a_step_came_is_refused(copied: Any) -> None:
    side = Pair("SGD", **OPTIONS["SGD"][0]).mine
    side.run(range(1))
    side.optimizer.defaults["own"] = Slow(side.optimizer)
    with pytest.raises(RuntimeError, match="nobody uses while it is copied"):
        copied(side)
    del side.optimizer.defaults["own"]
    copied(side)


@every_class
@pytest.mark.parametrize("copied", [deep_copies, pickled])
@pytest.mark.parametrize("steps", [0, 4])
def test_a_copy_goes_on_by_itself(name: str, copied: Any, steps: int) -> None:
    """With the very bits of what was copied, which does not move with it."""
    side = Pair(name, **OPTIONS[name][-1]).mine
    side.run(range(steps))
    other = copied(side)
    assert type(other.optimizer) is type(side.optimizer)
    before = [p.detach().clone() for p in side.parameters]
    other.run(range(steps, steps + 4))
    assert all(map(torch.equal, before, side.parameters))
    side.run(range(steps, steps + 4))
    assert all(map(torch.equal, other.parameters, side.parameters))


@pytest.mark.parametrize("copied", [deep_copies, pickled])
def test_a_copy_steps_in_its_own_backward_pass(copied: Any) -> None:
    """Once, and the copy alone."""
    side = Pair("SGD").mine
    side.optimizer = roofstep.torch.SGD(side.parameters, lr=1.0, step_in_backward=True)
    other = copied(side)
    other.optimizer.load_state_dict(side.optimizer.state_dict())
    before = [p.detach().clone() for p in side.parameters]
    sum(p.sum() for p in other.parameters).backward()
    assert all(map(torch.equal, before, side.parameters))
    for p, q in zip(before, other.parameters, strict=True):
        assert torch.equal(q, p - 1)
        assert q.grad is None


@every_class
def test_an_optimizer_that_is_dropped_is_gone(name: str) -> None:
    side = Pair(name).mine
    side.run(range(2))
    gone = weakref.ref(side.optimizer)
    del side.optimizer
    gc.collect()
    assert gone() is None


# Edits of the state.

# ASGD's `mu` follows from `step` and t0: it is shown, and not read. See test_torch_optimizers.py.
NOT_EDITED = {("ASGD", "mu"), ("ASGD", "step")}


@every_class
@pytest.mark.parametrize("replaced", [False, True])
def test_what_is_edited_in_the_state_is_in_force(
    name: str, replaced: bool, dtype: torch.dtype
) -> None:
    """In place, or another tensor in its place; numbers as well as arrays."""
    pair = Pair(name, dtype, **OPTIONS[name][-1])
    pair.run(range(8))
    for side in pair.sides:
        for p in side.parameters:
            for key, value in side.optimizer.state[p].items():
                if value is None or (name, key) in NOT_EDITED:
                    continue
                edited = value + 3 if key == "step" else value * 0.5
                if replaced:
                    side.optimizer.state[p][key] = edited
                else:
                    value.copy_(edited)
    pair.run(range(8, 14))
    pair.compare()


@every_class
def test_a_state_that_is_taken_out_begins_anew(name: str) -> None:
    pair = Pair(name, **OPTIONS[name][-1])
    pair.run(range(5))
    for side in pair.sides:
        del side.optimizer.state[side.parameters[6]]
    pair.run(range(5, 9))
    pair.compare()


@every_class
def test_a_parameter_may_be_given_other_data(name: str) -> None:
    """Other memory with the same numbers, as `p.data = ...` gives it."""
    pair = Pair(name, **OPTIONS[name][-1])
    for k in range(3):
        pair.run(range(3 * k, 3 * k + 3))
        for side in pair.sides:
            for p in side.parameters:
                p.data = p.data.clone()
    pair.compare()


# Hooks.


@every_class
def test_hooks_of_a_step(name: str) -> None:
    """Of the optimizer and of all optimizers, in torch's order; a pre-hook may edit gradients."""
    told: dict[str, list[str]] = {}
    pair = Pair(name, **OPTIONS[name][-1])

    def note(what: str) -> Any:
        def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
            told.setdefault(type(optimizer).__module__.split(".")[0], []).append(what)
            if what == "before":
                for p in optimizer.param_groups[0]["params"]:
                    if p.grad is not None:
                        p.grad = p.grad * 0.5

        return hook

    handles = [
        register_optimizer_step_pre_hook(note("before all")),
        register_optimizer_step_post_hook(note("after all")),
    ]
    for side in pair.sides:
        handles.append(side.optimizer.register_step_pre_hook(note("before")))
        handles.append(side.optimizer.register_step_post_hook(note("after")))
    try:
        pair.run(range(4))
    finally:
        for handle in handles:
            handle.remove()
    assert len(told["torch"]) == 16
    assert told["roofstep"] == told["torch"]
    pair.run(range(4, 6))
    assert len(told["roofstep"]) == 16
    pair.compare()


@every_class
def test_hooks_of_state_dicts(name: str) -> None:
    pair = Pair(name, **OPTIONS[name][-1])
    pair.run(range(3))
    told: dict[Side, list[str]] = {}
    for side in pair.sides:
        row = told.setdefault(side, [])
        optimizer = side.optimizer

        def mark(optimizer: Any, saved: dict[str, Any], row: list[str] = row) -> dict[str, Any]:
            row.append("saved")
            return {**saved, "mark": 1}

        def unmark(optimizer: Any, given: dict[str, Any], row: list[str] = row) -> dict[str, Any]:
            row.append(f"loading {given.get('mark')}")
            return {key: value for key, value in given.items() if key != "mark"}

        optimizer.register_state_dict_pre_hook(lambda _, row=row: row.append("saving"))
        optimizer.register_state_dict_post_hook(mark)
        optimizer.register_load_state_dict_pre_hook(unmark)
        optimizer.register_load_state_dict_post_hook(lambda _, row=row: row.append("loaded"))
        optimizer.load_state_dict(optimizer.state_dict())
    assert told[pair.mine] == told[pair.theirs] == ["saving", "saved", "loading 1", "loaded"]
    pair.run(range(3, 6))
    pair.compare()


def test_a_skipped_step_is_noted_by_the_call_that_finds_it(monkeypatch: Any) -> None:
    """Ctrl-C that comes next finds it noted."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = roofstep.torch.SGD([parameter], lr=0.5, skip_nonfinite=True)
    optimizer.step()
    parameter.grad = torch.tensor([1.0, float("nan")])
    (run,) = optimizer._runs.values()
    stepped = run.plan.step

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        stepped(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(run.plan, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert (optimizer.skipped_steps, optimizer.last_step_applied) == (1, False)
    assert parameter.tolist() == [0.5, 0.5]
