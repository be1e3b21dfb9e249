"""Sparse gradients: the bits of the dense gradient or of the oracle, lazy rows, refusals."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import reference as ref
import roofstep as rs
from roofstep import _core
from test_exact import CLASSES

Array = np.ndarray[Any, Any]
Make = Callable[[list[rs.Parameter]], rs.Optimizer]

# Rows of one element and of many, narrower and wider than a block; one dimension and three; none.
SHAPES = [(10,), (9000,), (1, 3), (3000, 7), (300, 64), (3, 5000), (20, 3, 50), (0, 4), (4, 0)]
COUNTS = (0, 1, 13, 2000)

MOVED: dict[str, Callable[..., rs.Optimizer]] = {
    "SGD": rs.SGD,
    "Adagrad": rs.Adagrad,
    "Adagrad without epsilon": lambda rate, **o: rs.Adagrad(rate, 1e-60, **o),  # 0 in float32
    "Adam": rs.Adam,
    "AMSGrad": lambda rate, **o: rs.Adam(rate, amsgrad=True, **o),
    "AdamW": lambda rate, weight_decay, **o: rs.AdamW(rate, weight_decay=0.01, **o),
}
DECAYS = {"no decay": None, "L2": 0.01, "L1": rs.L1Decay(0.02)}
CLIPS = {
    "no clip": lambda: None,
    "global norm": lambda: rs.ClipGradByGlobalNorm(0.5),
    "norm": lambda: rs.ClipGradByNorm(0.5),
    "value": lambda: rs.ClipGradByValue(0.3),
    "value without 0": lambda: rs.ClipGradByValue(min=0.1, max=0.7),
}


def drawn(
    rng: np.random.Generator, shape: tuple[int, ...], count: int, dtype: Any
) -> rs.SelectedRows:
    """Rows in any order, some of them several times, and values of any strides."""
    count = count if shape[0] else 0
    rows = rng.integers(0, max(shape[0], 1), count).astype(rng.choice([np.int32, np.int64]))
    values = rng.standard_normal((count, *shape[1:])).astype(dtype)
    strided = (values, np.asfortranarray(values), np.repeat(values, 2, axis=0)[::-2])
    return rs.SelectedRows(rows, strided[rng.integers(3)])


def dense(gradient: rs.SelectedRows, height: int) -> Array:
    """What stands on the page of `SelectedRows`."""
    found = np.zeros((height, *gradient.values.shape[1:]), gradient.values.dtype)
    np.add.at(found, gradient.rows, gradient.values)
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two optimizers hold the same bits."""
    one, other = a.state_dict(), b.state_dict()
    arrays = {key: value for key, value in one.items() if isinstance(value, np.ndarray)}
    parameters = zip(a.parameters, b.parameters, strict=True)
    return all(p.data.tobytes() == q.data.tobytes() for p, q in parameters) and all(
        value.tobytes() == other[key].tobytes() for key, value in arrays.items()
    )


def compare(make: Make, shape: tuple[int, ...], count: int, dtype: Any, seed: int) -> None:
    """Two steps by sparse gradients, and two by the same as dense ones."""
    rng = np.random.default_rng(seed)
    starts = [rng.standard_normal(s).astype(dtype) for s in (shape, (7, 3))]
    sparse, whole = (make([rs.Parameter(start.copy()) for start in starts]) for _ in range(2))
    for _ in range(2):
        gradient = drawn(rng, shape, count, dtype)
        beside = rng.standard_normal((7, 3)).astype(dtype)  # the gradient of the other is dense
        sparse.parameters[0].grad = gradient
        whole.parameters[0].grad = dense(gradient, shape[0])
        for optimizer in (sparse, whole):
            optimizer.parameters[1].grad = beside
            optimizer.step()
        assert sparse.last_grad_norm == whole.last_grad_norm
    assert same(sparse, whole)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", MOVED)
def test_the_bits_of_the_dense_gradient(name: str, decay: str, clip: str) -> None:
    def make(parameters: list[rs.Parameter]) -> rs.Optimizer:
        settings = {"weight_decay": DECAYS[decay], "grad_clip": CLIPS[clip]()}
        return MOVED[name](0.1, parameters=parameters, **settings)

    with np.errstate(all="ignore"):
        for seed, shape in enumerate(SHAPES):
            for dtype in (np.float32, np.float64):
                compare(make, shape, COUNTS[(seed + len(name)) % len(COUNTS)], dtype, seed)
                compare(make, shape, 13, dtype, seed)


def everywhere() -> Iterator[tuple[str, int]]:
    """Every ISA, and one thread as well as more than there are CPUs."""
    for isa in _core.isas():
        for threads in (1, 2, 5):
            _core.set_isa(isa)
            rs.set_num_threads(threads)
            yield isa, threads


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("clip", ["no clip", "norm"])
def test_the_same_bits_everywhere(lazy: bool, clip: str) -> None:
    """Of so much work that it is cut into pieces, in the midst of rows."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((6000, 77)).astype("float32")
    gradients = [drawn(rng, start.shape, 4000, np.float32) for _ in range(2)]
    results = set()
    for _ in everywhere():
        w = rs.Parameter(start.copy())
        optimizer = rs.Adam(0.1, parameters=[w], lazy_mode=lazy, grad_clip=CLIPS[clip]())
        for w.grad in gradients:
            optimizer.step()
        results.add((w.data.tobytes(), optimizer.last_grad_norm))
    assert len(results) == 1


LAZY: dict[str, dict[str, Any]] = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "L2": {"weight_decay": 0.1},
    "decoupled": {"decay": 0.1},
    "norm": {"clip": ref.Norm(0.5)},
    "value": {"clip": ref.Value(0.1, 0.7)},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", LAZY)
def test_lazy_rows_are_stepped_as_by_the_oracle(case: str, dtype: Any) -> None:
    """Which is given the rows that are there as if they were all; the norm is that of all."""
    options = LAZY[case]
    settings = ref.Settings(
        "AMSGrad" if "amsgrad" in options else "Adam",
        {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        lr=0.1,
        l2=options.get("weight_decay", 0.0),
        decay=options.get("decay", 0.0),
        clip=options.get("clip"),
    )
    clips = {ref.Norm: lambda c: rs.ClipGradByNorm(c.limit),
             ref.Value: lambda c: rs.ClipGradByValue(min=c.lo, max=c.hi)}  # fmt: skip
    clip = clips[type(settings.clip)](settings.clip) if settings.clip else None
    rng = np.random.default_rng(5)
    start = rng.standard_normal((400, 33)).astype(dtype)
    w = rs.Parameter(start.copy(), "w")
    more: dict[str, Any] = {"lazy_mode": True, "grad_clip": clip}
    optimizer: rs.Optimizer
    if settings.decay:
        optimizer = rs.AdamW(0.1, parameters=[w], weight_decay=settings.decay, **more)
    else:
        amsgrad = "amsgrad" in options
        optimizer = rs.Adam(
            0.1, parameters=[w], weight_decay=settings.l2 or None, amsgrad=amsgrad, **more
        )
    p = start.copy()
    state = {name: np.zeros_like(p) for name in ref.RULES[settings.rule].states}
    for t in (1, 2, 3):
        w.grad = gradient = drawn(rng, p.shape, 90, dtype)
        optimizer.step()
        x = dense(gradient, len(p))
        there = np.unique(gradient.rows)
        rows, own = p[there], {name: array[there] for name, array in state.items()}
        norm = ref.norm([x.ravel()]) if isinstance(settings.clip, ref.Norm) else 0.0
        ref.update(rows, x[there], t, own, settings, 0.5 / norm if norm > 0.5 else 1.0)
        p[there] = rows
        for name, array in state.items():
            array[there] = own[name]
    assert w.data.tobytes() == p.tobytes()
    saved = optimizer.state_dict()
    for name, array in state.items():
        assert saved[f"w_{name}_0"].tobytes() == array.tobytes()


def one(
    make: Callable[..., rs.Optimizer] = rs.SGD, shape: tuple[int, ...] = (3, 2), **settings: Any
) -> tuple[rs.Parameter, rs.Optimizer]:
    w = rs.Parameter(np.ones(shape), "w")
    return w, make(0.5, parameters=[w], **settings)


def rows(*numbers: int, width: int = 2) -> rs.SelectedRows:
    return rs.SelectedRows(np.array(numbers, np.int64), np.ones((len(numbers), width)))


def test_lazy_mode_is_a_setting_of_groups() -> None:
    lazy, eager = rs.Parameter(np.ones((2, 1))), rs.Parameter(np.ones((2, 1)))
    groups = [{"params": [lazy], "lazy_mode": True}, {"params": [eager]}]
    optimizer = rs.AdamW(0.5, parameters=groups, weight_decay=0.5)
    for is_lazy in (True, False):
        optimizer.param_groups[0]["lazy_mode"] = is_lazy
        before = lazy.data[0, 0], eager.data[0, 0]
        for p in (lazy, eager):
            p.grad = rows(1, width=1)
        optimizer.step()
        assert bool(lazy.data[0, 0] == before[0]) is is_lazy
        assert eager.data[0, 0] < before[1]


def test_no_rows_at_all_are_a_step() -> None:
    """As in torch: the step counts, and the moments that are there go on moving the rest."""
    for lazy in (False, True):
        w, optimizer = one(rs.Adam, lazy_mode=lazy)
        w.grad = rows(1)
        optimizer.step()
        before = w.data.copy()
        w.grad = rows()
        optimizer.step()
        assert bool((w.data[1] == before[1]).all()) is lazy
        assert optimizer.state_dict()["w_step_0"] == 2


def test_rows_that_rest_keep_every_bit() -> None:
    """Even -0.0; and are not visited, which their NaN would show in no other way than here."""
    for make in (rs.SGD, rs.Adagrad):
        w, optimizer = one(make)
        w.data[0] = -0.0
        w.data[2] = math.nan
        before = w.data.copy()
        w.grad = rows(1)
        optimizer.step()
        assert w.data[[0, 2]].tobytes() == before[[0, 2]].tobytes()
        assert (w.data[1] < 1).all()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_norm_that_is_nan_reaches_all_rows_but_lazy_ones(lazy: bool) -> None:
    for make in (rs.SGD, rs.Adagrad, rs.Adam):
        if lazy and make is not rs.Adam:
            continue
        settings = {"lazy_mode": lazy} if make is rs.Adam else {}
        for there in ((1,), ()):  # without rows of its own, too
            w, v = rs.Parameter(np.ones((70_000, 2))), rs.Parameter(np.ones(1))
            clip = rs.ClipGradByGlobalNorm(1.0)
            optimizer = make(0.5, parameters=[w, v], grad_clip=clip, **settings)
            w.grad, v.grad = rows(*there), np.array([math.nan])
            optimizer.step()
            moved = np.flatnonzero(np.isnan(w.data).all(axis=1))
            assert moved.tolist() == (list(there) if lazy else [*range(70_000)])
    assert math.isnan(optimizer.last_grad_norm or 0.0)


def test_the_rows_of_a_gradient_are_forgotten_with_it() -> None:
    """A NaN norm wakes the rows of the gradients that are there, not of those of the last step."""
    for make in (rs.SGD, rs.Adagrad):
        w, v, u = (rs.Parameter(np.ones((n, 2))) for n in (3, 3, 1))
        optimizer = make(0.5, parameters=[w, v, u], grad_clip=rs.ClipGradByGlobalNorm(1.0))
        w.grad = rows(1)
        optimizer.step()
        before = w.data.copy()
        w.grad, v.grad, u.grad = None, rows(1), np.full((1, 2), math.nan)
        optimizer.step()
        assert np.isnan(v.data).all()
        assert w.data.tobytes() == before.tobytes()


def test_zeros_of_either_sign_are_added_to_zeros() -> None:
    w, optimizer = one(shape=(1, 2))
    w.data[...] = -0.0
    w.grad = rs.SelectedRows(np.array([0]), np.array([[-0.0, 0.0]]))
    optimizer.step()
    assert np.signbit(w.data).all()  # -0.0 - rate * 0.0, as of the dense gradient


def test_averages_move_in_all_rows() -> None:
    for make in (rs.SGD, rs.Adam):
        results = []
        for sparse in (True, False):
            w, optimizer = one(make)
            optimizer.average_weights(0.75)
            for number in (1, 2):
                w.grad = rows(number) if sparse else dense(rows(number), 3)
                optimizer.step()
            results.append(optimizer.state_dict()["w_average_0"].tobytes() + w.data.tobytes())
        assert results[0] == results[1]
    w, optimizer = one(rs.Adam, lazy_mode=True)
    optimizer.average_weights(0.75)
    w.grad = rows(1)
    refused(optimizer.step, "parameter 'w'", "averages", "lazy_mode=False", "average_weights(None)")
    w.grad = dense(rows(1), 3)  # nothing is lazy about it
    optimizer.step()


def test_wherever_gradients_come_from() -> None:
    w, optimizer = one()
    optimizer.apply_gradients([("w", rows(0))])
    assert w.data.tolist() == [[0.5, 0.5], [1, 1], [1, 1]]
    _, pairs = optimizer.minimize(lambda: (0.0, [rows(1, 1)]))
    assert w.data.tolist() == [[0.5, 0.5], [0, 0], [1, 1]]
    assert pairs[0][1].rows.tolist() == [1, 1]

    def loss() -> float:
        w.grad = rows(2)
        return 0.0

    optimizer.minimize(loss)
    assert w.data.tolist() == [[0.5, 0.5], [0, 0], [0.5, 0.5]]
    assert w.grad is None
    w.grad = rows(2)
    optimizer.clear_grad()
    assert w.grad is None


def test_dense_and_sparse_by_turns() -> None:
    """What was found out of the array of the last step is not taken for true."""
    w, optimizer = one()
    for gradient in (np.ones((3, 2)), rows(0), np.ones((3, 2)), rows(2), None, rows(1)):
        w.grad = gradient
        optimizer.step()
    assert w.data.tolist() == [[-0.5, -0.5]] * 3


def test_it_survives_a_copy() -> None:
    w, _ = one()
    w.grad = rows(2, 0)
    for twin in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert twin.grad.rows.tolist() == [2, 0]
        assert twin.grad.values.tolist() == [[1, 1], [1, 1]]


def refused(act: Callable[..., Any], *parts: str, kind: Any = ValueError) -> None:
    """The message has all of these, in this order."""
    with pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, parts))):
        act()


TAKES_ROWS = {"SGD", "Adagrad", "Adam", "AdamW"}


@pytest.mark.parametrize("name", CLASSES)
def test_all_others_refuse_and_name_those_that_do_not(name: str) -> None:
    cls = CLASSES[name]
    w = rs.Parameter(np.ones((3, 2)), "w")
    optimizer = cls(learning_rate=0.01, parameters=[w])
    w.grad = rows(1)
    if name in TAKES_ROWS:
        optimizer.step()
        assert (w.data[1] < 1).all()
        assert f"`{name}`" in str(rs.SelectedRows.__doc__)
        return
    parts = "the gradient of parameter 'w'", "expected a dense one", "to_dense()", "sparse=False"
    refused(optimizer.step, *parts, "SGD, Adagrad, Adam and AdamW take")
    assert (w.data == 1).all()
    assert not optimizer.state_dict().keys() & {f"w_{s}_0" for s in ("step", "moment1", "velocity")}


def test_lbfgs_and_users_functions_refuse() -> None:
    w = rs.Parameter(np.ones((3, 2)), "w")
    lbfgs = rs.LBFGS(parameters=[w])

    def closure() -> float:
        w.grad = rows(1)
        return 0.0

    refused(lambda: lbfgs.step(closure), "'w'", "dense", "sparse", "to_dense(")

    class Halved(rs.ClipGradBase):
        def _dygraph_clip(self, pairs: Any) -> Any:
            raise AssertionError("it is given no sparse gradient")

    class Pull(rs.WeightDecayRegularizer):
        def __call__(self, *arguments: Any) -> Any:
            raise AssertionError("it is given no sparse gradient")

    for settings in ({"grad_clip": Halved()}, {"weight_decay": Pull()}):
        w, optimizer = one(**settings)
        w.grad = rows(1)
        refused(optimizer.step, "the gradient of parameter 'w'", "sparse", "to_dense(")
    for clip in (rs.ClipGradByNorm(1.0), rs.ClipGradByGlobalNorm(1.0), rs.ClipGradByValue(1.0)):
        refused(lambda c=clip: c([(w, rows(1))]), "'w'", "sparse", "to_dense(")


def test_zeroing_is_refused() -> None:
    for make in (rs.SGD, rs.Adam):
        w, optimizer = one(make)
        w.grad = rows(1)
        refused(lambda o=optimizer: o.step(clear_grad=True), "'w'", "zeroed", "clear_grad()")
        refused(lambda o=optimizer: o.clear_grad(set_to_zero=True), "'w'", "sparse")
        assert (w.data == 1).all()
        assert w.grad is not None


def _with(gradient: Any, data: Any = None) -> Callable[[], None]:
    w = rs.Parameter(np.ones((3, 2)) if data is None else data, "w")
    return lambda: rs.SGD(0.5, [w]).apply_gradients([(w, gradient)])


ONES = np.ones((2, 2))
REFUSED: Mapping[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "too large": (_with(rows(0, 3)), ("row numbers from 0 to 2, got 3",)),
    "negative": (_with(rows(0, -1)), ("row numbers from 0 to 2, got -1",)),
    "as large as can be": (_with(rows(2**63 - 1)), (f"got {2**63 - 1}",)),
    "rows where there are none": (_with(rows(0), np.ones((0, 2))), ("row numbers",)),
    "narrow": (_with(rows(1, width=1)), ("the shape (1, 2), got (1, 1)",)),
    "flat": (_with(rs.SelectedRows(np.array([1]), np.ones(1))), ("the shape (1, 2), got (1,)",)),
    "float32": (
        _with(rs.SelectedRows(np.array([1]), np.ones((1, 2), "f"))),
        ("dtype float64, got float32", ".astype('float64')")),
    "integers": (
        _with(rs.SelectedRows(np.array([1]), np.ones((1, 2), int))), ("dtype", "int64")),
    "in Fortran order": (
        _with(rows(1), np.ones((3, 2), order="F")), ("memory in C order", "ascontiguousarray")),
    "no dimensions": (_with(rows(1), np.ones(())), ("at least one dimension", "no dimensions")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_gradients_that_do_not_fit(case: str) -> None:
    act, parts = REFUSED[case]
    refused(act, "parameter 'w': expected", *parts)


def test_nothing_is_written_before_a_refusal() -> None:
    v, w = rs.Parameter(np.ones(3), "v"), rs.Parameter(np.ones((3, 2)), "w")
    optimizer = rs.Adam(0.5, parameters=[v, w])
    v.grad, w.grad = np.ones(3), rows(0, 3)
    refused(optimizer.step, "parameter 'w'")
    assert (v.data == 1).all()
    assert (w.data == 1).all()


def test_values_must_not_lie_in_what_is_written() -> None:
    memory = np.ones((5, 2))
    w, v = rs.Parameter(memory[:3], "w"), rs.Parameter(memory[3:], "v")
    optimizer = rs.SGD(0.5, [w, v])
    for values in (memory[2:4], memory[4:0:-2]):
        w.grad = rs.SelectedRows(np.array([0, 1]), values)
        refused(optimizer.step, "parameter 'w'", "overlap", "copy()")
    # Beside it they may: both are columns of one array.
    table = np.ones((3, 4))
    rs.SGD(0.5, [u := rs.Parameter(table[:, :1].copy())]).apply_gradients(
        [(u, rs.SelectedRows(np.array([0, 1, 2]), table[:, 1:2]))]
    )
    assert (u.data == 0.5).all()


CONSTRUCTED: Mapping[str, tuple[Any, Any, Any, tuple[str, ...]]] = {
    "a list": ([1], ONES[:1], TypeError, ("rows", "NumPy array", "asarray")),
    "values of a list": (np.array([1]), [[1.0]], TypeError, ("values", "NumPy array")),
    "floats": (np.array([1.0]), ONES[:1], TypeError, ("rows", "int64 or int32", "float64")),
    "flags": (np.array([True]), ONES[:1], TypeError, ("rows", "int64 or int32", "bool")),
    "a matrix": (np.array([[1]]), ONES[:1], ValueError, ("one dimension", "(1, 1)")),
    "too few": (np.array([1]), ONES, ValueError, ("a row of values for each", "(1,)", "(2, 2)")),
    "none": (np.array([1]), np.array(1.0), ValueError, ("a row of values for each", "()")),
}


@pytest.mark.parametrize("case", CONSTRUCTED)
def test_what_is_no_gradient(case: str) -> None:
    numbers, values, kind, parts = CONSTRUCTED[case]
    refused(lambda: rs.SelectedRows(numbers, values), *parts, kind=kind)


def test_to_dense() -> None:
    gradient = rs.SelectedRows(np.array([2, 0, 2], np.int32), np.array([[1.0], [2.0], [3.0]]))
    assert gradient.to_dense(3).tolist() == [[2], [0], [4]]
    assert rows().to_dense(2).tolist() == [[0, 0], [0, 0]]
    assert repr(gradient) == "SelectedRows(3 rows, shape=(3, 1), dtype=float64)"
    refused(lambda: gradient.to_dense(2), "0 to 1", "got 0 to 2", kind=IndexError)
    refused(lambda: rows(-1).to_dense(2), "got -1 to -1", kind=IndexError)
    refused(lambda: gradient.to_dense(2.5), "height", kind=TypeError)


def test_row_numbers_need_not_be_writable_or_adjacent() -> None:
    numbers = np.array([0, 9, 2, 9], np.int64)[::2]
    numbers.flags.writeable = False
    values = np.ones((2, 2))
    values.flags.writeable = False
    w, optimizer = one()
    w.grad = rs.SelectedRows(numbers, values)
    optimizer.step()
    assert w.data.tolist() == [[0.5, 0.5], [1, 1], [0.5, 0.5]]


def test_a_table_larger_than_32_bits_count() -> None:
    """Elements beyond 2**32 of an array of which next to nothing is ever touched."""
    height = 2**32 // 1024 + 10
    try:
        table = np.zeros(
            (height, 1024), "float32"
        )  # the system gives the memory when it is touched
    except MemoryError:
        pytest.skip("the system does not promise so much memory")
    w = rs.Parameter(table)
    optimizer = rs.SGD(0.5, [w], grad_clip=rs.ClipGradByGlobalNorm(math.inf))
    w.grad = rs.SelectedRows(np.array([height - 1, 0]), np.ones((2, 1024), "float32"))
    optimizer.step()
    assert optimizer.last_grad_norm == math.sqrt(2048)
    assert (table[[0, -1]] == -0.5).all()
    assert (table[[1, 9, -2, -10]] == 0).all()
