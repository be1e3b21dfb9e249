"""The optimizers as one writes them in NumPy: states in place, all in float32."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

import roofstep
from bench.peers import Array
from bench.settings import LIMIT, RATE, SETTINGS

REQUIRES = ("numpy",)
INSTALL = "numpy"
ARRAYS = "NumPy"
VARIANTS = {"NumPy": tuple(SETTINGS)}
DIFFERS: dict[str, str] = {}

# From a gradient, its states, the weights, the settings and t to the move without its rate.
Rule = Callable[[Array, list[Array], Array, dict[str, np.float32], int], Array]


def _momentum(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    s[0] *= k["momentum"]
    s[0] += g
    return s[0]


def _moments(g: Array, s: list[Array], k: dict[str, np.float32]) -> None:
    m, v = s
    m *= k["beta1"]
    m += (1 - k["beta1"]) * g
    v *= k["beta2"]
    v += (1 - k["beta2"]) * g * g


@functools.lru_cache(maxsize=2)  # asked by every tensor of a step
def _corrections(t: int) -> tuple[np.float32, np.float32]:
    return np.float32(1 - 0.9**t), np.float32(1 - 0.999**t)


def _adam(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    _moments(g, s, k)
    first, second = _corrections(t)
    return (s[0] / first) / (np.sqrt(s[1] / second) + k["epsilon"])


def _adamw(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    return _adam(g, s, p, k, t) + k["weight_decay"] * p


def _rmsprop(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    s[0] *= k["rho"]
    s[0] += (1 - k["rho"]) * g * g
    return g / np.sqrt(s[0] + k["epsilon"])


@functools.lru_cache(maxsize=2)
def _momenta(t: int) -> tuple[tuple[float, float], float, float]:
    """NAdam's mu of this step and the next, and their products up to each."""
    while len(_PRODUCTS) < t + 2:
        _PRODUCTS.append(_PRODUCTS[-1] * _mu(len(_PRODUCTS)))
    return (_mu(t), _mu(t + 1)), _PRODUCTS[t], _PRODUCTS[t + 1]


_PRODUCTS = [1.0]


def _mu(t: int) -> float:
    return 0.9 * (1 - 0.5 * 0.96 ** (t * 0.004))


def _nadam(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    _moments(g, s, k)
    mu, now, after = _momenta(t)
    ahead = np.float32(mu[1] / (1 - after)) * s[0] + np.float32((1 - mu[0]) / (1 - now)) * g
    return ahead / (np.sqrt(s[1] / _corrections(t)[1]) + k["epsilon"])


def _lamb(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    update = _adam(g, s, p, k, t) + k["lamb_weight_decay"] * p
    norms = [np.sqrt(np.vdot(x, x)) for x in (p, update)]
    return norms[0] / norms[1] * update if all(norms) else update


def _adagrad(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    s[0] += g * g
    return g / (np.sqrt(s[0]) + k["epsilon"])


def _adamax(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    s[0] *= k["beta1"]
    s[0] += (1 - k["beta1"]) * g
    np.maximum(np.abs(g), k["beta2"] * s[1] + k["epsilon"], out=s[1])
    return (s[0] / _corrections(t)[0]) / s[1]


def _adadelta(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    s[0] *= k["rho"]
    s[0] += (1 - k["rho"]) * g * g
    move = g * np.sqrt((s[1] + k["epsilon"]) / (s[0] + k["epsilon"]))
    s[1] *= k["rho"]
    s[1] += (1 - k["rho"]) * move * move
    return move


def _lion(g: Array, s: list[Array], p: Array, k: dict[str, np.float32], t: int) -> Array:
    move = np.sign(k["beta1"] * s[0] + (1 - k["beta1"]) * g) + k["weight_decay"] * p
    s[0] *= k["beta2"]
    s[0] += (1 - k["beta2"]) * g
    return move


RULES: dict[str, tuple[int, Rule]] = {
    "SGD": (0, lambda g, *_: g),
    "Momentum": (1, _momentum),
    "Adam": (2, _adam),
    "AdamW": (2, _adamw),
    "RMSProp": (1, _rmsprop),
    "NAdam": (2, _nadam),
    "Lamb": (2, _lamb),
    "Adagrad": (1, _adagrad),
    "Adamax": (2, _adamax),
    "Adadelta": (2, _adadelta),
    "Lion": (1, _lion),
}


class Tensors:
    """Arrays in lists."""

    def __init__(self, weights: list[Array], gradients: list[Array]) -> None:
        self._weights, self._gradients = weights, gradients

    @property
    def for_roofstep(self) -> list[roofstep.Parameter]:
        return as_parameters(self._weights, self._gradients)

    def step_of(self, variant: str, optimizer: str, clipped: bool) -> Callable[[], None]:
        count, rule = RULES[optimizer]
        states = [[np.zeros_like(w) for _ in range(count)] for w in self._weights]
        settings = {name: np.float32(value) for name, value in SETTINGS[optimizer].items()}
        rate = np.float32(RATE)
        weights, gradients, t = self._weights, self._gradients, 0

        def step() -> None:
            nonlocal t
            t += 1
            if clipped:
                norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients))
                factor = np.float32(min(1.0, LIMIT / norm))
            for p, g, s in zip(weights, gradients, states, strict=True):
                p -= rate * rule(factor * g if clipped else g, s, p, settings, t)

        return step

    def values(self) -> list[Array]:
        return [w.copy() for w in self._weights]


def as_parameters(weights: list[Array], gradients: list[Array]) -> list[roofstep.Parameter]:
    """With their gradients."""
    parameters = [roofstep.Parameter(w) for w in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return parameters
