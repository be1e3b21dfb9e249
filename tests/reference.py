"""The independent oracle: norms and update rules in plain NumPy, and again as the papers say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any, NamedTuple

import numpy as np

# ---------------------------------------------------------------------------------------------
# Part one: the promised bits. T is the parameter's dtype. Constants are Python floats (double)
# until T(...) rounds them, once; all else is NumPy arithmetic in T, from left to right.
# ---------------------------------------------------------------------------------------------

# 1000 digits: b**t is exact up to t = 18, where 1 - b**t can lie right between two doubles, and
# beyond that more exact than double by whatever cancels.
PRECISE = Context(prec=1000, Emin=-(10**15), Emax=10**15)
PAPER = Context(prec=100, Emin=-(10**15), Emax=10**15)


@cache
def precise_power(b: float, t: int) -> Decimal:
    """b**t of the double b; kept, as 1000 digits take long and every rule asks for the same."""
    return PRECISE.power(Decimal(b), t)


def power(b: float, t: int) -> float:
    """b**t of the double b, rounded once."""
    return float(precise_power(b, t))


def one_minus_power(b: float, t: int) -> float:
    """1 - b**t of the double b, rounded once."""
    return float(PRECISE.subtract(Decimal(1), precise_power(b, t)))


State = dict[str, np.ndarray]


def sgd(T: Any, t: int, g: np.ndarray, s: State) -> np.ndarray:
    return g


def momentum(T: Any, t: int, g: np.ndarray, s: State, *, momentum: float) -> np.ndarray:
    s["velocity"] = T(momentum) * s["velocity"] + g
    return s["velocity"]


def dampened(
    T: Any, t: int, g: np.ndarray, s: State, *, momentum: float, dampening: float
) -> np.ndarray:
    part = 1.0 if t == 1 else 1 - dampening
    s["velocity"] = T(momentum) * s["velocity"] + T(part) * g
    return s["velocity"]


def averaged_sgd(T: Any, t: int, g: np.ndarray, s: State, **_hyper: float) -> np.ndarray:
    return g


def any_power(b: float, exponent: float) -> float:
    """b**exponent of these doubles, rounded once."""
    return float(PAPER.power(Decimal(b), Decimal(exponent)))


def eta(s: Settings, t: int) -> float:
    """The rate that averaged SGD carries over from update t."""
    lambd, alpha = s.hyper["lambd"], s.hyper["alpha"]
    return float(np.float64(s.lr) / any_power(1 + lambd * s.lr * t, alpha)) if t else s.lr


def nesterov(T: Any, t: int, g: np.ndarray, s: State, *, momentum: float) -> np.ndarray:
    s["velocity"] = T(momentum) * s["velocity"] + g
    return g + T(momentum) * s["velocity"]


def adam(
    T: Any, t: int, g: np.ndarray, s: State, *, beta1: float, beta2: float, epsilon: float
) -> np.ndarray:
    r = math.sqrt(one_minus_power(beta2, t))
    c = r / one_minus_power(beta1, t)
    e = epsilon * r
    s["moment1"] = T(beta1) * s["moment1"] + T(1 - beta1) * g
    s["moment2"] = T(beta2) * s["moment2"] + (T(1 - beta2) * g) * g
    second = s["moment2"]
    if "moment2_max" in s:
        second = s["moment2_max"] = np.maximum(s["moment2_max"], second)
    return (T(c) * s["moment1"]) / (np.sqrt(second) + T(e))


def lion(T: Any, t: int, g: np.ndarray, s: State, *, beta1: float, beta2: float) -> np.ndarray:
    u = T(beta1) * s["moment"] + T(1 - beta1) * g
    s["moment"] = T(beta2) * s["moment"] + T(1 - beta2) * g
    return np.sign(u)


def adagrad(T: Any, t: int, g: np.ndarray, s: State, *, epsilon: float) -> np.ndarray:
    s["moment"] = s["moment"] + g * g
    return g / (np.sqrt(s["moment"]) + T(epsilon))


def slowing_adagrad(
    T: Any, t: int, g: np.ndarray, s: State, *, epsilon: float, lr_decay: float
) -> np.ndarray:
    return adagrad(T, t, g, s, epsilon=epsilon)


def adadelta(T: Any, t: int, g: np.ndarray, s: State, *, rho: float, epsilon: float) -> np.ndarray:
    a = s["_avg_squared_grad"] = T(rho) * s["_avg_squared_grad"] + (T(1 - rho) * g) * g
    u = s["_avg_squared_update"]
    d = g * np.sqrt((u + T(epsilon)) / (a + T(epsilon)))
    s["_avg_squared_update"] = T(rho) * u + (T(1 - rho) * d) * d
    return d


def rmsprop(
    T: Any,
    t: int,
    g: np.ndarray,
    s: State,
    *,
    rho: float,
    epsilon: float,
    momentum: float,
    lr: float,
) -> np.ndarray:
    second = s["mean_square"] = T(rho) * s["mean_square"] + (T(1 - rho) * g) * g
    if "mean_grad" in s:
        mean = s["mean_grad"] = T(rho) * s["mean_grad"] + T(1 - rho) * g
        second = second - mean * mean
    root = np.sqrt(second + T(epsilon))
    s["momentum"] = T(momentum) * s["momentum"] + (T(lr) * g) / root
    return s["momentum"]


def over_rms(
    T: Any,
    t: int,
    g: np.ndarray,
    s: State,
    *,
    rho: float,
    epsilon: float,
    momentum: float = 0.0,
) -> np.ndarray:
    second = s["mean_square"] = T(rho) * s["mean_square"] + (T(1 - rho) * g) * g
    if "mean_grad" in s:
        mean = s["mean_grad"] = T(rho) * s["mean_grad"] + T(1 - rho) * g
        second = second - mean * mean
    d = g / (np.sqrt(second) + T(epsilon))
    if "momentum" in s:
        d = s["momentum"] = T(momentum) * s["momentum"] + d
    return d


def padded_adamax(
    T: Any, t: int, g: np.ndarray, s: State, *, beta1: float, beta2: float, epsilon: float
) -> np.ndarray:
    c = 1 / one_minus_power(beta1, t)
    s["moment"] = T(beta1) * s["moment"] + T(1 - beta1) * g
    s["inf_norm"] = np.maximum(T(beta2) * s["inf_norm"], np.abs(g) + T(epsilon))
    return (T(c) * s["moment"]) / s["inf_norm"]


def adamax(
    T: Any, t: int, g: np.ndarray, s: State, *, beta1: float, beta2: float, epsilon: float
) -> np.ndarray:
    c = 1 / one_minus_power(beta1, t)
    s["moment"] = T(beta1) * s["moment"] + T(1 - beta1) * g
    s["inf_norm"] = np.maximum(np.abs(g), T(beta2) * s["inf_norm"] + T(epsilon))
    return (T(c) * s["moment"]) / s["inf_norm"]


def radam(
    T: Any, t: int, g: np.ndarray, s: State, *, beta1: float, beta2: float, epsilon: float
) -> np.ndarray:
    rest1, rest2 = one_minus_power(beta1, t), one_minus_power(beta2, t)
    last = 2 / (1 - beta2) - 1
    rho = last - 2 * float(t) * power(beta2, t) / rest2
    s["moment1"] = T(beta1) * s["moment1"] + T(1 - beta1) * g
    s["moment2"] = T(beta2) * s["moment2"] + (T(1 - beta2) * g) * g
    below = np.sqrt(s["moment2"]) + T(epsilon)
    if rho > 5:
        r = (rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)
        c = math.sqrt(r * rest2) / rest1
    else:
        c = 1 / rest1
        below = np.where(np.isnan(below), below, T(1))  # which NaN stays
    return (T(c) * s["moment1"]) / below


PRODUCTS: dict[Any, list[Any]] = {}


def running_product(of: Callable[[int], Any], key: Any, t: int) -> Any:
    """of(1) * ... * of(t), one after another; kept under the key."""
    products = PRODUCTS.setdefault(key, [type(of(1))(1)])
    while len(products) <= t:
        products.append(products[-1] * of(len(products)))
    return products[t]


@cache
def fade(momentum_decay: float, t: int) -> float:
    """0.96**(t * momentum_decay), rounded once."""
    return float(PAPER.power(Decimal("0.96"), t * Decimal(momentum_decay)))


def mu(beta1: float, momentum_decay: float, t: int) -> float:
    return beta1 * (1 - fade(momentum_decay, t) / 2)


def mu_product(beta1: float, momentum_decay: float, t: int) -> float:
    """What NAdam carries over from update t."""
    return running_product(
        lambda i: mu(beta1, momentum_decay, i), ("bits", beta1, momentum_decay), t
    )


def nadam(
    T: Any,
    t: int,
    g: np.ndarray,
    s: State,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    momentum_decay: float,
    carried: float | None = None,  # the product so far, where it is not of the same settings
) -> np.ndarray:
    now, following = mu(beta1, momentum_decay, t), mu(beta1, momentum_decay, t + 1)
    product = mu_product(beta1, momentum_decay, t) if carried is None else carried * now
    r = math.sqrt(one_minus_power(beta2, t))
    c = r * following / (1 - product * following)
    d = r * (1 - now) / (1 - product)
    s["moment1"] = T(beta1) * s["moment1"] + T(1 - beta1) * g
    s["moment2"] = T(beta2) * s["moment2"] + (T(1 - beta2) * g) * g
    return (T(c) * s["moment1"] + T(d) * g) / (np.sqrt(s["moment2"]) + T(epsilon * r))


def lars(
    T: Any,
    t: int,
    g: np.ndarray,
    s: State,
    *,
    momentum: float,
    lars_coeff: float,
    epsilon: float,
    lr: float,
) -> np.ndarray:
    s["velocity"] = T(momentum) * s["velocity"] + T(lr) * g
    return s["velocity"]


def asgd(T: Any, t: int, g: np.ndarray, s: State, *, batch_num: int, lr: float) -> np.ndarray:
    slot = (t - 1) % batch_num
    s["d"] = (s["d"] - s["y"][slot]) + g
    s["y"] = s["y"].copy()
    s["y"][slot] = g
    return T(lr / min(t, batch_num)) * s["d"]


def rprop(
    T: Any,
    t: int,
    g: np.ndarray,
    s: State,
    *,
    shortest: float,
    longest: float,
    shrink: float,
    grow: float,
    lr: float,
) -> np.ndarray:
    turn = np.sign(g) * s["prevs"]
    eta = np.where(turn > 0, T(grow), np.where(turn < 0, T(shrink), T(1)))
    s["learning_rates"] = np.clip(s["learning_rates"] * eta, T(shortest), T(longest))
    s["prevs"] = np.where(turn < 0, T(0), g)
    return np.sign(s["prevs"]) * s["learning_rates"]


def adan(
    T: Any,
    t: int,
    g: np.ndarray,
    s: State,
    *,
    beta1: float,
    beta2: float,
    beta3: float,
    epsilon: float,
) -> np.ndarray:
    change = g - s["prev_grad"]
    if t == 1:
        change = np.where(np.isnan(change), change, T(0))  # which NaN stays
    ahead = g + T(beta2) * change
    s["moment1"] = T(beta1) * s["moment1"] + T(1 - beta1) * g
    s["moment1_diff"] = T(beta2) * s["moment1_diff"] + T(1 - beta2) * change
    s["moment2"] = T(beta3) * s["moment2"] + (T(1 - beta3) * ahead) * ahead
    s["prev_grad"] = g
    r = math.sqrt(one_minus_power(beta3, t))
    c = r / one_minus_power(beta1, t)
    d = r * beta2 / one_minus_power(beta2, t)
    above = T(c) * s["moment1"] + T(d) * s["moment1_diff"]
    return above / (np.sqrt(s["moment2"]) + T(epsilon * r))


class Rule(NamedTuple):
    """The states a rule keeps and its direction for update t (1, 2, ...).

    If it `moves` it is given the rate `lr` too, and what it returns is the whole move.
    """

    states: tuple[str, ...]
    direction: Callable[..., np.ndarray]
    moves: bool = False
    number: str = ""  # the one that is carried over from update to update, if there is one
    carried: Callable[..., float] | None = None  # its value after t updates
    ring: str = ""  # what says how many slots the last state has
    trust: Callable[..., float] | None = None  # the ratio, of norms and the settings
    trusts: str = ""  # what the ratio measures beside the parameter, "gradient" or "update"
    rate: Callable[..., float] = lambda s, t: s.lr  # of update t
    mean: str = ""  # the running mean of the parameter that the rule itself asks for
    weight: Callable[..., float] | None = None  # of the new value in it


def lamb_trust(p: float, u: float, s: Settings) -> float:
    return p / u if p > 0 and u > 0 else 1.0


def lars_trust(p: float, g: float, s: Settings) -> float:
    below = g + s.l2 * p + s.hyper["epsilon"]
    if not (p > 0 and g > 0 and below > 0):
        return 1.0
    return float(np.float64(s.hyper["lars_coeff"] * p) / below)


RULES = {
    "SGD": Rule((), sgd),
    "Momentum": Rule(("velocity",), momentum),
    "DampenedMomentum": Rule(("velocity",), dampened),
    "Nesterov": Rule(("velocity",), nesterov),
    "AveragedSGD": Rule(
        (),
        averaged_sgd,
        number="eta",
        carried=eta,
        rate=lambda s, t: eta(s, t - 1),
        mean="ax",
        weight=lambda s, t: 1 / max(1.0, t - 1 - s.hyper["t0"]) if t > 1 else 1.0,
    ),
    "Adam": Rule(("moment1", "moment2"), adam),
    "AMSGrad": Rule(("moment1", "moment2", "moment2_max"), adam),
    "Lion": Rule(("moment",), lion),
    "Adagrad": Rule(("moment",), adagrad),
    "SlowingAdagrad": Rule(
        ("moment",),
        slowing_adagrad,
        rate=lambda s, t: s.lr / (1 + (t - 1) * s.hyper["lr_decay"]),
    ),
    "Adadelta": Rule(("_avg_squared_grad", "_avg_squared_update"), adadelta),
    "RMSProp": Rule(("momentum", "mean_square"), rmsprop, moves=True),
    "CenteredRMSProp": Rule(("momentum", "mean_square", "mean_grad"), rmsprop, moves=True),
    "OverRMS": Rule(("mean_square",), over_rms),
    "OverDeviation": Rule(("mean_square", "mean_grad"), over_rms),
    "OverRMSMomentum": Rule(("momentum", "mean_square"), over_rms),
    "OverDeviationMomentum": Rule(("momentum", "mean_square", "mean_grad"), over_rms),
    "Adamax": Rule(("moment", "inf_norm"), adamax),
    "PaddedAdamax": Rule(("moment", "inf_norm"), padded_adamax),
    "RAdam": Rule(("moment1", "moment2"), radam),
    "NAdam": Rule(
        ("moment1", "moment2"),
        nadam,
        number="mu_product",
        carried=lambda s, t: mu_product(s.hyper["beta1"], s.hyper["momentum_decay"], t),
    ),
    "LARS": Rule(("velocity",), lars, moves=True, trust=lars_trust, trusts="gradient"),
    "ASGD": Rule(("d", "y"), asgd, moves=True, ring="batch_num"),
    "Rprop": Rule(("prevs", "learning_rates"), rprop, moves=True),
    "Lamb": Rule(("moment1", "moment2"), adam, trust=lamb_trust, trusts="update"),
    "Adan": Rule(("moment1", "moment1_diff", "moment2", "prev_grad"), adan),
}


def kept(rule: str) -> tuple[str, ...]:
    """The arrays that a rule keeps: its states, and its mean if it has one."""
    return (*RULES[rule].states, *filter(None, [RULES[rule].mean]))


@dataclass(frozen=True)
class Value:
    """Clips every element into [lo, hi]."""

    lo: float
    hi: float


@dataclass(frozen=True, eq=False)  # eq=False: each object is a norm of its own
class Norm:
    """Scales a tensor whose norm is above the limit down to it."""

    limit: float


@dataclass(frozen=True, eq=False)
class GlobalNorm:
    """The same with one norm over all the tensors that share this object."""

    limit: float


@dataclass(frozen=True)
class Settings:
    """All that is chosen for one parameter; `lr` is the base rate times every multiplier."""

    rule: str
    hyper: Mapping[str, float] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)  # the states that begin not with 0
    lr: float = 0.001
    l1: float = 0.0
    l2: float = 0.0
    decay: float = 0.0
    clip: Value | Norm | GlobalNorm | None = None
    rescale: float = 1.0
    always_adapt: bool = False  # by a trust ratio, also without the decay that is in it
    average: float | None = None  # the decay of the running mean of the weights


def length(p: np.ndarray, x: np.ndarray) -> float:
    """The norm of what belongs to the elements of p."""
    return norm([memory_order(p, np.broadcast_to(x, p.shape))])


def update(p: np.ndarray, x: np.ndarray, t: int, state: State, s: Settings, factor: float) -> None:
    """Update number t of parameter p by gradient x: clip, decay, rule, decoupled decay, move."""
    rule, T = RULES[s.rule], p.dtype.type
    g = T(factor * s.rescale) * x
    if isinstance(s.clip, Value):
        lo, hi = map(T, sorted((s.clip.lo * s.rescale, s.clip.hi * s.rescale)))  # it may be < 0
        g = np.where(g < lo, lo, g)
        g = np.where(g > hi, hi, g)
    ratio = 1.0
    if rule.trusts == "gradient" and (s.always_adapt or s.l2 > 0):
        ratio = rule.trust(length(p, p), length(p, g), s)
    if T(s.l2):
        g = g + T(s.l2) * p
    if T(s.l1):
        g = g + T(s.l1) * np.sign(p)
    if rule.trusts == "gradient":
        g = T(ratio) * g
    if rule.moves:
        d = rule.direction(T, t, g, state, lr=s.lr, **s.hyper)
        if T(s.decay):
            d = d + (T(s.lr) * T(s.decay)) * p
        move = d
    else:
        d = rule.direction(T, t, g, state, **s.hyper)
        if T(s.decay):
            d = d + T(s.decay) * p
        if rule.trusts == "update" and (s.always_adapt or s.decay > 0):
            ratio = rule.trust(length(p, p), length(p, d), s)
        move = T(rule.rate(s, t) * ratio) * d
    name = rule.mean or "average"
    mean = state.get(name, p).copy()
    p[...] = p - move
    if rule.mean:
        state[name] = running_mean(T(rule.weight(s, t)), mean, p)
    elif s.average is not None:
        state[name] = running_mean(T(1 - s.average), mean, p)


def running_mean(weight: Any, mean: np.ndarray, p: np.ndarray) -> np.ndarray:
    return p.copy() if weight == 1 else mean + weight * (p - mean)


class Reference:
    """Steps its own copies of the arrays; `settings` is one for all of them, or one for each."""

    def __init__(
        self, arrays: Sequence[np.ndarray], settings: Settings | Sequence[Settings]
    ) -> None:
        self.params = [a.copy(order="K") for a in arrays]
        if isinstance(settings, Settings):
            settings = [settings] * len(self.params)
        self.settings = list(settings)
        self.steps = [0] * len(self.params)
        self.states: list[State] = [
            {name: np.full_like(p, s.initial.get(name, 0.0)) for name in RULES[s.rule].states}
            for p, s in zip(self.params, self.settings, strict=True)
        ]
        for p, s, state in zip(self.params, self.settings, self.states, strict=True):
            if ring := RULES[s.rule].ring:
                last = RULES[s.rule].states[-1]
                state[last] = np.zeros((int(s.hyper[ring]), *p.shape), p.dtype)
        self.norms: list[float] = []

    def step(self, grads: Sequence[np.ndarray | None]) -> None:
        with np.errstate(all="ignore"):
            factors = self._clip_factors(grads)
            for i, (p, x, s) in enumerate(zip(self.params, grads, self.settings, strict=True)):
                if x is not None:
                    self.steps[i] += 1
                    update(p, x, self.steps[i], self.states[i], s, factors[i])

    def _clip_factors(self, grads: Sequence[np.ndarray | None]) -> list[float]:
        """The factor of each tensor; `norms` remembers the norms of this step, in order."""
        members: dict[Any, list[int]] = {}
        for i, (s, x) in enumerate(zip(self.settings, grads, strict=True)):
            if x is not None and isinstance(s.clip, Norm | GlobalNorm):
                one_norm = s.clip if isinstance(s.clip, GlobalNorm) else (s.clip, i)
                members.setdefault(one_norm, []).append(i)
        factors = [1.0] * len(grads)
        self.norms = []
        for indices in members.values():
            n = norm([memory_order(self.params[i], grads[i]) for i in indices])
            self.norms.append(n)
            for i in indices:
                factors[i] = clip_factor(n, self.settings[i].clip.limit)
        return factors


def clip_factor(n: float, limit: float) -> float:
    if math.isnan(n):
        return math.nan
    return limit / n if n > limit else 1.0


# Norms.

LANES, BLOCK = 64, 4096
K = 2.0**-600


def memory_order(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The elements of x in the order in which those of p lie in memory."""
    axes = sorted(range(p.ndim), key=lambda axis: -p.strides[axis])
    return x.transpose(axes).ravel()


def block_sum(x: np.ndarray) -> Any:
    """The sum of squares of at most 4096 numbers: 64 lanes, then a halving tree."""
    lanes = np.zeros(LANES, x.dtype)
    for i in range(0, len(x), LANES):
        row = x[i : i + LANES]
        lanes[: len(row)] = lanes[: len(row)] + row * row
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


class Sums(NamedTuple):
    """Sums of squares: as they are, of numbers times 2**-600, and of numbers times 2**600."""

    big: float = 0.0
    mid: float = 0.0
    small: float = 0.0

    def plus(self, other: Sums) -> Sums:
        return Sums(self.big + other.big, self.mid + other.mid, self.small + other.small)


def block_sums(x: np.ndarray) -> Sums:
    """The sum of one block, redone if it left the range in which its dtype is accurate."""
    s = float(block_sum(x))
    if x.dtype == np.float32:
        return Sums(mid=s if 1e-25 < s < 1e37 else float(block_sum(x.astype(np.float64))))
    if 1e-290 < s < 1e290:
        return Sums(mid=s)
    if s <= 1e-290:
        return Sums(small=float(block_sum(x * 2.0**600)))
    return Sums(big=float(block_sum(x * 2.0**-600)))


def norm(tensors: Sequence[np.ndarray]) -> float:
    """One norm over flat tensors: blocks are added in order to a tensor's sums, then tensors."""
    total = Sums()
    with np.errstate(all="ignore"):
        for x in tensors:
            sums = Sums()
            for i in range(0, len(x), BLOCK):
                sums = sums.plus(block_sums(x[i : i + BLOCK]))
            total = total.plus(sums)
    big, mid, small = total
    if big != 0:
        return math.sqrt(big + mid * K * K) / K
    if mid != 0:
        return math.sqrt(mid + small * K * K)
    return math.sqrt(small) * K


# ---------------------------------------------------------------------------------------------
# Part two: the mathematics. One number at a time, 100 decimal digits, each formula as its
# paper has it, so that an error in the order of operations above cannot hide in here as well.
# ---------------------------------------------------------------------------------------------

Numbers = dict[str, Decimal]


def paper_sgd(g: Decimal, t: int, s: Numbers) -> Decimal:
    """Robbins & Monro, 1951."""
    return g


def paper_momentum(g: Decimal, t: int, s: Numbers, *, momentum: Decimal) -> Decimal:
    """Polyak, 1964."""
    s["velocity"] = momentum * s["velocity"] + g
    return s["velocity"]


def paper_dampened(
    g: Decimal, t: int, s: Numbers, *, momentum: Decimal, dampening: Decimal
) -> Decimal:
    """torch.optim.SGD with dampening."""
    s["velocity"] = g if t == 1 else momentum * s["velocity"] + (1 - dampening) * g
    return s["velocity"]


def paper_averaged_sgd(g: Decimal, t: int, s: Numbers, **_hyper: Decimal) -> Decimal:
    """Polyak & Juditsky, 1992."""
    return g


def paper_nesterov(g: Decimal, t: int, s: Numbers, *, momentum: Decimal) -> Decimal:
    """Nesterov, 1983, in the form of Sutskever et al., 2013."""
    s["velocity"] = momentum * s["velocity"] + g
    return g + momentum * s["velocity"]


def paper_adam(
    g: Decimal, t: int, s: Numbers, *, beta1: Decimal, beta2: Decimal, epsilon: Decimal
) -> Decimal:
    """Kingma & Ba, 2015; with moment2_max Reddi, Kale & Kumar, 2018."""
    s["moment1"] = beta1 * s["moment1"] + (1 - beta1) * g
    s["moment2"] = beta2 * s["moment2"] + (1 - beta2) * g**2
    second = s["moment2"]
    if "moment2_max" in s:
        second = s["moment2_max"] = max(s["moment2_max"], second)
    mhat = s["moment1"] / (1 - beta1**t)
    vhat = second / (1 - beta2**t)
    return mhat / (vhat.sqrt() + epsilon)


def paper_lion(g: Decimal, t: int, s: Numbers, *, beta1: Decimal, beta2: Decimal) -> Decimal:
    """Chen et al., 2023, algorithm 2."""
    update = beta1 * s["moment"] + (1 - beta1) * g
    s["moment"] = beta2 * s["moment"] + (1 - beta2) * g
    return Decimal(update > 0) - Decimal(update < 0)


def paper_adagrad(g: Decimal, t: int, s: Numbers, *, epsilon: Decimal) -> Decimal:
    """Duchi, Hazan & Singer, 2011, with a diagonal matrix."""
    s["moment"] += g**2
    return g / (epsilon + s["moment"].sqrt())


def paper_slowing_adagrad(
    g: Decimal, t: int, s: Numbers, *, epsilon: Decimal, lr_decay: Decimal
) -> Decimal:
    """The same; what slows it is its rate."""
    return paper_adagrad(g, t, s, epsilon=epsilon)


def paper_adadelta(g: Decimal, t: int, s: Numbers, *, rho: Decimal, epsilon: Decimal) -> Decimal:
    """Zeiler, 2012, algorithm 1; the rate is 1 there."""
    s["_avg_squared_grad"] = rho * s["_avg_squared_grad"] + (1 - rho) * g**2
    rms_update = (s["_avg_squared_update"] + epsilon).sqrt()
    rms_grad = (s["_avg_squared_grad"] + epsilon).sqrt()
    update = rms_update / rms_grad * g
    s["_avg_squared_update"] = rho * s["_avg_squared_update"] + (1 - rho) * update**2
    return update


def paper_rmsprop(
    g: Decimal,
    t: int,
    s: Numbers,
    *,
    rho: Decimal,
    epsilon: Decimal,
    momentum: Decimal,
    lr: Decimal,
) -> Decimal:
    """Tieleman & Hinton, 2012; with mean_grad Graves, 2013, equations 38 to 41."""
    s["mean_square"] = rho * s["mean_square"] + (1 - rho) * g**2
    variance = s["mean_square"]
    if "mean_grad" in s:
        s["mean_grad"] = rho * s["mean_grad"] + (1 - rho) * g
        variance -= s["mean_grad"] ** 2
    s["momentum"] = momentum * s["momentum"] + lr * g / (variance + epsilon).sqrt()
    return s["momentum"]


def paper_over_rms(
    g: Decimal,
    t: int,
    s: Numbers,
    *,
    rho: Decimal,
    epsilon: Decimal,
    momentum: Decimal = Decimal(0),
) -> Decimal:
    """torch.optim.RMSprop: epsilon outside of the root, the rate outside of the momentum."""
    s["mean_square"] = rho * s["mean_square"] + (1 - rho) * g**2
    variance = s["mean_square"]
    if "mean_grad" in s:
        s["mean_grad"] = rho * s["mean_grad"] + (1 - rho) * g
        variance -= s["mean_grad"] ** 2
    direction = g / (variance.sqrt() + epsilon)
    if "momentum" in s:
        direction = s["momentum"] = momentum * s["momentum"] + direction
    return direction


def paper_padded_adamax(
    g: Decimal, t: int, s: Numbers, *, beta1: Decimal, beta2: Decimal, epsilon: Decimal
) -> Decimal:
    """torch.optim.Adamax: epsilon is added to the gradient's magnitude."""
    s["moment"] = beta1 * s["moment"] + (1 - beta1) * g
    s["inf_norm"] = max(beta2 * s["inf_norm"], abs(g) + epsilon)
    return 1 / (1 - beta1**t) * s["moment"] / s["inf_norm"]


def paper_adamax(
    g: Decimal, t: int, s: Numbers, *, beta1: Decimal, beta2: Decimal, epsilon: Decimal
) -> Decimal:
    """Kingma & Ba, 2015, algorithm 2; Paddle adds epsilon to the decayed norm."""
    s["moment"] = beta1 * s["moment"] + (1 - beta1) * g
    s["inf_norm"] = max(beta2 * s["inf_norm"] + epsilon, abs(g))
    return 1 / (1 - beta1**t) * s["moment"] / s["inf_norm"]


def paper_radam(
    g: Decimal, t: int, s: Numbers, *, beta1: Decimal, beta2: Decimal, epsilon: Decimal
) -> Decimal:
    """Liu et al., 2020, algorithm 2; Paddle rectifies above 5, not 4, and has an epsilon."""
    s["moment1"] = beta1 * s["moment1"] + (1 - beta1) * g
    s["moment2"] = beta2 * s["moment2"] + (1 - beta2) * g**2
    mhat = s["moment1"] / (1 - beta1**t)
    last = 2 / (1 - beta2) - 1
    rho = last - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return mhat
    length = (1 - beta2**t).sqrt() / (s["moment2"].sqrt() + epsilon)
    r = ((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)).sqrt()
    return r * mhat * length


def paper_nadam(
    g: Decimal,
    t: int,
    s: Numbers,
    *,
    beta1: Decimal,
    beta2: Decimal,
    epsilon: Decimal,
    momentum_decay: Decimal,
) -> Decimal:
    """Dozat, 2016, algorithm 2, with its schedule of mu."""

    def mu(i: int) -> Decimal:
        return beta1 * (1 - Decimal("0.5") * Decimal("0.96") ** (i * momentum_decay))

    s["moment1"] = beta1 * s["moment1"] + (1 - beta1) * g
    s["moment2"] = beta2 * s["moment2"] + (1 - beta2) * g**2
    key = ("paper", beta1, momentum_decay)
    ghat = g / (1 - running_product(mu, key, t))
    mhat = s["moment1"] / (1 - running_product(mu, key, t + 1))
    mbar = (1 - mu(t)) * ghat + mu(t + 1) * mhat
    return mbar / ((s["moment2"] / (1 - beta2**t)).sqrt() + epsilon)


def paper_lars(
    g: Decimal,
    t: int,
    s: Numbers,
    *,
    momentum: Decimal,
    lars_coeff: Decimal,
    epsilon: Decimal,
    lr: Decimal,
) -> Decimal:
    """You, Gitman & Ginsburg, 2017, algorithm 1, for a gradient that is scaled already."""
    s["velocity"] = momentum * s["velocity"] + lr * g
    return s["velocity"]


def paper_asgd(g: Decimal, t: int, s: Numbers, *, batch_num: Decimal, lr: Decimal) -> Decimal:
    """Schmidt, Le Roux & Bach, 2017, algorithm 1, for one batch."""
    assert batch_num == 1
    s["d"] += g - s["y"]
    s["y"] = g
    return lr * s["d"]


def paper_rprop(
    g: Decimal,
    t: int,
    s: Numbers,
    *,
    shortest: Decimal,
    longest: Decimal,
    shrink: Decimal,
    grow: Decimal,
    lr: Decimal,
) -> Decimal:
    """Riedmiller & Braun, 1993, without going back."""
    turn = g * s["prevs"]
    if turn > 0:
        s["learning_rates"] *= grow
    if turn < 0:
        s["learning_rates"] *= shrink
        g = Decimal(0)
    s["learning_rates"] = min(max(s["learning_rates"], shortest), longest)
    s["prevs"] = g
    return s["learning_rates"] * (Decimal(g > 0) - Decimal(g < 0))


def paper_adan(
    g: Decimal,
    t: int,
    s: Numbers,
    *,
    beta1: Decimal,
    beta2: Decimal,
    beta3: Decimal,
    epsilon: Decimal,
) -> Decimal:
    """Xie et al., 2024, algorithm 1, with 1 - beta for each beta."""
    change = g - s["prev_grad"] if t > 1 else Decimal(0)
    s["moment1"] = beta1 * s["moment1"] + (1 - beta1) * g
    s["moment1_diff"] = beta2 * s["moment1_diff"] + (1 - beta2) * change
    s["moment2"] = beta3 * s["moment2"] + (1 - beta3) * (g + beta2 * change) ** 2
    s["prev_grad"] = g
    mhat = s["moment1"] / (1 - beta1**t)
    vhat = s["moment1_diff"] / (1 - beta2**t)
    nhat = s["moment2"] / (1 - beta3**t)
    return (mhat + beta2 * vhat) / (nhat.sqrt() + epsilon)


PAPERS: dict[str, Callable[..., Decimal]] = {
    "SGD": paper_sgd,
    "Momentum": paper_momentum,
    "DampenedMomentum": paper_dampened,
    "Nesterov": paper_nesterov,
    "AveragedSGD": paper_averaged_sgd,
    "Adam": paper_adam,
    "AMSGrad": paper_adam,
    "Lion": paper_lion,
    "Adagrad": paper_adagrad,
    "SlowingAdagrad": paper_slowing_adagrad,
    "Adadelta": paper_adadelta,
    "RMSProp": paper_rmsprop,
    "CenteredRMSProp": paper_rmsprop,
    "OverRMS": paper_over_rms,
    "OverDeviation": paper_over_rms,
    "OverRMSMomentum": paper_over_rms,
    "OverDeviationMomentum": paper_over_rms,
    "Adamax": paper_adamax,
    "PaddedAdamax": paper_padded_adamax,
    "RAdam": paper_radam,
    "NAdam": paper_nadam,
    "LARS": paper_lars,
    "ASGD": paper_asgd,
    "Rprop": paper_rprop,
    "Lamb": paper_adam,
    "Adan": paper_adan,
}


def paper_eta(lr: Decimal, t: int, hyper: Numbers) -> Decimal:
    """Xu, 2011, equation 34, with the exponent as a setting: the rate after t updates."""
    return lr / (1 + hyper["lambd"] * lr * t) ** hyper["alpha"]


# The rate of update t, where it is not the learning rate.
PAPER_RATES: dict[str, Callable[[Decimal, int, Numbers], Decimal]] = {
    "AveragedSGD": lambda lr, t, hyper: paper_eta(lr, t - 1, hyper),
    "SlowingAdagrad": lambda lr, t, hyper: lr / (1 + (t - 1) * hyper["lr_decay"]),
}
# The weight of the new value in the running mean.
PAPER_WEIGHTS: dict[str, Callable[[int, Numbers], Decimal]] = {
    "AveragedSGD": lambda t, hyper: 1 / max(Decimal(1), t - 1 - hyper["t0"]),
}


class Paper:
    """One parameter of one number; settings as above, but without clipping."""

    def __init__(
        self, p: float, settings: Settings, t: int = 0, state: Mapping[str, float] | None = None
    ) -> None:
        names = kept(settings.rule)
        known = {**settings.initial, **(state or {})}
        self.p, self.settings, self.t = Decimal(p), settings, t
        self.state = {name: Decimal(known.get(name, 0.0)) for name in names}
        self.hyper = {name: Decimal(value) for name, value in settings.hyper.items()}

    def step(self, x: float) -> None:
        paper_step([self], [x])

    def _move(self, x: float, ratio: Decimal) -> Decimal:
        """The way to go before a trust ratio of updates; the states go on."""
        s = self.settings
        self.t += 1
        g = Decimal(s.rescale) * Decimal(x) + Decimal(s.l2) * self.p
        if self.p:
            g += Decimal(s.l1) * Decimal(1).copy_sign(self.p)
        g *= ratio
        lr, paper = Decimal(s.lr), PAPERS[s.rule]
        if s.rule in PAPER_RATES:
            lr = PAPER_RATES[s.rule](lr, self.t, self.hyper)
        if RULES[s.rule].moves:
            move = paper(g, self.t, self.state, lr=lr, **self.hyper)
        else:
            move = lr * paper(g, self.t, self.state, **self.hyper)
        return move + lr * Decimal(s.decay) * self.p


def paper_step(papers: Sequence[Paper], xs: Sequence[float]) -> None:
    """One update of the numbers of one tensor."""

    def length(numbers: Iterable[Decimal]) -> Decimal:
        return sum((x * x for x in numbers), Decimal(0)).sqrt()

    s = papers[0].settings
    trusts, lr, ratio = RULES[s.rule].trusts, Decimal(s.lr), Decimal(1)
    with localcontext(PAPER):
        param = length(paper.p for paper in papers)
        gradient = length(Decimal(s.rescale) * Decimal(float(x)) for x in xs)
        if trusts == "gradient" and (s.always_adapt or s.l2 > 0) and param and gradient:
            hyper = papers[0].hyper
            below = gradient + Decimal(s.l2) * param + hyper["epsilon"]
            ratio = hyper["lars_coeff"] * param / below
        moves = [paper._move(float(x), ratio) for paper, x in zip(papers, xs, strict=True)]
        if trusts == "update" and (s.always_adapt or s.decay > 0) and param and any(moves):
            moves = [lr * param / length(moves) * move for move in moves]
        for paper, move in zip(papers, moves, strict=True):
            paper.p -= move
            if mean := RULES[s.rule].mean:
                weight = PAPER_WEIGHTS[s.rule](paper.t, paper.hyper)
                paper.state[mean] += weight * (paper.p - paper.state[mean])


def ulps(found: float, exact: Decimal, T: Any, size: Decimal | None = None) -> float:
    """The error of `found` in units of the last place that T has at |size| (else at |exact|)."""
    place = np.spacing(T(abs(float(exact if size is None else size))))
    return float(abs(Decimal(float(found)) - exact) / Decimal(float(place)))
