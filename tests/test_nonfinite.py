"""Steps that are skipped as a gradient is not finite: which are, and that they change nothing."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import roofstep as rs
from test_exact import RICH, Case, ordinary

CLASSES = [
    value
    for name in rs.__all__
    if isinstance(value := getattr(rs, name), type)
    and issubclass(value, rs.Optimizer)
    and value not in (rs.Optimizer, rs.LBFGS)
]
BAD = (math.nan, math.inf, -math.inf)
SHAPES = ((70, 61), (), (4097,), (0,))


class Halve(rs.ClipGradBase):
    """A user's clip, which also mends what is not finite."""

    calls = 0

    def _dygraph_clip(self, params_grads: Any) -> Any:
        type(self).calls += 1
        return [(p, np.nan_to_num(np.asarray(0.5 * g))) for p, g in params_grads]


class Pull(rs.WeightDecayRegularizer):
    """A user's regularizer."""

    def __call__(self, param: Any, grad: Any, block: Any) -> Any:
        return np.asarray(0.25 * param.data)


CLIPS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "value": lambda: rs.ClipGradByValue(0.5),
    "norm": lambda: rs.ClipGradByNorm(0.5),
    "global": lambda: rs.ClipGradByGlobalNorm(0.5),
    "user's": Halve,
}
LIMITLESS = ("none", "value", "user's")  # no norm is taken of these but to watch


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def kept(optimizer: rs.Optimizer) -> dict[str, Any]:
    """All that a step may change, but the count of those skipped."""
    saved = {k: v for k, v in optimizer.state_dict().items() if k != "skipped_steps"}
    return {
        **{k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in saved.items()},
        **{f"data {i}": p.data.tobytes() for i, p in enumerate(optimizer.parameters)},
        "norm": optimizer.last_grad_norm,
    }


def made(
    cls: type[rs.Optimizer], dtype: Any = "f4", clip: str = "none", **options: Any
) -> rs.Optimizer:
    rng = np.random.default_rng(3)
    parameters = [
        rs.Parameter(ordinary(rng, math.prod(s), np.dtype(dtype).type).reshape(s), f"p{i}")
        for i, s in enumerate(SHAPES)
    ]
    given = {"skip_nonfinite": True, "parameters": parameters, "grad_clip": CLIPS[clip]()}
    return cls(0.125, **{**given, **options})


def give(optimizer: rs.Optimizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for p in optimizer.parameters:
        p.grad = ordinary(rng, p.data.size, p.data.dtype.type).reshape(p.data.shape)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("clip", CLIPS)
def test_finite_gradients_step_as_without(cls: type[rs.Optimizer], clip: str) -> None:
    found = []
    for skip in (True, False):
        optimizer = made(cls, clip=clip, skip_nonfinite=skip)
        optimizer.average_weights(0.5)
        for seed in range(3):
            give(optimizer, seed)
            optimizer.step(clear_grad=seed == 1)
            assert optimizer.last_step_applied is True
        assert optimizer.skipped_steps == 0
        found.append(kept(optimizer))
    assert found[0] == found[1]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_skipped_step_changes_nothing(cls: type[rs.Optimizer], clip: str, steps: int) -> None:
    optimizer, other = made(cls, clip=clip), made(cls, clip=clip)
    for one in (optimizer, other):
        one.average_weights(0.5)
        for seed in range(steps):
            give(one, seed)
            one.step()
    before, calls = kept(optimizer), Halve.calls
    for bad in BAD:
        give(optimizer, 7)
        optimizer.parameters[2].grad[-1] = bad
        with silent():
            optimizer.step()
        assert optimizer.last_step_applied is False
        assert kept(optimizer) == before
    assert optimizer.skipped_steps == 3
    assert Halve.calls == calls  # no function of the user's has seen it
    for one in (optimizer, other):
        give(one, 8)
        one.step()
    assert optimizer.last_step_applied is True
    assert kept(optimizer) == kept(other)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [(0, 0), (0, 4096), (0, 4269), (1, 0), (2, 4095), (2, 4096)])
def test_one_element_is_found_wherever_it_is(
    dtype: str, clip: str, bad: float, at: tuple[int, int]
) -> None:
    optimizer = made(rs.SGD, dtype, clip)
    give(optimizer, 0)
    optimizer.parameters[at[0]].grad.reshape(-1)[at[1]] = bad
    with pytest.warns(RuntimeWarning, match=f"the gradient of parameter 'p{at[0]}' is not finite"):
        optimizer.step()
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("clip", ["none", "norm", "global"])
@pytest.mark.parametrize("size", [1, 5000])
def test_the_largest_and_smallest_numbers_are_finite(dtype: str, clip: str, size: int) -> None:
    """Of which the norm may well be infinite: in float64 it has no room for it."""
    info = np.finfo(dtype)
    for value in (info.max, -info.max, info.tiny, info.smallest_subnormal, 0.0, 1e-25, 1e30):
        p = rs.Parameter(np.zeros(size, dtype), "p")
        optimizer = rs.SGD(1e-30, [p], grad_clip=CLIPS[clip](), skip_nonfinite=True)
        for sign in (1, -1):
            p.grad = np.full(size, sign * value, dtype)
            p.grad[: size // 2] = 0
            optimizer.step()
            assert optimizer.last_step_applied is True
        mixed = np.full(size, value, dtype)
        mixed[-1] = np.inf
        p.grad = mixed
        with silent():
            optimizer.step()
        assert optimizer.last_step_applied is False
    if dtype == "f8" and clip != "none" and size > 1:
        p.grad = np.full(size, info.max)
        optimizer.step()
        assert optimizer.last_step_applied is True
        assert optimizer.last_grad_norm == math.inf


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("given", [False, True])
def test_gradients_of_a_skipped_step_are_cleared_if_asked(clip: str, given: bool) -> None:
    optimizer = made(rs.Adam, clip=clip)
    give(optimizer, 0)
    optimizer.step()
    before = kept(optimizer)
    give(optimizer, 1)
    strided = np.zeros((61, 140), "f4").T[::2]
    optimizer.parameters[0].grad = strided
    optimizer.parameters[0].grad[3, 3] = math.nan
    optimizer.parameters[2].grad[5] = math.inf
    if given:  # other gradients are read, and the parameters' own are zeroed
        row = tuple(np.full(p.data.shape, math.nan, "f4") for p in optimizer.parameters)
        with silent():
            optimizer._step(row, True)
        assert np.isnan(row[0]).all()
    else:
        with silent():
            optimizer.step(clear_grad=True)
    assert kept(optimizer) == before
    assert all((p.grad == 0).all() for p in optimizer.parameters)
    assert optimizer.parameters[0].grad is strided


def test_a_skipped_step_is_noted_by_the_call_that_clears() -> None:
    """Ctrl-C is delivered as soon as Python runs again, and there is nothing left to note then."""
    optimizer = made(rs.Adam)
    give(optimizer, 0)
    optimizer.parameters[2].grad[5] = math.inf
    current = optimizer._current_plan()
    stepped, noted = current.step, {}

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        stepped(*args, **kwargs)
        noted.update(vars(optimizer))
        raise KeyboardInterrupt

    current.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(clear_grad=True)
    assert noted["_skipped_steps"] == optimizer.skipped_steps == 1
    assert noted["_last_step_applied"] is optimizer.last_step_applied is False
    assert all((p.grad == 0).all() for p in optimizer.parameters)


def test_gradients_of_a_skipped_step_stay_if_not_asked() -> None:
    optimizer = made(rs.Adam)
    give(optimizer, 0)
    optimizer.parameters[2].grad[5] = math.inf
    before = [p.grad.copy() for p in optimizer.parameters]
    with silent():
        optimizer.step()
    assert all(map(np.array_equal, before, [p.grad for p in optimizer.parameters]))


def test_it_warns_once_and_names_the_first() -> None:
    optimizer = made(rs.SGD)
    give(optimizer, 0)
    optimizer.parameters[0].grad[1, 1] = math.nan
    optimizer.parameters[2].grad[1] = math.inf
    with pytest.warns(RuntimeWarning, match="parameter 'p0' is not finite") as caught:
        optimizer.step()
    assert [w.filename for w in caught] == [__file__]
    optimizer.step()  # a warning would be an error here
    assert optimizer.skipped_steps == 2


def test_what_is_not_stepped_is_not_looked_at() -> None:
    optimizer = made(rs.SGD)
    give(optimizer, 0)
    optimizer.parameters[0].grad[...] = math.nan
    optimizer.parameters[0].trainable = False
    optimizer.parameters[2].grad = None
    optimizer.step()
    assert optimizer.last_step_applied is True


def test_without_it_they_are_used() -> None:
    optimizer = made(rs.SGD, skip_nonfinite=False)
    assert optimizer.last_step_applied is None
    give(optimizer, 0)
    optimizer.parameters[2].grad[5] = math.nan
    optimizer.step()
    assert np.isnan(optimizer.parameters[2].data).sum() == 1
    assert (optimizer.last_step_applied, optimizer.skipped_steps) == (True, 0)


@pytest.mark.parametrize("clip", CLIPS)
def test_minimize_and_apply_gradients(clip: str) -> None:
    optimizer = made(rs.Adam, clip=clip)
    before = kept(optimizer)
    rows = [np.full(p.data.shape, math.inf, "f4") for p in optimizer.parameters]
    with silent():
        optimizer.apply_gradients([*zip(optimizer.parameters, rows, strict=True)])
        optimizer.minimize(lambda: (0.0, rows))
    assert optimizer.skipped_steps == 2
    assert kept(optimizer) == before


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("bad", [(0.0, math.nan), (math.inf, -math.inf), (3e38, 3e38)])
def test_rows(lazy: bool, bad: tuple[float, float]) -> None:
    """Values of one row are added up first, and two finite ones may overflow."""
    w = rs.Parameter(np.ones((2000, 5), "f4"), "w")
    optimizer = rs.Adam(0.1, parameters=[w], lazy_mode=lazy, skip_nonfinite=True)
    good = np.ones((2, 5), "f4")
    w.grad = rs.SelectedRows(np.array([1999, 3]), good)
    optimizer.step()
    before = kept(optimizer)
    values = good.copy()
    values[:, 4] = bad
    w.grad = rs.SelectedRows(np.array([7, 7]), values)
    with silent():
        optimizer.step()
    assert optimizer.skipped_steps == 1
    assert kept(optimizer) == before
    # Rows that rest stay at rest by the norm that watches.
    w.grad = rs.SelectedRows(np.array([1999, 3]), good)
    plain = copy.deepcopy(optimizer)
    plain._skip_nonfinite, plain._plan = False, None
    for one in (optimizer, plain):
        one.step()
    assert kept(optimizer) == kept(plain)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-20])
def test_with_a_scale_the_gradients_count_as_they_were_given(scale: float) -> None:
    """As in torch's GradScaler: 1e38 is finite though 1e38 / 2**-20 is not."""
    p = rs.Parameter(np.zeros(3, "f4"), "p")
    optimizer = rs.SGD(1e-12, [p], grad_clip=rs.ClipGradByGlobalNorm(1.0), skip_nonfinite=True)
    p.grad = np.full(3, 1e38, "f4")
    optimizer.step(grad_scale=scale)
    assert optimizer.last_step_applied is True
    p.grad[0] = math.nan
    with silent():
        optimizer.step(grad_scale=scale)
    assert optimizer.last_step_applied is False


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**-10])
@pytest.mark.parametrize("decay", [None, Pull()])
def test_users_functions_see_gradients_that_have_been_divided(scale: float, decay: Any) -> None:
    """Bit for bit, beside parameters of which the pass divides them."""
    found = []
    for factor in (1.0, scale):
        seen: list[bytes] = []

        class Look(rs.ClipGradBase):
            def _dygraph_clip(self, params_grads: Any, seen: list[bytes] = seen) -> Any:
                seen += [g.tobytes() for _, g in params_grads]
                return [(p, np.asarray(np.float32(0.5) * g)) for p, g in params_grads]

        rng = np.random.default_rng(0)
        rows = [rs.Parameter(ordinary(rng, 50, np.float32), f"p{i}") for i in range(3)]
        optimizer = rs.Momentum(
            0.1,
            parameters=[
                {"params": rows[:1], "grad_clip": Look(), "weight_decay": decay},
                {"params": rows[1:2], "grad_clip": rs.ClipGradByNorm(0.1), "weight_decay": decay},
                {"params": rows[2:], "grad_clip": rs.ClipGradByNorm(0.1)},
            ],
            rescale_grad=1 / 3,
        )
        for _ in range(2):
            for p in rows:
                p.grad = ordinary(rng, 50, np.float32) * np.float32(factor)
            optimizer.step(grad_scale=factor)
        found.append((seen, kept(optimizer)))
    assert found[0] == found[1]


def test_a_users_regularizer_may_make_one() -> None:
    class Endless(rs.WeightDecayRegularizer):
        def __call__(self, param: Any, grad: Any, block: Any) -> Any:
            return np.full(param.data.shape, math.inf, "f4")

    optimizer = made(rs.SGD, weight_decay=Endless())
    give(optimizer, 0)
    with silent():
        optimizer.step()
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("case", RICH, ids=str)
def test_every_option_of_every_class(case: Case) -> None:
    """With the keyword and one bad element no option leads past the watch."""
    rng = np.random.default_rng(0)
    arrays = [ordinary(rng, 4097, np.float32) for _ in range(2)]
    parameters = case.parameters(arrays)
    optimizer = case.optimizer(parameters)
    optimizer._skip_nonfinite = True
    for p in parameters:
        p.grad = ordinary(rng, 4097, np.float32)
    optimizer.step()
    before = kept(optimizer)
    parameters[1].grad[4096] = math.nan
    with silent():
        optimizer.step()
    assert optimizer.skipped_steps == 1
    assert kept(optimizer) == before


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_copies_go_on_skipping_and_counting(copied: Any) -> None:
    optimizer = made(rs.Adam)
    give(optimizer, 0)
    optimizer.parameters[1].grad[...] = math.nan
    with silent():
        optimizer.step()
    twin = copied(optimizer)
    twin.step()  # which has warned already
    assert (twin.skipped_steps, twin.last_step_applied) == (2, False)
    assert optimizer.skipped_steps == 1


def test_a_state_dict_has_the_count() -> None:
    optimizer = made(rs.Adam)
    assert "skipped_steps" not in made(rs.Adam, skip_nonfinite=False).state_dict()
    assert optimizer.state_dict()["skipped_steps"] == 0
    give(optimizer, 0)
    optimizer.parameters[1].grad[...] = math.nan
    with silent():
        optimizer.step()
    saved = optimizer.state_dict()
    again = made(rs.Adam)
    again.set_state_dict(saved)
    assert again.skipped_steps == 1
    old = {k: v for k, v in saved.items() if k != "skipped_steps"}
    again.set_state_dict(old)
    assert again.skipped_steps == 0
    for bad in (-1, 1.5, "1", None, True):
        with pytest.raises(ValueError, match="skipped_steps"):
            again.set_state_dict({**saved, "skipped_steps": bad})
    assert again.skipped_steps == 0


def test_it_is_a_flag_by_keyword_and_in_the_repr() -> None:
    with pytest.raises(TypeError, match="skip_nonfinite: expected True or False, got 1"):
        made(rs.SGD, skip_nonfinite=1)
    assert "skip_nonfinite=True" in repr(made(rs.SGD))
    assert "skip_nonfinite" not in repr(made(rs.SGD, skip_nonfinite=False))
    for cls in CLASSES:
        assert made(cls)._skip_nonfinite
    p = rs.Parameter(np.zeros(1))
    with pytest.raises(TypeError, match="skip_nonfinite"):
        rs.LBFGS(parameters=[p], skip_nonfinite=True)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'skip_nonfinite' is no setting of SGD"):
        rs.SGD(parameters=[{"params": [p], "skip_nonfinite": True}])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_watch_has_no_say_in_the_norm(threads: int) -> None:
    rs.set_num_threads(threads)
    rng = np.random.default_rng(0)
    clipped, free = (rs.Parameter(ordinary(rng, 300_000, np.float32), n) for n in "ab")
    found = []
    for skip in (False, True):
        optimizer = rs.SGD(
            0.0,
            parameters=[
                {"params": [clipped], "grad_clip": rs.ClipGradByGlobalNorm(1.0)},
                {"params": [free]},
            ],
            skip_nonfinite=skip,
        )
        clipped.grad, free.grad = clipped.data, free.data
        clipped.grad, free.grad = clipped.data.copy(), free.data.copy()
        optimizer.step()
        found.append(optimizer.last_grad_norm)
    assert found[0] == found[1]
    optimizer = rs.SGD(0.0, [free], skip_nonfinite=True)
    optimizer.step()
    assert optimizer.last_grad_norm is None


@pytest.mark.parametrize("door", ["apply_gradients", "minimize"])
def test_parameters_of_a_first_step_that_is_skipped_stay_though_its_warning_is_an_error(
    door: str,
) -> None:
    w = rs.Parameter(np.ones(2), "w")
    optimizer = rs.SGD(0.5, skip_nonfinite=True)
    bad = np.array([1, math.nan])
    calls: dict[str, Callable[[], Any]] = {
        "apply_gradients": lambda: optimizer.apply_gradients([(w, bad)]),
        "minimize": lambda: optimizer.minimize(lambda: (0.0, [bad]), parameters=[w]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="'w' is not finite"):
            calls[door]()
    assert (optimizer.parameters, optimizer.skipped_steps) == ((w,), 1)
    assert optimizer.last_step_applied is False
    optimizer.apply_gradients([(w, np.ones(2))])
    assert (w.data.tolist(), optimizer.skipped_steps) == ([0.5, 0.5], 1)
