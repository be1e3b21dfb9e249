"""What the arguments of the packages for torch, Paddle and JAX say; see tests/test_types.py."""

from __future__ import annotations

import pytest
import torch

import roofstep
import roofstep.jax
import roofstep.paddle
import roofstep.torch
from test_types import call_with_numpy, faults, public

MODULES = (roofstep.torch, roofstep.paddle, roofstep.paddle.lr, roofstep.jax)
FUNCTIONS = {
    path: function
    for path, function in public(*MODULES).items()
    if path not in public(roofstep, roofstep.lr)
}
OF_TORCH = [name for name in roofstep.torch.__all__ if name != "Optimizer"]


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_argument_says_what_it_takes(path: str) -> None:
    assert faults(path, FUNCTIONS[path]) == []


@pytest.mark.parametrize("name", OF_TORCH)
def test_numbers_of_numpy_are_taken(name: str) -> None:
    w = torch.ones(2, requires_grad=True)
    call_with_numpy(getattr(roofstep.torch, name), params=[w])
