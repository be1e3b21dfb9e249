"""What a step of roofstep.torch can do beside torch's: clip, and run inside the backward pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

import roofstep
import roofstep.torch
from pairs import OPTIONS, Pair, examples, network

every_class = pytest.mark.parametrize("name", OPTIONS)

# Clipping in the step.


@every_class
@pytest.mark.parametrize("limit", [0.5, 1e6, math.inf])
def test_clipping_by_the_global_norm(name: str, limit: float) -> None:
    """torch divides by the norm plus 1e-6, and so clips a little more."""
    pair = Pair(name, **OPTIONS[name][0])
    pair.mine.optimizer.grad_clip = roofstep.ClipGradByGlobalNorm(limit)
    assert pair.mine.optimizer.last_grad_norm is None
    for step in range(6):
        pair.theirs.feed(step)
        held = [p for p in pair.theirs.parameters if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(held, limit)
        pair.theirs.optimizer.step()
        pair.mine.run([step])
        assert pair.mine.optimizer.last_grad_norm == pytest.approx(norm.item(), rel=1e-6)
    for p, q in zip(pair.mine.parameters, pair.theirs.parameters, strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=1e-5, atol=1e-5)


@every_class
def test_clipping_by_value(name: str) -> None:
    pair = Pair(name, **OPTIONS[name][-1])
    pair.mine.optimizer.grad_clip = roofstep.ClipGradByValue(0.3)
    for step in range(6):
        pair.theirs.feed(step)
        held = [p for p in pair.theirs.parameters if p.grad is not None]
        for p in held:
            p.grad = p.grad.contiguous()
        torch.nn.utils.clip_grad_value_(held, 0.3)
        pair.theirs.optimizer.step()
        pair.mine.run([step])
    pair.compare()


@every_class
def test_clipping_each_by_its_norm(name: str) -> None:
    clip = roofstep.ClipGradByNorm(0.5)
    pair = Pair(name, **OPTIONS[name][0])
    pair.mine.optimizer.grad_clip = clip
    for step in range(6):
        pair.theirs.feed(step)
        for p in pair.theirs.parameters:
            if p.grad is not None and p.grad.numel() and p.grad.norm() > 0.5:
                p.grad = p.grad * (0.5 / p.grad.norm())
        pair.theirs.optimizer.step()
        pair.mine.run([step])
    pair.compare(4)


# Steps in the backward pass.


@every_class
@pytest.mark.parametrize(
    "clip", [None, roofstep.ClipGradByNorm(0.1), roofstep.ClipGradByValue(0.1)]
)
def test_a_step_in_the_backward_pass(name: str, clip: Any) -> None:
    """The bits of the ordinary step; the gradients are gone, and `step` has nothing to do."""
    inputs, targets = examples()
    models = []
    for in_backward in (False, True):
        model = network()
        options = {"grad_clip": clip, "step_in_backward": in_backward, **OPTIONS[name][-1]}
        optimizer = getattr(roofstep.torch, name)(model.parameters(), **options)
        scheduler = ExponentialLR(optimizer, 0.9)
        for _ in range(6):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            assert all((p.grad is None) == in_backward for p in model.parameters())
            optimizer.step()
            scheduler.step()
        models.append((model, optimizer))
    (one, first), (other, second) = models
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    expected, found = first.state_dict(), second.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for key, state in expected["state"].items():
        for kept, value in state.items():
            assert value is None or torch.equal(found["state"][key][kept], value), kept


def test_a_step_in_the_backward_pass_has_no_global_norm() -> None:
    w = torch.ones(3, requires_grad=True)
    clip = roofstep.ClipGradByGlobalNorm(1.0)
    with pytest.raises(ValueError, match=r"grad_clip.*step_in_backward"):
        roofstep.torch.Adam([w], grad_clip=clip, step_in_backward=True)
    optimizer = roofstep.torch.Adam([w], step_in_backward=True)
    optimizer.grad_clip = clip
    with pytest.raises(ValueError, match=r"grad_clip.*step_in_backward"):
        w.sum().backward()
    assert w.tolist() == [1, 1, 1]


def test_a_step_in_the_backward_pass_of_what_is_added_later() -> None:
    """Also after a checkpoint has been loaded."""
    models = []
    for in_backward in (False, True):
        a, b = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
        optimizer = roofstep.torch.Adam([a], lr=0.1, step_in_backward=in_backward)
        optimizer.add_param_group({"params": [b], "lr": 0.2})
        for k in range(4):
            (a * a + 3 * b * b).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if k == 1:
                optimizer.load_state_dict(optimizer.state_dict())
        models.append([a, b])
    assert all(map(torch.equal, *models))


def test_an_optimizer_that_is_gone_steps_no_more() -> None:
    w = torch.ones(3, requires_grad=True)
    optimizer = roofstep.torch.SGD([w], lr=1.0, step_in_backward=True)
    w.sum().backward()
    assert w.tolist() == [0, 0, 0]
    del optimizer
    w.sum().backward()
    assert w.tolist() == [0, 0, 0]
    assert w.grad.tolist() == [1, 1, 1]
