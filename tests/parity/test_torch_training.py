"""What surrounds an optimizer in torch: schedulers, GradScaler, averaged models, data loaders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

import roofstep
import roofstep.torch
from pairs import LIBRARIES, OPTIONS, Pair, examples, network

every_class = pytest.mark.parametrize("name", OPTIONS)

# Schedulers.

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: lrs.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [2, 5, 9], 0.5),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.25, total_iters=6),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lrs.SequentialLR(
        o, [lrs.ConstantLR(o, 0.1, 3), lrs.ExponentialLR(o, 0.9)], [3]
    ),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 8, 1e-4),
    "ChainedScheduler": lambda o: lrs.ChainedScheduler(
        [lrs.ConstantLR(o, 0.1, 3), lrs.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, factor=0.5, patience=2),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 1e-3, 1e-2, step_size_up=4),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 1e-2, total_steps=16),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 12, 2.0),
    "SWALR": lambda o: SWALR(o, swa_lr=1e-3, anneal_epochs=4),
}
SCHEDULED = {
    "SGD": {"momentum": 0.9, "lr": 0.01},
    "AdamW": {"lr": 0.01},
    "RMSprop": {"momentum": 0.9},
}


def test_every_scheduler_is_here() -> None:
    assert {*SCHEDULERS} == {*lrs.__all__, "SWALR"} - {"LRScheduler"}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", SCHEDULED)
def test_schedulers(name: str, scheduler: str) -> None:
    """They cycle the momentum or the betas, too, and are what they were after a checkpoint."""
    pair = Pair(name, **SCHEDULED[name])
    seen: list[list[Any]] = []
    for side in pair.sides:
        made = SCHEDULERS[scheduler](side.optimizer)
        told = []
        for step in range(14):
            side.run([step])
            made.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
            group = side.optimizer.param_groups[0]
            told.append([group["lr"], group.get("momentum"), group.get("betas")])
            if step == 7:
                saved = made.state_dict()
                made = SCHEDULERS[scheduler](side.optimizer)
                made.load_state_dict(saved)
                side.optimizer.load_state_dict(side.saved())
                group = side.optimizer.param_groups[0]
                group["lr"], momentum, betas = told[-1]
                group.update({k: v for k, v in (("momentum", momentum), ("betas", betas)) if v})
        seen.append(told)
    assert seen[0] == seen[1]
    assert len({row[0] for row in seen[0]}) > 1
    cycles = any(row[1:] != seen[0][0][1:] for row in seen[0])
    assert cycles == (scheduler in ("CyclicLR", "OneCycleLR"))
    pair.compare()


@every_class
def test_a_scheduler_of_a_rate_that_is_a_tensor(name: str) -> None:
    """It is filled in place."""
    pair = Pair(name)
    for side in pair.sides:
        rate = side.optimizer.param_groups[0]["lr"] = torch.tensor(0.05)
        scheduler = lrs.StepLR(side.optimizer, 2, 0.5)
        for step in range(6):
            side.run([step])
            scheduler.step()
        assert side.optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(0.05 / 8)
    pair.compare()


def test_a_scheduler_warns_where_it_does_for_torch() -> None:
    """It sees that no step has been taken, and that one has."""
    for library in LIBRARIES:
        optimizer = library.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        scheduler = lrs.StepLR(optimizer, 1)
        with pytest.warns(
            UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"
        ):
            scheduler.step()
        optimizer.step()
        scheduler.step()


# Mixed precision.


def close(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Rounding of 1e-7 has gone through the network a few times."""
    for key, value in one.state_dict().items():
        np.testing.assert_allclose(
            other.state_dict()[key], value, rtol=2e-4, atol=2e-5, err_msg=key
        )


SMOOTH = [name for name in OPTIONS if name != "Rprop"]  # whose steps turn on the sign of a zero


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("way", ["step", "unscale_ first", "unscale_ and clip", "grad_clip"])
def test_grad_scaler(name: str, way: str) -> None:
    """With steps that overflow: they change nothing, but the scale."""
    inputs, targets = examples()
    models, scales = [], []
    for library in LIBRARIES:
        model = network()
        # What is added before a BatchNorm has no gradient but rounding, to be told from a gradient.
        has_eps = "eps" in inspect.signature(getattr(library, name)).parameters
        own: dict[str, Any] = {"eps": 1e-3} if has_eps else {}
        clips = way == "grad_clip" and library is roofstep.torch
        if clips:
            own["grad_clip"] = roofstep.ClipGradByGlobalNorm(0.5)
        optimizer = getattr(library, name)(model.parameters(), **own)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        told = []
        for step in range(10):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            scaler.scale(loss).backward()
            if step in (0, 4):
                model[3].bias.grad[1] = math.inf
            before = [p.detach().clone() for p in model.parameters()]
            if way != "step" and not clips:
                scaler.unscale_(optimizer)
            if way in ("unscale_ and clip", "grad_clip") and not clips:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            moved = not all(map(torch.equal, before, model.parameters()))
            assert moved == (step not in (0, 4))
            told.append(scaler.get_scale())
        models.append(model)
        scales.append(told)
    assert scales[0] == scales[1]
    assert {*scales[0]} == {512.0, 1024.0}
    close(*models)


def test_the_norm_under_a_scale_is_that_of_the_gradients() -> None:
    w = torch.ones(4, requires_grad=True)
    clip = roofstep.ClipGradByGlobalNorm(1.0)
    optimizer = roofstep.torch.SGD([w], lr=1.0, grad_clip=clip)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((2 * w).sum()).backward()
    scaler.step(optimizer)
    assert optimizer.last_grad_norm == 4.0
    assert w.tolist() == [0.5] * 4


# Loops.


def train(library: Any, name: str, epochs: int = 3) -> tuple[torch.nn.Module, list[float]]:
    model = network()
    optimizer = getattr(library, name)(model.parameters())
    order = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*examples()), batch_size=16, shuffle=True, generator=order)
    losses = []
    for _ in range(epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize("name", SMOOTH)
def test_a_loop_over_a_data_loader(name: str) -> None:
    (_, expected), (_, found) = (train(library, name) for library in LIBRARIES)
    assert found == pytest.approx(expected, rel=2e-3)
    assert len({*found}) == 9


@pytest.mark.parametrize("averaging", ["equal", "exponential"])
def test_averaged_models(averaging: str) -> None:
    """AveragedModel, SWALR and update_bn, in torch's own recipe."""
    averages = []
    for library in LIBRARIES:
        model = network()
        multi = get_ema_multi_avg_fn(0.9) if averaging == "exponential" else None
        averaged = AveragedModel(model, multi_avg_fn=multi)
        optimizer = library.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=3)
        loader = DataLoader(TensorDataset(*examples()), batch_size=16)
        for _ in range(5):
            for inputs, targets in loader:
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
            averaged.update_parameters(model)
            scheduler.step()
        update_bn(loader, averaged)
        averages.append(averaged)
    close(*averages)
    assert averages[1].n_averaged == 5


def test_a_stale_backward_is_noticed() -> None:
    """A step counts as a write, as torch's own does."""
    for library in LIBRARIES:
        w = torch.ones(2, requires_grad=True)
        optimizer = library.SGD([w], lr=0.1)
        loss = (w * w).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
