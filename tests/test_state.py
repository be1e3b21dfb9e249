"""What training goes on from: state dicts, of this package and of Paddle, and pickles."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

import roofstep as rs
import test_exact
from roofstep import lr

OPTIMIZERS = test_exact.public_optimizers()


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


class Counting:
    """A schedule whose state is its very list, given and taken."""

    def __init__(self) -> None:
        self.counts = [1]

    def __call__(self) -> float:
        return 0.5

    def step(self) -> None:
        self.counts[0] += 1

    def state_dict(self) -> Any:
        return {"counts": self.counts}

    def set_state_dict(self, state: Any) -> None:
        self.counts = state["counts"]


def test_the_state_of_a_schedule_is_copied_out_and_in() -> None:
    schedule = Counting()
    optimizer = rs.SGD(schedule, parameters())
    saved = optimizer.state_dict()
    schedule.step()
    assert saved["LR_Scheduler"] == {"counts": [1]}
    optimizer.set_state_dict(saved)
    schedule.step()
    assert (saved["LR_Scheduler"], schedule.counts) == ({"counts": [1]}, [2])


# Resuming.

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
    decays = "weight_decay" not in test_exact.OPTIMIZERS[name].without
    options = {**({"weight_decay": rs.L1Decay(0.25)} if decays else {}), **settings(name, -1)}
    options |= {"learning_rate": rate} if rate is not None else {}
    shared = rs.ClipGradByGlobalNorm(0.5)
    groups = [
        {"params": params[:1], "grad_clip": shared, "learning_rate": 0.5},
        {"params": params[1:2], **({"weight_decay": None} if decays else {})},
        {"params": params[2:3], "grad_clip": shared, **({"weight_decay": 0.125} if decays else {})},
        {"params": params[3:], "grad_clip": rs.ClipGradByValue(0.5, -0.25)},
    ]
    clip = rs.ClipGradByGlobalNorm(0.5, "label", auto_skip_clip=True)
    optimizer = OPTIMIZERS[name](parameters=groups, grad_clip=clip, **options)
    optimizer.average_weights(0.75)
    return optimizer


def poor(name: str, params: list[rs.Parameter], rate: Any) -> rs.Optimizer:
    """The same groups and nothing else alike, wherever there is another value."""
    options = settings(name, 0) | ({"learning_rate": rate} if rate is not None else {})
    groups = [{"params": row} for row in (params[:1], params[1:2], params[2:3], params[3:])]
    optimizer = OPTIMIZERS[name](parameters=groups, **options)
    optimizer.param_groups.reverse()
    return optimizer


# Rprop begins with a number.
each_rate = pytest.mark.parametrize(
    ("name", "rate"),
    [
        pytest.param(name, rate, id=f"{name}-{kind}")
        for name in OPTIMIZERS
        for kind, rate in SCHEDULES.items()
        if (name, kind) != ("Rprop", "schedule")
    ],
)


@each_rate
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
        "weight_decay": {"class": "L1Decay", "coeff": 0.25}, "average_decay": 0.75,
        "beta1": 0.0, "beta2": 0.9, "epsilon": 0.1, "lazy_mode": True, "amsgrad": True,
    }  # fmt: skip
    with nothing_changed(optimizer):
        for value in saved.values():
            if isinstance(value, np.ndarray):
                value[...] = 0
        saved["param_groups"][0]["params"].clear()
        saved["defaults"].clear()
        saved["grad_clips"].clear()


def leaves(plain: Any) -> Iterator[Any]:
    if type(plain) in (list, dict):
        for inner in plain.values() if isinstance(plain, dict) else plain:
            yield from leaves(inner)
    else:
        yield plain


def test_numbers_of_numpy_are_saved_as_those_of_python() -> None:
    """For readers that build nothing but plain data, such as torch.load with weights_only."""
    two = np.float64(2.0)
    optimizer = rs.Momentum(two, two, [{"params": parameters(), "learning_rate": two}])
    optimizer.param_groups[0].update(
        weight_decay=two, rescale_grad=np.float32(2), grad_clip=rs.ClipGradByValue(two)
    )
    saved = optimizer.state_dict()
    optimizer.set_lr_scheduler(lr.ReduceOnPlateau(two, factor=np.float64(0.5)))
    optimizer._learning_rate.step(two)
    for state_dict in (saved, optimizer.state_dict()):
        assert {type(leaf) for leaf in leaves(state_dict)} <= {float, int, bool, str, type(None)}


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


def test_a_function_comes_from_no_state_dict() -> None:
    optimizer = rs.Lamb(parameters=parameters())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["exclude_from_weight_decay_fn"] = given
    with nothing_changed(optimizer), pytest.raises(ValueError, match="is a function"):
        optimizer.set_state_dict(saved)


class Chooser(rs.Optimizer):
    """With a function and a pair among its settings."""

    _settings: ClassVar = {"choose": lambda _, value: value, "pair": lambda _, value: tuple(value)}

    def _rule(self, group: Mapping[str, Any]) -> str:
        return "sgd"


def test_a_setting_may_be_a_function_or_a_pair() -> None:
    def make(choose: Any, pair: tuple[float, float]) -> rs.Optimizer:
        return Chooser(parameters=parameters(), choose=choose, pair=pair)

    saved = through_json(make(given, (0.5, 2.0)).state_dict())
    assert "choose" not in saved["defaults"]
    for choose in (given, None):
        optimizer = make(choose, (1.0, 1.0))
        for state_dict in (saved, through_json(make(None, (0.5, 2.0)).state_dict())):
            optimizer.set_state_dict(state_dict)
            assert optimizer.param_groups[0]["choose"] is choose
            assert optimizer.param_groups[0]["pair"] == (0.5, 2.0)


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


# Mismatches.


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
    "a group less": (
        at("param_groups.0", ...), r"a group here holds \['p0'\].*added after the loading"),
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
    "no clip": (at("grad_clips.0", None), "grad_clip: None in 'grad_clips' is no clip"),
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
    with (
        nothing_changed(optimizer),
        pytest.raises(ValueError, match="nothing was changed") as caught,
    ):
        optimizer.set_state_dict(saved)
    return str(caught.value)


@pytest.mark.parametrize(("change", "pattern"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_mismatch_changes_nothing(change: Callable[[dict[str, Any]], None], pattern: str) -> None:
    optimizer = poor("Adam", parameters(), 0.25)
    train(optimizer, 3)
    assert re.search(pattern, refusal(change, optimizer))


def test_names_that_do_not_fit_are_in_the_order_of_their_groups() -> None:
    """Those of layers, say, of which the weights come first, in the saved group as in the other."""
    rows = [[rs.Parameter(np.ones(1), name) for name in row] for row in (["w", "b"], ["w", "a"])]
    saved, other = (rs.SGD(0.5, [{"params": row}]) for row in rows)
    with pytest.raises(ValueError, match=r"holds \['w', 'b'\](?s:.*)here holds \['w', 'a'\]"):
        other.set_state_dict(saved.state_dict())


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


# States of Paddle.

# What Paddle has beside the states, and whether its kernel rounds beta to float32.
POWERS: dict[str, tuple[dict[str, str | float], bool]] = {
    "SGD": ({}, False),
    "Momentum": ({}, False),
    "Adagrad": ({}, False),
    "Adadelta": ({}, False),
    "RMSProp": ({}, False),
    "Adam": ({"beta1_pow_acc": "beta1", "beta2_pow_acc": "beta2"}, False),
    "AdamW": ({"beta1_pow_acc": "beta1", "beta2_pow_acc": "beta2"}, False),
    "Adamax": ({"beta1_pow_acc": "beta1"}, False),
    "RAdam": ({"beta1_pow": "beta1", "beta2_pow": "beta2"}, True),
    "NAdam": ({"beta2_pow": "beta2", "momentum_decay_pow": 0.96}, True),
    "Lamb": ({"beta1_pow_acc": "beta1", "beta2_pow_acc": "beta2"}, True),
    "ASGD": ({}, False),
    "Rprop": ({}, False),
}
NOT_IN_PADDLE = {"Lion", "LARS", "Adan"}


def test_every_optimizer_of_paddle_is_in_the_table() -> None:
    assert set(POWERS) == set(OPTIMIZERS) - NOT_IN_PADDLE


def power(beta: float, updates: int, begin: float, dtype: Any, rounded: bool) -> Any:
    """As Paddle has it: multiplied by beta at each update, in the accumulator's dtype."""
    product, factor = dtype.type(begin), dtype.type(np.float32(beta) if rounded else beta)
    for _ in range(updates):
        product = product * factor
    return product


def as_paddle(optimizer: rs.Optimizer, middle: str = "", counter: int = 3) -> dict[str, Any]:
    """The state of an optimizer under Paddle's names, in Paddle's form."""
    accumulators, rounded = POWERS[type(optimizer).__name__]
    ours, saved = optimizer.state_dict(), {}
    for p in optimizer.parameters:
        steps = int(ours.get(f"{p.name}_step_0", 0))
        for key, value in ours.items():
            if key.startswith(f"{p.name}_") and not key.endswith("_step_0"):
                state = key[len(f"{p.name}_") : -2]
                full = np.full_like(p.data, value) if state == "mu_product" else value
                saved[f"{p.name}{middle}_{state}_{counter}"] = full
        for accumulator, setting in accumulators.items() if steps else ():
            beta = optimizer.param_groups[0][setting] if isinstance(setting, str) else setting
            acc = accumulator.endswith("_acc")
            rounds = rounded and isinstance(setting, str)
            held = power(beta, steps, beta if acc else 1.0, p.data.dtype, rounds)
            shape = (1,) if acc else p.data.shape
            saved[f"{p.name}{middle}_{accumulator}_{counter}"] = np.full(shape, held)
        if type(optimizer) is rs.ASGD and steps:
            saved[f"{p.name}{middle}_m_{counter}"] = np.array([steps])
        if type(optimizer) is rs.RAdam and steps:
            saved[f"{p.name}{middle}_rho_{counter}"] = np.full_like(p.data, 9.0)
        if type(optimizer) is rs.RMSProp and not optimizer.param_groups[0]["centered"] and steps:
            saved[f"{p.name}{middle}_mean_grad_{counter}"] = np.zeros_like(p.data)
    return saved


class Tensor:
    """What can be asked for its numbers, and nothing else."""

    def __init__(self, value: np.ndarray) -> None:
        self._value = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._value


@pytest.mark.parametrize("name", POWERS)
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("middle", ["", "_mine"])
def test_a_state_of_paddle(name: str, which: int, middle: str) -> None:
    def make(params: list[rs.Parameter]) -> rs.Optimizer:
        return OPTIMIZERS[name](parameters=params, name="mine", **settings(name, which))

    optimizer = make(parameters())
    optimizer.parameters[1].trainable = False  # nothing is saved of what was never stepped
    train(optimizer, 1, 2, 3, 5)
    again = make(copied(optimizer.parameters))
    bookkeeping = {"StructuredToParameterName@@": {}}  # stands in the file, for pickle to find
    tensors = {key: Tensor(value) for key, value in as_paddle(optimizer, middle).items()}
    again.set_state_dict({**tensors, **bookkeeping})
    before, after = optimizer.state_dict(), again.state_dict()
    counted = name == "ASGD" or (POWERS[name][0] != {} and before["defaults"].get("beta2") != 0)
    if name == "SGD":  # which saves nothing
        after |= {k: v for k, v in before.items() if k.endswith("_step_0")}
    for key in before:
        if key.endswith("_step_0") and not counted:
            before[key] = np.array(1)
            after[key] = np.minimum(after[key], 1)
        if key.endswith("_mu_product_0"):
            dtype = optimizer.parameters[int(key[1])].data.dtype
            before[key] = np.array(float(dtype.type(before[key])))
    assert same(after, before)


def test_averages_begin_after_a_state_of_paddle() -> None:
    p = rs.Parameter(np.array([8.0]), "p")
    optimizer = rs.Momentum(1.0, 0.0, [p])
    optimizer.average_weights(0.75)
    optimizer.set_state_dict({"p_velocity_0": np.zeros(1)})
    p.grad = np.array([4.0])
    optimizer.step()
    with optimizer.averaged():
        assert p.data == 7


def loaded(name: str, powers: dict[str, Any], dtype: str = "f4", **options: Any) -> int:
    """The count that an optimizer of one parameter comes to by these accumulators."""
    optimizer = OPTIMIZERS[name](parameters=[rs.Parameter(np.zeros(2, dtype), "p")], **options)
    states = {f"p_{s}_0": np.zeros(2, dtype) for s in STATES[name]}
    optimizer.set_state_dict({**states, **{f"p_{a}_0": v for a, v in powers.items()}})
    return int(optimizer.state_dict()["p_step_0"])


STATES = {
    "Adam": ("moment1", "moment2"),
    "Adamax": ("moment", "inf_norm"),
    "RAdam": ("moment1", "moment2"),
    "NAdam": ("moment1", "moment2"),
}


@pytest.mark.parametrize("updates", [1, 2, 9, 700, 70_000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99999), (0.0, 0.98)])
def test_counts_follow_from_the_powers_of_paddle(
    updates: int, dtype: str, rounded: bool, betas: tuple[float, float]
) -> None:
    """Also where the first power has become 0, or so small that a product is itself again."""
    kind = np.dtype(dtype)
    first, second = (np.full(1, power(b, updates, b, kind, rounded)) for b in betas)
    options = {"beta1": betas[0], "beta2": betas[1]}
    count = loaded("Adam", {"beta1_pow_acc": first, "beta2_pow_acc": second}, dtype, **options)
    if betas[1] ** updates > np.finfo(dtype).tiny:
        assert count == updates
    else:  # bias corrections are 1 from there on
        assert betas[1] ** count < np.finfo(dtype).tiny


def test_a_power_that_was_flushed_to_zero() -> None:
    tiny = {"beta1_pow_acc": np.zeros(1, "f4")}
    count = loaded("Adamax", tiny)
    assert 0.9**count < np.finfo("f4").tiny
    tiny["beta2_pow_acc"] = np.full(1, power(0.999, 5000, 0.999, np.dtype("f4"), False))
    assert loaded("Adam", tiny) == 5000


ONE = np.ones(1, "f4")
SEVEN = {f"beta{i}_pow_acc": power(b, 7, b, np.dtype("f4"), False) * ONE for i, b in
         ((1, 0.9), (2, 0.999))}  # fmt: skip
NOT_COUNTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another beta1": ("Adam", {**SEVEN, "beta1_pow_acc": 0.8**8 * ONE},
        "'p_beta1_pow_acc_0' holds 0.16.* no power of beta1=0.9; construct with the betas"),
    "another beta2": ("Adam", {**SEVEN, "beta2_pow_acc": 0.99**8 * ONE},
        "'p_beta2_pow_acc_0' .* beta2=0.999"),
    "one that could be": ("Adam", {**SEVEN, "beta2_pow_acc": SEVEN["beta2_pow_acc"] ** 4},
        "of 7 updates with beta1=0.9, .* of 31 updates with beta2=0.999.* construct with"),
    "stands, and yet": ("Adam", {**SEVEN, "beta1_pow_acc": 0 * ONE}, "'p_beta1_pow_acc_0' is"),
    "before a step": ("Adam", {**SEVEN, "beta1_pow_acc": 0.9 * ONE}, "no power of beta1"),
    "above 1": ("Adam", {**SEVEN, "beta1_pow_acc": 2 * ONE}, "no power of beta1"),
    "NaN": ("Adam", {**SEVEN, "beta1_pow_acc": np.nan * ONE}, "not one number"),
    "integer": ("Adam", {**SEVEN, "beta1_pow_acc": np.ones(1, "i4")}, "not one number of float32"),
    "ragged": ("Adam", {**SEVEN, "beta1_pow_acc": [[1], [1, 2]]}, "'p_beta1_pow_acc_0' is no arr"),
    "not uniform": ("RAdam", {"beta1_pow": np.array([0.9, 0.81], "f4"), "beta2_pow": 0.999 * ONE},
        "'p_beta1_pow_0' is not one number"),
    "not uniform product": ("NAdam", {"mu_product": np.array([0.9, 0.81], "f4"),
        "beta2_pow": 0.999 * ONE, "momentum_decay_pow": 0.96 * ONE},
        "'p_mu_product_0' is not one number"),
    # Its strength of momentum goes on changing when the powers no longer do.
    "none that still changes": ("NAdam", {"mu_product": 0 * ONE, "beta2_pow": 0 * ONE,
        "momentum_decay_pow": 0 * ONE}, "follows no count"),
    "missing": ("Adam", {"beta1_pow_acc": 0.9**8 * ONE}, "'p_beta2_pow_acc_0' is missing"),
    "of another rule": ("Adamax", SEVEN, "'p_beta2_pow_acc_0' belongs to no"),
    "two counters": ("Adam", {**SEVEN, "moment1_0": ONE}, "'p_moment1_0_0' belongs to no"),
    "shape": ("Adam", {**SEVEN, "moment1": ONE}, r"'p_moment1_0' .*shape \(1,\)"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "powers", "pattern"), NOT_COUNTS.values(), ids=NOT_COUNTS)
def test_what_is_no_state_of_paddle(name: str, powers: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        loaded(name, powers)


def test_powers_of_betas_next_to_one() -> None:
    """In float32 this one is 1, and in float64 no training is as long as its power says."""
    second = {"beta2_pow_acc": np.ones(1, "f4")}
    with pytest.raises(ValueError, match=r"no power of beta2=0\.999999999;"):
        loaded("Adam", {**SEVEN, **second}, beta2=1 - 1e-9)
    first = {"beta1_pow_acc": np.full(1, 0.4)}
    with pytest.raises(ValueError, match=r"no power of beta1=0\.999999999;"):
        loaded("Adamax", first, "f8", beta1=1 - 1e-9)


def test_other_optimizers_of_paddle() -> None:
    optimizer = rs.RMSProp(0.5, parameters=parameters()[:1])
    train(optimizer, 1)
    saved = as_paddle(optimizer)
    saved["p0_mean_grad_3"] = saved["p0_mean_grad_3"] + 1
    with nothing_changed(optimizer), pytest.raises(ValueError, match="construct with centered=Tr"):
        optimizer.set_state_dict(saved)

    lion = rs.Lion(parameters=parameters()[:1])
    moment = {"p0_moment_0": np.zeros((3, 4), "f4")}
    with nothing_changed(lion), pytest.raises(ValueError, match="'p0_step_0' is missing"):
        lion.set_state_dict(moment)  # it is not Paddle's

    adam = rs.Adam(parameters=parameters()[:1], name="mine")
    train(adam, 1)
    for saved, pattern in (
        ({**as_paddle(adam), "master_weights": {}}, "'master_weights' is there"),
        (as_paddle(adam, "_other"), "'p0_other_moment1_3' belongs to no"),
        ({**as_paddle(adam), **as_paddle(adam, "_mine")}, "belongs to no"),
    ):
        with nothing_changed(adam), pytest.raises(ValueError, match=pattern):
            adam.set_state_dict(saved)


def test_the_optimizers_name_is_told_from_the_end_of_a_parameters() -> None:
    """Of p and p_N under the optimizer N, p_N_velocity_0 may be either's."""
    for name, keys in (("N", ("p_N", "p_N_N")), (None, ("p", "p_N")), ("N", ("p", "p_N"))):
        params = [rs.Parameter(np.zeros(1), "p"), rs.Parameter(np.zeros(1), "p_N")]
        optimizer = rs.Momentum(parameters=params, name=name)
        optimizer.set_state_dict({f"{k}_velocity_0": [i + 0.5] for i, k in enumerate(keys)})
        saved = optimizer.state_dict()
        assert [saved["p_velocity_0"].item(), saved["p_N_velocity_0"].item()] == [0.5, 1.5]


# After 7 steps, as Paddle 3.3.1 saves them: the warm restarts without the place in their cycle.
PADDLE_SCHEDULES: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (lambda: lr.PiecewiseDecay([3, 6], [0.1, 0.2, 0.3]), {"last_epoch": 7, "last_lr": 0.3}),
    (lambda: lr.LinearWarmup(lr.StepDecay(0.5, 2), 3, 0.0, 0.5),
     {"last_epoch": 7, "last_lr": 0.005000000000000001,
      "LinearWarmup_LR": {"last_epoch": 4, "last_lr": 0.005000000000000001}}),
    (lambda: lr.LinearWarmup(0.5, 3, 0.0, 0.5), {"last_epoch": 7, "last_lr": 0.5}),
    (lambda: lr.OneCycleLR(0.5, 20), {"last_epoch": 7, "last_lr": 0.47524716853220966}),
    (lambda: lr.CosineAnnealingWarmRestarts(0.5, 3, 2),
     {"last_epoch": 7, "last_lr": 0.12500000000000006}),
    (lambda: lr.CosineAnnealingDecay(0.5, 9), {"last_epoch": 7, "last_lr": 0.058488889220255524}),
    (lambda: lr.ReduceOnPlateau(0.5, patience=1),
     {"cooldown_counter": 0, "best": 1.0, "num_bad_epochs": 0, "last_epoch": 7,
      "last_lr": 0.0005000000000000001}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "entry"), PADDLE_SCHEDULES)
def test_a_schedule_of_paddle(make: Callable[[], Any], entry: dict[str, Any]) -> None:
    walked, resumed = make(), make()
    metrics = [(1 + k / 10,) if isinstance(walked, lr.ReduceOnPlateau) else () for k in range(14)]
    for metric in metrics[:7]:
        walked.step(*metric)
    optimizer = rs.Momentum(resumed, parameters=parameters()[:1])
    optimizer.set_state_dict({"p0_velocity_0": np.zeros((3, 4), "f4"), "LR_Scheduler": entry})
    assert optimizer.get_lr() == pytest.approx(walked(), rel=1e-14)
    for metric in metrics[7:]:
        walked.step(*metric)
        resumed.step(*metric)
        assert resumed() == pytest.approx(walked(), rel=1e-14)


# Copies.

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def halved(epoch: int) -> float:
    return 0.5**epoch


def given(name: str) -> bool:
    return name != "p0"


# How to make one of each public class that is no optimizer.
MADE: dict[str, Callable[[], Any]] = {
    "ClipGradByGlobalNorm": lambda: rs.ClipGradByGlobalNorm(0.5, "label"),
    "ClipGradByNorm": lambda: rs.ClipGradByNorm(0.5),
    "ClipGradByValue": lambda: rs.ClipGradByValue(0.5, -0.25),
    "L1Decay": lambda: rs.L1Decay(0.5),
    "L2Decay": lambda: rs.L2Decay(0.5),
    "ParamAttr": lambda: rs.ParamAttr("p", 0.5, rs.L1Decay(0.5), need_clip=False),
    "Parameter": lambda: rs.Parameter(np.asfortranarray(np.ones((2, 3))), "p"),
    "SelectedRows": lambda: rs.SelectedRows(np.array([1]), np.ones((1, 2))),
    "ConstantLR": lambda: lr.ConstantLR(0.5),
    "CosineAnnealingDecay": lambda: lr.CosineAnnealingDecay(0.5, 9),
    "CosineAnnealingWarmRestarts": lambda: lr.CosineAnnealingWarmRestarts(0.5, 3, 2),
    "CyclicLR": lambda: lr.CyclicLR(0.25, 0.5, 3),
    "ExponentialDecay": lambda: lr.ExponentialDecay(0.5, 0.5),
    "InverseSqrt": lambda: lr.InverseSqrt(0.5, 3),
    "InverseTimeDecay": lambda: lr.InverseTimeDecay(0.5, 0.5),
    "LambdaDecay": lambda: lr.LambdaDecay(0.5, halved),
    "LinearLR": lambda: lr.LinearLR(0.5, 9),
    "LinearWarmup": lambda: lr.LinearWarmup(lr.StepDecay(0.5, 2), 3, 0.0, 0.5),
    "MultiStepDecay": lambda: lr.MultiStepDecay(0.5, [2, 4]),
    "MultiplicativeDecay": lambda: lr.MultiplicativeDecay(0.5, halved),
    "NaturalExpDecay": lambda: lr.NaturalExpDecay(0.5, 0.5),
    "NoamDecay": lambda: lr.NoamDecay(64, 3),
    "OneCycleLR": lambda: lr.OneCycleLR(0.5, 20),
    "PiecewiseDecay": lambda: lr.PiecewiseDecay([2, 4], [0.5, 0.25, 0.125]),
    "PolynomialDecay": lambda: lr.PolynomialDecay(0.5, 9),
    "ReduceOnPlateau": lambda: lr.ReduceOnPlateau(0.5, patience=0),
    "SequentialLR": lambda: lr.SequentialLR([lr.ConstantLR(0.5), lr.StepDecay(0.5, 2)], [2]),
    "StepDecay": lambda: lr.StepDecay(0.5, 2),
    "WarmupStableDecay": lambda: lr.WarmupStableDecay(0.5, 2, 3, 4),
}
BASES = {"ClipGradBase", "LRScheduler", "Optimizer", "WeightDecayRegularizer"}


def test_every_public_class_is_copied_here() -> None:
    public = {
        name
        for module in (rs, lr)
        for name in module.__all__
        if inspect.isclass(getattr(module, name))
    }
    assert public == set(MADE) | BASES | set(OPTIMIZERS) | {"LBFGS"}  # see test_lbfgs.py


@each_way
@pytest.mark.parametrize("name", MADE)
def test_copies_of_everything_but_optimizers(name: str, way: Callable[[Any], Any]) -> None:
    thing = MADE[name]()
    assert re.fullmatch(rf"{name}\(.+\)", repr(thing))
    if isinstance(thing, lr.LRScheduler):
        step = [(1.0,) if isinstance(thing, lr.ReduceOnPlateau) else ()] * 4
        for metric in step:
            thing.step(*metric)
        twin = way(thing)
        before = repr(twin)
        rates = []
        for scheduler in (thing, twin):
            for metric in step:
                scheduler.step(*metric)
            rates.append((scheduler(), repr(scheduler)))
            if scheduler is thing:
                assert repr(twin) == before
        assert rates[0] == rates[1]
        return
    twin = way(thing)
    assert repr(twin) == repr(thing)
    if isinstance(thing, rs.SelectedRows):
        assert twin.rows.tolist() == [1]
        assert twin.values.tolist() == [[1, 1]]
        assert not np.shares_memory(twin.values, thing.values)
    if isinstance(thing, rs.Parameter):
        assert twin.data.strides == thing.data.strides
        assert not np.shares_memory(twin.data, thing.data)


class Tagged(rs.Parameter):
    """With an attribute of the user's."""

    def __init__(self, data: Any, tag: str) -> None:
        super().__init__(data)
        self.tag = tag


@each_way
def test_a_subclass_of_parameter_keeps_its_attributes(way: Callable[[Any], Any]) -> None:
    assert way(Tagged(np.ones(2), "frozen")).tag == "frozen"


@each_way
@each_rate
def test_copies_of_optimizers(name: str, rate: Any, way: Callable[[Any], Any]) -> None:
    options = {o: v for o, v in settings(name, -1).items() if not callable(v)}
    options |= {"apply_decay_param_fun": given} if name == "AdamW" else {}
    options |= {"learning_rate": value} if (value := rate()) is not None else {}
    clip = rs.ClipGradByGlobalNorm(0.5)
    params = parameters()
    groups = [{"params": params[:2], "learning_rate": 0.5}, {"params": params[2:]}]
    optimizer = OPTIMIZERS[name](parameters=groups, grad_clip=clip, **options)
    assert re.fullmatch(rf"{name}\(.*learning_rate=.+, 5 parameters\)", repr(optimizer))
    train(optimizer, 1, 2, 3)
    twin = way(optimizer)
    assert repr(twin) == repr(optimizer)
    for p, q in zip(optimizer.parameters, twin.parameters, strict=True):
        assert not np.shares_memory(p.data, q.data)
    before = twin.state_dict()
    train(optimizer, 4, 5)
    assert same(twin.state_dict(), before)
    train(twin, 4, 5)
    assert same(twin.state_dict(), optimizer.state_dict())
    assert twin.last_grad_norm == optimizer.last_grad_norm
    for p, q in zip(optimizer.parameters, twin.parameters, strict=True):
        assert test_exact.same_bits(p.data, q.data)


def test_a_shallow_copy_shares_the_parameters_and_nothing_that_a_step_or_an_edit_changes() -> None:
    optimizer = rs.NAdam(parameters=parameters())
    train(optimizer, 1)
    twin = copy.copy(optimizer)
    before = twin.state_dict()
    train(optimizer, 2)
    optimizer.param_groups[0]["beta1"] = 0.5
    optimizer.add_param_group({"params": [np.zeros(1)]})
    optimizer.average_weights(0.5)
    assert same(twin.state_dict(), before)
    assert twin.parameters == optimizer.parameters[:-1]


@pytest.mark.parametrize(
    "take",
    [
        pickle.dumps,
        copy.deepcopy,
        lambda optimizer: optimizer.state_dict(),
        lambda optimizer: optimizer.set_state_dict({}),
        lambda optimizer: optimizer.add_param_group({"params": [np.zeros(1)]}),
    ],
)
def test_nothing_is_taken_or_given_in_the_middle_of_a_step(take: Callable[[Any], Any]) -> None:
    refused = []

    def ratio(parameter: rs.Parameter) -> float:  # asked by the step
        with pytest.raises(RuntimeError, match="is being stepped") as caught:
            take(optimizer)
        refused.append(caught)
        return 0.5

    optimizer = rs.AdamW(parameters=parameters()[:1], lr_ratio=ratio)
    train(optimizer, 1)
    assert refused
    assert int(optimizer.state_dict()["p0_step_0"]) == 1
