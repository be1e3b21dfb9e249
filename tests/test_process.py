"""A step among threads, in other floating-point modes, and after a pickle: nothing is lost."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
from roofstep import state
from roofstep.plan import State

LARGE = 4_000_000  # a step takes milliseconds, which other threads can use


def large(value: float = 1.0) -> roofstep.Parameter:
    parameter = roofstep.Parameter(np.full(LARGE, value), name="w")
    parameter.grad = np.full(LARGE, 0.5)
    return parameter


class Stepping(threading.Thread):
    """Steps an optimizer again and again until told to stop."""

    def __init__(self, optimizer: roofstep.Optimizer) -> None:
        super().__init__()
        self.optimizer, self.steps, self.refused = optimizer, 0, 0
        self.message = ""
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.optimizer.step()
                self.steps += 1
            except RuntimeError as error:
                self.message = str(error)
                self.refused += 1


@contextmanager
def running(*threads: Stepping) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.over.set()
        for thread in threads:
            thread.join()


def test_a_step_lets_other_threads_run() -> None:
    """Were the GIL held, this thread would come to run once a step, between two of them."""
    thread = Stepping(roofstep.SGD(1e-6, [large()]))
    turns = 0
    with running(thread):
        while thread.steps < 5 and thread.is_alive():
            turns += 1
    assert thread.steps >= 5
    assert turns > 1000


def test_gradients_may_be_dropped_during_a_step() -> None:
    """The step holds what it reads; a new gradient, or none, is for the next one."""
    parameter = large()
    thread = Stepping(roofstep.SGD(0.0, [parameter], grad_clip=roofstep.ClipGradByNorm(1.0)))
    with running(thread):
        for _ in range(2000):
            parameter.grad = None
            parameter.grad = np.full(LARGE, 0.5) if thread.steps < 20 else None
            gc.collect(0)
            if thread.steps > 40:
                break
    assert (parameter.data == 1.0).all()


def test_two_threads_with_two_optimizers() -> None:
    alone, first, second = (roofstep.Adam(0.01, parameters=[large()]) for _ in range(3))
    threads = [Stepping(first), Stepping(second)]
    with running(*threads):
        while min(t.steps for t in threads) < 3 and all(t.is_alive() for t in threads):
            pass
    assert min(t.steps for t in threads) >= 3
    for thread in threads:
        twin = copy.deepcopy(alone)
        for _ in range(thread.steps):
            twin.step()
        assert np.array_equal(thread.optimizer.parameters[0].data, twin.parameters[0].data)


def test_two_threads_with_one_optimizer_are_refused() -> None:
    """Either a step is made whole, or it is refused: none is torn."""
    optimizer = roofstep.Momentum(2**-20, 0.5, [large()])
    threads = [Stepping(optimizer), Stepping(optimizer)]
    with running(*threads):
        while sum(t.refused for t in threads) < 3 and sum(t.steps for t in threads) < 1000:
            pass
    assert sum(t.refused for t in threads) >= 3
    assert "another thread" in max(thread.message for thread in threads)
    done = sum(thread.steps for thread in threads)
    twin = roofstep.Momentum(2**-20, 0.5, [large()])
    for _ in range(done):
        twin.step()
    assert int(optimizer.state_dict()["w_step_0"]) == done
    assert np.array_equal(optimizer.parameters[0].data, twin.parameters[0].data)


# Modes.

UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    libm = ctypes.CDLL(None)
    before = libm.fegetround()
    libm.fesetround(mode)
    try:
        yield
        assert libm.fegetround() == mode
    finally:
        libm.fesetround(before)


def test_rounding_upward_set_by_another_library() -> None:
    results = []
    for mode in (0, UPWARD[platform.machine()]):
        rng = np.random.default_rng(0)
        w = roofstep.Parameter(rng.standard_normal(1000))
        optimizer = roofstep.Adam(1e-3, parameters=[w])
        gradients = [rng.standard_normal(1000) for _ in range(3)]
        for w.grad in gradients:
            with rounding(mode):
                optimizer.step()
        results.append(w.data)
    assert np.array_equal(*results)


# Copies.

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda o, n=n: pickle.loads(pickle.dumps(o, n)) for n in (2, 5)},
}


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_bit_for_bit(copied: Callable[[Any], Any], stepped: bool) -> None:
    """Memory orders included, since a norm is summed in the order of the memory."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal((20, 30, 40)).transpose(2, 0, 1),
        np.asfortranarray(rng.standard_normal((50, 60))),
        rng.standard_normal(()),
        rng.standard_normal((0, 3)),
    ]
    arrays = [np.asarray(a) for a in arrays]
    params = [roofstep.Parameter(a, f"w{i}") for i, a in enumerate(arrays)]
    optimizer = roofstep.AdamW(
        roofstep.lr.StepDecay(0.1, step_size=2),
        parameters=params,
        grad_clip=roofstep.ClipGradByGlobalNorm(0.3),
        amsgrad=True,
    )

    def go(one: roofstep.Optimizer, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for p in one.parameters:
            p.grad = np.asarray(rng.standard_normal(p.data.shape))
        one.step()

    if stepped:
        go(optimizer, 1)
    twin = copied(optimizer)
    for p, q in zip(optimizer.parameters, twin.parameters, strict=True):
        assert p.data is not q.data
        assert q.name == p.name
        assert q.data.strides == p.data.strides or not p.data.size
    for seed in (2, 3):
        go(optimizer, seed)
        go(twin, seed)
    assert twin.last_grad_norm == optimizer.last_grad_norm
    for p, q in zip(optimizer.parameters, twin.parameters, strict=True):
        assert np.array_equal(p.data, q.data)


def test_states_are_aligned() -> None:
    """To cache lines, so that no vector spans two of them."""
    params = [roofstep.Parameter(np.zeros(n, "f4"), f"w{n}") for n in (1, 3, 17, 100_003)]
    optimizer = roofstep.Adam(parameters=params)
    for p in params:
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    held = [array for states in optimizer._states.values() for array in states.values()]
    assert len(held) == 8
    assert all(array.ctypes.data % 64 == 0 for array in held)


def test_large_states_ask_for_huge_pages() -> None:
    """Where the kernel knows them; elsewhere the advice is not taken and nothing else changes."""
    known = Path("/sys/kernel/mm/transparent_hugepage").exists()
    (array,) = state.zeros([(State(0.0), np.empty(4 << 20, "f4"))])
    address = array.ctypes.data
    flags: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(maxsplit=1)[0]
        if "-" in head and not head.endswith(":"):
            begin, end = (int(bound, 16) for bound in head.split("-"))
            inside = begin <= address < end
        elif inside and head == "VmFlags:":
            flags = line.split()[1:]
    assert ("hg" in flags) == known
