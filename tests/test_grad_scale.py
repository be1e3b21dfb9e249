"""A step on gradients that are all multiplied by one number, as automatic mixed precision does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import reference as ref
import roofstep
from test_exact import CLIPS, DTYPES, RICH, Case, ordinary, same_bits

SHAPES = ((70, 61), (), (4097,), (0,))


def stepped(
    case: Case, arrays: list[np.ndarray], gradients: Any, **grad_scale: float
) -> tuple[list[np.ndarray], list[float]]:
    """Parameters and states after these steps, and the norms of the last one."""
    arrays = [a.copy() for a in arrays]
    parameters = case.parameters(arrays)
    optimizer = case.optimizer(parameters)
    for row in gradients:
        for p, g in zip(parameters, row, strict=True):
            p.grad = g
        optimizer.step(**grad_scale)
    saved = optimizer.state_dict().values()
    norms = [norm.value for norm in optimizer._norms]
    return [*arrays, *(v for v in saved if isinstance(v, np.ndarray))], norms


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_step_on_the_divided_gradients(case: Case, clip: str, dtype: Any) -> None:
    """Bit for bit, if dividing by it is exact: bounds, norms, ratios, decay and states see that."""
    rng = np.random.default_rng(1)
    if "rescale_grad" in case.options:
        case = replace(case, options={**case.options, "rescale_grad": 1 / 3})
    case = replace(case, clip=clip)
    arrays = [ordinary(rng, math.prod(s), dtype).reshape(s) for s in SHAPES]
    gradients = [[ordinary(rng, a.size, dtype).reshape(a.shape) for a in arrays] for _ in range(3)]
    gradients[1][0] = np.asfortranarray(gradients[1][0])
    expected, norms = stepped(case, arrays, gradients)
    for k in (2.0**16, 2.0**-5):
        scaled = [[np.asarray(x * dtype(k)) for x in row] for row in gradients]
        found, scaled_norms = stepped(case, arrays, scaled, grad_scale=k)
        assert all(map(same_bits, found, expected))
        assert scaled_norms == norms
    assert bool(norms) == (clip in ("norm", "global"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [3.0, 0.3, 65536.0])
def test_it_is_one_factor_with_the_others(scale: float, dtype: Any) -> None:
    """1 / grad_scale, rescale_grad and the norm's factor are multiplied in double, rounded once."""
    rng = np.random.default_rng(2)
    array, gradient = (ordinary(rng, 5000, dtype) for _ in range(2))
    p = roofstep.Parameter(array.copy(), "p")
    p.grad = gradient
    limit = 0.01
    optimizer = roofstep.Momentum(
        1.0, 0.0, [p], rescale_grad=1 / 3, grad_clip=roofstep.ClipGradByGlobalNorm(limit)
    )
    optimizer.step(grad_scale=scale)
    length = 1 / scale * ref.norm([gradient])
    assert optimizer.last_grad_norm == length > limit
    factor = 1 / 3 * (1 / scale * (limit / length))
    velocity = dtype(0.0) + dtype(factor) * gradient
    assert same_bits(p.data, array - velocity)


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, math.nan, math.inf, -math.inf, 5e-324, 1e-39, 8.6e37, 1e45, 1e46]
)
def test_a_scale_that_cannot_be_divided_by_is_refused(scale: float) -> None:
    p = roofstep.Parameter(np.ones(3), "p")
    p.grad = np.ones(3)
    optimizer = roofstep.Adam(parameters=[p])
    optimizer.step()
    before = [p.data.copy(), *(s.copy() for s in optimizer._states["p"].values())]
    with pytest.raises(ValueError, match=r"^grad_scale: expected a (real )?number .*, got .*; "):
        optimizer.step(grad_scale=scale)
    assert all(map(same_bits, before, [p.data, *optimizer._states["p"].values()]))
    assert optimizer._counts.tolist() == [1]


@pytest.mark.parametrize("scale", [2.94e-39, 8.5e37])
def test_the_least_and_the_greatest_scale_divide_to_the_last_digits(scale: float) -> None:
    p = roofstep.Parameter(np.zeros(1, "f4"), "p")
    p.grad = np.full(1, 0.75 if scale < 1 else 3e38, "f4")
    roofstep.SGD(1.0, [p]).step(grad_scale=scale)
    np.testing.assert_allclose(p.data, -p.grad.astype("f8") / scale, rtol=2**-22)


def test_what_overflows_by_the_division_alone_is_not_skipped() -> None:
    p = roofstep.Parameter(np.zeros(1, "f4"), "p")
    p.grad = np.full(1, 1e30, "f4")
    optimizer = roofstep.SGD(1.0, [p], skip_nonfinite=True)
    optimizer.step(grad_scale=1e-20)
    assert (p.data.tolist(), optimizer.skipped_steps) == ([-math.inf], 0)
