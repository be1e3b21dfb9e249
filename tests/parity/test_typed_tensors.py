"""Programs with full types over torch, Paddle and JAX; see tests/test_typed_use.py.

The types are those of the libraries, so that mypy takes its time: .ci/run has it check this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import paddle
import pytest
import torch

import roofstep
import roofstep.jax
import roofstep.paddle
import roofstep.torch

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: Any, kind: Any) -> Any:
        return value


def test_tensors_of_torch_as_parameters() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = roofstep.Adam(0.1, parameters=model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    optimizer.apply_gradients([(model.weight, torch.ones(1, 2)), (model.bias, None)])
    loss = model(torch.ones(4, 2)).sum()
    optimizer.minimize(loss, parameters=[model.weight], no_grad_set=[model.bias])
    roofstep.Adam(0.1, parameters=[{"params": [model.weight]}, {"params": model.bias}])
    lbfgs = roofstep.LBFGS(parameters=[model.weight])

    def closure() -> torch.Tensor:
        model.weight.grad = None
        loss: torch.Tensor = model(torch.ones(4, 2)).square().sum()
        torch.autograd.backward(loss)
        return loss

    assert_type(lbfgs.step(closure), float)
    with pytest.raises(TypeError):
        roofstep.Adam(0.1, parameters=model)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Adam(0.1, parameters=[model])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        roofstep.Adam(0.1, parameters=model.named_parameters())  # type: ignore[arg-type]


def test_optimizers_for_torch() -> None:
    model = torch.nn.Linear(2, 1)
    clip = roofstep.ClipGradByGlobalNorm(1.0)
    optimizer = roofstep.torch.AdamW(model.parameters(), lr=1e-3, grad_clip=clip)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    as_torchs: torch.optim.Optimizer = optimizer
    as_torchs.zero_grad()
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    schedule.step()
    assert_type(optimizer.last_grad_norm, float | None)
    assert_type(optimizer.last_step_applied, bool | None)
    assert_type(optimizer.skipped_steps, int)
    assert_type(optimizer.state_dict(), dict[str, Any])
    assert_type(optimizer.param_groups, list[dict[str, Any]])
    optimizer.load_state_dict(optimizer.state_dict())
    theirs = paddle.nn.ClipGradByGlobalNorm(1.0)
    rate = np.float32(1e-3)
    roofstep.torch.Adam(model.parameters(), lr=rate, betas=[0.9, 0.99], grad_clip=theirs)
    roofstep.torch.Rprop(model.parameters(), etas=[np.float64(0.5), 2])
    with pytest.raises(TypeError):
        roofstep.torch.AdamW(model, lr=1e-3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.torch.AdamW(model.parameters(), lr="0.1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.torch.AdamW(model.parameters(), beta1=0.9)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        optimizer.setp()  # type: ignore[attr-defined]


def test_tensors_of_paddle_with_its_settings() -> None:
    model = paddle.nn.Linear(2, 1)
    for optimizer in (roofstep.Momentum, roofstep.paddle.Momentum):
        made = optimizer(
            paddle.optimizer.lr.StepDecay(0.1, step_size=2),
            parameters=model.parameters(),
            weight_decay=paddle.regularizer.L2Decay(0.1),
            grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
        )
        loss = model(paddle.ones([4, 2])).sum()
        loss.backward()
        made.step()
        made.clear_grad()
        made.minimize(model(paddle.ones([4, 2])).sum(), parameters=[model.weight])
    with pytest.raises(TypeError):
        roofstep.Momentum(
            0.1,
            parameters=model.parameters(),
            grad_clip=paddle.regularizer.L2Decay(0.1),  # type: ignore[arg-type]
        )
    with pytest.raises(TypeError):
        roofstep.Momentum(weight_decay=paddle.nn.ClipGradByNorm(1.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        roofstep.Momentum(weight_decay=torch.nn.Linear(2, 1))  # type: ignore[arg-type]


def test_optimizers_for_paddle() -> None:
    model = paddle.nn.Linear(2, 1)
    rate = roofstep.paddle.lr.StepDecay(0.5, step_size=2)
    optimizer = roofstep.paddle.Adam(rate, parameters=model.parameters())
    model(paddle.ones([4, 2])).sum().backward()
    optimizer.step()
    rate.step()
    assert_type(rate(), float)
    assert_type(roofstep.paddle.pdopt(optimizer), dict[str, Any])
    with pytest.raises(TypeError):
        roofstep.paddle.Adam("0.1", parameters=model.parameters())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        optimizer.clear_grad(zero=True)  # type: ignore[call-arg]


def test_a_pytree_of_jax() -> None:
    params = {"w": np.ones(2, "float32"), "b": np.zeros((), "float32")}
    found = roofstep.jax.parameters(params)
    assert_type(found, list[roofstep.Parameter])
    optimizer = roofstep.SGD(0.25, parameters=found)
    gradients = jax.grad(lambda p: (p["w"] ** 2).sum() + p["b"])(params)
    roofstep.jax.apply_gradients(optimizer, gradients)
    with pytest.raises(TypeError):
        roofstep.jax.apply_gradients(gradients, optimizer)
    with pytest.raises(TypeError):
        roofstep.SGD(0.1, [jax.numpy.ones(2)])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        roofstep.jax.apply_gradients(found, gradients)  # type: ignore[arg-type]
