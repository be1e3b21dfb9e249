"""What training goes on from: state dicts, of this package and of Paddle, and pickles."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import test_exact

import roofstep as rs
from roofstep import lr

OPTIMIZERS = test_exact.public_optimizers()
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def parameters() -> list[rs.Parameter]:
    """Some of each dtype and of several layouts."""
    rng = np.random.default_rng(7)
    made = [
        rng.standard_normal((3, 4)).astype("f4"),
        np.asfortranarray(rng.standard_normal((4, 5))),
        rng.standard_normal((2, 3, 4)).astype("f4").transpose(1, 2, 0),
        rng.standard_normal(17),
        np.array(0.5, "f4"),
    ]
    return [rs.Parameter(array, f"p{i}") for i, array in enumerate(made)]


def train(optimizer: rs.Optimizer, *seeds: int) -> None:
    """Steps in each of which another parameter has no gradient, so that the counts differ."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for i, p in enumerate(optimizer.parameters):
            gradient = rng.standard_normal(p.data.shape).astype(p.data.dtype)
            p.grad = None if i == seed % 3 else gradient
        optimizer.step()
        schedule = optimizer._learning_rate
        if isinstance(schedule, lr.LRScheduler):
            schedule.step()


def copied(params: Iterable[rs.Parameter]) -> list[rs.Parameter]:
    return [rs.Parameter(p.data.copy(order="K"), p.name) for p in params]


def through_json(saved: Mapping[str, Any]) -> dict[str, Any]:
    arrays = {k: v for k, v in saved.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in saved.items() if k not in arrays}
    return {**json.loads(json.dumps(plain)), **arrays}


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Two state dicts with the same entries, in every bit."""
    return a.keys() == b.keys() and all(
        test_exact.same_bits(a[k], b[k]) if np.asarray(a[k]).dtype.kind == "f" else a[k] == b[k]
        for k in a
    )


@contextmanager
def nothing_changed(optimizer: rs.Optimizer) -> Iterator[None]:
    """Neither in the optimizer nor in its parameters and groups."""
    optimizer.state_dict()  # schedules note the names of what they save
    before = pickle.dumps(optimizer)
    objects = [(k, id(v)) for group in optimizer.param_groups for k, v in group.items()]
    yield
    assert pickle.dumps(optimizer) == before
    after = [(k, id(v)) for group in optimizer.param_groups for k, v in group.items()]
    assert after == objects


# Resuming --------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[], Any]] = {
    "number": lambda: None,
    "schedule": lambda: lr.LinearWarmup(lr.StepDecay(0.5, 2), 2, 0.25, 0.5),
}


def settings(name: str, which: int) -> dict[str, Any]:
    """The first or the last value of every option; functions, which are not saved, are the same."""
    options = test_exact.OPTIMIZERS[name].options
    return {o: v[-1 if callable(v[-1]) else which] for o, v in options.items()}


def rich(name: str, params: list[rs.Parameter], rate: Any) -> rs.Optimizer:
    """With all that can be set: two groups share a norm, and the optimizer has one of its own."""
    options = {"weight_decay": rs.L1Decay(0.25), **settings(name, -1)}
    options |= {"learning_rate": rate} if rate is not None else {}
    shared = rs.ClipGradByGlobalNorm(0.5)
    groups = [
        {"params": params[:1], "grad_clip": shared, "learning_rate": 0.5},
        {"params": params[1:2], "weight_decay": None},
        {"params": params[2:3], "grad_clip": shared, "weight_decay": 0.125},
        {"params": params[3:], "grad_clip": rs.ClipGradByValue(0.5, -0.25)},
    ]
    clip = rs.ClipGradByGlobalNorm(0.5, "label", auto_skip_clip=True)
    return OPTIMIZERS[name](parameters=groups, grad_clip=clip, **options)


def poor(name: str, params: list[rs.Parameter], rate: Any) -> rs.Optimizer:
    """The same groups and nothing else alike, wherever there is another value."""
    options = settings(name, 0) | ({"learning_rate": rate} if rate is not None else {})
    groups = [{"params": row} for row in (params[:1], params[1:2], params[2:3], params[3:])]
    optimizer = OPTIMIZERS[name](parameters=groups, **options)
    optimizer.param_groups.reverse()
    return optimizer


@each_optimizer
@pytest.mark.parametrize("rate", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("way", [through_json, lambda saved: pickle.loads(pickle.dumps(saved))])
def test_every_optimizer_resumes_bit_for_bit_whatever_it_was_constructed_with(
    name: str, rate: Callable[[], Any], way: Callable[[Any], Any]
) -> None:
    optimizer = rich(name, parameters(), rate())
    train(optimizer, 1, 2, 3)
    again = poor(name, copied(optimizer.parameters), rate())
    again.set_state_dict(way(optimizer.state_dict()))
    again.param_groups.reverse()
    assert same(again.state_dict(), optimizer.state_dict())
    assert repr(again) == repr(optimizer)
    train(optimizer, 4, 5, 6)
    train(again, 4, 5, 6)
    assert same(again.state_dict(), optimizer.state_dict())
    for p, q in zip(optimizer.parameters, again.parameters, strict=True):
        assert test_exact.same_bits(p.data, q.data)


def test_a_state_dict_is_plain_data_and_copies() -> None:
    optimizer = rich("Adam", parameters(), 0.125)
    train(optimizer, 1)
    saved = optimizer.state_dict()
    assert saved["learning_rate"] == 0.125
    assert saved["grad_clips"] == [
        {"class": "ClipGradByGlobalNorm", "clip_norm": 0.5, "group_name": "label",
         "auto_skip_clip": True},
        {"class": "ClipGradByGlobalNorm", "clip_norm": 0.5, "group_name": "default_group",
         "auto_skip_clip": False},
        {"class": "ClipGradByValue", "max": 0.5, "min": -0.25},
    ]  # fmt: skip
    assert [group["grad_clip"] for group in saved["param_groups"]] == [1, 0, 1, 2]
    assert saved["param_groups"][0] == {
        "params": ["p0"], "learning_rate": 0.5, "grad_clip": 1,
        "weight_decay": {"class": "L1Decay", "coeff": 0.25},
        "beta1": 0.0, "beta2": 0.9, "epsilon": 0.1, "amsgrad": True,
    }  # fmt: skip
    with nothing_changed(optimizer):
        for value in saved.values():
            if isinstance(value, np.ndarray):
                value[...] = 0
        saved["param_groups"][0]["params"].clear()
        saved["defaults"].clear()
        saved["grad_clips"].clear()


def test_shared_clips_stay_shared_and_equal_ones_apart() -> None:
    def make(clips: list[Any]) -> rs.Optimizer:
        groups = [{"params": [p], "grad_clip": c} for p, c in zip(parameters(), clips, strict=True)]
        return rs.SGD(0.5, groups, grad_clip=clips[-1])

    a, b, c = (rs.ClipGradByGlobalNorm(0.5) for _ in range(3))
    optimizer, again = make([a, b, a, None, c]), make([None, a, a, a, None])
    again.set_state_dict(through_json(optimizer.state_dict()))
    first, second, third, none, last = (group["grad_clip"] for group in again.param_groups)
    assert first is third
    assert none is None
    assert len({id(first), id(second), id(last)}) == 3
    train(optimizer, 1)
    train(again, 1)
    assert again.last_grad_norm == optimizer.last_grad_norm
    p, q = (rs.Parameter(np.ones(1), "new") for _ in range(2))
    for o, new in ((optimizer, p), (again, q)):
        o.add_param_group({"params": new})
        clips = [group["grad_clip"] for group in o.param_groups]
        assert clips[-1] is clips[-2]  # what the optimizer has, for a group that leaves it out


def test_settings_stay_where_the_state_dict_is_silent() -> None:
    optimizer, other = (rich("Adam", parameters(), rate) for rate in (0.5, 0.25))
    train(optimizer, 1)
    saved = {k: v for k, v in optimizer.state_dict().items() if isinstance(v, np.ndarray)}
    before = other.state_dict()
    other.set_state_dict(saved)
    after = other.state_dict()
    assert all(after[k] == before[k] for k in before)
    assert after.keys() == before.keys() | saved.keys()


def test_an_optimizer_without_parameters_keeps_its_settings() -> None:
    saved = rs.Adam(0.5, 0.25, weight_decay=0.125).state_dict()
    again = rs.Adam()
    again.set_state_dict(through_json(saved))
    assert repr(again) == repr(rs.Adam(0.5, 0.25, weight_decay=0.125))


class OwnClip(rs.ClipGradByNorm):
    """A user's: nobody else can make one again."""


class OwnDecay(rs.L2Decay):
    """Likewise."""


def test_functions_and_classes_of_the_user_stay_those_of_the_constructor() -> None:
    def decays(name: str) -> bool:
        return name == "p0"

    saved = rs.AdamW(parameters=parameters(), apply_decay_param_fun=decays).state_dict()
    optimizer = rs.AdamW(parameters=parameters(), apply_decay_param_fun=decays)
    optimizer.set_state_dict(through_json(saved))

    def own(clip: float, decay: float) -> rs.Optimizer:
        return rs.SGD(
            parameters=parameters(), grad_clip=OwnClip(clip), weight_decay=OwnDecay(decay)
        )

    saved = own(1.0, 0.5).state_dict()
    assert saved["grad_clips"] == [{"class": "OwnClip"}]
    assert saved["defaults"]["weight_decay"] == {"class": "OwnDecay"}
    optimizer = own(2.0, 0.25)
    clip, decay = (optimizer.param_groups[0][k] for k in ("grad_clip", "weight_decay"))
    optimizer.set_state_dict(through_json(saved))
    assert optimizer.param_groups[0]["grad_clip"] is clip
    assert optimizer.param_groups[0]["weight_decay"] is decay

    optimizer = rs.SGD(parameters=parameters(), grad_clip=rs.ClipGradByNorm(1.0))
    with nothing_changed(optimizer), pytest.raises(ValueError, match=r"OwnClip(.|\n)*OwnDecay"):
        optimizer.set_state_dict(saved)


def test_a_shared_clip_of_the_user_is_not_taken_for_two() -> None:
    def make(*clips: Any) -> rs.Optimizer:
        groups = [
            {"params": [p], "grad_clip": c} for p, c in zip(parameters(), clips, strict=False)
        ]
        return rs.SGD(parameters=groups)

    one = OwnClip(1.0)
    optimizer = make(one, one)
    with nothing_changed(optimizer), pytest.raises(ValueError, match="one object here"):
        optimizer.set_state_dict(make(OwnClip(1.0), OwnClip(1.0)).state_dict())


# Mismatches ------------------------------------------------------------------------------------


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what stands at a path such as "param_groups.0.beta1"; ... deletes it."""

    def change(saved: dict[str, Any]) -> None:
        place: Any = saved
        *way, last = (int(k) if k.isdigit() else k for k in path.split("."))
        for key in way:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return change


MISMATCHES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "rate": (at("learning_rate", -1), "'learning_rate': .* got -1"),
    "no rate": (at("learning_rate", ...), "'learning_rate' is missing"),
    "a schedule": (at("LR_Scheduler", {"last_epoch": 1}), "'LR_Scheduler' is there"),
    "groups": (at("param_groups", 3), "'param_groups' is no list: 3"),
    "group": (at("param_groups.0", 3), r"'param_groups'\[0\] is no group"),
    "params": (at("param_groups.0.params", "p0"), r"'param_groups'\[0\] is no group"),
    "other params": (
        at("param_groups.0.params", ["p9"]), r"'param_groups'\[0\] holds \['p9'\]"),
    "more params": (
        at("param_groups.0.params", ["p0", "p4"]), r"a group here holds \['p0'\]"),
    "a group less": (at("param_groups.0", ...), r"a group here holds \['p0'\]"),
    "a group twice": (
        lambda saved: saved["param_groups"].append(saved["param_groups"][0]),
        r"'param_groups'\[4\] holds \['p0'\]"),
    "a bad value": (at("param_groups.1.beta1", 2), r"'param_groups'\[1\]: beta1: .* got 2"),
    "a bad kind": (at("param_groups.1.beta1", "x"), r"'param_groups'\[1\]: beta1: .* got 'x'"),
    "factor": (at("param_groups.1.learning_rate", -1), r"\[1\]: learning_rate of a group: "),
    "a missing setting": (at("param_groups.1.beta1", ...), r"\[1\]: 'beta1' is missing"),
    "unknown": (at("param_groups.1.rho", 1), r"\[1\]: 'rho' is no setting"),
    "defaults": (at("defaults", [1]), r"'defaults' is no dict: \[1\]"),
    "a default": (at("defaults.beta1", 2), "'defaults': beta1: .* got 2"),
    "decay of AdamW": (at("param_groups.0.weight_decay", 0.5), "weight_decay: 0.5 would mean L2"),
    "coefficient": (
        at("param_groups.0.weight_decay", {"class": "L2Decay", "coeff": "x"}),
        r"\[0\]: weight_decay: coeff: .* got 'x'"),
    "decay without": (at("param_groups.0.weight_decay", {"class": "L2Decay"}), "L2Decay"),
    "class": (at("param_groups.0.weight_decay", {"class": "Other", "c": 1}), "Other"),
    "no class": (at("param_groups.0.weight_decay", {"coeff": 1.0}), "{'coeff': 1.0}"),
    "clips": (at("grad_clips", {}), "'grad_clips' is no list"),
    "clip": (at("grad_clips.0.clip_norm", 0), "clip_norm: .* got 0"),
    "arguments": (at("grad_clips.0.other", 0), "other"),
    "place": (at("param_groups.0.grad_clip", 9), "grad_clip: 9 is no place in 'grad_clips'"),
    "no place": (at("param_groups.0.grad_clip", "x"), "grad_clip: 'x' is no place"),
    "shape": (at("p3_moment1_0", np.zeros(3)), r"'p3_moment1_0' is float64 of shape \(3,\)"),
    "state": (at("p3_moment2_0", ...), "'p3_moment2_0' is missing"),
    "a rule with fewer states": (
        at("param_groups.3.amsgrad", False), "'p3_moment2_max_0' belongs to no"),
}  # fmt: skip


def refusal(change: Callable[[dict[str, Any]], None], optimizer: rs.Optimizer) -> str:
    trained = rich("Adam", parameters(), 0.5)
    train(trained, 1, 2)
    saved = through_json(trained.state_dict())
    change(saved)
    with nothing_changed(optimizer), pytest.raises(ValueError, match="nothing was changed") as caught:
        optimizer.set_state_dict(saved)
    return str(caught.value)


@pytest.mark.parametrize(("change", "pattern"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_mismatch_changes_nothing(change: Callable[[dict[str, Any]], None], pattern: str) -> None:
    optimizer = poor("Adam", parameters(), 0.25)
    train(optimizer, 3)
    assert re.search(pattern, refusal(change, optimizer))


def test_all_mismatches_are_listed_at_once() -> None:
    names = [
        "rate",
        "other params",
        "a bad value",
        "unknown",
        "a default",
        "place",
        "shape",
        "state",
    ]

    def change(saved: dict[str, Any]) -> None:
        for name in names:
            if name != "place":
                MISMATCHES[name][0](saved)
        saved["param_groups"][2]["grad_clip"] = 9

    message = refusal(change, poor("Adam", parameters(), 0.25))
    assert all(re.search(MISMATCHES[name][1], message) for name in names)


def test_a_schedule_is_listed_with_the_rest_and_moves_only_with_it() -> None:
    def make() -> rs.Optimizer:
        return rs.Momentum(lr.ReduceOnPlateau(0.5), parameters=parameters())

    optimizer = make()
    for change in (
        at("LR_Scheduler.last_lr", -1),
        at("LR_Scheduler", 3),
        at("param_groups.0.momentum", -1),
    ):
        saved = make().state_dict()
        saved["LR_Scheduler"]["last_epoch"] = 4
        change(saved)
        saved["stranger"] = 1
        with nothing_changed(optimizer), pytest.raises(ValueError, match="'stranger'") as caught:
            optimizer.set_state_dict(saved)
        assert re.search("LR_Scheduler|momentum", str(caught.value))
    number = rs.Momentum(0.5, parameters=parameters()).state_dict()
    with nothing_changed(optimizer), pytest.raises(ValueError, match="'learning_rate' is there"):
        optimizer.set_state_dict({**number, "LR_Scheduler": make().state_dict()["LR_Scheduler"]})


class Foreign:
    """A schedule of another library, which finds out too late that it cannot."""

    def __call__(self) -> float:
        return 0.5

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("best")


def test_a_schedule_of_another_library_that_fails_changes_nothing_else() -> None:
    optimizer = rich("Adam", parameters(), Foreign())
    train(optimizer, 1)
    saved = rich("Adam", parameters(), Foreign()).state_dict()
    with nothing_changed(optimizer), pytest.raises(KeyError, match="best"):
        optimizer.set_state_dict(saved)
