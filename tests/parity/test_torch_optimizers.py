"""Every class of torch.optim that roofstep.torch has: signature, numbers, groups, refusals."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import roofstep.torch
from pairs import COMMON, DTYPES, OPTIONS, OURS, STEPS, Pair, Side

CASES = [(name, options) for name, row in OPTIONS.items() for options in row]
WITHOUT_PEER = ("Lion", "Lamb", "LARS")
every_class = pytest.mark.parametrize("name", OPTIONS)
every_case = pytest.mark.parametrize(("name", "options"), CASES)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Also that of torch's scalars: it keeps ASGD's rate and NAdam's product in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


# Signatures.


def test_every_class_is_here() -> None:
    assert {*OPTIONS, *WITHOUT_PEER, "Optimizer"} == {*roofstep.torch.__all__}


@pytest.mark.parametrize("name", [*OPTIONS, *WITHOUT_PEER])
def test_each_is_an_optimizer_of_torch(name: str) -> None:
    assert issubclass(getattr(roofstep.torch, name), torch.optim.Optimizer)


@every_class
def test_the_signature_is_that_of_torch(name: str) -> None:
    """And after it, by name only, what torch does not have."""
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    mine = inspect.signature(getattr(roofstep.torch, name)).parameters
    found = [(p.name, p.kind, p.default) for p in mine.values() if p.name not in OURS]
    assert found == [(p.name, p.kind, p.default) for p in theirs.values()]
    last = [(p.name, p.kind, p.default) for p in list(mine.values())[-3:]]
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert last == [
        ("grad_clip", keyword, None),
        ("step_in_backward", keyword, False),
        ("skip_nonfinite", keyword, False),
    ]


@every_class
def test_every_option_is_in_the_table(name: str) -> None:
    options = {*inspect.signature(getattr(torch.optim, name)).parameters} - COMMON
    assert options == {key for row in OPTIONS[name] for key in row} - COMMON


@every_class
def test_the_defaults_of_a_group_are_those_of_torch(name: str) -> None:
    pair = Pair(name)
    theirs, mine = ({**side.optimizer.param_groups[0], "params": 0} for side in pair.sides)
    assert mine == theirs
    assert pair.mine.optimizer.defaults == pair.theirs.optimizer.defaults


# Numbers.


@every_case
def test_numbers(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    pair = Pair(name, dtype, **options)
    pair.run()
    before = Pair(name, dtype).mine.parameters
    moved = [not torch.equal(a, b) for a, b in zip(before, pair.mine.parameters, strict=True)]
    assert moved == [True] * 5 + [False, True, False]  # no elements; never a gradient
    assert pair.compare() > 0 or name == "Rprop"


def test_the_rate_of_asgd_has_the_digits_of_torch() -> None:
    """It is a number of the default dtype, whatever the parameter's, and so from the first step."""
    pair = Pair("ASGD", torch.float64, lr=0.1, lambd=0.1)
    pair.run(range(6))
    assert pair.mine.optimizer.state[pair.mine.parameters[0]]["eta"].dtype == torch.float32
    pair.compare()


@every_class
def test_foreach_and_fused_ask_for_what_is_so(name: str) -> None:
    """Any value changes nothing, nor do both together, which torch refuses."""
    has_fused = "fused" in inspect.signature(getattr(torch.optim, name)).parameters
    expected = Pair(name).mine
    expected.run(range(5))
    for foreach in (True, False):
        for fused in (True, False) if has_fused else (None,):
            flags = {"foreach": foreach, **({"fused": fused} if has_fused else {})}
            side = Side(roofstep.torch, name, torch.float32, flags, None)
            side.run(range(5))
            assert all(map(torch.equal, side.parameters, expected.parameters))
            assert flags.items() <= side.optimizer.param_groups[0].items()


@every_class
def test_foreach_of_torch_gives_the_same(name: str) -> None:
    """Its `fused` does not: it takes the elements of a gradient as they lie in memory."""
    pair = Pair(name, foreach=True)
    pair.run()
    pair.compare()


@every_class
def test_the_rate_may_be_a_tensor(name: str, dtype: torch.dtype) -> None:
    """Edited in place it is in force at the next step, as a number that takes its place is."""
    pair = Pair(name, dtype)
    for side in pair.sides:
        side.optimizer.param_groups[0]["lr"] = torch.tensor(0.03, dtype=dtype)
    pair.run(range(4))
    for side in pair.sides:
        side.optimizer.param_groups[0]["lr"].mul_(0.5)
    pair.run(range(4, 8))
    for side in pair.sides:
        side.optimizer.param_groups[0]["lr"] = 0.01
    pair.run(range(8, 12))
    pair.compare()


@every_class
def test_a_rate_may_be_given_as_a_tensor(name: str, dtype: torch.dtype) -> None:
    pair = Pair(name, dtype, lr=torch.tensor(0.03, dtype=dtype))
    assert isinstance(pair.mine.optimizer.param_groups[0]["lr"], torch.Tensor)
    pair.run(range(5))
    pair.compare()


@every_class
def test_groups_have_options_of_their_own(name: str, dtype: torch.dtype) -> None:
    first, second = OPTIONS[name][0], {**OPTIONS[name][-1]}
    second.pop("initial_accumulator_value", None)  # see below

    def groups(row: Any) -> list[dict[str, Any]]:
        half = len(row) // 2
        return [{"params": row[:half], **second}, {"params": row[half:], "lr": 0.03}]

    pair = Pair(name, dtype, groups, **first)
    pair.run()
    pair.compare()


def test_a_group_may_begin_its_sums_with_a_value_of_its_own() -> None:
    """torch takes that of a group and does not look at it."""
    moved = []
    for library in (torch.optim, roofstep.torch):
        w = torch.zeros(1, requires_grad=True)
        optimizer = library.Adagrad([{"params": [w], "initial_accumulator_value": 9.0}], lr=0.25)
        w.grad = torch.tensor([4.0])
        optimizer.step()
        moved.append(round(w.item(), 6))
    assert moved == [-0.25, -0.2]


@every_class
def test_a_group_may_be_added(name: str, dtype: torch.dtype) -> None:
    pair = Pair(name, dtype, lambda row: [{"params": row[:3]}])
    pair.run(range(3))
    for side in pair.sides:
        side.optimizer.add_param_group({"params": side.parameters[3:], "lr": 0.05})
    pair.run(range(3, 12))
    pair.compare()
    mine, theirs = (side.optimizer.param_groups[1] for side in pair.sides)
    assert {**mine, "params": 0} == {**theirs, "params": 0}


@every_class
def test_groups_may_have_names(name: str) -> None:
    pair = Pair(name, groups=lambda row: [{"params": [(f"p{i}", p) for i, p in enumerate(row)]}])
    pair.run(range(5))
    pair.compare()
    mine, theirs = (side.optimizer.param_groups[0]["param_names"] for side in pair.sides)
    assert mine == theirs == [f"p{i}" for i in range(8)]


@every_class
def test_a_closure_computes_the_gradients(name: str, dtype: torch.dtype) -> None:
    """It is called once, with gradients enabled; `step` returns the loss."""
    pair = Pair(name, dtype)
    calls = []
    for side in pair.sides:
        for _ in range(8):

            def closure(side: Any = side) -> torch.Tensor:
                side.optimizer.zero_grad()
                used = [p for p in side.parameters if p.ndim != 1]
                loss = sum(((p - 0.25) ** 2).sum() for p in used)
                loss.backward()
                calls.append(loss.detach())
                return loss

            with torch.no_grad():
                assert torch.equal(side.optimizer.step(closure).detach(), calls[-1])
    assert len(calls) == 16
    pair.compare(4)


SETTINGS = {
    "SGD": {"momentum": 0.7, "weight_decay": 0.2, "maximize": True},
    "Adam": {"betas": (0.7, 0.95), "weight_decay": 0.2, "eps": 1e-3},
    "AdamW": {"betas": (0.7, 0.95), "weight_decay": 0.2, "maximize": True},
    "NAdam": {"betas": (0.7, 0.95), "momentum_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {"betas": (0.7, 0.95), "weight_decay": 0.2},
    "Adamax": {"betas": (0.7, 0.95), "eps": 1e-2},
    "RMSprop": {"alpha": 0.7, "weight_decay": 0.2},
    "Adagrad": {"lr_decay": 0.2, "weight_decay": 0.2, "eps": 1e-2},
    "Adadelta": {"rho": 0.5, "weight_decay": 0.2},
    "Rprop": {"etas": (0.3, 1.5), "step_sizes": (1e-4, 0.1)},
    "ASGD": {"lambd": 0.1, "alpha": 0.5, "weight_decay": 0.2},
}


@every_class
def test_what_is_edited_in_a_group_is_in_force(name: str, dtype: torch.dtype) -> None:
    pair = Pair(name, dtype)
    pair.run(range(4))
    for key, value in {"lr": 0.03, **SETTINGS[name]}.items():
        for side in pair.sides:
            assert key in side.optimizer.param_groups[0]
            side.optimizer.param_groups[0][key] = value
        pair.run(range(4, 7))
    pair.compare()


def test_an_edited_beginning_of_the_mean_is_in_force_at_once() -> None:
    """With torch it is so a step later: what it keeps as `mu` is that of the next step."""
    means = []
    for library in (torch.optim, roofstep.torch):
        w = torch.tensor([4.0], requires_grad=True)
        optimizer = library.ASGD([w], lr=1.0, lambd=0.0)
        for step in range(4):
            if step == 3:
                optimizer.param_groups[0]["t0"] = 1
            w.grad = torch.ones(1)
            optimizer.step()
        means.append(optimizer.state[w]["ax"].item())
        assert w.item() == 0.0
        assert optimizer.state[w]["mu"].item() == pytest.approx(1 / 3)
    assert means == [0.0, 0.5]


@pytest.mark.parametrize("before", [{}, {"momentum": 0.9}])
def test_momentum_may_come_and_go(before: dict[str, float], dtype: torch.dtype) -> None:
    """What torch then makes of dampening at the first step is made of it here."""
    pair = Pair("SGD", dtype, dampening=0.5, **before)
    for steps, momentum in ((range(3), None), (range(3, 6), 0.8), (range(6, 9), 0.0)):
        for side in pair.sides:
            if momentum is not None:
                side.optimizer.param_groups[0]["momentum"] = momentum
        pair.run(steps)
        for p, q in zip(pair.mine.parameters, pair.theirs.parameters, strict=True):
            assert np.all(np.abs((p - q).detach().numpy()) <= 1e-5)


@every_class
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(name: str, set_to_none: bool) -> None:
    pair = Pair(name)
    for step in range(4):
        for side in pair.sides:
            side.feed(step)
            side.optimizer.step()
            side.optimizer.zero_grad(set_to_none)
            held = [p.grad for p in side.parameters]
            if set_to_none:
                assert held == [None] * len(held)
            else:
                assert not any(g.any() for g in held if g is not None)
            side.optimizer.step()  # zeros move whatever has momentum or decay
    pair.compare()


# Refusals.

BAD = {
    "lr": -0.1,
    "eps": -1e-8,
    "weight_decay": -0.1,
    "momentum": -0.1,
    "alpha": -0.1,
    "rho": -0.1,
    "lr_decay": -0.1,
    "initial_accumulator_value": -0.1,
    "momentum_decay": -0.1,
    "etas": (1.2, 0.5),
    "betas": (1.0, 0.9),
}
REFUSED = [
    (name, {key: value})
    for name in OPTIONS
    for key, value in BAD.items()
    if key in inspect.signature(getattr(torch.optim, name)).parameters
    and (name, key) != ("ASGD", "alpha")  # which torch does not look at
]
REFUSED += [(name, {"betas": (0.9, -0.1)}) for name in OPTIONS if "betas" in SETTINGS[name]]
REFUSED += [
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("Adadelta", {"rho": 1.5}),
    *((name, {"lr": torch.ones(2)}) for name in OPTIONS),
]


@pytest.mark.parametrize(("name", "options"), REFUSED, ids=str)
def test_what_torch_refuses(name: str, options: dict[str, Any]) -> None:
    """With the same class of error; the message names the option."""
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError):
        getattr(torch.optim, name)([w], **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        getattr(roofstep.torch, name)([w], **options)


@pytest.mark.parametrize("name", [*OPTIONS, *WITHOUT_PEER])
@pytest.mark.parametrize("flag", ["capturable", "differentiable"])
def test_what_a_fused_step_is_not(name: str, flag: str) -> None:
    """At the construction, and in a group that is edited."""
    cls = getattr(roofstep.torch, name)
    if flag not in inspect.signature(cls).parameters:
        assert (name, flag) in [("SGD", "capturable"), ("Adagrad", "capturable")]
        return
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=flag):
        cls([w], **{flag: True})
    optimizer = cls([w])
    optimizer.param_groups[0][flag] = True
    w.grad = torch.ones(3)
    with pytest.raises(ValueError, match=flag):
        optimizer.step()
    assert w.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", [*OPTIONS, *WITHOUT_PEER])
@pytest.mark.parametrize("bad", [torch.complex64, torch.float16, torch.int64, "meta"], ids=str)
def test_what_is_no_dense_float_in_memory(name: str, bad: Any) -> None:
    made = {"device": "meta"} if bad == "meta" else {"dtype": bad}
    with pytest.raises((TypeError, ValueError), match="param_0"):
        getattr(roofstep.torch, name)([torch.ones(3, **made)])


@pytest.mark.parametrize("name", [n for n in OPTIONS if n not in ("SGD", "Adagrad")])
def test_sparse_gradients_are_refused_where_torch_does(name: str) -> None:
    for library, error in ((torch.optim, RuntimeError), (roofstep.torch, ValueError)):
        w, other = (torch.ones(3, requires_grad=True) for _ in range(2))
        optimizer = getattr(library, name)([other, w])
        other.grad = torch.ones(3)
        w.grad = torch.ones(3).to_sparse()
        with pytest.raises(error, match="sparse"):
            optimizer.step()
    assert other.tolist() == w.tolist() == [1, 1, 1]  # of roofstep: nothing is written


@every_class
def test_a_bad_edit_writes_nothing(name: str) -> None:
    pair = Pair(name)
    pair.run(range(3))
    side = pair.mine
    before = [p.detach().clone() for p in side.parameters]
    side.feed(3)
    side.optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        side.optimizer.step()
    assert all(map(torch.equal, before, side.parameters))
    side.optimizer.param_groups[0]["lr"] = pair.theirs.optimizer.param_groups[0]["lr"]
    side.optimizer.step()
    pair.theirs.run([3])
    pair.compare()


@every_class
def test_without_parameters_as_torch(name: str) -> None:
    for library in (torch.optim, roofstep.torch):
        with pytest.raises(ValueError, match="empty parameter list"):
            getattr(library, name)([])
        with pytest.raises(TypeError, match="iterable"):
            getattr(library, name)(torch.ones(3))


def test_the_last_step_of_the_table_is_past_every_turn() -> None:
    """RAdam rectifies, ASGD averages, and gradients have come and gone by then."""
    assert STEPS > 6
