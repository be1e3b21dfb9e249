"""Faults and infinite gradients in a step of the optimizers for torch, and in Paddle's programs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import pytest
import torch

import roofstep
import roofstep.torch
from pairs import OPTIONS
from test_faults import STRIDE, Interrupter


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


class World:
    """A torch optimizer of three parameters after some steps, ready for one more."""

    def __init__(self, cls: Any, steps: int, **options: Any) -> None:
        torch.manual_seed(0)
        self.tensors = [torch.randn(4, 3, requires_grad=True) for _ in range(3)]
        self.optimizer = cls(self.tensors, **options)
        for _ in range(steps):
            self.give()
            self.optimizer.step()
        self.give()

    def give(self) -> None:
        fresh = not any(self.optimizer.state.values())
        for i, tensor in enumerate(self.tensors):
            tensor.grad = None if i == 2 and fresh else torch.randn(4, 3)

    def seen(self) -> Any:
        """All that a user can see, but for the versions."""

        def plain(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value.detach().numpy().tobytes()
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            return [plain(one) for one in value] if isinstance(value, list) else value

        own = self.optimizer
        told = (own.last_step_applied, own.last_grad_norm, own.skipped_steps)
        return plain([self.tensors, own.state_dict(), *map(str, told)])


CASES = {
    "Adam": (roofstep.torch.Adam, {"grad_clip": roofstep.ClipGradByGlobalNorm(0.1)}),
    "SGD": (roofstep.torch.SGD, {"momentum": 0.9, "skip_nonfinite": True}),
    "NAdam": (roofstep.torch.NAdam, {}),  # whose number is rounded by what shows it
    "ASGD": (roofstep.torch.ASGD, {"t0": 1.0}),
}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_interrupted_before_any_opcode(name: str, steps: int) -> None:
    cls, options = CASES[name]
    expected = World(cls, steps, **options)
    before = expected.seen()
    expected.optimizer.step()
    after = expected.seen()
    expected.give()
    expected.optimizer.step()
    later = expected.seen()
    counts = {True: 0, False: 0}
    for at in range(0, 100_000, 5 * STRIDE if STRIDE > 1 and not steps else STRIDE):
        world = World(cls, steps, **options)
        versions = [tensor._version for tensor in world.tensors]
        if not Interrupter(at).run(world.optimizer.step):
            break
        found = world.seen()
        assert found in (before, after), at
        counts[found == after] += 1
        if found == before:
            world.optimizer.step()
            assert world.seen() == after, at
        else:
            assert world.tensors[0]._version > versions[0]
        world.give()
        world.optimizer.step()
        assert world.seen() == later, at
    else:
        pytest.fail("the step never ended")
    print(f"torch's {name}, step {steps + 1}: {sum(counts.values())}, {counts[True]} after")
    assert counts[False] > 10


def test_interrupted_in_a_backward_pass() -> None:
    """A gradient is used up exactly if its parameter is moved."""
    for at in range(0, 100_000, 3 * STRIDE):
        tensor = torch.ones(3, requires_grad=True)
        optimizer = roofstep.torch.SGD([tensor], lr=0.5, step_in_backward=True)
        interrupter = Interrupter(at)
        done = not interrupter.run((tensor**2).sum().backward)
        moved = tensor.tolist() == [0.0] * 3
        assert moved or tensor.tolist() == [1.0] * 3
        assert (tensor.grad is None) == moved
        optimizer.step()
        assert tensor.tolist() == [0.0] * 3
        if done:
            return
    pytest.fail("the pass never ended")


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_with_an_infinite_gradient_is_skipped(name: str) -> None:
    world = World(getattr(roofstep.torch, name), 1, skip_nonfinite=True)
    before = world.seen()
    versions = [tensor._version for tensor in world.tensors]
    world.tensors[1].grad[2, 2] = torch.inf
    with pytest.warns(RuntimeWarning, match="gradient of parameter 'param_1' is not finite"):
        world.optimizer.step()
    assert world.optimizer.last_step_applied is False
    assert [tensor._version for tensor in world.tensors] == versions
    again = copy.deepcopy(world.optimizer)
    assert again.skipped_steps == 1
    world.optimizer._skipped_steps, world.optimizer._last_step_applied = 0, True
    assert world.seen() == before


def test_a_step_that_grad_scaler_skips_is_counted() -> None:
    tensor = torch.ones(3, requires_grad=True)
    optimizer = roofstep.torch.SGD([tensor], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor, applied in ((1.0, True), (torch.inf, False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale((tensor * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.last_step_applied is applied
    assert optimizer.skipped_steps == 1
    assert tensor.tolist() == [0.0] * 3


def test_what_goes_together_with_no_skipping() -> None:
    with pytest.raises(ValueError, match="skip_nonfinite: expected False together with step_in"):
        roofstep.torch.SGD([torch.ones(1)], step_in_backward=True, skip_nonfinite=True)
    with pytest.raises(TypeError, match="skip_nonfinite: expected True or False"):
        roofstep.torch.SGD([torch.ones(1)], skip_nonfinite=1)


@pytest.mark.parametrize("clip", [None, roofstep.ClipGradByGlobalNorm(1.0)])
@pytest.mark.parametrize("clear", [False, True])
def test_tensors_in_the_own_optimizers(clip: Any, clear: bool) -> None:
    """Versions of parameters stay, those of zeroed gradients move on."""
    tensor, other = torch.ones(3, requires_grad=True), paddle.ones([3])
    other.stop_gradient = False
    optimizer = roofstep.Adam(0.1, parameters=[tensor, other], grad_clip=clip, skip_nonfinite=True)
    (tensor.sum() * torch.nan).backward()
    other.sum().backward()
    version, of_grad = tensor._version, tensor.grad._version
    with silent():
        optimizer.step(clear_grad=clear)
    assert optimizer.skipped_steps == 1
    assert tensor._version == version
    assert tensor.grad._version > of_grad if clear else tensor.grad._version == of_grad
    assert tensor.tolist() == other.tolist() == [1.0] * 3
    assert torch.isnan(tensor.grad).any().item() is not clear
    assert other.grad.tolist() == [0.0 if clear else 1.0] * 3


@pytest.mark.filterwarnings("ignore:Tensor do not have .place")
def test_a_program_of_paddle_skips() -> None:
    paddle.enable_static()
    try:
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, startup):
            x = paddle.static.data("x", [None, 2])
            layer = paddle.nn.Linear(2, 1)
            loss = layer(x).mean()
            optimizer = roofstep.SGD(0.1, skip_nonfinite=True)
            optimizer.minimize(loss)
        executor = paddle.static.Executor()
        executor.run(startup)
        found = []
        for value in (1.0, np.inf, 1.0):
            with silent():
                executor.run(main, {"x": np.full((4, 2), value, "float32")}, [loss])
            found.append((optimizer.last_step_applied, optimizer.skipped_steps))
        assert found == [(True, 0), (False, 1), (True, 1)]
    finally:
        paddle.disable_static()


def test_a_users_clip_sees_what_grad_scaler_has_scaled_divided() -> None:
    seen = []

    class Look(roofstep.ClipGradBase):
        def _dygraph_clip(self, params_grads: Any) -> Any:
            seen.extend(gradient.tolist() for _, gradient in params_grads)
            return params_grads

    tensor = torch.ones(3, requires_grad=True)
    optimizer = roofstep.torch.SGD([tensor], lr=0.5, grad_clip=Look())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(tensor.sum()).backward()
    scaler.step(optimizer)
    assert seen == [[1.0] * 3]
    assert tensor.tolist() == [0.5] * 3
