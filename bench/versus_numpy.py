"""One AdamW step with decay and clipping against the same in NumPy expressions, interleaved.

Usage: python bench/versus_numpy.py [--tensors 160] [--parameters 25000000] [--repetitions 31]
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

import roofstep
from roofstep import _core

LEARNING_RATE, BETA1, BETA2, EPSILON, DECAY, LIMIT = 1e-3, 0.9, 0.999, 1e-8, 0.01, 1.0
Arrays = list[np.ndarray]


def in_numpy(weights: Arrays, gradients: Arrays) -> Callable[[], None]:
    """AdamW as one writes it in NumPy, states in place, all in float32."""
    m = [np.zeros_like(w) for w in weights]
    v = [np.zeros_like(w) for w in weights]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients))
        factor = np.float32(min(1.0, LIMIT / norm))
        correction1, correction2 = np.float32(1 - BETA1**t), np.float32(1 - BETA2**t)
        for i, gradient in enumerate(gradients):
            g = factor * gradient
            m[i] *= np.float32(BETA1)
            m[i] += np.float32(1 - BETA1) * g
            v[i] *= np.float32(BETA2)
            v[i] += np.float32(1 - BETA2) * g * g
            update = (m[i] / correction1) / (np.sqrt(v[i] / correction2) + np.float32(EPSILON))
            weights[i] -= np.float32(LEARNING_RATE) * (update + np.float32(DECAY) * weights[i])

    return step


def in_roofstep(weights: Arrays, gradients: Arrays) -> Callable[[], None]:
    """The same with roofstep."""
    parameters = [roofstep.Parameter(w) for w in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer = roofstep.AdamW(
        LEARNING_RATE,
        BETA1,
        BETA2,
        EPSILON,
        parameters,
        weight_decay=DECAY,
        grad_clip=roofstep.ClipGradByGlobalNorm(LIMIT),
    )
    return optimizer.step


def main() -> None:
    """Print the ratio of the medians and its quartiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=160)
    parser.add_argument("--parameters", type=int, default=25_000_000)
    parser.add_argument("--repetitions", type=int, default=31)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    size = args.parameters // args.tensors
    start, gradients = (
        [rng.standard_normal(size, np.float32) for _ in range(args.tensors)] for _ in range(2)
    )
    steps = []
    results = []
    for make in (in_numpy, in_roofstep):
        weights = [w.copy() for w in start]
        steps.append(make(weights, gradients))
        results.append(weights)
    for step in steps:
        step()  # creates the states

    times: list[tuple[float, float]] = []
    for _ in range(args.repetitions):
        pair = []
        for step in steps:
            begin = time.perf_counter()
            step()
            pair.append(time.perf_counter() - begin)
        times.append((pair[0], pair[1]))

    difference = max(float(np.abs(a - b).max()) for a, b in zip(*results, strict=True))
    assert difference < 1e-5, f"the two disagree by {difference}"
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    numpy_time, own_time = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"AdamW, decay, global-norm clip; {args.tensors} NumPy tensors of {size} float32\n"
        f"{platform.machine()}, ISA {_core.isa()}, {roofstep.get_num_threads()} threads, "
        f"NumPy {np.__version__}, {args.repetitions} repetitions\n"
        f"NumPy / roofstep: {middle:.1f}x, quartiles {low:.1f} to {high:.1f} "
        f"(medians {numpy_time * 1e3:.1f} ms and {own_time * 1e3:.1f} ms)"
    )


if __name__ == "__main__":
    main()
