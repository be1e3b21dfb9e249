"""Averaged weights: the running mean of every optimizer, and the exchange to evaluate with it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import roofstep as rs
from test_exact import DTYPES, EVERY_ISA, OPTIMIZERS, default_case, draw, ordinary, run

SIZES = (0, 1, 17, 4097, 140_001)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_averages_in_its_pass(name: str, dtype: Any) -> None:
    """The bits of the oracle, on every ISA and by several threads; beside a clip, too."""
    rng = np.random.default_rng(3)
    arrays, gradients = draw(rng, SIZES, dtype, ordinary)
    if name == "AveragedSGD":
        with pytest.raises(ValueError, match=r"average_decay.*p0.*averaged_sgd.*0\.9"):
            run(default_case(name, average=0.9), arrays, gradients)
        return
    for clip in ("none", "global"):
        run(default_case(name, average=0.9, clip=clip), arrays, gradients, EVERY_ISA)


def made(decay: float | None = 0.75, **options: Any) -> tuple[rs.Parameter, rs.Optimizer]:
    w = rs.Parameter(np.array([8.0, -4.0]), "w")
    optimizer = rs.SGD(1.0, [w], **options)
    if decay is not None:
        optimizer.average_weights(decay)
    return w, optimizer


def step(optimizer: rs.Optimizer, gradient: float = 4.0) -> None:
    for p in optimizer.parameters:
        p.grad = np.full(p.data.shape, gradient)
    optimizer.step()


def test_it_begins_with_the_weights_before_the_next_update() -> None:
    w, optimizer = made(None)
    step(optimizer)
    optimizer.average_weights(0.75)
    step(optimizer)
    step(optimizer)
    # 4 is where it begins; 0 and -4 are the weights since.
    assert optimizer.state_dict()["w_average_0"].tolist() == [
        0.75 * (0.75 * 4 + 0.25 * 0) + 0.25 * -4,
        0.75 * (0.75 * -8 + 0.25 * -12) + 0.25 * -16,
    ]
    assert w.data.tolist() == [-4, -16]


@pytest.mark.parametrize("decay", [None, 0.5])
def test_a_bad_setting_beside_it_leaves_averages_and_settings(decay: float | None) -> None:
    w = rs.Parameter(np.array([8.0, -4.0]), "w")
    optimizer = rs.Adam(1.0, parameters=[w])
    optimizer.average_weights(0.75)
    step(optimizer)
    average = optimizer.state_dict()["w_average_0"].tolist()
    group = optimizer.param_groups[0]
    group["beta1"] = 2.0
    with pytest.raises(ValueError, match="beta1"):
        optimizer.average_weights(decay)
    group["beta1"] = 0.9
    assert group["average_decay"] == optimizer._defaults["average_decay"] == 0.75
    assert optimizer.state_dict()["w_average_0"].tolist() == average
    optimizer.average_weights(decay)
    assert ("w_average_0" in optimizer.state_dict()) == (decay is not None)


def test_the_gradient_may_be_strided_and_zeroed_in_the_same_pass() -> None:
    rng = np.random.default_rng(1)
    start, gradient = rng.standard_normal((2, 70, 130))
    results = []
    for given, clear in ((gradient, False), (np.asfortranarray(gradient), True)):
        w = rs.Parameter(start.copy(), "w")
        optimizer = rs.Adam(0.1, parameters=[w])
        optimizer.average_weights(0.5)
        w.grad = given.copy(order="K")
        optimizer.step(clear_grad=clear)
        assert (not w.grad.any()) == clear
        results.append((w.data, optimizer.state_dict()["w_average_0"]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(results[0][1], (start + results[0][0]) / 2, rtol=1e-15)


def test_in_the_block_the_parameters_hold_the_mean() -> None:
    w, optimizer = made()
    step(optimizer)
    inside = w.data
    with optimizer.averaged():
        assert w.data is inside
        assert w.data.tolist() == [7, -5]
    assert w.data.tolist() == [4, -8]
    assert optimizer.state_dict()["w_average_0"].tolist() == [7, -5]
    with pytest.raises(KeyError, match="out of here"), optimizer.averaged():
        raise KeyError("out of here")
    assert w.data.tolist() == [4, -8]


def test_in_the_block_nothing_else_is_done() -> None:
    _w, optimizer = made()
    step(optimizer)
    saved = optimizer.state_dict()
    with optimizer.averaged():
        for attempt in (
            lambda: step(optimizer),
            optimizer.state_dict,
            lambda: optimizer.set_state_dict(saved),
            lambda: optimizer.average_weights(0.5),
            lambda: optimizer.add_param_group({"params": [rs.Parameter(np.zeros(1))]}),
            lambda: optimizer.averaged().__enter__(),
            optimizer.__getstate__,
        ):
            with pytest.raises(RuntimeError, match=r"leave the block of averaged\(\) first"):
                attempt()
    step(optimizer)


def test_what_was_never_averaged_is_left_alone() -> None:
    w, other = rs.Parameter(np.array([8.0]), "w"), rs.Parameter(np.array([8.0]), "other")
    idle, frozen = rs.Parameter(np.array([2.0])), rs.Parameter(np.array([3.0]))
    frozen.trainable = False
    optimizer = rs.SGD(
        1.0, [{"params": [w], "average_decay": 0.75}, {"params": [other, idle, frozen]}]
    )
    w.grad, other.grad, frozen.grad = np.array([4.0]), np.array([4.0]), np.array([4.0])
    optimizer.step()
    assert [key for key in optimizer.state_dict() if "average" in key] == ["w_average_0"]
    with optimizer.averaged():
        assert [p.data.item() for p in optimizer.parameters] == [7, 4, 2, 3]
    assert [p.data.item() for p in optimizer.parameters] == [4, 4, 2, 3]


def test_it_is_saved_when_it_was_begun_and_not_yet_stepped() -> None:
    w, optimizer = made(None)
    step(optimizer)
    optimizer.average_weights(0.75)
    saved = optimizer.state_dict()
    assert "w_average_0" not in saved  # which begins as the weights before the next update
    twin_w, twin = made(None)
    twin_w.data[...] = w.data
    twin.set_state_dict(saved)
    for one in (optimizer, twin):
        step(one)
        assert one.state_dict()["w_average_0"].tolist() == [0.75 * 4, 0.75 * -8 + 0.25 * -12]


def test_a_group_that_stopped_keeps_its_weights_in_the_block() -> None:
    w, v = rs.Parameter(np.array([8.0]), "w"), rs.Parameter(np.array([8.0]), "v")
    optimizer = rs.SGD(1.0, [{"params": [w]}, {"params": [v]}])
    optimizer.average_weights(0.75)
    step(optimizer)
    optimizer.param_groups[1]["average_decay"] = None
    with optimizer.averaged():
        assert (w.data.item(), v.data.item()) == (7, 4)


def test_it_can_be_stopped_and_edited() -> None:
    _w, optimizer = made()
    step(optimizer)
    optimizer.param_groups[0]["average_decay"] = 0.5
    step(optimizer, 2.0)
    assert optimizer.state_dict()["w_average_0"].tolist() == [4.5, -7.5]
    optimizer.average_weights(None)
    step(optimizer)
    assert "w_average_0" not in optimizer.state_dict()
    optimizer.average_weights(0.5)
    step(optimizer, 0.0)  # begins anew
    assert optimizer.state_dict()["w_average_0"].tolist() == [-2, -14]
    optimizer.average_weights(None)
    optimizer.average_weights(0.5)
    assert "w_average_0" not in optimizer.state_dict()  # it has been dropped at once
    optimizer.average_weights(None)
    with pytest.raises(ValueError, match=r"average_weights\(\), and step"), optimizer.averaged():
        pass


def test_groups_that_come_later_are_averaged_too() -> None:
    _w, optimizer = made()
    late = rs.Parameter(np.array([8.0]), "late")
    optimizer.add_param_group({"params": [late]})
    step(optimizer)
    assert optimizer.state_dict()["late_average_0"].tolist() == [7]


@pytest.mark.parametrize(
    ("decay", "error"),
    [(1.0, ValueError), (-0.1, ValueError), (np.nan, ValueError), ("a", TypeError)],
)
def test_a_bad_decay_is_refused(decay: Any, error: type[Exception]) -> None:
    w, optimizer = made(None)
    with pytest.raises(error, match="decay"):
        optimizer.average_weights(decay)
    assert optimizer.param_groups[0]["average_decay"] is None
    optimizer.param_groups[0]["average_decay"] = decay
    with pytest.raises(error, match="average_decay"):
        step(optimizer)
    assert w.data.tolist() == [8, -4]


def test_a_parameter_that_became_another_array_is_refused() -> None:
    w, optimizer = made()
    step(optimizer)
    w.data = np.zeros(3)
    with pytest.raises(ValueError, match="parameter 'w'"), optimizer.averaged():
        pass


def test_parameters_that_came_to_share_memory_are_refused() -> None:
    """One after another, two exchanges with the same memory are not undone by doing them again."""
    w, other = rs.Parameter(np.array([8.0]), "w"), rs.Parameter(np.array([2.0]), "other")
    optimizer = rs.SGD(1.0, [w, other])
    optimizer.average_weights(0.75)
    step(optimizer)
    other.data = w.data
    with pytest.raises(ValueError, match=r"'w'.*'other'"), optimizer.averaged():
        pass
    assert w.data.tolist() == [4]


@pytest.mark.parametrize("call", [1, 2])
def test_a_signal_at_the_exchange_leaves_the_weights_in_their_place(
    monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Python runs where a library is told of the writes, when the block begins and when it ends."""
    calls = 0

    def interrupted(told: list[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt

    w, optimizer = made()
    step(optimizer)
    monkeypatch.setattr(rs.tensors, "count_writes", interrupted)
    with pytest.raises(KeyboardInterrupt), optimizer.averaged():
        assert (call, w.data.tolist()) == (2, [7, -5])
    assert calls == (1 if call == 1 else 3)  # what is undone is told, at the second attempt
    assert w.data.tolist() == [4, -8]
    assert optimizer.state_dict()["w_average_0"].tolist() == [7, -5]


def test_a_block_that_is_dropped_ends() -> None:
    w, optimizer = made()
    step(optimizer)
    block = optimizer.averaged()
    block.__enter__()
    with pytest.raises(RuntimeError, match="being stepped"):
        block.__enter__()
    assert w.data.tolist() == [7, -5]
    del block
    assert w.data.tolist() == [4, -8]
    with optimizer.averaged():
        assert w.data.tolist() == [7, -5]


def test_as_a_decorator_each_call_is_a_block() -> None:
    w, optimizer = made()
    step(optimizer)

    @optimizer.averaged()
    def evaluate(factor: float) -> list[float]:
        return [factor * value for value in w.data]

    for _ in range(2):
        assert evaluate(factor=2) == [14, -10]
        assert w.data.tolist() == [4, -8]


def test_an_optimizer_that_keeps_a_block_is_gone_when_it_is_dropped() -> None:
    for inside in (False, True):
        w, optimizer = made()
        step(optimizer)
        optimizer.block = optimizer.averaged()  # type: ignore[attr-defined]
        if inside:
            optimizer.block.__enter__()  # type: ignore[attr-defined]
        dropped = weakref.ref(optimizer)
        del optimizer
        gc.collect()
        assert dropped() is None
        assert w.data.tolist() == [4, -8]


def test_a_block_that_is_left_twice_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by another thread, while a library is told of the writes."""
    w, optimizer = made()
    step(optimizer)
    block = optimizer.averaged()
    block.__enter__()
    calls = 0

    def leave(told: list[Any]) -> None:
        nonlocal calls
        calls += 1
        block.__exit__(None, None, None)
        assert w.data.tolist() == [7, -5]

    monkeypatch.setattr(rs.tensors, "count_writes", leave)
    block.__exit__(None, None, None)
    assert (calls, w.data.tolist()) == (1, [4, -8])
    step(optimizer)
