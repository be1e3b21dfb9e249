"""Nothing is lost and nothing grows, over 10^5 steps through every door, and in every refusal."""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
import pickle
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep as rs
import test_refusals
from at_once import at_once
from growth import grown
from roofstep import _core, kernels
from test_faults import Halve, Pull
from test_refusals import TwoGroups

STEPS = 100_000
CALLS = 400  # of what takes long
# NumPy 2.4 loses a reference of this one at every np.ones(3), whoever calls it.
NUMPYS = [np.dtype("f8")]
Act = Callable[[], object]


def arrays(*shapes: tuple[int, ...]) -> list[Any]:
    return [np.full(shape, 0.5, "f4") for shape in shapes]


def parameters(*shapes: tuple[int, ...]) -> list[rs.Parameter]:
    """With gradients."""
    made = [rs.Parameter(array, f"p{i}") for i, array in enumerate(arrays(*shapes))]
    for parameter in made:
        parameter.grad = np.full(parameter.data.shape, 0.25, "f4")
    return made


def adam(**options: Any) -> rs.Adam:
    return rs.Adam(1e-6, parameters=parameters((3, 2), (5,)), **options)


def stepping(optimizer: rs.Optimizer, **options: Any) -> Act:
    return partial(optimizer.step, **options)


def with_gradients(make: Callable[[Any], Any], **options: Any) -> Act:
    optimizer = adam(**options)
    for parameter in optimizer.parameters:
        parameter.grad = make(parameter.data)
    return optimizer.step


def of_float64() -> rs.Optimizer:
    parameter = rs.Parameter(np.full(3, 0.5), "p")
    parameter.grad = np.full(3, 0.25)
    return rs.Adam(1e-6, parameters=[parameter], grad_clip=rs.ClipGradByGlobalNorm(0.1))


def rows(data: Any) -> rs.SelectedRows:
    return rs.SelectedRows(np.array([2, 0, 2]), np.ones((3, *data.shape[1:]), "f4"))


def groups() -> Act:
    first, second = parameters((3, 2), (5,))
    settings = {"params": second, "weight_decay": 0.1, "beta1": 0.5, "grad_clip": None}
    return rs.AdamW(1e-6, parameters=[{"params": first}, settings]).step


def scheduled() -> Act:
    schedule = rs.lr.CosineAnnealingDecay(1e-6, 9)
    optimizer = rs.Adam(schedule, parameters=parameters((3, 2)))

    def act() -> None:
        optimizer.step()
        schedule.step()

    return act


def averaged() -> Act:
    optimizer = rs.SGD(1e-6, parameters((3, 2), (5,)))
    optimizer.average_weights(0.5)
    return optimizer.step


def minimized() -> Act:
    optimizer = adam()
    gradients = arrays((3, 2), (5,))
    return partial(optimizer.minimize, lambda: (0.0, gradients))


def applied() -> Act:
    optimizer = adam()
    return partial(optimizer.apply_gradients, [(p, p.grad) for p in optimizer.parameters])


def skipped() -> Act:
    optimizer = adam(skip_nonfinite=True)
    optimizer.parameters[1].grad[2] = np.nan
    with pytest.warns(RuntimeWarning, match="not finite"):
        optimizer.step()
    return optimizer.step


def compiled() -> Act:
    """`adam_f32` of roofstep.h, by its place in the table."""
    function = ctypes.CFUNCTYPE(
        ctypes.c_int, *[ctypes.c_void_p] * 4, ctypes.c_ssize_t, *[ctypes.c_double] * 4,
        ctypes.c_int64,
    )  # fmt: skip
    place = kernels.address() + 8 * (1 + 8)  # the version, and those of SGD and Momentum
    call = function(struct.unpack("P", ctypes.string_at(place, 8))[0])
    row = arrays(*[(7,)] * 4)
    pointers = [array.ctypes.data for array in row]

    def act() -> None:
        assert call(*pointers, 7, 0.1, 0.9, 0.999, 1e-8, 1) == 0
        assert row[0].shape == (7,)

    return act


DOORS: dict[str, Callable[[], Act]] = {
    "plain": lambda: adam().step,
    "without states": lambda: rs.SGD(1e-6, parameters((3, 2), (5,))).step,
    "float64": lambda: of_float64().step,
    "trust ratios": lambda: rs.Lamb(1e-6, parameters=parameters((3, 2), (5,))).step,
    "a ring": lambda: rs.ASGD(1e-6, batch_num=3, parameters=parameters((3, 2))).step,
    "a number of its own": lambda: rs.NAdam(1e-6, parameters=parameters((3, 2))).step,
    "groups": groups,
    "global norm": lambda: adam(grad_clip=rs.ClipGradByGlobalNorm(0.1)).step,
    "norm": lambda: adam(grad_clip=rs.ClipGradByNorm(0.1)).step,
    "value": lambda: adam(grad_clip=rs.ClipGradByValue(0.1)).step,
    "decay": lambda: adam(weight_decay=rs.L1Decay(0.1)).step,
    "schedule": scheduled,
    "averages": averaged,
    "clears": lambda: stepping(adam(), clear_grad=True),
    "scaled": lambda: stepping(adam(), grad_scale=4.0),
    "watched": lambda: adam(skip_nonfinite=True).step,
    "skipped": skipped,
    "strided": lambda: with_gradients(lambda d: np.ones((*d.shape, 2), "f4")[..., 0]),
    "broadcast": lambda: with_gradients(lambda d: np.broadcast_to(np.float32(1), d.shape)),
    "sparse": lambda: with_gradients(rows),
    "sparse, lazy, clipped": lambda: with_gradients(
        rows, lazy_mode=True, grad_clip=rs.ClipGradByGlobalNorm(0.1)
    ),
    "apply_gradients": applied,
    "minimize": minimized,
    "compiled": compiled,
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_grows_over_many_steps(door: str) -> None:
    act = DOORS[door]()
    assert grown(act, STEPS) == {}


# What takes longer than a step.


def on_two_threads() -> Act:
    rs.set_num_threads(2)
    clip = rs.ClipGradByGlobalNorm(0.1)
    return rs.Adam(1e-6, parameters=parameters((700, 410)), grad_clip=clip).step


def first_steps() -> Act:
    row = parameters((3, 2), (5,))

    def act() -> None:
        rs.Adam(1e-6, parameters=row).step()

    return act


def first_steps_skipped() -> Act:
    row = parameters((3, 2), (5,))
    row[1].grad = np.full(5, np.inf, "f4")

    def act() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rs.Adam(1e-6, parameters=row, skip_nonfinite=True).step()

    return act


def by_users_functions() -> Act:
    options = {"grad_clip": Halve(), "weight_decay": Pull(), "skip_nonfinite": True}
    return stepping(adam(**options), clear_grad=True, grad_scale=2.0)


def edited() -> Act:
    """A plan is made anew for each step."""
    optimizer = adam()

    def act() -> None:
        group = optimizer.param_groups[0]
        group["beta1"] = 1.4 - group["beta1"]
        optimizer.parameters[0].trainable = not optimizer.parameters[0].trainable
        optimizer.step()

    return act


def grown_by_groups() -> Act:
    def act() -> None:
        optimizer = rs.SGD(1e-6, parameters((3,)))
        optimizer.step()
        optimizer.add_param_group({"params": rs.Parameter(np.zeros(2, "f4"), "more")})
        optimizer.step()
        optimizer.clear_grad(set_to_zero=True)
        optimizer.clear_grad()

    return act


def shown_averages() -> Act:
    optimizer = averaged().__self__  # type: ignore[attr-defined]
    optimizer.step()

    def act() -> None:
        with optimizer.averaged():
            assert optimizer.parameters[0].data.any()

    return act


def reloaded(path: Path) -> Act:
    optimizer = adam(grad_clip=rs.ClipGradByGlobalNorm(0.1), skip_nonfinite=True)
    optimizer.step()

    def act() -> None:
        optimizer.set_state_dict(optimizer.state_dict())
        optimizer.step()

    return act


def saved(path: Path) -> Act:
    optimizer = adam()
    optimizer.average_weights(0.5)
    optimizer.step()

    def act() -> None:
        optimizer.save(path, parameters=True)
        optimizer.load(path)
        optimizer.step()

    return act


def damaged(path: Path) -> Act:
    optimizer = adam()
    optimizer.step()
    optimizer.save(path)
    path.write_bytes(path.read_bytes()[:-1])

    def act() -> None:
        with pytest.raises(ValueError, match=str(path)):
            optimizer.load(path)

    return act


def copied(path: Path) -> Act:
    optimizer = adam(grad_clip=rs.ClipGradByGlobalNorm(0.1))
    optimizer.step()

    def act() -> None:
        for one in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            one.step()

    return act


def in_threads(path: Path) -> Act:
    row = [adam() for _ in range(3)]

    def act() -> None:
        at_once([one.step for one in row])

    return act


def lbfgs(path: Path) -> Act:
    parameter = rs.Parameter(np.zeros(3), "p")

    def closure() -> float:
        parameter.grad = 2 * (parameter.data - 1)
        return float(((parameter.data - 1) ** 2).sum())

    def act() -> None:
        parameter.data[...] = 0
        optimizer = rs.LBFGS(0.1, max_iter=3, line_search_fn="strong_wolfe", parameters=[parameter])
        optimizer.step(closure)
        optimizer.set_state_dict(optimizer.state_dict())

    return act


def loops(path: Path) -> Act:
    """What the core is asked beside steps."""
    to, of = arrays((64,), (64,))

    def act() -> None:
        _core.stream((to,), (of,), 1)
        norm = _core.Norm(1.0)
        norm.measure([("a", to, of)], 1)
        assert norm.factor <= 1
        assert _core.as_numpy(to, "a") is to
        _core.rules()

    return act


LONGER: dict[str, Callable[[Path], Act]] = {
    "on two threads": lambda path: on_two_threads(),
    "first steps": lambda path: first_steps(),
    "first steps that are skipped": lambda path: first_steps_skipped(),
    "users' functions": lambda path: by_users_functions(),
    "edited settings": lambda path: edited(),
    "groups added": lambda path: grown_by_groups(),
    "averages shown": lambda path: shown_averages(),
    "state_dict": reloaded,
    "save": saved,
    "a damaged file": damaged,
    "copies": copied,
    "threads": in_threads,
    "LBFGS": lbfgs,
    "loops": loops,
}


@pytest.mark.parametrize("door", LONGER)
def test_nothing_grows_beside_steps(door: str, tmp_path: Path) -> None:
    assert grown(LONGER[door](tmp_path / "file.safetensors"), CALLS, spare=NUMPYS) == {}


# Every refusal that test_refusals.py knows, again and again.


def refusals(name: str) -> dict[str, Act]:
    """What raises, by the names in the table."""
    table = getattr(test_refusals, name)

    def one(bad: Any) -> Act:
        world = TwoGroups()
        optimizer = world.optimizer
        if name == "BAD_STATES":
            return partial(optimizer.set_state_dict, bad(optimizer.state_dict()))
        if name == "PAIRS":
            return partial(optimizer.apply_gradients, bad(world))
        if name == "RESULTS":
            return partial(optimizer.minimize, lambda: (0.0, bad))
        if name == "ARGUMENTS":
            return partial(bad, world.params)
        if name == "LAYERS":
            return lambda: rs.layerwise_lr_decay(*bad(world.first))
        if name == "ADDED":
            world.fresh = rs.Parameter(np.ones((3, 4), "f4"), "fresh")  # type: ignore[attr-defined]
            return partial(optimizer.add_param_group, bad(world))
        bad(world)
        return partial(optimizer.step, clear_grad=name == "BAD_TO_CLEAR")

    return {key: one(bad) for key, (bad, _, _) in table.items()}


TABLES = [
    *("BAD_STEPS", "BAD_WITH_STATES", "BAD_TO_CLEAR", "PAIRS", "RESULTS", "BAD_STATES"),
    *("ADDED", "LAYERS", "ARGUMENTS"),
]


@pytest.mark.parametrize("name", TABLES)
def test_refusals_lose_nothing(name: str) -> None:
    acts = refusals(name)
    raised = dict.fromkeys(acts, 0)

    def act(only: str | None = None) -> None:
        for key in acts if only is None else [only]:
            try:
                acts[key]()
            except (TypeError, ValueError, NotImplementedError, RuntimeError, OverflowError):
                raised[key] += 1

    times = 140
    if found := grown(act, times, spare=NUMPYS):
        culprits = {key: grown(partial(act, key), times, spare=NUMPYS) for key in acts}
        pytest.fail(f"{found}: { ({k: v for k, v in culprits.items() if v}) }")
    assert min(raised.values()) > times / 2, raised


# That the test can fail.


def test_what_is_lost_is_found() -> None:
    kept, mapped, files, lists = [], [], [], []
    thing, cell = object(), [0]
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pages = range(1 << 20)

    def open_one() -> None:
        files.append(os.open(os.devnull, os.O_RDONLY))

    losses: dict[str, tuple[Act, str]] = {
        "a reference": (lambda: ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing)), "references"),
        "of None": (lambda: lists.append(None), "references of a NoneType"),
        "of a cell": (lambda: lists.append(cell), "references of a list"),
        "of malloc": (lambda: libc.malloc(ctypes.c_size_t(8)), "bytes of malloc"),
        "of what grows": (lambda: kept.append(None), "bytes of malloc"),
        "objects": (lambda: kept.append([]), "objects of the garbage collector"),
        "blocks": (lambda: kept.append(1.5 * len(kept)), "blocks of Python"),
        "files": (open_one, "open files"),
        "pages": (lambda: mapped.append(mmap.mmap(-1, 1 << 14)), "bytes of addresses"),
    }
    try:
        for name, (act, key) in losses.items():
            found = grown(act, 10 * CALLS if "malloc" in key else CALLS, cell)
            assert any(what.startswith(key) or key in what for what in found), (name, found)
    finally:
        for file in files:
            os.close(file)
    assert grown(lambda: len(pages), CALLS) == {}
    with suppress(ValueError):
        assert grown(lambda: bytearray(1 << 20), CALLS) == {}
