"""Clips and regularizers of the user, and the built-in ones when they are called."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import reference as ref
import roofstep as rs
from roofstep import _core, custom
from test_exact import (
    CLASSES,
    CLIPS,
    COUPLED,
    DTYPES,
    EVERY_ISA,
    OPTIMIZERS,
    RICH,
    Case,
    draw_small,
    extreme,
    numbers,
    ordinary,
    run,
    same_bits,
    wild,
)
from test_refusals import NO_ARRAYS, Table, TwoGroups, ones, refused, table

Pairs = list[Any]


class UsersClip(rs.ClipGradBase):
    """Clips by a function; remembers what it was called with."""

    def __init__(self, function: Callable[[Pairs], Any]) -> None:
        self.function = function
        self.calls: list[Pairs] = []

    def _dygraph_clip(self, params_grads: Pairs) -> Any:
        self.calls.append([*params_grads])
        return self.function(params_grads)


class UsersDecay(rs.WeightDecayRegularizer):
    """Decays by a function of parameter and gradient; remembers what it was called with."""

    def __init__(self, function: Callable[[rs.Parameter, Any], Any]) -> None:
        self.function = function
        self.calls: list[Any] = []

    def __call__(self, param: rs.Parameter, grad: Any, block: None = None) -> Any:
        assert block is None
        self.calls.append((param, np.array(grad)))
        return self.function(param, grad)


def by_user(thing: Any) -> Any:
    """A user's clip or regularizer that does what this built-in one does."""
    if thing is None:
        return None
    return UsersClip(thing) if isinstance(thing, rs.ClipGradBase) else UsersDecay(thing)


# The bits.


@dataclass(frozen=True)
class UsersCase(Case):
    """A case of test_exact by user's classes; the oracle's numbers are those of the built-in."""

    clips: bool = True
    decays: bool = True

    def parameters(self, arrays: Sequence[np.ndarray]) -> list[rs.Parameter]:
        parameters = super().parameters(arrays)
        for p in parameters:
            p.regularizer = by_user(p.regularizer) if self.decays else p.regularizer
        return parameters

    def optimizer(self, parameters: Sequence[rs.Parameter], clip: Any = ...) -> rs.Optimizer:
        entry = OPTIMIZERS[self.name]
        options = entry.to_pass(self.options)
        if not entry.decoupled:
            decay = COUPLED[self.coupled]
            options["weight_decay"] = by_user(decay) if self.decays else decay
        clip = CLIPS[self.clip][0]()
        clip = by_user(clip) if self.clips else clip
        return CLASSES[self.name](parameters=parameters, grad_clip=clip, **options)


# The ratio of LARS has a place for L2 decay; a user's is to it a part of the gradient.
EVERY_RULE = [
    pytest.param(case, coupled, id=f"{rule}-{coupled}")
    for case in RICH
    for rule in [case.settings(1)[0].rule]
    for coupled in COUPLED
    if case.average is None and (rule, coupled) != ("LARS", "L2")
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(("rich", "coupled"), EVERY_RULE)
def test_every_rule_has_the_bits_of_the_built_in(
    rich: Case, coupled: str, clip: str, dtype: Any
) -> None:
    case = UsersCase(rich.name, rich.options, coupled, clip)
    for hard in (False, True):
        run(case, *draw_small(dtype, numbers(clip, hard)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("decays", [False, True])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("coupled", COUPLED)
def test_a_users_beside_a_built_in(
    coupled: str, clip: str, decays: bool, clips: bool, dtype: Any
) -> None:
    for base in (RICH[0], RICH[3]):
        case = UsersCase(base.name, base.options, coupled, clip, clips=clips, decays=decays)
        run(case, *draw_small(dtype, numbers(clip, True)), EVERY_ISA)


def arrays_of_all_kinds(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((3, 4)).astype("f4"),
        np.asfortranarray(rng.standard_normal((5, 7))),
        rng.standard_normal((2, 3, 4)).astype("f4").transpose(2, 0, 1),
        np.asarray(rng.standard_normal(), "f4"),
        np.zeros((0, 3)),
        rng.standard_normal(70_001).astype("f4"),
        rng.standard_normal(9),
        rng.standard_normal(9).astype("f4"),
    ]


def gradients_of_all_kinds(seed: int) -> list[np.ndarray | None]:
    """Of other layouts than the parameters; the last is missing now and then."""
    rng = np.random.default_rng(seed)
    return [
        np.asfortranarray(rng.standard_normal((3, 4)).astype("f4")),
        rng.standard_normal((5, 14))[:, ::2],
        rng.standard_normal((4, 2, 3)).astype("f4")[::-1],
        np.asarray(rng.standard_normal(), "f4"),
        np.zeros((0, 3)),
        rng.standard_normal(70_001).astype("f4"),
        rng.standard_normal((9, 9))[:, 4],
        None if seed % 2 else rng.standard_normal(9).astype("f4"),
    ]


WAYS_TO_STEP: dict[str, Callable[[rs.Optimizer], Any]] = {
    "step": lambda o: o.step(),
    "clear": lambda o: o.step(clear_grad=True),
    "apply": lambda o: o.apply_gradients([(p, p.grad) for p in o.parameters]),
    "minimize": lambda o: o.minimize(lambda: None),
}


def trained(
    clip: Any, decay: Any, own_decay: Any, way: Callable[[rs.Optimizer], Any], threads: int = 1
) -> dict[str, Any]:
    """All that is seen of three steps over groups, a parameter not to be clipped and a frozen."""
    rs.set_num_threads(threads)
    params = [rs.Parameter(a, name=f"p{i}") for i, a in enumerate(arrays_of_all_kinds(1))]
    params[1].need_clip = False
    params[2].trainable = False
    params[6].regularizer = own_decay
    optimizer = rs.Momentum(
        0.125,
        parameters=[
            {"params": params[4:], "learning_rate": 2.0},
            {"params": params[2:4], "weight_decay": None},
            {"params": params[1:2], "use_nesterov": True},
            {"params": params[:1], "grad_clip": None},
        ],
        weight_decay=decay,
        grad_clip=clip,
    )
    norms = []
    for seed in range(3):
        given = gradients_of_all_kinds(seed)
        for p, g in zip(params, given, strict=True):
            p.grad = g
        before = [None if g is None else g.copy() for g in given]
        way(optimizer)
        norms.append(optimizer.last_grad_norm)
        clears = way is WAYS_TO_STEP["clear"]
        for p, g, b in zip(params, given, before, strict=True):
            if g is not None:
                assert np.array_equal(g, 0 * b if clears and p.trainable else b)
    saved = optimizer.state_dict()
    return {
        **{f"p{i}": p.data.tobytes() for i, p in enumerate(params)},
        **{key: value.tobytes() for key, value in saved.items() if isinstance(value, np.ndarray)},
        "norms": norms,
    }


CLIPPED = {name: clip for name, (clip, _) in CLIPS.items() if name != "none"}


@pytest.mark.parametrize("way", WAYS_TO_STEP.values(), ids=WAYS_TO_STEP)
@pytest.mark.parametrize("clip", CLIPPED.values(), ids=CLIPPED)
@pytest.mark.parametrize("threads", [1, 2])
def test_groups_layouts_dtypes_and_gradients_that_are_missing(
    clip: Any, way: Any, threads: int
) -> None:
    l1, l2 = rs.L1Decay(0.02), rs.L2Decay(0.03)
    expected = trained(clip(), l2, l1, way)
    for decay, own in ((by_user(l2), l1), (l2, by_user(l1)), (by_user(l2), by_user(l1))):
        assert trained(clip(), decay, own, way, threads) == expected
    unmeasured = {**expected, "norms": [None] * 3}
    assert trained(by_user(clip()), l2, l1, way, threads) == unmeasured
    assert trained(by_user(clip()), by_user(l2), by_user(l1), way, threads) == unmeasured


def test_a_rescaled_gradient_is_clipped_first_and_decays_last() -> None:
    """All numbers are exact here: 12 -> 8 -> 4 + 0.5 * 3."""
    for clip in (rs.ClipGradByValue(8.0), by_user(rs.ClipGradByValue(8.0))):
        for decay in (rs.L2Decay(0.5), by_user(rs.L2Decay(0.5))):
            p, q = (rs.Parameter(np.array([3.0])) for _ in range(2))
            p.regularizer = decay
            optimizer = rs.Momentum(1.0, 0.0, [p, q], grad_clip=clip, rescale_grad=0.5)
            p.grad = q.grad = np.array([12.0])
            optimizer.step()
            assert p.data == 3 - (4 + 1.5)
            assert q.data == 3 - 4
            if isinstance(decay, UsersDecay):
                assert decay.calls[0][1] == 4


# The norm that is told.


def test_the_norm_of_a_built_in_clip_is_told_where_a_users_decay_follows() -> None:
    clip = rs.ClipGradByNorm(1.0)
    params = [rs.Parameter(np.zeros(2)) for _ in range(3)]
    params[1].regularizer = UsersDecay(lambda p, g: 0 * g)
    optimizer = rs.SGD(1.0, [{"params": params[:2]}, {"params": params[2:]}], grad_clip=clip)
    assert optimizer.last_grad_norm is None
    optimizer.step()
    assert optimizer.last_grad_norm == 0
    params[1].grad = np.array([3.0, 4.0])
    optimizer.step()
    assert optimizer.last_grad_norm == 5
    params[0].grad = np.array([12.0, 0.0])
    optimizer.step()
    assert optimizer.last_grad_norm == 13
    params[2].grad = np.full(3, 1.0)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step()
    assert optimizer.last_grad_norm == 13
    optimizer.clear_grad()
    optimizer.step()
    assert optimizer.last_grad_norm == 0


# When user's code is called, and with what.


def test_a_clip_is_called_once_with_all_that_have_it_and_a_gradient() -> None:
    clip = UsersClip(lambda pairs: pairs)
    params = [rs.Parameter(np.zeros(2, "f4"), name=f"p{i}") for i in range(6)]
    optimizer = rs.Adam(
        0.125,
        parameters=[
            {"params": params[3:]},
            {"params": params[1:3]},
            {"params": params[:1], "grad_clip": None},
        ],
        grad_clip=clip,
    )
    optimizer.step()
    assert not clip.calls
    for p in params[:-1]:
        p.grad = np.ones(2, "f4")
    params[1].need_clip = False
    params[3].trainable = False
    for call in range(3):  # the first step makes states on its way
        optimizer.step()
        assert len(clip.calls) == call + 1
        order = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in order} == {id(p) for p in params}
        assert [p.name for p, _ in clip.calls[-1]] == [
            p.name for p in optimizer.parameters if p.name in ("p1", "p2", "p4")
        ]
        for p, g in clip.calls[-1]:
            assert g is p.grad
        optimizer.param_groups.reverse()


def test_a_regularizer_sees_the_clipped_gradient_once() -> None:
    decay = UsersDecay(lambda p, g: 10 * g + p.data)
    params = [rs.Parameter(np.array([2.0]), attr=rs.ParamAttr(regularizer=d)) for d in (decay, 0.5)]
    optimizer = rs.SGD(1.0, params, weight_decay=decay, grad_clip=rs.ClipGradByValue(1.0))
    for p in params:
        p.grad = np.array([3.0])
    optimizer.step()
    assert [(p, g.item()) for p, g in decay.calls] == [(params[0], 1.0)]
    assert [p.data.item() for p in params] == [2 - (1 + 10 + 2), 2 - (1 + 1)]


@pytest.mark.parametrize("optimizer", [rs.AdamW, rs.Lion])
def test_decoupled_decay_is_a_number_and_stays_beside_a_users_regularizer(optimizer: Any) -> None:
    def step(regularizer: Any) -> Any:
        p = rs.Parameter(np.array([2.0, -3.0]), attr=rs.ParamAttr(regularizer=regularizer))
        p.grad = np.array([0.5, 0.25])
        optimizer(0.125, parameters=[p], weight_decay=0.25).step()
        return p.data

    assert same_bits(step(by_user(rs.L2Decay(0.5))), step(rs.L2Decay(0.5)))
    with refused(TypeError, "weight_decay: .*got .*UsersDecay.*decoupled"):
        optimizer(parameters=[rs.Parameter(np.zeros(1))], weight_decay=by_user(rs.L2Decay(0.5)))


def test_what_is_built_in_stays_in_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    prepare = custom.prepare

    def spy(tasks: Any, *arguments: Any) -> Any:
        seen.append({*tasks})
        return prepare(tasks, *arguments)

    monkeypatch.setattr(custom, "prepare", spy)
    params = [rs.Parameter(np.ones(2)) for _ in range(4)]
    whole, each = rs.ClipGradByGlobalNorm(1.0), rs.ClipGradByNorm(1.0)
    groups = [{"params": params[:2]}, {"params": params[2:], "grad_clip": each}]
    optimizer = rs.SGD(0.5, groups, weight_decay=0.5, grad_clip=whole)
    for p in params:
        p.grad = np.ones(2)
    optimizer.step()
    assert seen == []
    params[3].regularizer = by_user(rs.L1Decay(0.5))
    optimizer.step()
    assert seen.pop() == {3}
    params[0].regularizer = by_user(rs.L1Decay(0.5))  # now the norm is needed before the pass
    optimizer.step()
    assert seen.pop() == {0, 1, 3}
    params[0].need_clip = False
    optimizer.step()
    assert seen.pop() == {0, 3}
    params[0].need_clip, params[0].trainable = True, False
    optimizer.step()
    assert seen.pop() == {3}
    params[0].trainable = True
    params[0].regularizer = params[3].regularizer = None
    optimizer.param_groups[1]["grad_clip"] = by_user(each)
    optimizer.step()
    assert seen.pop() == {2, 3}
    optimizer.param_groups[1]["grad_clip"] = None
    optimizer.step()
    assert seen == []


def test_gradients_that_are_given_are_the_ones_used() -> None:
    p = rs.Parameter(np.zeros(2))
    clip = UsersClip(lambda pairs: [(p, g / 2) for p, g in pairs])
    p.grad = np.full(2, 100.0)
    rs.SGD(1.0, [p], grad_clip=clip).apply_gradients([(p, np.array([2.0, 4.0]))])
    assert p.data.tolist() == [-1, -2]
    assert p.grad.tolist() == [100, 100]


class Halved(rs.ClipGradByNorm):
    """A subclass of a built-in that does otherwise."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        return [(p, g / 2) for p, g in super()._dygraph_clip(params_grads)]


class HalvedByCall(rs.ClipGradByNorm):
    def __call__(self, params_grads: Any) -> Any:
        return [(p, g / 2) for p, g in super().__call__(params_grads)]


class Twice(rs.L2Decay):
    def __call__(self, param: Any, grad: Any = None, block: None = None) -> Any:
        return 2 * super().__call__(param, grad, block)


class Renamed(rs.ClipGradByNorm):
    """A subclass that changes nothing is done inside the pass."""


@pytest.mark.parametrize("clip", [Halved, HalvedByCall])
def test_a_subclass_of_a_built_in_has_its_way(clip: Any) -> None:
    p = rs.Parameter(np.array([1.0, 2.0]))
    optimizer = rs.SGD(1.0, [p], weight_decay=Twice(0.25), grad_clip=clip(1.0))
    p.grad = np.array([0.0, 4.0])
    optimizer.step()
    assert p.data.tolist() == [1 - 0.5, 2 - (0.5 + 1)]


def test_a_subclass_that_changes_nothing_is_what_its_base_is() -> None:
    p = rs.Parameter(np.array([1.0, 2.0]))
    optimizer = rs.SGD(1.0, [p], grad_clip=Renamed(1.0))
    p.grad = np.array([0.0, 4.0])
    optimizer.step()
    assert p.data.tolist() == [1, 1]
    assert optimizer.last_grad_norm == 4


class Empty(rs.L2Decay):
    """False, as a container without elements."""

    def __len__(self) -> int:
        return 0


class Labelled(rs.ClipGradByGlobalNorm):
    """Equal to any of its kind, and so without a hash."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labelled)


def test_clips_that_are_equal_are_still_two() -> None:
    clips = Labelled(1.0), Labelled(1.0)
    params = [rs.Parameter(np.zeros(1)) for _ in clips]
    groups = [{"params": [p], "grad_clip": c} for p, c in zip(params, clips, strict=True)]
    optimizer = rs.SGD(1.0, groups)
    for p, gradient in zip(params, (3.0, 4.0), strict=True):
        p.grad = np.array([gradient])
    optimizer.step()
    assert [p.data.item() for p in params] == [-1, -1]


def test_what_is_false_is_still_asked() -> None:
    w = rs.Parameter(np.ones(1), "w", rs.ParamAttr(regularizer=Empty(0.5)))
    w.grad = np.zeros(1)
    rs.SGD(1.0, [w], weight_decay=0.25).step()
    assert w.data == 0.5

    class Excluding(list[str]):
        def __call__(self, parameter: rs.Parameter) -> bool:
            return True

    moved = []
    for excludes in (Excluding(), lambda parameter: True):
        v = rs.Parameter(np.ones(1), "v")
        v.grad = np.ones(1)
        rs.Lamb(parameters=[v], exclude_from_weight_decay_fn=excludes).step()
        moved.append(v.data.item())
    assert moved[0] == moved[1]


def test_arithmetic_on_an_array_without_dimensions_gives_a_scalar_that_will_do() -> None:
    p = rs.Parameter(np.array(2.0, "f4"))
    p.grad = np.array(4.0, "f4")
    clip = UsersClip(lambda pairs: [(p, g * np.float32(0.5)) for p, g in pairs])
    decay = UsersDecay(lambda p, g: p.data * np.float32(0.25))
    rs.SGD(1.0, [p], weight_decay=decay, grad_clip=clip).step()
    assert p.data == 2 - (2 + 0.5)


def test_what_a_clip_leaves_out_is_not_updated() -> None:
    params = [rs.Parameter(np.ones(2), name=n) for n in "abc"]
    clip = UsersClip(lambda pairs: [(pairs[2][0], pairs[2][1]), (pairs[0][0], None)])
    decay = UsersDecay(lambda p, g: 0 * g)
    optimizer = rs.Adam(0.5, parameters=params, weight_decay=decay, grad_clip=clip)
    for p in params:
        p.grad = np.ones(2)
    optimizer.step(clear_grad=True)
    assert [p.data[0] == 1 for p in params] == [True, True, False]
    assert [p for p, _ in decay.calls] == [params[2]]
    assert {key for key in optimizer.state_dict() if "step" in key} == {"c_step_0"}
    assert not any(p.grad.any() for p in params)


RETURNED: dict[str, Callable[[Any], Any]] = {
    "itself": lambda g: g,
    "a view": lambda g: g[:],
    "a view of another layout": lambda g: g[::-1][::-1],
    "backwards": lambda g: g[::-1],
    "a copy": lambda g: g.copy(),
    "read-only": lambda g: np.broadcast_to(g[1:2].copy(), g.shape),
}


@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED)
def test_clearing_zeroes_the_gradient_and_not_what_a_clip_returned(returned: Any) -> None:
    def step(clear_grad: bool) -> Any:
        p = rs.Parameter(np.zeros(10_000))
        p.grad = g = np.arange(10_000.0)
        made = []
        clip = UsersClip(lambda pairs: made.append(returned(pairs[0][1])) or [(p, made[0])])
        rs.SGD(1.0, [p], grad_clip=clip).step(clear_grad)
        assert p.grad is g
        assert g.any() == (not clear_grad)
        if not np.may_share_memory(made[0], g):
            assert made[0].any()
        return p.data

    assert same_bits(step(True), step(False))
    assert step(True).any()


def test_clearing_is_refused_where_it_would_zero_a_parameter() -> None:
    memory = np.ones(4)
    params = [rs.Parameter(memory[:2], name="a"), rs.Parameter(np.ones(2), name="b")]
    params[0].grad = np.ones(2)
    for clip in (None, UsersClip(lambda pairs: [(p, 2 * g) for p, g in pairs])):
        optimizer = rs.SGD(0.5, params, grad_clip=clip)
        params[1].grad = memory[1:3]
        with refused(ValueError, "parameter 'a'.*gradient of parameter 'b'.*overlap"):
            optimizer.step(clear_grad=True)
        params[1].grad = np.broadcast_to(np.ones(1), 2)
        with refused(ValueError, "gradient of parameter 'b'.*writable"):
            optimizer.step(clear_grad=True)
        assert (memory == 1).all()


# Refusals.

FIRST_RETURN: Table = {
    "None": (lambda pairs: None, TypeError, "pairs.*got a NoneType.*make it"),
    "a pair": (lambda pairs: pairs[0], TypeError, "pairs.*got a"),
    "arrays": (lambda pairs: [g for _, g in pairs], TypeError, "pairs.*got a ndarray"),
    "dict": (lambda pairs: dict(pairs), TypeError, "pairs.*got a dict"),
    "triples": (lambda pairs: [(p, g, 1) for p, g in pairs], TypeError, "pairs.*got a tuple"),
    "twice": (lambda pairs: pairs + pairs[:1], ValueError, "'w0' has two gradients; add"),
    "a stranger": (
        lambda pairs: [(rs.Parameter(ones(), name="x"), ones())], ValueError,
        "name='x'.* is no parameter.*w0, w1"),
    "a list": (lambda pairs: [(p, g.tolist()) for p, g in pairs], TypeError, "'w0'.*got list"),
    "a number": (lambda pairs: [(p, 0.5) for p, g in pairs], TypeError, "'w0'.*got float"),
    "a scalar": (
        lambda pairs: [(p, g.sum()) for p, g in pairs], ValueError, r"'w0'.*\(3, 4\).*got \(\)"),
    "broadcast": (
        lambda pairs: [(p, g[:1]) for p, g in pairs], ValueError,
        r"'w0'.*\(3, 4\).*got \(1, 4\).*reshape"),
    "flat": (lambda pairs: [(p, g.ravel()) for p, g in pairs], ValueError, r"'w0'.*got \(12,\)"),
    "float64": (
        lambda pairs: [(p, g.astype("f8")) for p, g in pairs], ValueError,
        "'w0'.*float32.*got float64.*astype"),
    "integers": (
        lambda pairs: [(p, g.astype("i4")) for p, g in pairs], ValueError, "'w0'.*got int32"),
}  # fmt: skip


@pytest.mark.parametrize("clear_grad", [False, True])
@table(FIRST_RETURN)
def test_what_a_clip_returns(bad: Any, error: Any, pattern: str, clear_grad: bool) -> None:
    world = TwoGroups()
    with world.nothing_written():
        world.optimizer.param_groups[1]["grad_clip"] = UsersClip(lambda pairs: pairs)
        world.optimizer.param_groups[0]["grad_clip"] = UsersClip(bad)
        with refused(error, f"what UsersClip returned.*{pattern}"):
            world.optimizer.step(clear_grad)


TERMS: Table = {
    "None": (lambda p, g: None, TypeError, "got NoneType"),
    "a number": (lambda p, g: 0.0, TypeError, "got float"),
    "a parameter": (lambda p, g: p, TypeError, "got Parameter"),
    "a scalar": (lambda p, g: g.sum(), ValueError, r"\(3, 4\).*got \(\)"),
    "broadcast": (lambda p, g: g[:, :1], ValueError, r"\(3, 4\).*got \(3, 1\).*reshape"),
    "more dimensions": (lambda p, g: g[None], ValueError, r"\(3, 4\).*got \(1, 3, 4\)"),
    "float64": (lambda p, g: np.float64(0.5) * g.astype("f8"), ValueError, "got float64.*astype"),
    "masked": (lambda p, g: np.ma.array(g), TypeError, "mask"),
}  # fmt: skip


@pytest.mark.parametrize("clip", [None, rs.ClipGradByGlobalNorm(0.5)])
@table(TERMS)
def test_what_a_regularizer_returns(bad: Any, error: Any, pattern: str, clip: Any) -> None:
    world = TwoGroups()
    with world.nothing_written():
        world.optimizer.param_groups[1]["grad_clip"] = clip
        world.optimizer.param_groups[1]["weight_decay"] = UsersDecay(bad)
        with refused(error, f"what UsersDecay returned for parameter 'w2': expected.*{pattern}"):
            world.optimizer.step()


def raising(*_: Any) -> Any:
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize("thing", [UsersClip(raising), UsersDecay(raising)])
@pytest.mark.parametrize("steps", [0, 2])
def test_errors_of_users_code_pass_through_and_nothing_is_written(thing: Any, steps: int) -> None:
    world = TwoGroups(steps)
    key = "grad_clip" if isinstance(thing, rs.ClipGradBase) else "weight_decay"
    with world.nothing_written():
        world.optimizer.param_groups[1][key] = thing
        with pytest.raises(ZeroDivisionError, match="mine"):
            world.optimizer.step(clear_grad=True)


BAD_GRADIENTS = {
    **{name: bad for name, (bad, _, _) in NO_ARRAYS.items()},
    "shape": ones(shape=(4, 3)),
    "broadcast": ones(shape=(1, 4)),
    "float64": ones("f8"),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
@pytest.mark.parametrize("key", ["grad_clip", "weight_decay"])
def test_gradients_are_checked_as_ever_before_users_code_sees_them(bad: Any, key: str) -> None:
    messages = []
    thing = by_user(rs.ClipGradByNorm(1.0) if key == "grad_clip" else rs.L2Decay(0.5))
    for value in (None, thing):
        world = TwoGroups()
        world.last.grad = bad
        world.optimizer.param_groups[1][key] = value
        with world.nothing_written():
            with pytest.raises((TypeError, ValueError)) as caught:
                world.optimizer.step()
            messages.append((caught.type, str(caught.value)))
    assert messages[0] == messages[1]
    assert not thing.calls


def test_a_gradient_that_is_the_parameter_is_refused() -> None:
    p = rs.Parameter(np.ones(2), name="w")
    p.grad = np.ones(2)
    optimizer = rs.SGD(0.5, [p], grad_clip=UsersClip(lambda pairs: [(p, p.data)]))
    with refused(ValueError, "parameter 'w'.*overlap"):
        optimizer.step()
    assert (p.data == 1).all()


def test_rescaling_out_of_range_is_refused() -> None:
    p = rs.Parameter(np.ones(2, "f4"), name="w")
    p.grad = np.ones(2, "f4")
    for decay in (None, by_user(rs.L2Decay(0.5))):
        optimizer = rs.Momentum(0.5, 0.0, [p], weight_decay=decay, rescale_grad=1e300)
        with refused(ValueError, "rescale_grad.*1e\\+300.*smaller"):
            optimizer.step()


class NoClip(rs.ClipGradBase):
    pass


class NoDecay(rs.WeightDecayRegularizer):
    pass


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        (rs.ClipGradBase, "_dygraph_clip"),
        (NoClip, "_dygraph_clip"),
        (rs.WeightDecayRegularizer, "__call__"),
        (NoDecay, "__call__"),
    ],
)
def test_a_class_that_overrides_nothing(cls: Any, method: str) -> None:
    with pytest.raises(TypeError, match=f"abstract class {cls.__name__} .*{method}"):
        cls()


@pytest.mark.parametrize("key", ["grad_clip", "weight_decay"])
def test_a_class_or_a_function_is_no_clip_or_regularizer(key: str) -> None:
    base = "ClipGradBase" if key == "grad_clip" else "WeightDecayRegularizer"
    for value in (UsersClip, UsersDecay, lambda *_: None):
        with refused(TypeError, f"{key}: .*a subclass of {base}, got"):
            rs.SGD(0.5, [rs.Parameter(np.ones(1))], **{key: value})


def test_another_thing_than_a_parameter_in_a_group_is_refused_as_ever() -> None:
    world = TwoGroups()
    world.optimizer.param_groups[0]["params"] = (*world.params[:2], ones())
    with refused(ValueError, "param_groups: .*is new there.*add_param_group"):
        world.optimizer.step()


def test_a_clip_cannot_step_the_optimizer_that_calls_it() -> None:
    p = rs.Parameter(np.ones(1))
    p.grad = np.ones(1)
    optimizer = rs.SGD(0.5, [p])
    optimizer.param_groups[0]["grad_clip"] = UsersClip(lambda pairs: optimizer.step())
    with pytest.raises(RuntimeError, match="being stepped"):
        optimizer.step()
    optimizer.param_groups[0]["grad_clip"] = None
    optimizer.step()
    assert p.data == 0.5


# Copies.


class HalfClip(rs.ClipGradBase):
    """What pickle can find: a class of a module, without a constructor of its own."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        return [(p, g / 2) for p, g in params_grads]


class Towards(rs.WeightDecayRegularizer):
    def __init__(self, target: float) -> None:
        self.target = target

    def __call__(self, param: Any, grad: Any, block: None = None) -> Any:
        return param.data - self.target


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_an_optimizer_with_users_classes_can_be_copied(way: Any) -> None:
    p = rs.Parameter(np.array([1.0, 2.0]), attr=rs.ParamAttr(regularizer=Towards(3.0)))
    optimizer = rs.Momentum(0.5, parameters=[p], grad_clip=HalfClip(), weight_decay=Towards(0.0))
    p.grad = np.array([5.0, 8.0])
    optimizer.step()
    other = way(optimizer)
    assert "HalfClip" in repr(other)
    assert "Towards" in repr(other)
    for one in (optimizer, other):
        one.step()
    assert same_bits(p.data, other.parameters[0].data)
    assert p.data[0] != 1


# The built-in ones, called.


def called(clip: str, arrays: Sequence[Any], gradients: Sequence[Any]) -> None:
    """A built-in clip gives the bits of the oracle and writes nothing."""
    params = [rs.Parameter(a) for a in arrays]
    params[1].need_clip = False
    settings = [ref.Settings("SGD", clip=CLIPS[clip][1]())] * len(arrays)
    settings[1] = ref.Settings("SGD")
    oracle = ref.Reference(arrays, settings)
    with np.errstate(all="ignore"):
        factors = oracle._clip_factors(gradients)
    before = [None if g is None else g.tobytes() for g in gradients]
    found = CLIPS[clip][0]()([*zip(params, gradients, strict=True)])
    assert before == [None if g is None else g.tobytes() for g in gradients]
    there = [i for i, g in enumerate(gradients) if g is not None]
    assert [p for p, _ in found] == [params[i] for i in there]
    for i, (_, g) in zip(there, found, strict=True):
        T = g.dtype.type
        with np.errstate(all="ignore"):
            expected = T(factors[i]) * gradients[i]
        if clip == "value" and i != 1:
            expected = np.where(expected < T(-0.25), T(-0.25), expected)
            expected = np.where(expected > T(0.5), T(0.5), expected)
            assert not np.may_share_memory(g, gradients[i])
        assert isinstance(g, np.ndarray)
        assert same_bits(g, expected)
        if i == 1 or (clip != "value" and factors[i] == 1):
            assert g is gradients[i]
        else:
            assert not np.may_share_memory(g, gradients[i])


@pytest.mark.parametrize("clip", CLIPPED)
@pytest.mark.parametrize("isa", _core.isas())
def test_a_clip_called_gives_the_bits_of_the_oracle(clip: str, isa: str) -> None:
    _core.set_isa(isa)
    rng = np.random.default_rng(3)
    for make in (ordinary, extreme, wild):
        for dtype in DTYPES:
            sizes = (5, 5, 4096, 10_007, 300_007)
            arrays = [make(rng, n, dtype) for n in sizes]
            gradients = [None if n == 4096 else make(rng, n, dtype) for n in sizes]
            rs.set_num_threads(1 + (dtype is np.float64))
            called(clip, arrays, gradients)
    for seed in range(2):
        called(clip, arrays_of_all_kinds(seed), gradients_of_all_kinds(seed))
    called(clip, [np.ones(2), np.ones(2)], [None, None])


def test_a_clip_takes_any_row_of_pairs() -> None:
    p = rs.Parameter(np.zeros(2))
    ((_, g),) = rs.ClipGradByGlobalNorm(1.0)(iter([[p, np.array([3.0, 4.0])]]))
    assert g.tolist() == [3 * 0.2, 4 * 0.2]
    assert rs.ClipGradByNorm(1.0)([]) == []


CALLS: Table = {
    "a number": (1.0, TypeError, "params_grads: .*pairs.*got a float"),
    "arrays": ([(ones(), ones())], TypeError, "params_grads: .*Parameter.*pair 0.*got a ndarray"),
    "shape": (
        [(rs.Parameter(ones(), name="w"), ones(shape=(4, 3)))], ValueError,
        r"gradient of parameter 'w': .*\(3, 4\).*got \(4, 3\)"),
    "dtype": (
        [(rs.Parameter(ones()), ones("f8"))], ValueError,
        "gradient of parameter 'param_0': .*float32.*got float64"),
}  # fmt: skip


@pytest.mark.parametrize("clip", CLIPPED.values(), ids=CLIPPED)
@table(CALLS)
def test_bad_calls_of_a_clip(bad: Any, error: Any, pattern: str, clip: Any) -> None:
    with refused(error, pattern):
        clip()(bad)


@pytest.mark.parametrize("make", [ordinary, wild])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_regularizer_called_gives_its_term(make: Any, dtype: Any) -> None:
    data = np.asfortranarray(make(np.random.default_rng(4), 60, dtype).reshape(5, 12))
    for p in (rs.Parameter(data), rs.Parameter(np.array(2.5, dtype))):
        before = p.data.tobytes()
        l1, l2 = rs.L1Decay(0.3)(p, np.ones_like(p.data)), rs.L2Decay(0.3)(p, None, None)
        with np.errstate(all="ignore"):
            assert same_bits(l1, np.asarray(dtype(0.3) * np.sign(p.data)))
            assert same_bits(l2, np.asarray(dtype(0.3) * p.data))
        for term in (l1, l2):
            assert isinstance(term, np.ndarray)
            assert not np.may_share_memory(term, p.data)
        assert p.data.tobytes() == before


def test_a_decay_of_nothing_is_nothing() -> None:
    p = rs.Parameter(np.array([1.0, math.inf, -math.inf]))
    for decay in (rs.L1Decay(), rs.L2Decay()):
        assert (decay(p, None) == 0).all()


def test_bad_calls_of_a_regularizer() -> None:
    with refused(TypeError, "param.*expected a NumPy array.*got memoryview"):
        rs.L2Decay(0.5)(ones(), ones())
    with refused(ValueError, "block: expected None, got 1"):
        rs.L1Decay(0.5)(rs.Parameter(ones()), ones(), 1)  # type: ignore[arg-type]
    with refused(ValueError, "coeff: .*float32.*1e\\+300.*smaller"):
        rs.L2Decay(1e300)(rs.Parameter(ones()), ones())
