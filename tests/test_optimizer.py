"""The Optimizer in use: parameters, groups, steps, gradients, learning rates, saved states."""

from __future__ import annotations

import gc
import inspect
import io
import json
import pickle
import re
import weakref
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import roofstep as rs
from roofstep.lr import LinearWarmup, MultiStepDecay, ReduceOnPlateau, StepDecay

Make = Callable[[list[rs.Parameter]], rs.Optimizer]

# One optimizer for each rule and for what a step may do besides; the rest is test_exact.py's.
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: rs.SGD(0.125, p, weight_decay=0.5),
    "Momentum": lambda p: rs.Momentum(parameters=p),
    "Nesterov": lambda p: rs.Momentum(parameters=p, use_nesterov=True),
    "Adam": lambda p: rs.Adam(parameters=p, weight_decay=rs.L1Decay(0.5)),
    "AMSGrad": lambda p: rs.Adam(parameters=p, amsgrad=True),
    "NAdam": lambda p: rs.NAdam(parameters=p),  # keeps a number beside its states
    "AdamW": lambda p: rs.AdamW(parameters=p),
    "clipped": lambda p: rs.AdamW(parameters=p, grad_clip=rs.ClipGradByGlobalNorm(0.5)),
    "clipped by value": lambda p: rs.Adam(parameters=p, grad_clip=rs.ClipGradByValue(0.5)),
}
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def array(*shape: int, seed: int = 0, dtype: str = "f4") -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def vector(*values: float, dtype: str = "f4") -> Any:
    return np.array(values, dtype)


def one(name: str | None = None, value: float = 1.0, **attr: Any) -> rs.Parameter:
    """A parameter of one element with the gradient 1."""
    p = rs.Parameter(vector(value), name, rs.ParamAttr(**attr))
    p.grad = vector(1.0)
    return p


def several() -> list[rs.Parameter]:
    """Named parameters of several shapes, layouts and dtypes."""
    return [
        rs.Parameter(array(3, 4), "matrix"),
        rs.Parameter(np.asfortranarray(array(4, 5, seed=1)), "fortran"),
        rs.Parameter(array(2, 3, 4, seed=2).transpose(1, 2, 0), "permuted"),
        rs.Parameter(array(17, seed=3, dtype="f8"), "double"),
        rs.Parameter(np.array(0.5, "f4"), "scalar"),
        rs.Parameter(array(0, 3), "empty"),
    ]


def give_gradients(params: Iterable[rs.Parameter], seed: int) -> None:
    for i, p in enumerate(params):
        p.grad = array(*p.data.shape, seed=100 * seed + i).astype(p.data.dtype)


def bits(params: Iterable[rs.Parameter]) -> list[bytes]:
    return [p.data.tobytes() for p in params]


def train(optimizer: rs.Optimizer, *seeds: int) -> None:
    for seed in seeds:
        give_gradients(optimizer.parameters, seed)
        optimizer.step()


def arrays(saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict without settings."""
    return {k: v for k, v in saved.items() if isinstance(v, np.ndarray)}


def plain(saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict that can be compared."""
    return {k: (v.dtype, v.tolist()) if isinstance(v, np.ndarray) else v for k, v in saved.items()}


# Parameters and names.


def test_a_parameter_shares_the_memory_it_is_given() -> None:
    data = vector(1.0, 2.0)
    p = rs.Parameter(data)
    assert p.data is data
    assert p.grad is None


ROWS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "values of a dict": lambda row: dict(enumerate(row)).values(),
    "a group": lambda row: [{"params": row}],
    "groups": lambda row: ({"params": tuple(row[:1])}, {"params": iter(row[1:])}),
    "groups of one": lambda row: [{"params": rs.Parameter(x)} for x in row],
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_parameters_come_in_a_row_or_in_groups(row: Callable[[list[Any]], Any]) -> None:
    arrays = [vector(1.0), vector(2.0), vector(3.0)]
    optimizer = rs.SGD(1.0, row(arrays))
    assert [p.data for p in optimizer.parameters] == arrays
    assert all(p.data is a for p, a in zip(optimizer.parameters, arrays, strict=True))
    for p in optimizer.parameters:
        p.grad = vector(1.0)
    optimizer.step()
    assert arrays == [0, 1, 2]


NAMES: dict[str, tuple[list[Any], list[str]]] = {
    "given": ([one("a"), one("b")], ["a", "b"]),
    "of ParamAttr": ([one(), rs.Parameter(vector(1.0), attr=rs.ParamAttr("c"))], ["param_0", "c"]),
    "both": ([rs.Parameter(vector(1.0), "a", rs.ParamAttr("b"))], ["a"]),
    "by position": ([one(), one("a"), vector(1.0)], ["param_0", "a", "param_2"]),
    "across groups": (
        [{"params": [one(), one()]}, {"params": one()}], ["param_0", "param_1", "param_2"]),
    "odd": ([one("a b/c.w_0"), one("é\n'"), one("x_step_0")], ["a b/c.w_0", "é\n'", "x_step_0"]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "names"), NAMES.values(), ids=NAMES)
def test_names(given: list[Any], names: list[str]) -> None:
    for _ in range(2):  # no counter of the process is in a name
        optimizer = rs.Momentum(parameters=given)
        for p in optimizer.parameters:
            p.grad = vector(1.0)
        optimizer.step()
        assert [*arrays(optimizer.state_dict())] == [
            f"{n}_{s}_0" for n in names for s in ("velocity", "step")
        ]


SIGNATURES = {  # Paddle's order
    rs.Optimizer: "learning_rate parameters weight_decay grad_clip name",
    rs.SGD: "learning_rate parameters weight_decay grad_clip multi_precision name",
    rs.Momentum: "learning_rate momentum parameters use_nesterov weight_decay grad_clip"
    " multi_precision rescale_grad use_multi_tensor name",
    rs.Adam: "learning_rate beta1 beta2 epsilon parameters weight_decay grad_clip lazy_mode"
    " multi_precision use_multi_tensor amsgrad name",
    rs.AdamW: "learning_rate beta1 beta2 epsilon parameters weight_decay use_lowprecision_moment"
    " lr_ratio apply_decay_param_fun grad_clip lazy_mode multi_precision amsgrad name",
    rs.Parameter: "data name attr",
    rs.ParamAttr: "name learning_rate regularizer need_clip trainable",
    rs.ClipGradByValue: "max min",
    rs.ClipGradByNorm: "clip_norm",
    rs.ClipGradByGlobalNorm: "clip_norm group_name auto_skip_clip",
    rs.L1Decay: "coeff",
    rs.L2Decay: "coeff",
    rs.Optimizer.step: "self clear_grad",
    rs.Optimizer.minimize: "self loss startup_program parameters no_grad_set",
    rs.Optimizer.backward: "self loss startup_program parameters no_grad_set callbacks",
    rs.Optimizer.apply_gradients: "self params_grads",
    rs.Optimizer.clear_grad: "self set_to_zero",
    rs.Optimizer.set_lr: "self value",
    rs.Optimizer.set_lr_scheduler: "self scheduler",
    rs.Optimizer.set_state_dict: "self state_dict",
}


@pytest.mark.parametrize(("function", "names"), SIGNATURES.items())
def test_arguments_stand_in_the_order_of_paddle(function: Any, names: str) -> None:
    others = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)  # ours
    found = inspect.signature(function).parameters.values()
    assert [p.name for p in found if p.kind not in others] == names.split()


def test_positions_mean_what_their_names_say() -> None:
    p, q = one(), one()
    rs.Momentum(0.5, 0.25, [p], True, 0.5, rs.ClipGradByValue(0.5)).step()
    rs.Momentum(
        learning_rate=0.5,
        momentum=0.25,
        parameters=[q],
        use_nesterov=True,
        weight_decay=0.5,
        grad_clip=rs.ClipGradByValue(0.5),
    ).step()
    assert p.data == q.data == 1 - 0.5 * (1 + 0.25)


def test_reprs_say_what_is_set() -> None:
    optimizer = rs.AdamW(0.5, 0.75, parameters=[one("w")], name="mine")
    for part in ("AdamW(", "learning_rate=0.5", "beta1=0.75", "mine", "1 parameter"):
        assert part in repr(optimizer)
    assert repr(one("w")) == "Parameter(name='w', shape=(1,), dtype=float32)"


# Groups.

GROUPS: list[tuple[type[rs.Optimizer], dict[str, Any], dict[str, Any]]] = [
    (rs.SGD, {"weight_decay": 0.5}, {}),
    (rs.SGD, {"weight_decay": 0.5}, {"weight_decay": None}),
    (rs.SGD, {"weight_decay": 0.5}, {"weight_decay": 1}),
    (rs.SGD, {"weight_decay": rs.L1Decay(0.5)}, {"weight_decay": rs.L2Decay(0.25)}),
    (rs.SGD, {}, {"weight_decay": rs.L1Decay(0.25)}),
    (rs.SGD, {"grad_clip": rs.ClipGradByValue(0.5)}, {}),
    (rs.SGD, {"grad_clip": rs.ClipGradByValue(0.5)}, {"grad_clip": None}),
    (rs.SGD, {"grad_clip": rs.ClipGradByValue(0.5)}, {"grad_clip": rs.ClipGradByNorm(0.25)}),
    (rs.Momentum, {"weight_decay": rs.L1Decay(0.5)}, {"weight_decay": None}),
    (rs.Momentum, {"momentum": 0.5}, {"momentum": 0}),
    (rs.Momentum, {"use_nesterov": True}, {"use_nesterov": False}),
    (rs.Momentum, {}, {"use_nesterov": True, "rescale_grad": 0.5}),
    (rs.Adam, {"beta1": 0.5}, {"beta2": 0.5, "epsilon": 1}),
    (rs.Adam, {"amsgrad": True}, {"amsgrad": False, "beta1": np.float32(0.25)}),
    (rs.Adam, {}, {"amsgrad": True}),
    (rs.AdamW, {"weight_decay": 0.5}, {}),
    (rs.AdamW, {"weight_decay": 0.5}, {"weight_decay": None}),
    (rs.AdamW, {"weight_decay": None}, {"weight_decay": 0.25}),
    (rs.AdamW, {"weight_decay": 0.5}, {"weight_decay": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "group"), GROUPS)
def test_in_a_group_absent_means_the_optimizers_and_none_means_none(
    kind: type[rs.Optimizer], options: dict[str, Any], group: dict[str, Any]
) -> None:
    a, b, c, d = (rs.Parameter(array(7), n) for n in "abcd")
    together = kind(0.125, parameters=[{"params": [a]}, {"params": [b], **group}], **options)
    train(together, 1, 2, 3)
    train(kind(0.125, parameters=[c], **options), 1, 2, 3)
    apart = kind(0.125, parameters=[d], **{**options, **group})
    for seed in (1, 2, 3):
        d.grad = array(7, seed=100 * seed + 1)
        apart.step()
    assert bits([a, b]) == bits([c, d])


@pytest.mark.parametrize("steps", [0, 2])
def test_a_group_added_later_is_like_one_given_at_once(steps: int) -> None:
    """Its parameters have made no step; the others go on as if nothing had been added."""
    a, b, c, d, e = (rs.Parameter(array(5), n) for n in ("a", "b", "c", "b", "c"))
    late = {"params": [b, c], "beta1": 0.5, "learning_rate": 2}
    options = {"grad_clip": rs.ClipGradByNorm(0.5), "amsgrad": True}
    optimizer = rs.Adam(parameters=[a], **options)
    for seed in range(steps):
        a.grad = array(5, seed=seed)
        optimizer.step()
    before = a.data.copy()
    optimizer.add_param_group(late)
    assert late == {"params": [b, c], "beta1": 0.5, "learning_rate": 2}
    assert optimizer.parameters == (a, b, c)
    alone = rs.Adam(parameters=[{**late, "params": (d, e)}], **options)
    for seed in (7, 8):
        for p in (b, c, d, e):
            p.grad = array(5, seed=seed)
        a.grad = None
        optimizer.step()
        alone.step()
    assert bits([b, c]) == bits([d, e])
    assert a.data.tobytes() == before.tobytes()
    saved = optimizer.state_dict()
    assert [int(saved.get(f"{n}_step_0", 0)) for n in "abc"] == [steps, 2, 2]


def test_an_optimizer_without_parameters_may_get_groups() -> None:
    p, q = one(), one()
    optimizer = rs.SGD(0.5)
    optimizer.add_param_group({"params": p, "learning_rate": 0.5})
    optimizer.add_param_group({"params": [q.data]})
    assert [*optimizer._parameters] == ["param_0", "param_1"]
    optimizer.step()
    assert p.data == 0.75


def test_layerwise_decay_multiplies_from_the_output_down() -> None:
    a, b, c, d, e = (one(n) for n in "abcde")
    group = {"params": [c], "learning_rate": 3, "weight_decay": 0.5}
    layers = (a.data, [b], [group, {"params": d}], e)
    found = rs.layerwise_lr_decay(layers, 0.5)
    assert [g["learning_rate"] for g in found] == [0.125, 0.25, 1.5, 0.5, 1.0]
    assert found[0]["params"][0].data is a.data
    assert [g["params"] for g in found[1:]] == [(b,), (c,), (d,), (e,)]
    assert found[2]["weight_decay"] == 0.5
    assert group == {"params": [c], "learning_rate": 3, "weight_decay": 0.5}
    rs.SGD(1.0, found).step()
    assert [float(p.data[0]) for p in (b, c, d, e)] == [0.75, 1 - 1.5 * 1.5, 0.5, 0.0]
    assert [g["learning_rate"] for g in rs.layerwise_lr_decay([a, b], 1)] == [1.0, 1.0]


def test_a_groups_learning_rate_is_a_factor_beside_the_parameters_own() -> None:
    a, b, c = one("a"), one("b"), one("c", learning_rate=0.5)
    optimizer = rs.SGD(
        0.5, [{"params": [a]}, {"params": [b, c], "learning_rate": np.float32(0.25)}]
    )
    optimizer.step()
    assert [float(p.data[0]) for p in (a, b, c)] == [0.5, 0.875, 0.9375]


def test_nothing_of_the_users_is_changed() -> None:
    p = one("p", regularizer=rs.L2Decay(0.5), learning_rate=0.5)
    params = [p]
    group = {"params": params, "learning_rate": 2, "weight_decay": 1, "grad_clip": None}
    groups, before = [group], dict(group)
    attr = (p.learning_rate, p.regularizer, p.need_clip, p.trainable, p.name)
    optimizer = rs.SGD(0.5, groups, weight_decay=0.25)
    optimizer.step()
    assert groups == [group]
    assert group == before
    assert params == [p]
    assert attr == (p.learning_rate, p.regularizer, p.need_clip, p.trainable, p.name)


EDITS: list[tuple[type[rs.Optimizer], dict[str, Any]]] = [
    (rs.SGD, {"learning_rate": 0.25}),
    (rs.SGD, {"weight_decay": 0.25}),
    (rs.SGD, {"weight_decay": rs.L1Decay(0.25), "learning_rate": 3}),
    (rs.SGD, {"grad_clip": rs.ClipGradByGlobalNorm(0.25)}),
    (rs.Momentum, {"momentum": 0.25}),
    (rs.Momentum, {"use_nesterov": True}),
    (rs.Momentum, {"rescale_grad": 0.5}),
    (rs.Adam, {"beta1": 0.25, "beta2": 0.5, "epsilon": 1}),
    (rs.AdamW, {"weight_decay": 0.25}),
    (rs.AdamW, {"weight_decay": None}),
]


@pytest.mark.parametrize(("kind", "edit"), EDITS)
def test_settings_may_be_edited_between_steps(
    kind: type[rs.Optimizer], edit: dict[str, Any]
) -> None:
    """A setting counts from the next step on; a deleted one is the optimizer's again."""
    p, q, r = (rs.Parameter(array(7), "p") for _ in range(3))
    edited, given = kind(parameters=[p]), kind(parameters=[{"params": [q], **edit}])
    plainly = kind(parameters=[r])
    train(edited, 1)
    train(plainly, 1)
    given.set_state_dict(arrays(edited.state_dict()))
    q.data[:] = p.data
    edited.param_groups[0].update(edit)
    train(edited, 2)
    train(given, 2)
    assert p.data.tobytes() == q.data.tobytes()

    plainly.set_state_dict(arrays(edited.state_dict()))
    r.data[:] = p.data
    for key in edit:
        del edited.param_groups[0][key]
    train(edited, 3)
    train(plainly, 3)
    assert p.data.tobytes() == r.data.tobytes()


@pytest.mark.parametrize(
    ("thing", "name", "value"),
    [
        (rs.L2Decay(0.0), "coeff", 1.0),
        (rs.L1Decay(0.0), "coeff", 1.0),
        (rs.ClipGradByGlobalNorm(1.0), "clip_norm", 0.5),
        (rs.ClipGradByNorm(1.0), "clip_norm", 0.5),
        (rs.ClipGradByValue(1.0), "max", 0.5),
    ],
)
def test_a_decay_or_clip_cannot_be_edited_to_no_effect(thing: Any, name: str, value: float) -> None:
    kind = "grad_clip" if isinstance(thing, rs.ClipGradBase) else "weight_decay"
    p = one()
    optimizer = rs.SGD(0.25, [p], **{kind: thing})
    optimizer.step()
    assert p.data == 0.75
    try:
        setattr(thing, name, value)
    except AttributeError:
        return  # it says so itself
    optimizer.step()
    q = rs.Parameter(vector(0.75))
    q.grad = vector(1.0)
    rs.SGD(0.25, [q], **{kind: type(thing)(value)}).step()
    assert p.data == q.data


def test_one_norm_goes_over_all_groups_without_a_clip_of_their_own() -> None:
    a, b, c, d = (one(n) for n in "abcd")
    d.need_clip = False
    a.grad, b.grad, c.grad, d.grad = vector(3.0), vector(4.0), vector(8.0), vector(9.0)
    optimizer = rs.SGD(
        1.0,
        [
            {"params": [a]},
            {"params": [b, d]},
            {"params": [c], "grad_clip": None},
        ],
        grad_clip=rs.ClipGradByGlobalNorm(2.5),
    )
    assert optimizer.last_grad_norm is None
    optimizer.step()
    assert optimizer.last_grad_norm == 5.0
    assert [float(p.data[0]) for p in (a, b, c, d)] == [1 - 1.5, 1 - 2.0, 1 - 8.0, 1 - 9.0]


# Attributes of parameters.


def test_clip_then_decay_then_update() -> None:
    p = one(value=10.0, regularizer=None)
    p.grad = vector(5.0)
    rs.SGD(1.0, [p], weight_decay=0.125, grad_clip=rs.ClipGradByNorm(0.5)).step()
    assert p.data == 10 - (0.5 + 0.125 * 10)


ATTRIBUTES = [  # attribute, value, the parameter after a step from 2 with gradient 3
    ("learning_rate", 0.5, 2 - 0.25 * (1 + 0.5 * 2)),
    ("learning_rate", 0, 2),
    ("regularizer", None, 2 - 0.5 * (1 + 0.5 * 2)),
    ("regularizer", 0.25, 2 - 0.5 * (1 + 0.25 * 2)),
    ("regularizer", 0, 2 - 0.5 * 1),
    ("regularizer", rs.L2Decay(0.0), 2 - 0.5 * 1),
    ("regularizer", rs.L1Decay(0.25), 2 - 0.5 * (1 + 0.25)),
    ("need_clip", False, 2 - 0.5 * (3 + 0.5 * 2)),
    ("trainable", False, 2),
]


@pytest.mark.parametrize(("name", "value", "expected"), ATTRIBUTES)
def test_a_parameters_own_attributes_win(name: str, value: Any, expected: float) -> None:
    early = one(value=2.0, **{name: value})
    late = one(value=2.0)  # set between steps; the first has the rate 0
    early.grad, late.grad = vector(3.0), vector(3.0)
    for p in (early, late):
        clip = rs.ClipGradByValue(1.0)
        optimizer = rs.SGD(0, [p], weight_decay=0.5, grad_clip=clip)
        optimizer.step()
        setattr(p, name, value)
        optimizer.set_lr(0.5)
        optimizer.step()
        assert p.data == expected


def test_a_regularizer_of_its_own_is_coupled_in_adamw_too() -> None:
    p, q = one(regularizer=0.5), one()
    rs.AdamW(0.125, parameters=[p], weight_decay=0.0).step()
    rs.Adam(0.125, parameters=[q], weight_decay=0.5).step()
    assert p.data == q.data


def test_adamw_decays_and_scales_by_functions_of_the_user() -> None:
    a, b, c = one("a"), one("b"), one("c", learning_rate=0.5)
    asked: list[Any] = []
    rs.AdamW(
        0.5, 0.0, 0.0, 0.0, [a, b, c], 0.5,
        lr_ratio=lambda p: asked.append(p) or (0.5 if p is c else 1.0),
        apply_decay_param_fun=lambda name: asked.append(name) or name != "b",
    ).step()  # fmt: skip
    assert {*map(id, asked)} >= {id(p) for p in (a, b, c)}
    assert {"a", "b", "c"} <= {x for x in asked if isinstance(x, str)}
    assert [float(p.data[0]) for p in (a, b, c)] == [0.25, 0.5, 1 - 0.125 * 1.5]


# The step.


@optimizers
def test_a_step_is_in_place_and_leaves_the_gradients(make: Make) -> None:
    params = several()
    optimizer = make(params)
    arrays = [p.data for p in params]
    addresses = [a.ctypes.data for a in arrays]
    for seed in (1, 2, 3):
        give_gradients(params, seed)
        gradients = [p.grad for p in params]
        before, moved = [g.tobytes() for g in gradients], bits(params)
        for g in gradients:
            g.flags.writeable = False
        optimizer.step()
        assert all(p.data is a for p, a in zip(params, arrays, strict=True))
        assert all(p.grad is g for p, g in zip(params, gradients, strict=True))
        assert [a.ctypes.data for a in arrays] == addresses
        assert [g.tobytes() for g in gradients] == before
        assert all(x != y for x, y in zip(moved[:-1], bits(params)[:-1], strict=True))


@optimizers
def test_clearing_inside_the_step_changes_no_bit_of_it(make: Make) -> None:
    params, twins = several(), several()
    optimizer, twin = make(params), make(twins)
    for seed in (1, 2):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        gradients = [p.grad for p in params]
        optimizer.step(clear_grad=True)
        twin.step()
        assert all(p.grad is g and not g.any() for p, g in zip(params, gradients, strict=True))
    assert bits(params) == bits(twins)


@pytest.mark.parametrize("name", OPTIMIZERS.keys() - {"clipped"})  # a norm would join the two
def test_without_gradient_nothing_happens_and_each_counts_its_own_steps(name: str) -> None:
    a, b, c, d, alone = (rs.Parameter(array(5), n) for n in ("a", "b", "c", "d", "b"))
    optimizer, other = OPTIMIZERS[name]([a, b, c, d]), OPTIMIZERS[name]([alone])
    d.trainable = False
    for seed in (1, 2, 3):
        a.grad, b.grad, d.grad = (array(5, seed=seed) for _ in range(3))
        if seed == 2:
            b.grad = None
        alone.grad = b.grad
        optimizer.step()
        other.step()
    saved = arrays(optimizer.state_dict())
    assert {k: int(v) for k, v in saved.items() if "step" in k} == {"a_step_0": 3, "b_step_0": 2}
    assert {k[0] for k in saved} == {"a", "b"}
    assert bits([b, c, d]) == bits([alone, *(rs.Parameter(array(5)) for _ in "cd")])


def test_a_parameter_may_be_frozen_and_thawed() -> None:
    p, twin = rs.Parameter(array(5), "p"), rs.Parameter(array(5), "p")
    optimizer, other = rs.Adam(parameters=[p]), rs.Adam(parameters=[twin])
    for seed, trainable in enumerate([True, False, False, True, True]):
        p.trainable = trainable
        p.grad = twin.grad = array(5, seed=seed)
        optimizer.step()
        if trainable:
            other.step()
    assert p.data.tobytes() == twin.data.tobytes()
    assert plain(optimizer.state_dict()) == plain(other.state_dict())


GRADIENT_LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "columns": np.asfortranarray,
    "every other": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "a part": lambda x: np.pad(x, 3)[3:-3, 3:-3],
    "a field": lambda x: np.rec.fromarrays([x, x], dtype="f4,f4")["f1"],
    "a matrix": lambda x: x.view(np.matrix),
    "rows alike": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS.values(), ids=GRADIENT_LAYOUTS)
@pytest.mark.parametrize("order", "CF")
def test_gradients_of_any_layout(layout: Callable[[Any], Any], order: Any) -> None:
    p, q = (rs.Parameter(np.array(array(70, 90), order=order)) for _ in range(2))
    p.grad = layout(array(70, 90, seed=1))
    q.grad = np.array(p.grad)
    optimizers = [rs.Adam(parameters=[x], grad_clip=rs.ClipGradByGlobalNorm(1.0)) for x in (p, q)]
    for optimizer in optimizers:
        optimizer.step()
        optimizer.step()
    # A norm counts its blocks along the parameter's memory, so even its bits are the same.
    assert p.data.tobytes() == q.data.tobytes()


ODD_ARRAYS = {
    "one element backwards": np.ones(1, "f4")[::-1],
    "odd strides where there is one": as_strided(np.ones(4, "f4"), (1, 4, 1), (-7, 4, 3)),
    "a row backwards": np.ones((5, 3), "f4")[:1][::-1],
    "no element": np.ones((3, 0, 2), "f4"),
    "no element, read-only strides": np.ones((4, 6), "f4")[::2, 6:],
    "no dimension": np.array(1, "f4"),
    "matrix": np.ones((2, 3), "f4").view(np.matrix),
    "record array": np.rec.array(np.ones((2, 3), "f4")),
    "32 dimensions": np.ones((1,) * 30 + (2, 2), "f4").T,
    "a view of bytes": np.frombuffer(bytearray(48), "f4")[4:],
}


@pytest.mark.parametrize("data", ODD_ARRAYS.values(), ids=ODD_ARRAYS)
def test_odd_arrays(data: Any) -> None:
    data[...] = 1
    p = rs.Parameter(data)
    optimizer = rs.Adam(0.25, 0.0, 0.0, 0.0, [p])
    for _ in range(2):
        p.grad = np.full(data.shape, 2, "f4")
        optimizer.step()
    assert p.data is data
    assert (data == 0.5).all()


def test_neighbours_in_one_buffer_are_free_of_each_other() -> None:
    buffer, gradients = np.ones(13, "f4"), np.ones((4, 3), "f4")
    params = [rs.Parameter(buffer[3 * i : 3 * i + 3]) for i in range(4)]
    for p, g in zip(params, gradients.reshape(3, 4).T, strict=True):
        p.grad = g  # these lie between one another
    optimizer = rs.SGD(0.25, params)
    optimizer.step(clear_grad=True)
    assert (buffer[:12] == 0.75).all()
    assert buffer[12] == 1
    assert not gradients.any()


def test_parameters_may_share_a_gradient() -> None:
    a, b = one(), one()
    a.grad = b.grad
    rs.SGD(0.25, [a, b]).step()
    assert a.data == b.data == 0.75
    assert a.grad == 1


@optimizers
def test_other_memory_may_be_put_in_place_between_steps(make: Make) -> None:
    params, twins = several(), several()
    optimizer, twin = make(params), make(twins)
    for seed in (1, 2, 3):
        train(optimizer, seed)
        train(twin, seed)
        old = [p.data for p in params]
        for p in params:
            p.data = p.data.copy(order="K")
        moved = [x.tobytes() for x in old]
    train(optimizer, 4)
    train(twin, 4)
    assert bits(params) == bits(twins)
    assert [x.tobytes() for x in old] == moved


def test_without_states_any_array_may_be_put_in_place() -> None:
    p = rs.Parameter(array(3, 4))
    optimizer = rs.SGD(0.25, [p])
    for data in (np.ones(5), np.ones((4, 3), "f4", order="F")):
        p.data, p.grad = data, np.ones_like(data)
        optimizer.step()
        assert (p.data == 0.75).all()


def test_states_can_follow_their_parameter_to_another_layout() -> None:
    p, twin = rs.Parameter(array(3, 4), "p"), rs.Parameter(array(3, 4), "p")
    optimizer, other = rs.Adam(parameters=[p]), rs.Adam(parameters=[twin])
    train(optimizer, 1)
    train(other, 1)
    p.data = np.asfortranarray(p.data)
    optimizer.load_state_dict(optimizer.state_dict())  # the remedy that the refusal names
    train(optimizer, 2)
    train(other, 2)
    assert (p.data == twin.data).all()


# Dropping gradients.


def test_clear_grad_drops_so_that_nothing_stale_can_move() -> None:
    for clear in (rs.Optimizer.clear_grad, rs.Optimizer.clear_gradients):
        p, frozen = one("p"), one("frozen", trainable=False)
        optimizer = rs.Momentum(0.25, parameters=[p, frozen])
        gradient = p.grad
        optimizer.step()
        clear(optimizer)
        optimizer.step()
        assert p.grad is None
        assert p.data == 0.75
        assert gradient == 1
        assert optimizer.state_dict()["p_step_0"] == 1


def test_clear_grad_can_keep_the_buffers() -> None:
    p, q = one("p"), rs.Parameter(vector(1.0), "q")
    optimizer = rs.Momentum(0.25, 0.5, [p, q])
    gradient = p.grad
    optimizer.step()
    optimizer.clear_grad(set_to_zero=True)
    assert p.grad is gradient
    assert gradient == 0
    assert q.grad is None
    optimizer.step()  # as in Paddle, what has momentum goes on
    assert p.data == 1 - 0.25 - 0.25 * 0.5


# minimize, backward, apply_gradients.


class Loss:
    """A loss that can be differentiated: every gradient becomes 2."""

    def __init__(self, params: Iterable[rs.Parameter]) -> None:
        self.params = list(params)
        self.calls = 0

    def backward(self) -> None:
        self.calls += 1
        for p in self.params:
            p.grad = vector(2.0)


def set_and_return(params: list[rs.Parameter]) -> Any:
    def loss() -> float:
        for p in params:
            p.grad = vector(2.0)
        return 0.5

    return loss


def already_there(params: list[rs.Parameter]) -> Any:
    for p in params:
        p.grad = vector(2.0)
    return 0.5


def there_and_backward(params: list[rs.Parameter]) -> Any:
    already_there(params)
    loss = Loss(params)
    loss.backward = lambda: pytest.fail("differentiated again")  # type: ignore[method-assign]
    return loss


# name -> (the loss, whether the gradients are there afterwards)
LOSSES: dict[str, tuple[Callable[[list[rs.Parameter]], Any], bool]] = {
    "a function that sets the gradients": (set_and_return, False),
    "a function that returns a list": (lambda p: lambda: (0.5, [vector(2.0) for _ in p]), False),
    "a function that returns a tuple": (lambda p: lambda: (0.5, (vector(2.0),) * len(p)), False),
    "a function that returns a dict": (
        lambda p: lambda: (0.5, {str(x.name): vector(2.0) for x in p}), False),
    "a function that returns a loss to differentiate": (lambda p: lambda: Loss(p), False),
    "a loss to differentiate": (Loss, False),
    "gradients that are there": (already_there, True),
    "gradients that are there, and a loss": (there_and_backward, True),
}  # fmt: skip
losses = pytest.mark.parametrize(("make", "stay"), LOSSES.values(), ids=LOSSES)


def three() -> list[rs.Parameter]:
    return [rs.Parameter(vector(1.0), n) for n in "abc"]


@losses
def test_minimize(make: Callable[[list[rs.Parameter]], Any], stay: bool) -> None:
    params = three()
    optimizer = rs.SGD(0.25, params)
    operators, pairs = optimizer.minimize(make(params))
    assert operators == []
    assert [p for p, _ in pairs] == params
    assert [g.tolist() for _, g in pairs] == [[2.0]] * 3  # the pairs keep what is dropped
    assert [p.data.tolist() for p in params] == [[0.5]] * 3
    assert [p.grad is not None for p in params] == [stay] * 3


@losses
def test_backward_then_apply_gradients(
    make: Callable[[list[rs.Parameter]], Any], stay: bool
) -> None:
    params = three()
    optimizer = rs.SGD(0.25, params)
    pairs = optimizer.backward(make(params))
    assert [p.data.tolist() for p in params] == [[1.0]] * 3
    assert optimizer.apply_gradients(pairs) == []
    assert [p.data.tolist() for p in params] == [[0.5]] * 3


WHICH: dict[str, Callable[[list[rs.Parameter]], list[Any]]] = {
    "parameters": list,
    "arrays": lambda row: [p.data for p in row],
    "names": lambda row: [p.name for p in row],
    "a generator": lambda row: (p for p in row),  # type: ignore[dict-item,return-value]
    "twice": lambda row: [*row, row[0].name],
}


@losses
@pytest.mark.parametrize("which", WHICH.values(), ids=WHICH)
def test_minimize_moves_only_what_it_may(
    make: Callable[[list[rs.Parameter]], Any], stay: bool, which: Any
) -> None:
    for argument in ("parameters", "no_grad_set"):
        a, b, c = params = three()
        chosen = [a, c] if argument == "parameters" else [b]
        optimizer = rs.SGD(0.25, params)
        _, pairs = optimizer.minimize(make(params), **{argument: which(chosen)})
        assert [p for p, _ in pairs] == [a, c]
        assert [p.data.tolist() for p in params] == [[0.5], [1.0], [0.5]]
        assert [p.grad is not None for p in params] == [stay] * 3


def test_a_loop_of_minimize_never_uses_a_gradient_twice() -> None:
    p = rs.Parameter(vector(1.0), "p")
    loss, optimizer = Loss([p]), rs.SGD(0.25, [p])
    for calls in (1, 2, 3):
        optimizer.minimize(loss)
        assert loss.calls == calls
        assert p.data == 1 - 0.5 * calls


def test_minimize_leaves_a_loss_that_needs_no_gradient_of_the_others() -> None:
    a, b, c = three()
    c.trainable = False
    _, pairs = rs.SGD(0.25, [a, b, c]).minimize(lambda: (0.5, [None, vector(2.0), vector(2.0)]))
    assert [p for p, _ in pairs] == [b]
    assert [p.data.tolist() for p in (a, b, c)] == [[1.0], [0.5], [1.0]]


@pytest.mark.parametrize("row", [list, lambda row: [{"params": row, "learning_rate": 2}]])
def test_minimize_gives_parameters_to_an_optimizer_without(row: Any) -> None:
    params = three()
    optimizer = rs.Momentum(0.125, 0.0)
    factor = 1 if row is list else 2
    optimizer.minimize(Loss(params), parameters=row(params))
    optimizer.minimize(Loss(params))
    optimizer.minimize(Loss(params), parameters=["a", params[1]])
    assert optimizer.parameters == tuple(params)
    expected = [1 - 0.25 * factor * n for n in (3, 3, 2)]
    assert [float(p.data[0]) for p in params] == expected


def test_apply_gradients_gives_parameters_to_an_optimizer_without() -> None:
    p, q = rs.Parameter(vector(1.0), "p"), vector(1.0)
    optimizer = rs.SGD(0.25)
    optimizer.apply_gradients([(p, vector(2.0)), (q, None)])
    optimizer.apply_gradients([("param_1", vector(2.0))])
    assert p.data == q == 0.5


def test_apply_gradients_knows_parameters_by_all_their_names() -> None:
    a, b, c = three()
    a.grad = b.grad = c.grad = vector(64.0)  # not asked
    optimizer = rs.SGD(0.25, [a, b, c.data])
    pairs = iter([("param_2", vector(2.0)), (b.data, vector(2.0)), (a, None)])
    optimizer.apply_gradients(pairs)
    assert [p.data.tolist() for p in (a, b, c)] == [[1.0], [0.5], [0.5]]
    optimizer.apply_gradients([])
    assert [p.data.tolist() for p in (a, b, c)] == [[1.0], [0.5], [0.5]]


# Learning rates.


class Halving:
    """A schedule of nobody's library: it is called for the rate, and moves on by step()."""

    def __init__(self, rate: float) -> None:
        self.rate, self.asked = rate, 0

    def __call__(self) -> float:
        self.asked += 1
        return self.rate

    def step(self) -> None:
        self.rate /= 2


RATES = [1, 0, 0.5, True + 1, np.float64(0.5), np.float32(0.5), np.float16(0.5), np.int8(1)]
RATES += [np.uint64(1), np.longdouble(0.5), Fraction(1, 2), Halving(0.5), StepDecay(0.5, 1)]


@pytest.mark.parametrize("rate", RATES, ids=repr)
def test_learning_rates(rate: Any) -> None:
    p, q = one(), one()
    optimizer, other = rs.SGD(rate, [p]), rs.SGD(0.125, [q])
    value = rate() if callable(rate) else float(rate)
    assert optimizer.get_lr() == value
    assert type(optimizer.get_lr()) is float
    optimizer.step()
    if callable(rate):
        other.set_lr_scheduler(rate)
    else:
        other.set_lr(rate)
    other.step()
    assert p.data == q.data == 1 - value


def test_a_schedule_is_asked_once_in_a_step_and_moved_by_the_user() -> None:
    p, rate = one(), Halving(0.5)
    optimizer = rs.Adam(rate, parameters=[p])
    for steps in (1, 2, 3):
        optimizer.step()
        assert rate.asked == steps
    assert rate.rate == 0.5
    rate.step()
    assert optimizer.get_lr() == 0.25


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: StepDecay(0.5, 2, 0.5),
        lambda: MultiStepDecay(0.5, [1, 3], 0.5),
        lambda: LinearWarmup(StepDecay(0.5, 2, 0.5), 2, 0.0, 0.5),
        lambda: LinearWarmup(0.5, 2, 0.25, 0.5),
        lambda: Halving(0.5),
    ],
)
def test_each_step_takes_the_rate_of_its_moment(schedule: Callable[[], Any]) -> None:
    p, rate = one(), schedule()
    optimizer, expected = rs.SGD(rate, [{"params": p, "learning_rate": 0.5}]), 1.0
    for _ in range(5):
        expected -= 0.5 * rate()
        optimizer.step()
        assert p.data == expected
        rate.step()


def test_a_schedule_may_follow_a_metric() -> None:
    p, rate = one(), ReduceOnPlateau(0.5, factor=0.5, patience=0)
    optimizer = rs.SGD(rate, [p])
    for metric in (1.0, 2.0):
        rate.step(metric)
    optimizer.step()
    assert p.data == 0.75


class Meddler:
    """A schedule that changes its optimizer when it is asked."""

    def __init__(self, change: Callable[[], Any]) -> None:
        self.change = change

    def __call__(self) -> float:
        self.change()
        return 0.5

    def step(self) -> None: ...


def test_what_a_schedule_changes_when_asked_counts_in_this_step() -> None:
    """Schedules that move the momentum against the rate do this."""
    p, q = one("p"), one("p")
    optimizer, other = rs.Momentum(0.5, 0.5, [p]), rs.Momentum(0.5, 0.5, [q])
    optimizer.step()
    other.step()
    optimizer.set_lr_scheduler(Meddler(lambda: optimizer.param_groups[0].update(momentum=0.25)))
    other.param_groups[0]["momentum"] = 0.25
    optimizer.step()
    other.step()
    assert p.data == q.data


def test_states_loaded_while_a_schedule_is_asked_are_the_ones_stepped() -> None:
    p = one("p")
    optimizer = rs.Momentum(0.5, 0.5, [p])
    optimizer.step()
    saved = arrays(optimizer.state_dict())
    optimizer.step()
    optimizer.set_lr_scheduler(Meddler(lambda: optimizer.set_state_dict(saved)))
    optimizer.step()
    assert plain(arrays(optimizer.state_dict())) == {
        "p_velocity_0": (np.dtype("f4"), [1.5]),
        "p_step_0": (np.dtype("i8"), 2),
    }


def test_a_schedule_may_step_another_optimizer_of_the_same_parameters() -> None:
    p = one("p")
    inner = rs.SGD(0.25, [p])
    rs.SGD(Meddler(inner.step), [p]).step()
    assert p.data == 1 - 0.25 - 0.5


# Saved states.


class Remembering(Halving):
    """A schedule of another library: it can be saved, under the names that torch uses."""

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rate = state["rate"]


RESUMED: dict[str, Make] = {
    **OPTIMIZERS,
    "schedule": lambda p: rs.AdamW(LinearWarmup(StepDecay(0.5, 2), 2, 0.25, 0.5), parameters=p),
    "bare schedule": lambda p: rs.Adam(Halving(0.5), parameters=p),
    "another library's schedule": lambda p: rs.Adam(Remembering(0.5), parameters=p),
    "groups": lambda p: rs.Adam(
        parameters=[{"params": p[:2], "amsgrad": True}, {"params": p[2:], "beta1": 0.5}]),
}  # fmt: skip


def through_pickle(saved: dict[str, Any]) -> Any:
    return pickle.loads(pickle.dumps(saved))


def with_other_counters(saved: dict[str, Any]) -> dict[str, Any]:
    return {re.sub("_0$", f"_{i}", key): value for i, (key, value) in enumerate(saved.items())}


def in_other_order(saved: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(saved.items()))


@pytest.mark.parametrize("make", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("way", [through_pickle, with_other_counters, in_other_order])
def test_training_resumes_bit_for_bit(make: Make, way: Callable[[Any], Any]) -> None:
    def step(optimizer: rs.Optimizer, seed: int) -> None:
        params = optimizer.parameters
        give_gradients(params, seed)
        params[seed % 3].grad = None  # so that the counts differ
        optimizer.step()
        if hasattr(optimizer._learning_rate, "step"):
            optimizer._learning_rate.step()

    params = several()
    optimizer = make(params)
    for seed in (1, 2, 3):
        step(optimizer, seed)
    saved = way(optimizer.state_dict())
    resumed = several()
    for p, q in zip(params, resumed, strict=True):
        q.data[...] = p.data
    again = make(resumed)
    if type(again._learning_rate) is Halving:
        again._learning_rate.rate = optimizer._learning_rate.rate  # it cannot be saved
    again.set_state_dict(saved)
    for seed in (4, 5, 6):
        step(optimizer, seed)
        step(again, seed)
    assert bits(params) == bits(resumed)
    assert plain(optimizer.state_dict()) == plain(again.state_dict())


def test_a_state_dict_survives_numpys_own_file_and_json() -> None:
    params = several()
    optimizer = rs.Adam(parameters=params)
    train(optimizer, 1, 2)
    saved = optimizer.state_dict()
    before = plain(saved)
    file = io.BytesIO()
    np.savez(file, **arrays(saved))
    text = json.dumps({k: v for k, v in saved.items() if k not in arrays(saved)})
    train(optimizer, 3)
    file.seek(0)
    with np.load(file) as loaded:
        optimizer.set_state_dict({**loaded, **json.loads(text)})
    assert plain(optimizer.state_dict()) == before


def test_states_are_saved_under_the_names_of_parameters() -> None:
    p = rs.Parameter(array(2), "w")
    expected = {
        "SGD": [],
        "Momentum": ["velocity"],
        "Adam": ["moment1", "moment2"],
        "AMSGrad": ["moment1", "moment2", "moment2_max"],
    }
    for name, states in expected.items():
        optimizer = OPTIMIZERS[name]([p])
        assert arrays(optimizer.state_dict()) == {}
        train(optimizer, 1)
        saved = arrays(optimizer.state_dict())
        assert [*saved] == [f"w_{s}_0" for s in (*states, "step")]
        assert all(saved[f"w_{s}_0"].dtype == p.data.dtype for s in states)
    settings = ["defaults", "param_groups", "grad_clips"]
    assert [*rs.SGD(0.5, [p]).state_dict()] == ["learning_rate", *settings]
    assert [*rs.SGD(StepDecay(0.5, 1), [p]).state_dict()] == ["LR_Scheduler", *settings]


def test_states_are_copied_out_and_in() -> None:
    p = one("p")
    optimizer = rs.Momentum(0.25, 0.5, [p])
    optimizer.step()
    saved = optimizer.state_dict()
    frozen = plain(saved)
    optimizer.step()
    assert plain(saved) == frozen
    optimizer.set_state_dict(saved)
    optimizer.step()
    assert plain(saved) == frozen
    assert optimizer.state_dict()["p_velocity_0"] == 1.5


def test_states_come_from_lists_too() -> None:
    p = rs.Parameter(np.ones(2), "p")  # float64, as NumPy makes of a list
    optimizer = rs.Momentum(0.25, 0.5, [p])
    optimizer.load_state_dict({"p_velocity_7": [2.0, 4.0], "p_step_7": 3})
    p.grad = np.zeros(2)
    optimizer.step()
    assert p.data.tolist() == [0.75, 0.5]
    assert optimizer.state_dict()["p_step_0"] == 4


def test_parameters_that_a_state_dict_leaves_out_begin_anew() -> None:
    params = [one("a"), one("b")]
    optimizer = rs.Momentum(0.25, 0.5, params)
    optimizer.step()
    saved = {k: v for k, v in arrays(optimizer.state_dict()).items() if k[0] == "a"}
    optimizer.set_state_dict(saved)
    assert plain(arrays(optimizer.state_dict())) == plain(saved)
    optimizer.step()
    after = optimizer.state_dict()
    assert [int(after[k]) for k in ("a_step_0", "b_step_0")] == [2, 1]
    assert [float(after[k][0]) for k in ("a_velocity_0", "b_velocity_0")] == [1.5, 1.0]


def test_a_rule_may_change_on_the_way() -> None:
    """Only the state that is new begins at zero."""
    p, q = rs.Parameter(array(5), "p"), rs.Parameter(array(5), "p")
    optimizer, other = rs.Adam(parameters=[p]), rs.Adam(parameters=[q])
    train(optimizer, 1, 2)
    train(other, 1, 2)
    optimizer.param_groups[0]["amsgrad"] = True
    train(optimizer, 3)
    saved = optimizer.state_dict()
    optimizer.param_groups[0]["amsgrad"] = False
    train(other, 3)
    assert p.data.tobytes() == q.data.tobytes()  # a maximum that begins now is moment2
    assert int(saved["p_step_0"]) == 3
    np.testing.assert_array_equal(saved["p_moment2_max_0"], saved["p_moment2_0"])
    assert "p_moment2_max_0" not in optimizer.state_dict()


def test_two_optimizers_over_one_parameter_keep_their_own_states() -> None:
    p = one("p")
    first, second = rs.Momentum(0.25, 0.5, [p]), rs.Momentum(0.25, 0.5, [p])
    first.step()
    first.step()
    second.step()
    assert first.state_dict()["p_velocity_0"] == 1.5
    assert second.state_dict()["p_velocity_0"] == 1.0


@pytest.mark.parametrize("edit", ["groups", "params"])
def test_the_order_of_groups_may_change(edit: str) -> None:
    """States, counts and norms go with the parameter, not with its place."""
    results = []
    for reverse in (False, True):
        a, b, c = params = three()
        optimizer = rs.Momentum(0.25, parameters=[{"params": [a, b]}, {"params": [c]}])
        for k in range(4):
            for i, p in enumerate(params):
                p.grad = None if (i, k) == (1, 0) else np.full_like(p.data, i + k)
            if reverse and k == 2:
                if edit == "groups":
                    optimizer.param_groups.reverse()
                else:
                    optimizer.param_groups[0]["params"] = (b, a)
            optimizer.step()
        saved = arrays(optimizer.state_dict())
        results.append(
            [*(p.data.tolist() for p in params), {k: v.tolist() for k, v in saved.items()}]
        )
    assert results[0] == results[1]


def test_the_steps_of_rprop_begin_with_the_rate_and_all_factors() -> None:
    attr = rs.ParamAttr(learning_rate=0.5)
    plain, own = rs.Parameter(np.zeros(1), "plain"), rs.Parameter(np.zeros(1), "own", attr)
    other = rs.Parameter(np.zeros(1), "other")
    optimizer = rs.Rprop(
        0.25, parameters=[{"params": [plain, own]}, {"params": [other], "learning_rate": 3}]
    )
    optimizer.param_groups[0]["learning_rate"] = 2.0  # in time for the first step
    for p in optimizer.parameters:
        p.grad = np.ones(1)
    optimizer.step()
    assert [p.data.item() for p in optimizer.parameters] == [-0.5, -0.25, -0.75]
    optimizer.param_groups[0]["learning_rate"] = 9.0  # too late
    optimizer.step()
    assert plain.data.item() == -0.5 - 1.2 * 0.5


def test_a_parameter_that_is_stepped_later_begins_with_the_rate_of_then() -> None:
    first, late = rs.Parameter(np.zeros(1), "first"), rs.Parameter(np.zeros(1), "late")
    optimizer = rs.Rprop(0.25, parameters=[first, late])
    first.grad = np.ones(1)
    optimizer.step()
    optimizer.param_groups[0]["learning_rate"] = 2.0  # which alone makes no new plan
    late.grad = np.ones(1)
    optimizer.step()
    assert late.data.item() == -0.5


@pytest.mark.parametrize("decay", [-1.0, -1.5])
def test_a_negative_decay_does_not_turn_the_ratio_of_lars(decay: float) -> None:
    """Where the norm of the gradient is no longer than that of the decay, there is no ratio."""
    start = np.array([3.0, 4.0])
    w = rs.Parameter(start.copy())
    optimizer = rs.LARS(0.5, parameters=[w], weight_decay=decay, always_adapt=True)
    w.grad = start.copy()
    optimizer.step()
    np.testing.assert_array_equal(w.data, start - 0.5 * (1 + decay) * start)


def test_an_optimizer_that_its_parameter_knows_is_collected() -> None:
    """What the compiled part holds of the plan is seen by Python's garbage collector."""

    class Known(rs.Parameter):
        optimizer: rs.Optimizer

    parameter = Known(array(3))
    parameter.optimizer = rs.Adam(parameters=[parameter])
    parameter.grad = array(3)
    parameter.optimizer.step()
    gone = weakref.ref(parameter.optimizer)
    del parameter
    gc.collect()
    assert gone() is None


def test_a_gradient_of_a_class_is_read_as_python_reads_it() -> None:
    """From the slot of the instance only as long as the class has no other mind."""

    class Mine(rs.Parameter):
        pass

    parameter = Mine(np.zeros(2))
    optimizer = rs.SGD(1.0, [parameter])
    parameter.grad = np.ones(2)
    optimizer.step()
    assert parameter.data.tolist() == [-1, -1]
    Mine.grad = property(lambda self: np.full(2, 3.0))  # type: ignore[assignment]
    optimizer.step()
    assert parameter.data.tolist() == [-4, -4]
    del Mine.grad
    optimizer.step()
    assert parameter.data.tolist() == [-5, -5]

    class Other:
        __slots__ = ("own",)

    Mine.grad = Other.own
    with pytest.raises(TypeError, match="doesn't apply"):
        rs.SGD(1.0, [parameter]).step()


def test_an_array_of_another_kind_in_the_place_of_one_that_was_looked_at() -> None:
    """A step that knows an array by its form looks again when this changes."""
    parameter = rs.Parameter(array(4))
    optimizer = rs.SGD(0.5, [parameter])
    parameter.grad = array(4, seed=1)
    optimizer.step()
    for data, gradient in (
        (array(6), array(6, seed=1)),
        (array(2, 3, dtype="f8"), array(2, 3, seed=1, dtype="f8")),
        (array(3, 2).T, array(2, 3, seed=1)),
        (array(6), np.broadcast_to(np.float32(2), 6)),
    ):
        expected = data - 0.5 * gradient
        parameter.data, parameter.grad = data, gradient
        optimizer.step()
        np.testing.assert_array_equal(data, expected.astype(data.dtype))
    parameter.grad = array(6).astype(">f4")
    with pytest.raises(ValueError, match="byte"):
        optimizer.step()
    parameter.grad = array(5)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step()
    parameter.grad = array(6)
    parameter.data.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        optimizer.step()
