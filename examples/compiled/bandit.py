"""A contextual bandit learns in a loop of numba, by Adam of roofstep, without the GIL.

In each round a context is drawn, one of several arms is pulled, and that arm alone shows its
reward. Row a of `weights` foretells the reward of arm a; most rounds pull the arm that promises the
most.
"""

import ctypes

import numba
import numpy as np
from numba.extending import get_cython_function_address

POINTER, SIZE, REAL = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_double
adam_f64 = ctypes.CFUNCTYPE(ctypes.c_int, *[POINTER] * 4, SIZE, *[REAL] * 4, ctypes.c_int64)(
    get_cython_function_address("roofstep.kernels", "adam_f64")
)


@numba.njit(nogil=True)
def play(truth, rounds, explore, rate, rng):
    """What each round has missed of the reward of the best arm."""
    arms, width = truth.shape
    weights = np.zeros(truth.shape)
    moment1, moment2 = np.zeros_like(weights), np.zeros_like(weights)
    pulled = np.zeros(arms, np.int64)
    missed = np.empty(rounds)
    for i in range(rounds):
        context = rng.standard_normal(width)
        if rng.random() < explore:
            arm = rng.integers(0, arms)
        else:
            arm = (weights @ context).argmax()
        rewards = truth @ context
        seen = rewards[arm] + 0.1 * rng.standard_normal()
        gradient = (weights[arm] @ context - seen) * context
        pulled[arm] += 1
        refused = adam_f64(
            weights[arm].ctypes, gradient.ctypes, moment1[arm].ctypes, moment2[arm].ctypes,
            width, rate, 0.9, 0.999, 1e-8, pulled[arm],
        )  # fmt: skip
        assert not refused
        missed[i] = rewards.max() - rewards[arm]
    return missed


def main():
    rng = np.random.default_rng(0)
    missed = play(rng.standard_normal((10, 20)), 20_000, 0.05, 0.02, rng)
    for part in np.split(missed, 5):
        print(f"{len(part)} rounds: the best arm gives {part.mean():.3f} more than the one pulled")


if __name__ == "__main__":
    main()
