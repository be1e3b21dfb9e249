"""Every optimizer, option, dtype, ISA, thread count, size and layout: the bits of the oracle."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import itertools
import math
import mmap
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference as ref
import roofstep
import unnamed
from roofstep import _core

ISAS = _core.isas()
DTYPES = (np.float32, np.float64)
LANES = (2, 4, 8, 16, 64)
SMALL = sorted({0, 1, 13} | {n + d for n in LANES for d in (-1, 0, 1)})
LARGE = (4095, 4096, 4097, 10007, 65537, 300007)  # the last two: chunks, and several threads
STEPS = 3


# The optimizers.


@dataclass(frozen=True)
class Optimizer:
    """A class: the values tried for each option (the default first) and what they mean."""

    options: Mapping[str, tuple[Any, ...]]
    meaning: Callable[..., Mapping[str, Any]]  # the options to those of reference.Settings
    decoupled: bool = False  # its weight_decay is not added to the gradient
    required: tuple[str, ...] = ()  # the options without a default
    without: tuple[str, ...] = ()  # what all others take and this one does not
    rounds: int = 1  # how often the gradients of a test are gone through

    def to_pass(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that are not simply their default."""
        return {o: v for o, v in options.items() if o in self.required or v != self.options[o][0]}


def _momentum(o: Mapping[str, Any], _index: int) -> dict[str, Any]:
    return {
        "rule": "Nesterov" if o["use_nesterov"] else "Momentum",
        "hyper": {"momentum": o["momentum"]},
        "rescale": o["rescale_grad"],
    }


def _adam(o: Mapping[str, Any], _index: int) -> dict[str, Any]:
    return {
        "rule": "AMSGrad" if o["amsgrad"] else "Adam",
        "hyper": {name: o[name] for name in ("beta1", "beta2", "epsilon")},
    }


def _adamw(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    decays = o["apply_decay_param_fun"] is None or o["apply_decay_param_fun"](f"p{index}")
    ratio = 1.0 if o["lr_ratio"] is None else 0.3
    return {
        **_adam(o, index),
        "decay": o["weight_decay"] if decays else 0.0,
        "lr": o["learning_rate"] * ratio,
    }


def _hyper(rule: str, *names: str) -> Callable[..., dict[str, Any]]:
    """The meaning of a class whose options are the coefficients of one rule."""
    return lambda o, _index: {"rule": rule, "hyper": {name: o[name] for name in names}}


def _lion(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {**_hyper("Lion", "beta1", "beta2")(o, index), "decay": o["weight_decay"] or 0.0}


def _adagrad(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    initial = {"moment": o["initial_accumulator_value"]}
    return {**_hyper("Adagrad", "epsilon")(o, index), "initial": initial}


def _rmsprop(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    rule = "CenteredRMSProp" if o["centered"] else "RMSProp"
    return _hyper(rule, "rho", "epsilon", "momentum")(o, index)


def _averaged_sgd(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    meaning = _hyper("AveragedSGD", "lambd", "alpha", "t0")(o, index)
    return {**meaning, "decay": o["lambd"]}


def _over_rms(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    rule = "OverDeviation" if o["centered"] else "OverRMS"
    if o["momentum"]:
        return _hyper(rule + "Momentum", "rho", "epsilon", "momentum")(o, index)
    return _hyper(rule, "rho", "epsilon")(o, index)


def _lars(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {
        **_hyper("LARS", "momentum", "lars_coeff", "epsilon")(o, index),
        "l2": o["weight_decay"] or 0.0,
        "always_adapt": o["always_adapt"],
    }


def _rprop(o: Mapping[str, Any], _index: int) -> dict[str, Any]:
    names = ("shortest", "longest", "shrink", "grow")
    values = (*o["learning_rate_range"], *o["etas"])
    return {
        "rule": "Rprop",
        "hyper": dict(zip(names, values, strict=True)),
        "initial": {"learning_rates": o["learning_rate"]},
    }


def _lamb(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    excludes = o["exclude_from_weight_decay_fn"]
    excluded = excludes is not None and excludes(roofstep.Parameter(np.zeros(1), f"p{index}"))
    return {
        **_hyper("Lamb", "beta1", "beta2", "epsilon")(o, index),
        "decay": 0.0 if excluded else o["lamb_weight_decay"],
        "always_adapt": o["always_adapt"],
    }


def _adan(o: Mapping[str, Any], index: int) -> dict[str, Any]:
    meaning = _hyper("Adan", "beta1", "beta2", "beta3", "epsilon")(o, index)
    return {**meaning, "decay": o["weight_decay"] or 0.0}


RATES = (0.001, 0.1)
BETAS = {"beta1": (0.9, 0.0), "beta2": (0.999, 0.0, 0.9), "epsilon": (1e-8, 0.0, 0.1)}
# Other values of these: test_constants_of_any_size.
FEWER_BETAS = {name: values[:2] for name, values in BETAS.items()}
# Flags about other storage than the parameter's own, and about sparse gradients: no change here.
STORAGE = {"multi_precision": (False, True), "lazy_mode": (False, True)}
EPSILONS = (1e-6, 0.0)
OPTIMIZERS = {
    "SGD": Optimizer(
        {"learning_rate": RATES, "multi_precision": (False, True)},
        lambda o, _index: {"rule": "SGD"},
    ),
    "Momentum": Optimizer(
        {
            "learning_rate": RATES,
            "momentum": (0.9, 0.0, 1.0),
            "use_nesterov": (False, True),
            "rescale_grad": (1.0, 1 / 3),
            "multi_precision": (False, True),
            "use_multi_tensor": (False, True),
        },
        _momentum,
    ),
    "Adam": Optimizer(
        {
            "learning_rate": RATES,
            **BETAS,
            **STORAGE,
            "amsgrad": (False, True),
            "use_multi_tensor": (False, True),
        },
        _adam,
    ),
    "AdamW": Optimizer(
        {
            "learning_rate": RATES,
            **BETAS,
            **STORAGE,
            "weight_decay": (0.01, 0.0, -0.2),
            "amsgrad": (False, True),
            "use_lowprecision_moment": (False,),
            "lr_ratio": (None, lambda parameter: 0.3),
            "apply_decay_param_fun": (None, lambda name: name[-1] in "02468"),
        },
        _adamw,
        decoupled=True,
    ),
    "Lion": Optimizer(
        {
            "learning_rate": (0.0001, 0.1),
            "beta1": (0.9, 0.0),
            "beta2": (0.99, 0.0),
            "weight_decay": (None, 0.3, -0.2),
        },
        _lion,
        decoupled=True,
    ),
    "Adagrad": Optimizer(
        {
            "learning_rate": RATES,
            "epsilon": EPSILONS,
            "initial_accumulator_value": (0.0, 0.1),
        },
        _adagrad,
        required=("learning_rate",),
    ),
    "Adadelta": Optimizer(
        {"learning_rate": RATES, "epsilon": EPSILONS, "rho": (0.95, 0.0)},
        _hyper("Adadelta", "rho", "epsilon"),
    ),
    "RMSProp": Optimizer(
        {
            "learning_rate": RATES,
            "rho": (0.95, 0.0),
            "epsilon": EPSILONS,
            "momentum": (0.0, 0.9),
            "centered": (False, True),
        },
        _rmsprop,
        required=("learning_rate",),
    ),
    "Adamax": Optimizer(
        {"learning_rate": RATES, **FEWER_BETAS}, _hyper("Adamax", "beta1", "beta2", "epsilon")
    ),
    # Its other form begins with update 6, which is the last one of two rounds. Repeated, the
    # gradients make no element NaN that was not.
    "RAdam": Optimizer(
        {"learning_rate": RATES, **FEWER_BETAS},
        _hyper("RAdam", "beta1", "beta2", "epsilon"),
        rounds=2,
    ),
    "NAdam": Optimizer(
        {
            "learning_rate": (0.002, 0.1),
            **FEWER_BETAS,
            "momentum_decay": (0.004, 0.0, 0.9),
        },
        _hyper("NAdam", "beta1", "beta2", "epsilon", "momentum_decay"),
    ),
    # Its weight_decay is coupled, but not None by default: the one of the tests comes by the
    # parameter, and wins.
    "LARS": Optimizer(
        {
            "learning_rate": RATES,
            "momentum": (0.9, 0.0),
            "lars_coeff": (0.001, 0.3),
            "epsilon": (0.0, 0.1),
            "weight_decay": (0.0005, None, 0.2),
            "always_adapt": (False, True),
        },
        _lars,
        decoupled=True,
    ),
    "ASGD": Optimizer(
        {"learning_rate": RATES, "batch_num": (1, 2, 5), "multi_precision": (False, True)},
        _hyper("ASGD", "batch_num"),
        rounds=2,
    ),
    "Rprop": Optimizer(
        {
            "learning_rate": RATES,
            "learning_rate_range": ((1e-5, 50), (1e-3, 0.1)),
            "etas": ((0.5, 1.2), (0.3, 30.0)),
            "multi_precision": (False, True),
        },
        _rprop,
        decoupled=True,
        without=("weight_decay",),
        rounds=2,
    ),
    "Lamb": Optimizer(
        {
            "learning_rate": RATES,
            "lamb_weight_decay": (0.01, 0.0, 0.3),
            "beta1": (0.9, 0.0),
            "beta2": (0.999, 0.0),
            "epsilon": (1e-6, 0.0),
            "exclude_from_weight_decay_fn": (None, lambda parameter: parameter.name[-1] in "02468"),
            "multi_precision": (False, True),
            "always_adapt": (False, True),
        },
        _lamb,
        decoupled=True,
        without=("weight_decay",),
    ),
    "Adan": Optimizer(
        {
            "learning_rate": RATES,
            "beta1": (0.98, 0.0),
            "beta2": (0.92, 0.0),
            "beta3": (0.99, 0.0),
            "epsilon": (1e-8, 0.1),
            "weight_decay": (None, 0.3, -0.2),
        },
        _adan,
        decoupled=True,
    ),
    # Rules that no public class has: see unnamed.py.
    "DampenedMomentum": Optimizer(
        {"learning_rate": RATES, "momentum": (0.9, 1.0), "dampening": (0.1, 0.0, 0.9)},
        _hyper("DampenedMomentum", "momentum", "dampening"),
        without=("name", "skip_nonfinite"),
    ),
    "AveragedSGD": Optimizer(
        {
            "learning_rate": RATES,
            "lambd": (1e-4, 0.0, 3.0),
            "alpha": (0.75, 0.0, 1 / 3, 2.1),
            "t0": (2.0, 0.0, 1e6, 1.3),
        },
        _averaged_sgd,
        without=("name", "skip_nonfinite"),
        rounds=2,
    ),
    "SlowingAdagrad": Optimizer(
        {"learning_rate": RATES, "epsilon": EPSILONS, "lr_decay": (0.1, 0.0, 3.0)},
        _hyper("SlowingAdagrad", "epsilon", "lr_decay"),
        without=("name", "skip_nonfinite"),
    ),
    "OverRMS": Optimizer(
        {
            "learning_rate": RATES,
            "rho": (0.95, 0.0),
            "epsilon": EPSILONS,
            "momentum": (0.0, 0.9),
            "centered": (False, True),
        },
        _over_rms,
        without=("name", "skip_nonfinite"),
    ),
    "PaddedAdamax": Optimizer(
        {"learning_rate": RATES, **FEWER_BETAS},
        _hyper("PaddedAdamax", "beta1", "beta2", "epsilon"),
    ),
}
# Given by the tests themselves, in every way; `name` is about keys, not about numbers, and
# `skip_nonfinite` has a file of tests of its own.
GIVEN = {"parameters": None, "weight_decay": None, "grad_clip": None, "name": None}
GIVEN |= {"skip_nonfinite": False}
COUPLED = {"none": None, "L2": roofstep.L2Decay(0.03), "L1": roofstep.L1Decay(0.02)}
CLIPS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "none": (lambda: None, lambda: None),
    "value": (lambda: roofstep.ClipGradByValue(0.5, -0.25), lambda: ref.Value(-0.25, 0.5)),
    "norm": (lambda: roofstep.ClipGradByNorm(0.75), lambda: ref.Norm(0.75)),
    "global": (lambda: roofstep.ClipGradByGlobalNorm(1.5), lambda: ref.GlobalNorm(1.5)),
}


# What has no rule in csrc/ to be held to the oracle has a file of tests of its own.
WITHOUT_RULE = {roofstep.Optimizer, roofstep.LBFGS}


def public_optimizers() -> dict[str, type]:
    return {
        name: found
        for name, found in vars(roofstep).items()
        if isinstance(found, type)
        and issubclass(found, roofstep.Optimizer)
        and found not in WITHOUT_RULE
        and not name.startswith("_")
    }


CLASSES = {**public_optimizers(), **unnamed.CLASSES}


def test_every_public_optimizer_is_in_the_table() -> None:
    assert set(CLASSES) == set(OPTIMIZERS)
    assert not set(public_optimizers()) & set(unnamed.CLASSES)
    assert len(_core.rules()) == len(ref.RULES)
    assert {case.settings(1)[0].rule for case in RICH} == set(ref.RULES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_and_default_is_in_the_table(name: str) -> None:
    signature = inspect.signature(CLASSES[name]).parameters
    options = {option: values[0] for option, values in OPTIMIZERS[name].options.items()}
    options.update(dict.fromkeys(OPTIMIZERS[name].required, inspect.Parameter.empty))
    defaults = {option: p.default for option, p in signature.items()}
    assert defaults == {k: v for k, v in (GIVEN | options).items() if k in signature}
    assert {*GIVEN, *options} - {*signature} == {*OPTIMIZERS[name].without}


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n, entry in OPTIMIZERS.items() for o, v in entry.options.items() if len(v) == 1],
)
def test_an_option_without_a_second_value_here_is_refused(name: str, option: str) -> None:
    """So that none can be accepted, dropped, and go untested."""
    parameter = roofstep.Parameter(np.zeros(1))
    with pytest.raises(ValueError, match=option):
        CLASSES[name](parameters=[parameter], **{option: True})


def pairwise(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Few rows in which every two values of different axes meet; the first has all firsts."""
    sizes = {axis: range(len(values)) for axis, values in axes.items()}
    todo = {
        frozenset(pair)
        for a, b in itertools.combinations(sizes, 2)
        for pair in itertools.product(((a, i) for i in sizes[a]), ((b, j) for j in sizes[b]))
    }
    rows = [dict.fromkeys(sizes, 0)]
    while True:
        todo -= {frozenset(pair) for pair in itertools.combinations(rows[-1].items(), 2)}
        if not todo:
            break
        row = dict(min(todo, key=sorted))
        for axis in sizes:
            if axis not in row:
                row[axis] = max(
                    sizes[axis],
                    key=lambda i: sum(frozenset(((axis, i), one)) in todo for one in row.items()),
                )
        rows.append(row)
    return [{axis: axes[axis][i] for axis, i in row.items()} for row in rows]


Gradients = Sequence[Sequence["np.ndarray | None"]]  # of each step, of each parameter
VARIANTS = [(name, o) for name, entry in OPTIMIZERS.items() for o in pairwise(entry.options)]


@dataclass(frozen=True)
class Case:
    """One way to make an optimizer, in the package and in the oracle."""

    name: str
    options: Mapping[str, Any]
    coupled: str = "none"
    clip: str = "none"
    average: float | None = None

    def parameters(self, arrays: Sequence[np.ndarray]) -> list[roofstep.Parameter]:
        # Where weight_decay is the decoupled one, coupled decay comes by the parameter.
        regularizer = COUPLED[self.coupled] if OPTIMIZERS[self.name].decoupled else None
        attr = roofstep.ParamAttr(regularizer=regularizer)
        return [roofstep.Parameter(a, name=f"p{i}", attr=attr) for i, a in enumerate(arrays)]

    def optimizer(
        self, parameters: Sequence[roofstep.Parameter], clip: Any = ...
    ) -> roofstep.Optimizer:
        entry = OPTIMIZERS[self.name]
        options = entry.to_pass(self.options)
        if not entry.decoupled:
            options["weight_decay"] = COUPLED[self.coupled]
        clip = CLIPS[self.clip][0]() if clip is ... else clip
        made = CLASSES[self.name](parameters=parameters, grad_clip=clip, **options)
        if self.average is not None:
            made.average_weights(self.average)
        return made

    def settings(self, count: int) -> list[ref.Settings]:
        clip = CLIPS[self.clip][1]()
        common = {
            "lr": self.options["learning_rate"],
            "clip": clip,
            "average": self.average,
        }
        coupled = {"none": {}, "L2": {"l2": 0.03}, "L1": {"l2": 0.0, "l1": 0.02}}[self.coupled]
        meaning = OPTIMIZERS[self.name].meaning
        return [
            ref.Settings(**{**common, **meaning(self.options, i), **coupled}) for i in range(count)
        ]

    def rounds(self, gradients: Gradients) -> Gradients:
        """The gradients of as many steps as it takes to see all that the class does."""
        return [*gradients] * OPTIMIZERS[self.name].rounds

    def __str__(self) -> str:
        defaults = OPTIMIZERS[self.name].options
        changed = [f"{o}={v}" for o, v in self.options.items() if v != defaults[o][0]]
        return f"{self.name}({', '.join(changed)}) coupled={self.coupled} clip={self.clip}"


def default_case(name: str, **changes: Any) -> Case:
    return Case(name, {o: v[0] for o, v in OPTIMIZERS[name].options.items()}, **changes)


# One representative of every rule, with all that can be switched on.
RICH = [
    Case("SGD", {"learning_rate": 0.1, "multi_precision": False}, "L1", "value"),
    *(
        replace(
            default_case(name, coupled="L2"),
            options={**default_case(name).options, "learning_rate": 0.1, **changes},
        )
        for name, changes in (
            ("Momentum", {}),
            ("Momentum", {"use_nesterov": True}),
            ("Adam", {}),
            ("AdamW", {"amsgrad": True}),
            ("Lion", {"weight_decay": 0.3}),
            ("Adagrad", {}),
            ("Adadelta", {}),
            ("RMSProp", {"momentum": 0.9}),
            ("RMSProp", {"momentum": 0.9, "centered": True}),
            ("Adamax", {}),
            ("RAdam", {}),
            ("NAdam", {}),
            ("LARS", {"lars_coeff": 0.3}),
            ("ASGD", {"batch_num": 2}),
            ("Rprop", {}),
            ("Lamb", {}),
            ("Adan", {"weight_decay": 0.3}),
            ("DampenedMomentum", {}),
            ("AveragedSGD", {"lambd": 0.3, "t0": 1.0}),
            ("SlowingAdagrad", {}),
            ("OverRMS", {}),
            ("OverRMS", {"centered": True}),
            ("OverRMS", {"momentum": 0.9}),
            ("OverRMS", {"momentum": 0.9, "centered": True}),
            ("PaddedAdamax", {}),
        )
    ),
    # The mean of the weights beside a rule of the fewest states and one of the most.
    *(default_case(name, average=0.75) for name in ("SGD", "Adan", "Lamb")),
]


# Numbers.


def ordinary(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    """Numbers of usual sizes, some of them nothing."""
    x = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3, n)
    return np.where(rng.random(n) < 0.05, -0.0, x).astype(dtype)


def wild(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    """Random bit patterns, and every number that is special."""
    info = np.finfo(dtype)
    special = [0.0, 1.0, np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal]
    special += [info.tiny * 0.75, np.sqrt(info.max), np.sqrt(info.tiny), 0.25, 0.5]
    word = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    bits = rng.integers(0, np.iinfo(word).max, n, word, endpoint=True).view(dtype)
    chosen = rng.choice(np.array(special, dtype), n) * rng.choice(np.array([1, -1], dtype), n)
    return np.where(rng.random(n) < 0.5, bits, chosen)


def extreme(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    """The same, but finite, so that a norm does not swallow all of it."""
    x = wild(rng, n, dtype)
    return np.where(np.isfinite(x), x, np.array(3.0, dtype))


def numbers(clip: str, hard: bool) -> Callable[..., np.ndarray]:
    return (extreme if clip in ("norm", "global") else wild) if hard else ordinary


def same_bits(a: Any, b: Any) -> bool:
    """Equal in every bit; NaN equals NaN."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    word = {4: np.uint32, 8: np.uint64}[a.itemsize]
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return bool(np.all((a.view(word) == b.view(word)) | (np.isnan(a) & np.isnan(b))))


def check(optimizer: roofstep.Optimizer, arrays: Any, oracle: ref.Reference) -> None:
    """The arrays, states and counts are the oracle's, and no state is kept that it has not."""
    saved = {k: v for k, v in optimizer.state_dict().items() if isinstance(v, np.ndarray)}
    expected = set()
    for i, (found, p) in enumerate(zip(arrays, oracle.params, strict=True)):
        steps = oracle.steps[i]
        assert same_bits(found, p), f"parameter {i}, shape {p.shape}, after {steps} updates"
        if steps:
            for name, state in oracle.states[i].items():
                key = f"p{i}_{name}_0"
                assert same_bits(saved[key], state), f"{key}, shape {p.shape}, after {steps}"
                expected.add(key)
            expected.add(f"p{i}_step_0")
            rule = oracle.settings[i].rule
            if number := ref.RULES[rule].number:
                carried = ref.RULES[rule].carried(oracle.settings[i], steps)
                assert saved[f"p{i}_{number}_0"] == carried
                expected.add(f"p{i}_{number}_0")
            assert np.asarray(saved[f"p{i}_step_0"]).item() == steps
    assert {key for key in saved if oracle.steps[int(key[1:].split("_")[0])]} == expected


ONE_PLACE = ((ISAS[0], 1),)
EVERY_ISA = tuple((isa, 1 + i % 3) for i, isa in enumerate(ISAS))


def run(
    case: Case,
    arrays: Sequence[np.ndarray],
    gradients: Gradients,
    places: Sequence[tuple[str, int]] = ONE_PLACE,
) -> None:
    """Steps the oracle once, and the package in every place: an ISA and a count of threads."""
    oracle = ref.Reference(arrays, case.settings(len(arrays)))
    gradients = case.rounds(gradients)
    for grads in gradients:
        oracle.step(grads)
    for isa, threads in places:
        _core.set_isa(isa)
        roofstep.set_num_threads(threads)
        mine = [a.copy(order="K") for a in arrays]
        parameters = case.parameters(mine)
        optimizer = case.optimizer(parameters)
        for grads in gradients:
            for p, g in zip(parameters, grads, strict=True):
                p.grad = g
            optimizer.step()
        try:
            check(optimizer, mine, oracle)
        except AssertionError as error:
            raise AssertionError(f"{case} on {isa}, {threads} threads: {error}") from error


def draw(
    rng: np.random.Generator, sizes: Sequence[int], dtype: Any, make: Callable[..., np.ndarray]
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters of these sizes, and their gradients for some steps."""
    arrays, *gradients = ([make(rng, n, dtype) for n in sizes] for _ in range(1 + STEPS))
    return arrays, gradients


# The product of everything.


def test_every_isa_of_this_cpu_can_be_forced() -> None:
    for isa in ISAS:
        _core.set_isa(isa)
        assert _core.isa() == isa


@cache
def draw_small(dtype: Any, make: Callable[..., np.ndarray]) -> Any:
    """The same for all cases, as drawing takes longer than stepping; no case writes to them."""
    return draw(np.random.default_rng(make is not ordinary), SMALL, dtype, make)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("coupled", COUPLED)
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_small(name: str, options: Any, coupled: str, clip: str, dtype: Any) -> None:
    """All options and all ISAs, at each size around the widths of their vectors."""
    case = Case(name, options, coupled, clip)
    for hard in (False, True):
        run(case, *draw_small(dtype, numbers(clip, hard)), EVERY_ISA)


@pytest.mark.parametrize(
    "row",
    pairwise(
        {
            "size": LARGE,
            "variant": VARIANTS,
            "clip": tuple(CLIPS),
            "isa": ISAS,
            "threads": (1, 2, 3),
            "coupled": tuple(COUPLED),
            "dtype": DTYPES,
            "hard": (False, True),
        }
    ),
    ids=lambda row: f"{row['variant'][0]}-{row['size']}-{row['isa']}-{row['threads']}",
)
def test_large(row: dict[str, Any]) -> None:
    """Sizes around a block, and beyond the one from which several threads share the work."""
    case = Case(*row["variant"], row["coupled"], row["clip"])
    rng = np.random.default_rng(row["size"])
    make = numbers(row["clip"], row["hard"])
    run(case, *draw(rng, [row["size"]], row["dtype"], make), [(row["isa"], row["threads"])])


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_in_one_optimizer(case: Case, dtype: Any) -> None:
    """Work of all sizes at once, shared by threads, with one norm over all of it."""
    rng = np.random.default_rng(4)
    sizes = [*SMALL, *LARGE, 1, 65536, 0, 3]
    places = [(isa, threads) for isa in ISAS for threads in (1, 2, 3)]
    run(replace(case, clip="global"), *draw(rng, sizes, dtype, ordinary), places)


# A trust ratio is one of a whole tensor.
ELEMENTWISE = [case for case in RICH if not ref.RULES[case.settings(1)[0].rule].trusts]


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuts(case: Case, dtype: Any) -> None:
    """One parameter, or pieces of it at any address: the same bits."""
    rng = np.random.default_rng(5)
    for size in (1000, 10007, 140001):
        (array,), gradients = draw(rng, [size], dtype, wild)
        gradients = case.rounds(gradients)
        oracle = ref.Reference([array], case.settings(1))
        for (g,) in gradients:
            oracle.step([g])
        ends = [0, *np.sort(rng.integers(0, size, 9)).tolist(), size]
        pieces = [slice(a, b) for a, b in itertools.pairwise(ends)]
        for isa, threads in EVERY_ISA:
            _core.set_isa(isa)
            roofstep.set_num_threads(threads)
            mine = array.copy()
            parameters = case.parameters([mine[piece] for piece in pieces])
            optimizer = case.optimizer(parameters)
            for (g,) in gradients:
                for p, piece in zip(parameters, pieces, strict=True):
                    p.grad = g[piece]
                optimizer.step()
            assert same_bits(mine, oracle.params[0]), (isa, threads, size)
            saved = optimizer.state_dict()
            for name, state in oracle.states[0].items():
                parts = [saved[f"p{i}_{name}_0"] for i in range(len(pieces))]
                found = np.concatenate(parts, axis=-1)
                assert same_bits(found, state), (isa, threads, size, name)


# Steps.


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("clip", CLIPS)
def test_each_parameter_counts_its_own_updates(case: Case, clip: str) -> None:
    """A parameter without a gradient is left alone: no decay, no state, no count, no norm."""
    rng = np.random.default_rng(6)
    sizes = (5, 70, 0, 4100, 1)
    arrays = [ordinary(rng, n, np.float32) for n in sizes]
    gradients = [
        [None if (step >> i) % 2 else ordinary(rng, n, np.float32) for i, n in enumerate(sizes)]
        for step in (1, 3, 6, 0, 31, 29, 2, 0)
    ]
    run(replace(case, clip=clip), arrays, gradients, EVERY_ISA)


POWERS = [
    (0.9, 0.999),
    (0.95, 0.99999),
    (0.0, 0.0),
    (0.5, 0.75),
    (1e-300, 0.1),
    (1 - 2.0**-53, 1 - 2.0**-53),
    (0.123456789, 0.987654321),
    (1 / 3, 1 - 1e-9),
    # The largest beta2 with which RAdam keeps its first form for ever, and the next one.
    (0.9, 2 / 3),
    (0.9, math.nextafter(2 / 3, 1)),
]
TIMES = sorted({*range(1, 65), *(2**k + d for k in range(6, 41) for d in (-1, 0, 1)), 10**6})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "beta1", "beta2"),
    [
        (name, *betas)
        for name in ("Adam", "Adamax", "RAdam")
        for betas in POWERS
        if name != "RAdam" or betas[1] < 1 - 2.0**-50  # see test_constants_of_any_size
    ],
)
def test_powers(name: str, beta1: float, beta2: float, dtype: Any) -> None:
    """b**t in the bias corrections is right for every t, before its one rounding."""
    rng = np.random.default_rng(15)
    case = Case(name, {**default_case(name).options, "beta1": beta1, "beta2": beta2})
    n = 8
    arrays = [np.zeros(n, dtype) for _ in TIMES]
    oracle = ref.Reference(arrays, case.settings(len(TIMES)))
    parameters = case.parameters(arrays)
    optimizer = case.optimizer(parameters)
    gradients = [ordinary(rng, n, dtype) for _ in TIMES]
    gradients[0][0] = 0  # no second moment here: epsilon alone is below the line
    for i, (p, x) in enumerate(zip(parameters, gradients, strict=True)):
        p.grad = np.zeros(n, dtype)
        first, second = oracle.states[i].values()
        first[...] = rng.uniform(1, 2, n)
        second[n // 2 :] = rng.uniform(0, 1e-12, n - n // 2)
        x[: n // 2] = 0
    optimizer.step()  # so that there is a state to be replaced
    saved = optimizer.state_dict()
    for i, t in enumerate(TIMES):
        oracle.steps[i] = t - 1
        saved[f"p{i}_step_0"] = np.full_like(saved[f"p{i}_step_0"], t - 1)
        for key, state in oracle.states[i].items():
            saved[f"p{i}_{key}_0"] = state.copy()
        arrays[i][...] = 0
    optimizer.set_state_dict(saved)
    for p, x in zip(parameters, gradients, strict=True):
        p.grad = x
    optimizer.step()
    oracle.step(gradients)
    check(optimizer, arrays, oracle)


def test_a_new_rate_holds_from_the_next_step() -> None:
    rng = np.random.default_rng(7)
    array, x = ordinary(rng, 70, np.float32), ordinary(rng, 70, np.float32)
    case = default_case("Adam")
    oracle = ref.Reference([array], case.settings(1))
    parameters = case.parameters([array])
    optimizer = case.optimizer(parameters)
    parameters[0].grad = x
    for rate in (0.001, 0.3, 1 / 3):
        optimizer.set_lr(rate)
        optimizer.step()
        oracle.settings = [replace(oracle.settings[0], lr=rate)]
        oracle.step([x])
        check(optimizer, [array], oracle)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_chosen_for_one_parameter(dtype: Any) -> None:
    """Attributes of a parameter: its rate, its decay instead of the common one, no clipping."""
    rng = np.random.default_rng(8)
    clip, common = ref.GlobalNorm(1.5), {"learning_rate": 0.1, "weight_decay": 0.03}
    plain = ref.Settings("Momentum", {"momentum": 0.9}, lr=0.1, l2=0.03, clip=clip)
    chosen = [
        ({}, plain),
        ({"learning_rate": 0.3}, replace(plain, lr=0.1 * 0.3)),
        ({"learning_rate": 0.0}, replace(plain, lr=0.0)),
        ({"regularizer": roofstep.L1Decay(0.02)}, replace(plain, l2=0.0, l1=0.02)),
        ({"regularizer": roofstep.L2Decay(0.5)}, replace(plain, l2=0.5)),
        ({"regularizer": roofstep.L2Decay(0.0)}, replace(plain, l2=0.0)),
        ({"need_clip": False}, replace(plain, clip=None)),
        ({"trainable": False}, plain),
    ]
    arrays, gradients = draw(rng, [70] * len(chosen), dtype, ordinary)
    oracle = ref.Reference(arrays, [s for _, s in chosen])
    parameters = [
        roofstep.Parameter(a, name=f"p{i}", attr=roofstep.ParamAttr(**attr))
        for i, (a, (attr, _)) in enumerate(zip(arrays, chosen, strict=True))
    ]
    optimizer = roofstep.Momentum(
        parameters=parameters, grad_clip=roofstep.ClipGradByGlobalNorm(1.5), **common
    )
    for grads in gradients:
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g
        optimizer.step()
        oracle.step([*grads[:-1], None])  # the last one cannot be trained
    check(optimizer, arrays, oracle)


def test_what_is_chosen_for_a_group() -> None:
    """A group's own rate, decay, clipping and coefficients, beside those of the optimizer."""
    rng = np.random.default_rng(9)
    clip = ref.GlobalNorm(1.5)
    betas = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    plain = ref.Settings("Adam", betas, lr=0.1, l2=0.03, clip=clip)
    chosen = [
        ({}, plain),
        ({"learning_rate": 0.3}, replace(plain, lr=0.1 * 0.3)),
        ({"weight_decay": roofstep.L1Decay(0.02)}, replace(plain, l2=0.0, l1=0.02)),
        ({"weight_decay": 0.5}, replace(plain, l2=0.5)),
        ({"weight_decay": None}, replace(plain, l2=0.0)),
        ({"grad_clip": None}, replace(plain, clip=None)),
        ({"grad_clip": roofstep.ClipGradByNorm(0.5)}, replace(plain, clip=ref.Norm(0.5))),
        (
            {"beta1": 0.5, "beta2": 0.75},
            replace(plain, hyper={**betas, "beta1": 0.5, "beta2": 0.75}),
        ),
    ]
    arrays, gradients = draw(rng, [70] * len(chosen), np.float32, ordinary)
    oracle = ref.Reference(arrays, [s for _, s in chosen])
    parameters = [roofstep.Parameter(a, name=f"p{i}") for i, a in enumerate(arrays)]
    optimizer = roofstep.Adam(
        learning_rate=0.1,
        weight_decay=0.03,
        grad_clip=roofstep.ClipGradByGlobalNorm(1.5),
        parameters=[
            {"params": [p], **group} for p, (group, _) in zip(parameters, chosen, strict=True)
        ],
    )
    for grads in gradients:
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g
        optimizer.step()
        oracle.step(grads)
    check(optimizer, arrays, oracle)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name, found in CLASSES.items()
        for line in re.findall(r"groups may also set ([\w, ]+)\.", found.__doc__ or "")
        for option in line.split(", ")
    ],
)
def test_every_option_that_a_group_may_set(name: str, option: str) -> None:
    """It holds for that group, and for no other."""
    rng = np.random.default_rng(18)
    one = default_case(name)
    value = OPTIMIZERS[name].options[option][1]
    other = replace(one, options={**one.options, option: value})
    arrays, gradients = draw(rng, [70, 70], np.float32, ordinary)
    oracle = ref.Reference(arrays, [one.settings(1)[0], other.settings(1)[0]])
    first, second = one.parameters(arrays)
    optimizer = CLASSES[name](
        parameters=[{"params": [first]}, {"params": [second], option: value}],
        **OPTIMIZERS[name].to_pass(one.options),
    )
    for grads in one.rounds(gradients):
        first.grad, second.grad = grads
        optimizer.step()
        oracle.step(grads)
    check(optimizer, arrays, oracle)


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("coupled", [{"l1": 0.02}, {"l2": 0.03}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rule_can_decay_apart(case: Case, coupled: dict[str, float], dtype: Any) -> None:
    """No class combines every decay with every rule, but the kernels do."""
    rng = np.random.default_rng(19)
    arrays, gradients = draw(rng, SMALL, dtype, wild)
    decays = {"l1": 0.0, "l2": 0.0, **coupled, "decay": 0.3}
    oracle = ref.Reference(arrays, [replace(s, **decays) for s in case.settings(len(arrays))])
    for grads in case.rounds(gradients):
        oracle.step(grads)
    for isa in ISAS:
        _core.set_isa(isa)
        mine = [a.copy() for a in arrays]
        parameters = case.parameters(mine)
        optimizer = case.optimizer(parameters)
        optimizer._decays = lambda *_: tuple(decays.values())
        for grads in case.rounds(gradients):
            for p, g in zip(parameters, grads, strict=True):
                p.grad = g
            optimizer.step()
        check(optimizer, mine, oracle)


# 3.4028235e38 still rounds to the largest float32, 3.4028236e38 no more.
CONSTANTS = (0.0, 5e-324, 1e-310, 7e-46, 1e-40, 1e-20, 1 / 3, 3.0, 1e20, 3.4028235e38, 3.4028236e38)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("SGD", "learning_rate"),
        ("Momentum", "momentum"),
        ("Momentum", "rescale_grad"),
        ("Adam", "beta1"),
        ("Adam", "beta2"),
        ("Adam", "epsilon"),
        ("AdamW", "weight_decay"),
        ("Lion", "beta1"),
        ("Lion", "beta2"),
        ("Lion", "weight_decay"),
        ("Adagrad", "epsilon"),
        ("Adagrad", "initial_accumulator_value"),
        ("Adadelta", "rho"),
        ("Adadelta", "epsilon"),
        ("RMSProp", "learning_rate"),
        ("RMSProp", "rho"),
        ("RMSProp", "epsilon"),
        ("RMSProp", "momentum"),
        ("Adamax", "beta1"),
        ("Adamax", "beta2"),
        ("Adamax", "epsilon"),
        ("RAdam", "beta1"),
        ("RAdam", "beta2"),
        ("RAdam", "epsilon"),
        ("NAdam", "beta1"),
        ("NAdam", "beta2"),
        ("NAdam", "epsilon"),
    ],
)
def test_constants_of_any_size(name: str, option: str, constant: float, dtype: Any) -> None:
    """Rounded once, to 0, a denormal or the largest number if need be; refused if to infinity."""
    if option.startswith(("beta", "rho")):
        # In two doubles 1 - b**t is exact enough but for b within 2**-50 of 1, where a tie may
        # round the other way; there the difference of large numbers in RAdam shows it.
        constant = min(constant, 1 - 2.0 ** (-40 if name == "RAdam" else -53))
    if option == "rescale_grad":
        constant = constant or 0.7
    rng = np.random.default_rng(16)
    options = {**default_case(name).options, option: constant}
    for clip in ("none", "value"):
        case = Case(name, options, clip=clip)
        arrays, gradients = draw(rng, [70], dtype, wild)
        if constant <= 3.4028235e38 or dtype == np.float64:
            run(case, arrays, gradients, EVERY_ISA)
            continue
        mine = [arrays[0].copy()]
        parameters = case.parameters(mine)
        parameters[0].grad = gradients[0][0]
        optimizer = case.optimizer(parameters)
        named = "moment" if option.startswith("initial") else option
        with pytest.raises(ValueError, match=f"{named}.*float32"):
            optimizer.step()
        assert same_bits(mine[0], arrays[0])


# Layouts.

SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from([(70, 61), (5, 1, 900), (4100,), (3, 37, 41)]),
)


@dataclass(frozen=True)
class Layout:
    """An order of the axes in memory and, along each of them, the distance of neighbours."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    steps: tuple[int, ...]

    def extents(self) -> list[int]:
        return [n * abs(s) if s else 1 for n, s in zip(self.shape, self.steps, strict=True)]

    def view(self, memory: np.ndarray) -> np.ndarray:
        """The array laid out so in `memory`, which may hold more than its elements."""
        extents = self.extents()
        base = memory.reshape([extents[a] for a in self.order]).transpose(np.argsort(self.order))
        view = base[tuple(slice(None, None, s or 1) for s in self.steps)]
        # Not broadcast_to, whose result may not be written and so could not be zeroed.
        strides = [stride if s else 0 for stride, s in zip(view.strides, self.steps, strict=True)]
        return np.lib.stride_tricks.as_strided(view, self.shape, strides)

    def array(self, rng: np.random.Generator, dtype: Any, make: Any) -> np.ndarray:
        return self.view(make(rng, math.prod(self.extents()), dtype))

    def dense(self) -> Layout:
        return Layout(self.shape, tuple(range(len(self.shape))), (1,) * len(self.shape))


@st.composite
def layouts(draw: Any) -> tuple[Layout, Layout]:
    """Of a dense parameter, and of its gradient, which may lie in memory in any way."""
    shape = draw(SHAPES)
    dense, free = (tuple(draw(st.permutations(range(len(shape))))) for _ in range(2))
    steps = draw(st.tuples(*(st.integers(-2, 3) for _ in shape)))
    return Layout(shape, dense, (1,) * len(shape)), Layout(shape, free, steps)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    st.lists(layouts(), min_size=1, max_size=3), st.sampled_from(RICH), st.sampled_from(list(CLIPS))
)
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
def test_layouts(dtype: Any, pairs: Any, case: Case, clip: str) -> None:
    rng = np.random.default_rng(10)
    arrays = [p.array(rng, dtype, ordinary) for p, _ in pairs]
    gradients = [[g.array(rng, dtype, ordinary) for _, g in pairs] for _ in range(2)]
    run(replace(case, clip=clip), arrays, gradients, EVERY_ISA)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_layouts(threads: int) -> None:
    """The same where several threads each read a part of a gradient of another layout."""
    rng = np.random.default_rng(11)
    shape = (7, 151, 283)
    pairs = [
        (Layout(shape, (2, 0, 1), (1, 1, 1)), Layout(shape, (0, 1, 2), (1, 1, 1))),
        (Layout(shape, (0, 1, 2), (1, 1, 1)), Layout(shape, (2, 1, 0), (-1, 2, 1))),
        (Layout(shape, (1, 2, 0), (1, 1, 1)), Layout(shape, (0, 2, 1), (0, 1, -3))),
    ]
    arrays = [p.array(rng, np.float32, ordinary) for p, _ in pairs]
    gradients = [[g.array(rng, np.float32, ordinary) for _, g in pairs] for _ in range(2)]
    for case in RICH:
        run(replace(case, clip="global"), arrays, gradients, [(ISAS[-1], threads)])


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_dimensions(case: Case, clip: str, dtype: Any) -> None:
    rng = np.random.default_rng(12)
    arrays, gradients = draw(rng, [1, 1, 1], dtype, numbers(clip, hard=True))
    scalars = [a.reshape(()) for a in arrays]
    run(
        replace(case, clip=clip),
        scalars,
        [[g.reshape(()) for g in grads] for grads in gradients],
        EVERY_ISA,
    )


# Zeroing.

ZEROED = [
    *(Layout((n,), (0,), (1,)) for n in (1, 13, 4097, 70001)),
    Layout((), (), ()),
    Layout((9000,), (0,), (-3,)),
    Layout((61, 70), (1, 0), (2, 1)),
    Layout((500, 300), (1, 0), (1, 1)),
    # A distance of 0 repeats nothing where there is but one element, or none.
    Layout((1, 300), (0, 1), (0, 1)),
    Layout((300, 1), (0, 1), (-2, 0)),
    Layout((5, 0), (0, 1), (0, 1)),
]
# Distances of 0 that would have an element read again after it has been zeroed.
REPEATED = [
    Layout((2,), (0,), (0,)),
    Layout((3000,), (0,), (0,)),
    Layout((9000,), (0,), (0,)),
    Layout((3, 70000), (0, 1), (0, 1)),
]


def check_clear_grad(case: Case, layouts: Sequence[Layout]) -> None:
    rng = np.random.default_rng(13)
    arrays = [layout.dense().array(rng, np.float32, ordinary) for layout in layouts]
    values = [[layout.array(rng, np.float32, ordinary) for layout in layouts] for _ in range(2)]
    oracle = ref.Reference(arrays, case.settings(len(arrays)))
    for grads in values:
        oracle.step(grads)
    for isa, threads in [*EVERY_ISA, (ISAS[0], 2)]:
        _core.set_isa(isa)
        roofstep.set_num_threads(threads)
        mine = [a.copy() for a in arrays]
        parameters = case.parameters(mine)
        optimizer = case.optimizer(parameters)
        for grads in values:
            memories = [np.full(math.prod(layout.extents()), 7, np.float32) for layout in layouts]
            views = [layout.view(memory) for layout, memory in zip(layouts, memories, strict=True)]
            for p, view, x in zip(parameters, views, grads, strict=True):
                view[...] = x
                p.grad = view
            optimizer.step(clear_grad=True)
            for layout, memory, view in zip(layouts, memories, views, strict=True):
                assert same_bits(view, np.zeros_like(view)), (isa, threads, layout)
                outside = np.ones(len(memory), bool)
                layout.view(outside)[...] = False
                assert np.all(memory[outside] == 7), (isa, threads, layout)
        check(optimizer, mine, oracle)


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("clip", CLIPS)
def test_clear_grad_within_the_step(case: Case, clip: str) -> None:
    """The same bits, and the gradients zero afterwards: all of them, and nothing beside them."""
    check_clear_grad(replace(case, clip=clip), ZEROED)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("layout", REPEATED, ids=lambda layout: str(layout.shape))
def test_a_gradient_that_repeats_itself_is_not_zeroed_while_it_is_read(
    layout: Layout, clip: str
) -> None:
    """It is refused before the first write, and the step without clear_grad is right."""
    rng = np.random.default_rng(17)
    case = default_case("Momentum", clip=clip)
    arrays = [a.array(rng, np.float32, ordinary) for a in (ZEROED[1], layout.dense())]
    grads = [a.array(rng, np.float32, ordinary) for a in (ZEROED[1], layout)]
    run(case, arrays, [grads], EVERY_ISA)
    mine, copies = [a.copy() for a in arrays], [g.copy() for g in grads]
    parameters = case.parameters(mine)
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    optimizer = case.optimizer(parameters)
    with pytest.raises(ValueError, match="'p1'"):
        optimizer.step(clear_grad=True)
    for before, after in zip(arrays + copies, mine + grads, strict=True):
        assert same_bits(before, after)
    # Nor has it counted: the next step is the first.
    optimizer.step()
    oracle = ref.Reference(arrays, case.settings(2))
    oracle.step(grads)
    check(optimizer, mine, oracle)


# Denormals.


class Mode:
    """The register of this thread that may hold "take denormals for zero" (x86-64: MXCSR)."""

    FLUSH = 0x8040  # results (bit 15) and operands (bit 6)

    def __init__(self) -> None:
        self.can_flush = platform.machine() == "x86_64"
        if self.can_flush:
            # stmxcsr [rdi]; ret; ldmxcsr [rdi]; ret: a few bytes, so that no compiler is needed.
            access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=access)
            self._page.write(bytes.fromhex("0fae1fc3 0fae17c3"))
            start = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
            function = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))
            self._store, self._load = function(start), function(start + 4)
            self._word = ctypes.c_uint32()

    def read(self) -> int:
        """The modes alone: the lowest six bits are flags that arithmetic raises."""
        if not self.can_flush:
            return 0
        self._store(self._word)
        return self._word.value & ~0x3F

    @contextlib.contextmanager
    def flush(self) -> Iterator[None]:
        if not self.can_flush:  # what is left of the test: denormals are kept
            yield
            return
        self._store(self._word)
        before = self._word.value
        self._word.value = before | self.FLUSH
        self._load(self._word)
        try:
            yield
        finally:
            self._word.value = before
            self._load(self._word)


MODE = Mode()


def tiny(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    """Denormals, and numbers whose products and squares are."""
    x = rng.uniform(-4, 4, n) * np.finfo(dtype).tiny
    return np.where(rng.random(n) < 0.5, x, np.copysign(np.sqrt(np.abs(x)), x)).astype(dtype)


def test_the_mode_under_test_is_real() -> None:
    """With the mode on NumPy itself loses denormals, so the next test shows something."""
    x, one = np.full(4, np.finfo(np.float32).smallest_subnormal), np.ones(4, np.float32)
    with MODE.flush():
        product = x * one
    assert product.any() != MODE.can_flush
    assert (x * one).all()


def in_a_new_thread(body: Callable[..., None], *args: Any) -> None:
    """Its helpers are made while the mode is on, and inherit it; and the mode ends with it."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(body, *args).result()


@pytest.mark.parametrize("case", RICH, ids=str)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_flush_to_zero_set_by_another_library(case: Case, clip: str, dtype: Any) -> None:
    """Denormals are kept, by the helping threads too, and the mode is as it was afterwards."""
    rng = np.random.default_rng(14)
    case = replace(case, clip=clip)
    limit = 0.1 * math.sqrt(np.finfo(dtype).tiny)
    arrays, gradients = draw(rng, [70, 1, 65536, 70001], dtype, tiny)
    clips = {
        "norm": (roofstep.ClipGradByNorm(limit), ref.Norm(limit)),
        "global": (roofstep.ClipGradByGlobalNorm(limit), ref.GlobalNorm(limit)),
    }
    mine_clip, oracle_clip = clips.get(clip, [make() for make in CLIPS[clip]])
    oracle = ref.Reference(arrays, [replace(s, clip=oracle_clip) for s in case.settings(4)])
    for grads in gradients:
        oracle.step(grads)

    def body(isa: str, threads: int) -> None:
        _core.set_isa(isa)
        roofstep.set_num_threads(threads)
        mine = [a.copy() for a in arrays]
        parameters = case.parameters(mine)
        optimizer = case.optimizer(parameters, mine_clip)
        with MODE.flush():
            before = MODE.read()
            for grads in gradients:
                for p, g in zip(parameters, grads, strict=True):
                    p.grad = g
                optimizer.step()
            after = MODE.read()
        assert before == after
        check(optimizer, mine, oracle)

    for isa, threads in [*EVERY_ISA, (ISAS[0], 2)]:
        in_a_new_thread(body, isa, threads)


def test_constants_that_are_denormal() -> None:
    """A rate below the least normal float32 is not lost either while that mode is on."""
    array, x = np.zeros(70, np.float32), np.full(70, 1e5, np.float32)
    case = replace(default_case("SGD"), options={"learning_rate": 1e-40, "multi_precision": False})
    oracle = ref.Reference([array], case.settings(1))
    oracle.step([x])
    assert oracle.params[0].all()

    def body() -> None:
        parameters = case.parameters([array])
        parameters[0].grad = x
        optimizer = case.optimizer(parameters)
        with MODE.flush():
            optimizer.step()
        check(optimizer, [array], oracle)

    in_a_new_thread(body)
