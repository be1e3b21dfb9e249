"""optax under jit: one compiled update of all tensors, weights and states donated to it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import roofstep
from bench.peers import Array
from bench.peers.in_numpy import as_parameters
from bench.settings import LIMIT, RATE, SETTINGS

REQUIRES = ("jax", "optax")
INSTALL = "jax optax"
ARRAYS = "NumPy"  # those of JAX cannot be written
VARIANTS = {"optax": tuple(SETTINGS)}
# XLA compiles each tensor's update apart, in a time that grows faster than their number.
MOST_TENSORS = {"SGD": 1000, "Momentum": 1000, "Adam": 1000, "AdamW": 1000}
MOST_TENSORS_OF_OTHERS = 250
DIFFERS = {
    "NAdam": "no schedule of the momentum",
    "Adagrad": "epsilon inside the root",
}


def _transformation(optimizer: str) -> Any:
    """optax's own optimizer with the settings under its names."""
    import optax

    k = SETTINGS[optimizer]
    betas = {"b1": k.get("beta1"), "b2": k.get("beta2")}
    eps = {"eps": k.get("epsilon")}
    return {
        "SGD": lambda: optax.sgd(RATE),
        "Momentum": lambda: optax.sgd(RATE, k["momentum"]),
        "Adam": lambda: optax.adam(RATE, **betas, **eps),
        "AdamW": lambda: optax.adamw(RATE, **betas, **eps, weight_decay=k["weight_decay"]),
        "RMSProp": lambda: optax.rmsprop(RATE, k["rho"], **eps, eps_in_sqrt=True),
        "NAdam": lambda: optax.nadam(RATE, **betas, **eps),
        "Lamb": lambda: optax.lamb(RATE, **betas, **eps, weight_decay=k["lamb_weight_decay"]),
        "Adagrad": lambda: optax.adagrad(RATE, initial_accumulator_value=0.0, **eps),
        "Adamax": lambda: optax.adamax(RATE, **betas, **eps),
        "Adadelta": lambda: optax.adadelta(RATE, k["rho"], **eps),
        "Lion": lambda: optax.lion(RATE, **betas, weight_decay=k["weight_decay"]),
    }[optimizer]()


class Tensors:
    """Arrays of JAX, and for roofstep copies in NumPy."""

    def __init__(self, weights: list[Array], gradients: list[Array]) -> None:
        import jax

        jax.config.update("jax_platforms", "cpu")
        self._for_roofstep = as_parameters(weights, gradients)
        self._weights = [jax.numpy.array(w, copy=True) for w in weights]
        self._gradients = [jax.numpy.array(g, copy=True) for g in gradients]

    @property
    def for_roofstep(self) -> list[roofstep.Parameter]:
        return self._for_roofstep

    def step_of(self, variant: str, optimizer: str, clipped: bool) -> Callable[[], Any]:
        import jax
        import optax

        transformation = _transformation(optimizer)
        if clipped:
            transformation = optax.chain(optax.clip_by_global_norm(LIMIT), transformation)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(weights: Any, state: Any, gradients: Any) -> Any:
            moves, state = transformation.update(gradients, state, weights)
            return optax.apply_updates(weights, moves), state

        state = transformation.init(self._weights)

        def step() -> None:
            nonlocal state
            self._weights, state = update(self._weights, state, self._gradients)
            jax.block_until_ready(self._weights)

        return step

    def values(self) -> list[Array]:
        return [np.asarray(w) for w in self._weights]
