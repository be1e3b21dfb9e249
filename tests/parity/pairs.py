"""An optimizer of torch.optim and its namesake of roofstep.torch, on the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

import roofstep.torch

DTYPES = (torch.float32, torch.float64)
STEPS = 20
LIBRARIES = (torch.optim, roofstep.torch)
# What all optimizers take, and what is not about numbers: each has tests of its own.
COMMON = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}
OURS = {"grad_clip", "step_in_backward", "skip_nonfinite"}
# Every other option of every class that torch has.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {},
        {"lr": 0.1, "weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "lr": 0.1},
        {"momentum": 0.9, "nesterov": True, "maximize": True, "lr": 0.1},
    ],
    "Adam": [
        {},
        {"betas": (0.5, 0.9), "eps": 1e-3, "lr": 0.02},
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
        {"amsgrad": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "AdamW": [
        {},
        {"weight_decay": 0.3, "amsgrad": True, "maximize": True, "lr": 0.02},
        {"betas": (0.0, 0.9), "eps": 0.1},
    ],
    "NAdam": [
        {},
        {"momentum_decay": 0.1, "weight_decay": 0.1, "lr": 0.02},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True},
        {"betas": (0.5, 0.9), "eps": 1e-3},
    ],
    "RAdam": [
        {},
        {"weight_decay": 0.1, "lr": 0.02},
        {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True},
        {"betas": (0.5, 0.9), "eps": 1e-3},
    ],
    "Adamax": [
        {},
        {"weight_decay": 0.1, "maximize": True, "lr": 0.02},
        {"betas": (0.5, 0.9), "eps": 0.5},
    ],
    "RMSprop": [
        {},
        {"centered": True},
        {"momentum": 0.9, "eps": 0.1},
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1, "maximize": True, "alpha": 0.5},
    ],
    "Adagrad": [
        {},
        {"lr_decay": 0.1, "eps": 0.1, "lr": 0.1},
        {
            "initial_accumulator_value": 0.5,
            "lr_decay": 0.5,
            "weight_decay": 0.1,
            "maximize": True,
        },
    ],
    "Adadelta": [{}, {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}],
    "Rprop": [{}, {"etas": (0.3, 1.5)}, {"step_sizes": (1e-3, 0.05), "maximize": True}],
    "ASGD": [
        {},
        {"lambd": 0.1, "alpha": 0.5, "lr": 0.1},
        {"t0": 3.0, "alpha": 1 / 3},
        {"t0": 0.0, "lambd": 0.01, "weight_decay": 0.1, "maximize": True, "lr": 0.1},
        {"t0": 4.5},
    ],
}
# With and without dimensions or elements; of one and of several blocks of the kernels.
SHAPES = ((), (1,), (7,), (5, 3), (2, 3, 4, 5), (0, 3), (65, 67), (4,))


def parameters(dtype: torch.dtype) -> list[torch.Tensor]:
    """New ones of all SHAPES, some of them not in the order of C."""
    random = np.random.default_rng(1)
    made = []
    for shape in SHAPES:
        sign = random.choice([-1.0, 1.0], shape)
        tensor = torch.tensor(random.uniform(0.5, 0.75, shape) * sign, dtype=dtype)
        if shape == (5, 3):
            tensor = tensor.t().contiguous().t()
        if len(shape) == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        made.append(tensor.requires_grad_())
    return made


def gradients(step: int, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """Of order 1 with some zeros, in another layout at each step; the last has none, ever."""
    random = np.random.default_rng(100 + step)
    made: list[torch.Tensor | None] = []
    for i, shape in enumerate(SHAPES):
        numbers = random.standard_normal(shape) * (random.random(shape) > 0.1)
        tensor = torch.tensor(numbers, dtype=dtype)
        if tensor.ndim and step % 3 == 1:
            tensor = torch.stack([tensor, tensor.neg()], -1)[..., 0]
        elif step % 3 == 2:
            backwards = tuple(range(tensor.ndim))[::-1]
            tensor = tensor.permute(backwards).contiguous().permute(backwards)
        if shape == (7,) and step == 7:
            tensor = tensor[:1].expand(7)
        # The matrix has none at first, the row none now and then.
        absent = (shape == (5, 3) and step < 3) or (shape == (7,) and step % 5 == 4)
        made.append(None if absent or i == len(SHAPES) - 1 else tensor)
    return made


# What passes through 0, where all its digits may cancel.
SIGNED = {"parameter", "momentum_buffer", "exp_avg", "grad_avg", "ax"}
# Below this, units of the last place of such are those of this: gradients are of order 1, and a
# mean takes in a tenth of each.
LEAST = 1 / 16


def ulps(found: torch.Tensor, expected: torch.Tensor, least: float = 0.0) -> float:
    """The largest difference, in units of the last place of the largest number."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if not expected.numel():
        return 0.0
    a, b = found.detach().numpy(), expected.detach().numpy()
    largest = np.maximum(np.abs(b).max(), b.dtype.type(least))
    return float(np.abs(a - b).max() / np.spacing(largest))


# In those units, after 20 steps. Measured: 16, with a rate of 0.1 and decay. RAdam's scale is a
# difference of large numbers, for which torch takes a power by libm: 34 in float64.
BUDGET = 20.0
BUDGET_OF_DIFFERENCES = 40.0


class Side:
    """One library's optimizer and its parameters."""

    def __init__(
        self, library: ModuleType, name: str, dtype: torch.dtype, options: Any, groups: Any
    ) -> None:
        self.cls = getattr(library, name)
        self.dtype = dtype
        self.parameters = parameters(dtype)
        given = [{"params": self.parameters}] if groups is None else groups(self.parameters)
        self.optimizer = self.cls(given, **options)

    def feed(self, step: int) -> None:
        for p, g in zip(self.parameters, gradients(step, self.dtype), strict=True):
            p.grad = g

    def run(self, steps: Iterable[int]) -> None:
        for step in steps:
            self.feed(step)
            self.optimizer.step()

    def saved(self) -> dict[str, Any]:
        """The state dict as a file gives it back."""
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=True)


class Pair:
    """The two of one name: `theirs` and `mine`.

    Args:
        name: of the class.
        dtype: of all parameters.
        groups: makes the groups of the parameters; by default there is one.
        options: of the class.
    """

    def __init__(
        self,
        name: str,
        dtype: torch.dtype = torch.float32,
        groups: Callable[[Sequence[torch.Tensor]], list[dict[str, Any]]] | None = None,
        **options: Any,
    ) -> None:
        self.theirs, self.mine = (Side(one, name, dtype, options, groups) for one in LIBRARIES)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both of them."""
        return self.theirs, self.mine

    def run(self, steps: Iterable[int] = range(STEPS)) -> None:
        """Steps both by the gradients of these steps."""
        for side in self.sides:
            side.run(steps)

    def compare(self, factor: float = 1.0) -> float:
        """The largest difference of parameters and states, which must have the same names.

        Args:
            factor: on the budget, of runs whose gradients see the differences.
        """
        largest = 0.0
        budget = BUDGET_OF_DIFFERENCES if self.theirs.cls is torch.optim.RAdam else BUDGET
        for p, q in zip(self.mine.parameters, self.theirs.parameters, strict=True):
            found, expected = self.mine.optimizer.state[p], self.theirs.optimizer.state[q]
            assert found.keys() == expected.keys()
            both = {"parameter": (p, q), **{key: (found[key], expected[key]) for key in expected}}
            for key, (a, b) in both.items():
                if b is None:
                    assert a is None
                else:
                    largest = max(largest, ulps(a, b, LEAST if key in SIGNED else 0.0))
        assert largest <= factor * budget
        return largest


def network() -> torch.nn.Sequential:
    """A small one, the same every time."""
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9), torch.nn.Tanh(), torch.nn.Linear(9, 2)
    )


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """What it is trained on: inputs and targets."""
    random = torch.Generator().manual_seed(4)
    return torch.randn(48, 6, generator=random), torch.randn(48, 2, generator=random)
