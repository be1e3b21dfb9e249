"""What users do to an optimizer for torch between steps, and what a failed step leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import pytest
import torch

import roofstep.torch

BOTH = (torch.optim, roofstep.torch)


def leaf(*values: float) -> torch.Tensor:
    return torch.tensor(values, requires_grad=True)


def stepped(optimizer: Any, row: Iterable[torch.Tensor], gradient: float = 1.0) -> None:
    for tensor in row:
        tensor.grad = torch.full_like(tensor, gradient)
    optimizer.step()


@pytest.mark.parametrize("count", [-5.0, float("nan"), 1.5])
def test_a_step_count_that_cannot_be_is_refused(count: float) -> None:
    w = leaf(1.0, 2.0)
    optimizer = roofstep.torch.Adam([w])
    stepped(optimizer, [w])
    before, saved = w.detach().clone(), optimizer.state_dict()
    optimizer.state[w]["step"].fill_(count)
    with pytest.raises(ValueError, match="'step' of a parameter"):
        optimizer.step()
    assert torch.equal(w, before)
    saved["state"][0]["step"] = torch.tensor(count)
    with pytest.raises(ValueError, match="'step' of parameter 'param_0'"):
        roofstep.torch.Adam([w]).load_state_dict(saved)


def test_a_state_without_its_count_is_refused() -> None:
    w = leaf(1.0)
    optimizer = roofstep.torch.Adam([w])
    stepped(optimizer, [w])
    del optimizer.state[w]["step"]
    with pytest.raises(ValueError, match="expected 'step' of parameter 'param_0'"):
        optimizer.step()


def test_a_refused_step_leaves_no_scale_behind() -> None:
    w = leaf(0.0)
    optimizer = roofstep.torch.SGD([w], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(w.sum()).backward()
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        scaler.step(optimizer)
    optimizer.param_groups[0]["lr"] = 1.0
    scaler.step(optimizer)
    assert w.tolist() == [-1.0]


def test_a_parameter_may_change_its_group() -> None:
    found = []
    for library in BOTH:
        a, b, c = (leaf(0.0) for _ in range(3))
        groups = [{"params": [a, b], "lr": 1.0}, {"params": [c], "lr": 0.5}]
        optimizer = library.SGD(groups)
        stepped(optimizer, [a, b, c])
        optimizer.param_groups[1]["params"].insert(0, optimizer.param_groups[0]["params"].pop())
        optimizer.step()
        found.append([w.item() for w in (a, b, c)])
    assert found == [[-2.0, -1.5, -1.0]] * 2


def test_settings_that_are_tensors_are_read_at_every_step() -> None:
    found = []
    for library in BOTH:
        w, decay = leaf(1.0), torch.tensor(0.5)
        optimizer = library.SGD([w], lr=0.25, weight_decay=decay)
        stepped(optimizer, [w], 0.0)
        decay.fill_(0.0)
        optimizer.step()
        assert optimizer.param_groups[0]["weight_decay"] is decay
        found.append(w.item())
    assert found == [0.875] * 2


def test_betas_that_are_tensors_or_a_list_are_read_at_every_step() -> None:
    found = []
    for library in BOTH:
        w, beta = leaf(1.0), torch.tensor(0.5)
        optimizer = library.Adam([w], lr=0.1, betas=(beta, torch.tensor(0.9)))
        stepped(optimizer, [w])
        beta.fill_(0.9)
        stepped(optimizer, [w], -1.0)
        found.append(w.item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    optimizer = roofstep.torch.Adam([w], betas=[0.5, 0.9])
    stepped(optimizer, [w])
    optimizer.param_groups[0]["betas"][0] = 2.0
    with pytest.raises(ValueError, match=r"betas\[0\]"):
        optimizer.step()


def test_the_mean_of_asgd_shows_its_weight_from_the_first() -> None:
    w = leaf(1.0)
    peer = torch.optim.ASGD([w], t0=0)
    for _ in range(3):
        stepped(peer, [w])
    optimizer = roofstep.torch.ASGD([w], t0=0)
    optimizer.load_state_dict(peer.state_dict())
    w.grad = torch.sparse_coo_tensor([[0]], [1.0], (1,), check_invariants=True)
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert optimizer.state[w]["mu"] == peer.state[w]["mu"]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of torch's Adagrad
def test_absent_rows_rest_in_adagrad_without_epsilon() -> None:
    found = []
    for library in BOTH:
        w = torch.ones(3, 1, requires_grad=True)
        optimizer = library.Adagrad([w], lr=0.5, eps=0.0)
        w.grad = torch.sparse_coo_tensor([[1]], [[1.0]], (3, 1), check_invariants=True)
        optimizer.step()
        found.append(w.flatten().tolist())
    assert found == [[1.0, 0.5, 1.0]] * 2


def in_backward(*row: torch.Tensor, **settings: Any) -> roofstep.torch.SGD:
    return roofstep.torch.SGD(row, lr=0.5, step_in_backward=True, **settings)


def test_backward_leaves_what_was_taken_out_of_the_groups() -> None:
    a, b, c = (leaf(0.0) for _ in range(3))
    optimizer = in_backward(a, b, c)
    (a + b).sum().backward()
    del optimizer.param_groups[0]["params"][1:]
    (a + b + c).sum().backward()
    assert (a.item(), b.item(), c.item()) == (-1.0, -0.5, 0.0)
    assert a.grad is None
    assert b.grad.item() == c.grad.item() == 1.0


def test_backward_steps_at_the_rate_of_the_group_where_a_parameter_is() -> None:
    a, b = leaf(0.0), leaf(0.0)
    groups = [{"params": [a]}, {"params": [b], "lr": 0.25}]
    optimizer = roofstep.torch.SGD(groups, lr=1.0, step_in_backward=True)
    (a + b).sum().backward()
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())
    (a + b).sum().backward()
    assert (a.item(), b.item()) == (-1.25, -0.5)


def test_backward_and_a_scaler_are_refused_together() -> None:
    w = leaf(1.0)
    optimizer, scaler = in_backward(w), torch.amp.GradScaler("cpu")
    scaler.scale(w.sum()).backward()
    with pytest.raises(ValueError, match="GradScaler"):
        scaler.step(optimizer)


def test_backward_steps_what_was_thawed_before_the_last_step() -> None:
    w = torch.zeros(1)
    optimizer = in_backward(w)
    w.requires_grad_(True)
    optimizer.step()
    w.sum().backward()
    assert w.item() == -0.5
    assert w.grad is None


def test_an_optimizer_that_is_gone_leaves_no_hook() -> None:
    w = leaf(0.0)
    in_backward(w)
    gc.collect()
    w.sum().backward()
    assert (w.item(), w.grad.item()) == (0.0, 1.0)
    assert not w._post_accumulate_grad_hooks


def test_what_backward_refuses_is_named() -> None:
    a, b = leaf(0.0), leaf(0.0)
    for names in (["first", "second"], None):
        row = [*zip(names, [a, b], strict=True)] if names else [a, b]
        optimizer = roofstep.torch.SGD(row, lr=1.0, step_in_backward=True)
        optimizer.param_groups[0]["lr"] = 1e300  # which float32 cannot hold
        with pytest.raises(ValueError, match=f"parameter '{names[1] if names else 'param_1'}'"):
            b.sum().backward()
        del optimizer
