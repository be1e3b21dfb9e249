"""The same bits from every compiler, every ISA, NEON under emulation, and the installed package."""

from __future__ import annotations

import math
import struct
from decimal import Decimal

import numpy as np
import pytest

import roofstep
from conftest import Build
from roofstep import _core
from tests import unnamed

SIZE = 70_001  # two pieces of work and a ragged tail
STEPS = 6  # from the sixth RAdam rectifies
FIELDS = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "rho": 0.95, "epsilon": 1e-8, "fade": 0.96}
FIELDS["fade_rest"] = float(Decimal("0.96") - Decimal(FIELDS["fade"]))
FIELDS |= {"beta3": 0.99, "lars_coeff": 0.1, "batch_num": 4}
FIELDS |= {"learning_rate_range[0]": 1e-5, "learning_rate_range[1]": 50.0}
FIELDS |= {"etas[0]": 0.5, "etas[1]": 1.2}
FIELDS |= {"dampening": 0.1, "lambd": 1e-3, "alpha": 0.75, "t0": 2.0, "lr_decay": 0.1}
TRUSTING = ("lars", "lamb")
DECAYS = [(0.0, 0.0, 0.0), (0.01, 0.0, 0.0), (0.0, 0.01, 0.1)]  # l1, l2, decoupled
OPTIMIZERS = {
    "sgd": lambda **k: roofstep.SGD(**k),
    "momentum": lambda **k: roofstep.Momentum(**k),
    "nesterov": lambda **k: roofstep.Momentum(use_nesterov=True, **k),
    "adam": lambda **k: roofstep.Adam(**k),
    "amsgrad": lambda **k: roofstep.Adam(amsgrad=True, **k),
    "lion": lambda **k: roofstep.Lion(**k),
    "adagrad": lambda **k: roofstep.Adagrad(**k),
    "adadelta": lambda **k: roofstep.Adadelta(**k),
    "rmsprop": lambda **k: roofstep.RMSProp(**k),
    "rmsprop_centered": lambda **k: roofstep.RMSProp(centered=True, **k),
    "adamax": lambda **k: roofstep.Adamax(**k),
    "radam": lambda **k: roofstep.RAdam(**k),
    # The rule is told 0.96**momentum_decay.
    "nadam": lambda fade, fade_rest, **k: roofstep.NAdam(momentum_decay=1.0, **k),
    "lars": lambda **k: roofstep.LARS(always_adapt=True, **k),
    "asgd": lambda **k: roofstep.ASGD(**k),
    "rprop": lambda **k: roofstep.Rprop(**{name: k[name] for name in k if "[" not in name}),
    "lamb": lambda **k: roofstep.Lamb(always_adapt=True, **k),
    "adan": lambda **k: roofstep.Adan(**k),
    "dampened_momentum": lambda **k: unnamed.DampenedMomentum(**k),
    "averaged_sgd": lambda **k: unnamed.AveragedSGD(**k),
    "adagrad_slowing": lambda **k: unnamed.SlowingAdagrad(**k),
    "over_rms": lambda **k: unnamed.OverRMS(**k),
    "over_deviation": lambda **k: unnamed.OverRMS(centered=True, **k),
    "over_rms_momentum": lambda **k: unnamed.OverRMS(**k),
    "over_deviation_momentum": lambda **k: unnamed.OverRMS(centered=True, **k),
    "adamax_padded": lambda **k: unnamed.PaddedAdamax(**k),
}


def hard_values(dtype: type, seed: int) -> np.ndarray:
    """Random bit patterns, most of them near 1, some infinite, NaN, tiny or denormal."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(SIZE).astype(dtype)
    raw = rng.integers(0, 256, (SIZE // 50, np.dtype(dtype).itemsize), np.uint8).view(dtype).ravel()
    values[rng.choice(SIZE, raw.size, replace=False)] = raw
    return values


def canonical(array: np.ndarray) -> bytes:
    """The bits, one NaN being like another."""
    return np.where(np.isnan(array), np.nan, array).astype(array.dtype).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", _core.rules())
def test_bits(build: Build, rule: str, dtype: type) -> None:
    fields, states, _, ring, mean = _core.rules()[rule]
    slots = FIELDS[ring] if ring else 1
    for l1, l2, decay in DECAYS:
        start = hard_values(dtype, 0)
        # Tame gradients, else their norm is NaN and so is everything.
        gradients = [
            np.random.default_rng(k).standard_normal(SIZE).astype(dtype) for k in range(STEPS)
        ]
        packed = struct.pack(
            "32s3q21d",
            rule.encode(),
            int(dtype is np.float64),
            SIZE,
            STEPS,
            *(0.01, l1, l2, decay, 1.0, -math.inf, math.inf, 2.5, rule in TRUSTING, 0.9),
            *(slots, 0.01 if rule == "rprop" else 0.0, 0.01 if rule == "averaged_sgd" else 1.0),
            *([FIELDS[f] for f in fields] + [0.0] * (8 - len(fields))),
        )
        told = packed + start.tobytes() + b"".join(g.tobytes() for g in gradients)

        weights = roofstep.Parameter(start.copy(), "w")
        optimizer = OPTIMIZERS[rule](
            learning_rate=0.01,
            parameters=[weights],
            grad_clip=roofstep.ClipGradByGlobalNorm(2.5),
            **{f: FIELDS[f] for f in fields},
        )
        # No class combines every decay with every rule, the kernels do.
        optimizer._decays = lambda *_, d=(l1, l2, decay): d
        if not mean:
            optimizer.average_weights(0.9)
        for weights.grad in gradients:
            optimizer.step()
        saved = optimizer.state_dict()
        expected = canonical(weights.data) + b"".join(
            canonical(saved[f"w_{state}_0"]) for state in (*states, mean or "average")
        )
        assert optimizer.last_grad_norm > 2.5

        for isa in build.isas:
            answer = build.replay(isa, 2, told)
            found = np.frombuffer(answer[:-8], dtype)
            assert canonical(found) == expected, (isa, l1, l2, decay)
            assert struct.unpack("d", answer[-8:])[0] == optimizer.last_grad_norm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_of_the_compiled_door(build: Build, dtype: type) -> None:
    """Of a whole gradient and of one of some rows; tests/wheel tries all functions, on this CPU."""
    height, width, steps = 30, 500, 3
    rng = np.random.default_rng(0)
    matrix, grad = rng.standard_normal((2, height, width)).astype(dtype)
    rows = np.sort(rng.integers(0, height, 20))
    row_grad = rng.standard_normal((rows.size, width)).astype(dtype)
    row_grad[::3, ::2] = -0.0
    settings = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.1}
    packed = struct.pack(
        "5q5d", dtype is np.float64, height, width, rows.size, steps, 0.01, *settings.values()
    )
    told = b"".join([packed, *(a.tobytes() for a in (matrix, grad, rows, row_grad))])

    expected = b""
    for gradient in (grad, roofstep.SelectedRows(rows, row_grad)):
        weights = roofstep.Parameter(matrix.copy(), "w")
        optimizer = roofstep.AdamW(0.01, parameters=[weights], lazy_mode=True, **settings)
        for _ in range(steps):
            weights.grad = gradient
            optimizer.step()
        saved = optimizer.state_dict()
        arrays = (weights.data, saved["w_moment1_0"], saved["w_moment2_0"])
        expected += b"".join(array.tobytes() for array in arrays)

    weights = roofstep.Parameter(matrix.copy(), "w")
    weights.grad = grad
    clip = roofstep.ClipGradByGlobalNorm(math.inf)
    clipped = roofstep.SGD(0.0, [weights], grad_clip=clip)
    clipped.step()
    for isa in build.isas:
        answer = build.door(isa, told)
        assert answer[:-8] == expected, isa
        assert math.sqrt(struct.unpack("d", answer[-8:])[0]) == clipped.last_grad_norm
