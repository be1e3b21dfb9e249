"""Nothing is lost and nothing grows where parameters are tensors; and what their methods raise."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
import torch

import roofstep
import roofstep.torch
from growth import grown
from roofstep import _core

STEPS = 7_000
CALLS = 400
Act = Callable[[], object]
SPARE = [np.dtype("f8")]  # NumPy 2.4 loses a reference of this one at every np.ones(3)


def lost(act: Act, times: int) -> dict[str, float]:
    """What grows; torch's own memory wavers by some bytes at each copy, of its own Adam too."""
    found = grown(act, times, spare=SPARE)
    return {key: more for key, more in found.items() if key != "bytes of malloc" or more > 16}


def of_torch() -> list[torch.Tensor]:
    made = [torch.ones(shape, requires_grad=True) for shape in ((3, 2), (5,))]
    for tensor in made:
        tensor.grad = torch.full(tensor.shape, 0.5)
    return made


def of_paddle() -> list[Any]:
    made = [paddle.ones(shape) for shape in ([3, 2], [5])]
    for tensor in made:
        tensor.stop_gradient = False
        tensor.grad = paddle.full(tensor.shape, 0.5)
    return made


def strided() -> Act:
    row = of_torch()
    row[0].grad = torch.ones(2, 3).T
    return roofstep.Adam(1e-6, parameters=row).step


def sparse() -> Act:
    table = torch.ones(4, 2, requires_grad=True)
    optimizer = roofstep.Adam(1e-6, parameters=[table])
    gradient = torch.sparse_coo_tensor(
        torch.tensor([[2, 0, 2]]), torch.ones(3, 2), (4, 2), check_invariants=True
    )
    table.grad = gradient
    return optimizer.step


def watched() -> Act:
    return roofstep.torch.SGD(of_torch(), lr=1e-6, momentum=0.9, skip_nonfinite=True).step


def clipped() -> Act:
    clip = roofstep.ClipGradByGlobalNorm(0.1)
    return roofstep.torch.Adam(of_torch(), lr=1e-6, grad_clip=clip).step


DOORS: dict[str, Callable[[], Act]] = {
    "torch": lambda: roofstep.Adam(1e-6, parameters=of_torch()).step,
    "Paddle": lambda: roofstep.Adam(1e-6, parameters=of_paddle()).step,
    "strided": strided,
    "sparse": sparse,
    "for torch": lambda: roofstep.torch.AdamW(of_torch(), lr=1e-6).step,
    "for torch, watched": watched,
    "for torch, clipped": clipped,
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_grows_over_many_steps(door: str) -> None:
    assert lost(DOORS[door](), STEPS) == {}


def in_backward() -> Act:
    tensor = torch.ones(3, requires_grad=True)
    optimizer = roofstep.torch.SGD([tensor], lr=1e-6, step_in_backward=True)

    def act() -> None:
        (tensor**2).sum().backward()
        optimizer.step()

    return act


def cleared() -> Act:
    row = of_torch()
    optimizer = roofstep.Adam(1e-6, parameters=row)

    def act() -> None:
        optimizer.step(clear_grad=True)
        optimizer.clear_grad(set_to_zero=True)

    return act


def reloaded() -> Act:
    optimizer = roofstep.torch.Adam(of_torch(), lr=1e-6)
    optimizer.step()

    def act() -> None:
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()

    return act


def copied() -> Act:
    optimizer = roofstep.torch.Adam(of_torch(), lr=1e-6)
    optimizer.step()

    def act() -> None:
        for one in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            one.step()

    return act


def seen() -> Act:
    row = [*of_torch(), *of_paddle()]

    def act() -> None:
        for tensor in row:
            assert _core.as_numpy(tensor, "w").shape == tuple(tensor.shape)
            assert _core.as_numpy(tensor.grad, "w").any()

    return act


def refused() -> Act:
    row = of_torch()
    optimizer = roofstep.Adam(1e-6, parameters=row)
    bad = [
        *(torch.ones(5, dtype=torch.float16), torch.ones(5, device="meta"), torch.ones(4)),
        *(row[1].data, "text"),
        *(torch.ones(5, dtype=torch.complex64).conj().imag, torch.ones(5, dtype=torch.float64)),
    ]

    def act() -> None:
        for gradient in bad:
            with pytest.raises((TypeError, ValueError)):
                optimizer.apply_gradients([(row[0], row[0].grad), (row[1], gradient)])

    return act


def first_steps_skipped() -> Act:
    row = of_torch()
    row[1].grad[2] = torch.nan

    def act() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            roofstep.torch.SGD(row, lr=1e-6, momentum=0.9, skip_nonfinite=True).step()

    return act


BESIDE: dict[str, Callable[[], Act]] = {
    "in backward passes": in_backward,
    "cleared": cleared,
    "state_dict": reloaded,
    "copies": copied,
    "views": seen,
    "refusals": refused,
    "first steps that are skipped": first_steps_skipped,
}


@pytest.mark.parametrize("door", BESIDE)
def test_nothing_grows_beside_steps(door: str) -> None:
    assert lost(BESIDE[door](), CALLS) == {}


class Raising(torch.Tensor):
    """A tensor of which a method raises."""

    error: BaseException

    def is_neg(self) -> bool:
        raise self.error

    def detach(self) -> torch.Tensor:
        raise self.error

    def __dlpack__(self, *_: Any, **__: Any) -> Any:
        raise self.error

    def __dlpack_device__(self) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LookupError("no"), MemoryError()])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_methods_that_raise(at: int, error: BaseException) -> None:
    """As they are: a look at a gradient of no stride 1 asks `is_neg`, and a copy `detach`."""
    row = [torch.ones(3, 2, requires_grad=True) for _ in range(5)]
    optimizer = roofstep.Adam(0.5, parameters=row, grad_clip=roofstep.ClipGradByGlobalNorm(1e9))
    gradients = [torch.ones(3, 2) for _ in row]
    bad = torch.ones(3, 4)[:, ::2].as_subclass(Raising)
    bad.error = error
    for taken in (gradients, [*gradients[:at], bad, *gradients[at + 1 :]]):
        before = [tensor.tolist() for tensor in row], optimizer._counts.tolist()
        if taken is gradients:
            optimizer.apply_gradients(zip(row, taken, strict=True))
            continue
        for _ in range(2):
            with pytest.raises(type(error)) as caught:
                optimizer.apply_gradients(zip(row, taken, strict=True))
            assert caught.value is error
        with pytest.raises(type(error)):
            _core.as_numpy(bad, "w")
        assert before == ([tensor.tolist() for tensor in row], optimizer._counts.tolist())
    dense = torch.ones(3, 2).as_subclass(Raising)
    dense.error = error
    optimizer.apply_gradients(zip(row, [*gradients[:4], dense], strict=True))  # not asked
    assert optimizer._counts.tolist() == [2] * 5
