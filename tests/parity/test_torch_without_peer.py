"""Lion, Lamb and LARS of roofstep.torch, which torch has not, against the oracle: bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import reference as ref
import roofstep
import roofstep.torch
from pairs import DTYPES, STEPS, gradients, parameters

BETAS = {"betas": (0.5, 0.9)}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "Lion": [
        {},
        {**BETAS, "weight_decay": 0.1, "lr": 0.02},
        {"weight_decay": 0.1, "maximize": True},
    ],
    "Lamb": [
        {},
        {**BETAS, "eps": 1e-3, "weight_decay": 0.1, "lr": 0.02},
        {"weight_decay": 0.0, "maximize": True},
        {"weight_decay": 0.0, "always_adapt": True},
    ],
    "LARS": [
        {},
        {"momentum": 0.5, "weight_decay": 0.1, "lr": 0.1, "trust_coefficient": 0.1, "eps": 1e-3},
        {"always_adapt": True, "maximize": True, "lr": 0.1},
    ],
}
CASES = [(name, options) for name, row in OPTIONS.items() for options in row]
# What the states are called here, by their names in the oracle.
NAMES = {
    "Lion": {"moment": "exp_avg"},
    "Lamb": {"moment1": "exp_avg", "moment2": "exp_avg_sq"},
    "LARS": {"velocity": "momentum_buffer"},
}
every_case = pytest.mark.parametrize(("name", "options"), CASES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def meaning(name: str, group: Mapping[str, Any], clip: Any = None) -> ref.Settings:
    """A group of the optimizer, as the oracle is told it."""
    common = {"lr": group["lr"], "clip": clip, "rescale": -1.0 if group["maximize"] else 1.0}
    decay = group["weight_decay"]
    if name == "LARS":
        hyper = {"momentum": group["momentum"], "epsilon": group["eps"]}
        hyper["lars_coeff"] = group["trust_coefficient"]
        return ref.Settings(name, hyper, l2=decay, always_adapt=group["always_adapt"], **common)
    hyper = dict(zip(("beta1", "beta2"), group["betas"], strict=True))
    if name == "Lion":
        return ref.Settings(name, hyper, decay=decay, **common)
    hyper["epsilon"] = group["eps"]
    return ref.Settings(name, hyper, decay=decay, always_adapt=group["always_adapt"], **common)


class Beside:
    """An optimizer, and the oracle of its parameters."""

    def __init__(
        self, name: str, dtype: torch.dtype, options: Any, groups: Any = None, clip: Any = None
    ) -> None:
        self.name, self.dtype, self.clip = name, dtype, clip
        self.parameters = parameters(dtype)
        given = [{"params": self.parameters}] if groups is None else groups(self.parameters)
        made = None if clip is None else roofstep.ClipGradByGlobalNorm(clip.limit)
        self.optimizer = getattr(roofstep.torch, name)(given, **options, grad_clip=made)
        arrays = [p.detach().numpy() for p in self.parameters]
        self.oracle = ref.Reference(arrays, self.settings())

    def settings(self) -> list[ref.Settings]:
        rows = self.optimizer.param_groups
        return [meaning(self.name, group, self.clip) for group in rows for _ in group["params"]]

    def run(self, steps: range) -> None:
        self.oracle.settings = self.settings()
        for step in steps:
            row = gradients(step, self.dtype)
            for p, g in zip(self.parameters, row, strict=True):
                p.grad = g
            self.optimizer.step()
            self.oracle.step([None if g is None else g.numpy() for g in row])

    def check(self) -> None:
        for i, p in enumerate(self.parameters):
            own = self.optimizer.state[p]
            assert np.array_equal(p.detach(), self.oracle.params[i])
            count = {"step"} if self.name == "Lamb" else set()
            assert {*own} == (
                {*NAMES[self.name].values()} | count if self.oracle.steps[i] else set()
            )
            for theirs, mine in NAMES[self.name].items():
                if own:
                    assert np.array_equal(own[mine], self.oracle.states[i][theirs])
            if "step" in own:
                assert own["step"].item() == self.oracle.steps[i]


@every_case
@every_dtype
def test_numbers(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    beside = Beside(name, dtype, options)
    begin = [p.detach().clone() for p in beside.parameters]
    beside.run(range(STEPS))
    beside.check()
    moved = [not torch.equal(p, q) for p, q in zip(begin, beside.parameters, strict=True)]
    assert moved == [True] * 5 + [False, True, False]


@every_case
def test_under_a_global_norm(name: str, options: dict[str, Any]) -> None:
    beside = Beside(name, torch.float32, options, clip=ref.GlobalNorm(0.5))
    beside.run(range(6))
    beside.check()
    assert beside.optimizer.last_grad_norm == beside.oracle.norms[0] > 0.5


@pytest.mark.parametrize("name", OPTIONS)
@every_dtype
def test_groups_have_options_of_their_own(name: str, dtype: torch.dtype) -> None:
    def groups(row: Any) -> list[dict[str, Any]]:
        return [{"params": row[:3], **OPTIONS[name][-1]}, {"params": row[3:], "lr": 0.03}]

    beside = Beside(name, dtype, {}, groups)
    beside.run(range(6))
    beside.check()


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_edited_is_in_force(name: str) -> None:
    """A rate, as schedulers edit it, and the decay."""
    beside = Beside(name, torch.float32, {})
    beside.run(range(4))
    for key, value in {"lr": 0.03, "weight_decay": 0.2}.items():
        beside.optimizer.param_groups[0][key] = value
        beside.run(range(4, 8))
    beside.check()


@every_case
def test_a_checkpoint_is_gone_on_with(name: str, options: dict[str, Any]) -> None:
    beside = Beside(name, torch.float32, options)
    beside.run(range(5))
    other = getattr(roofstep.torch, name)(beside.parameters)
    other.load_state_dict(beside.optimizer.state_dict())
    beside.optimizer = other
    beside.run(range(5, 10))
    beside.check()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_in_the_table(name: str) -> None:
    """Of the groups' settings, those that all have aside."""
    group = Beside(name, torch.float32, {}).optimizer.param_groups[0]
    flags = {"params", "foreach", "fused", "capturable", "differentiable"}
    assert {*group} - flags == {key for row in OPTIONS[name] for key in row} | {"lr"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"lr": -0.1}) for name in OPTIONS),
        *((name, {"weight_decay": -0.1}) for name in OPTIONS),
        *((name, {"betas": (0.9, 1.0)}) for name in ("Lion", "Lamb")),
        *((name, {"eps": -1e-8}) for name in ("Lamb", "LARS")),
        ("LARS", {"momentum": -0.1}),
        ("LARS", {"trust_coefficient": 0.0}),
        ("LARS", {"always_adapt": 2}),
    ],
    ids=str,
)
def test_bad_settings_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        getattr(roofstep.torch, name)([torch.ones(3)], **options)
