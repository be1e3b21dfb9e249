"""A step among threads, in other floating-point modes, and after a pickle: nothing is lost."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
from at_once import TIMES, Holding, at_once
from roofstep import _core, state, threads
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


# Each thread steps an optimizer of its own. What they share is in `Shared`.


class Shared:
    """What several optimizers may have in common: settings, and gradients that none of them zeroes.

    Args:
        gradients: one for each parameter; None leaves each optimizer its own.
    """

    def __init__(self, gradients: list[Any] | None = None) -> None:
        self.schedule = roofstep.lr.StepDecay(0.01, step_size=3)
        self.clip = roofstep.ClipGradByGlobalNorm(0.5)
        self.each = roofstep.ClipGradByNorm(0.5)
        self.decay = roofstep.L2Decay(0.01)
        self.gradients = gradients


SHAPES = [(3,), (70_001,), (600, 500), (31, 4099), (0, 3), ()]


def gradients_of(seed: int) -> list[Any]:
    """Dense ones for all of SHAPES, and a sparse one for the (31, 4099)."""
    rng = np.random.default_rng(seed)
    made: list[Any] = [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]
    rows = rng.integers(0, 31, 9)
    made[3] = roofstep.SelectedRows(rows, rng.standard_normal((9, 4099)))
    made[2] = np.asfortranarray(made[2])
    return made


def an_optimizer(kind: int, shared: Shared) -> roofstep.Optimizer:
    """Of one of six kinds, with gradients of its own unless there are shared ones."""
    rng = np.random.default_rng(kind)
    params = [roofstep.Parameter(np.asarray(rng.standard_normal(shape))) for shape in SHAPES]
    for param, gradient in zip(params, shared.gradients or gradients_of(kind), strict=True):
        param.grad = gradient
    made: list[Callable[[], roofstep.Optimizer]] = [
        lambda: roofstep.Adam(shared.schedule, parameters=params, grad_clip=shared.clip),
        lambda: roofstep.AdamW(0.01, parameters=params, grad_clip=shared.each),
        lambda: roofstep.Adagrad(0.01, parameters=params, weight_decay=shared.decay),
        lambda: roofstep.SGD(shared.schedule, params, grad_clip=shared.clip),
        lambda: roofstep.Adam(0.01, parameters=params, grad_clip=roofstep.ClipGradByValue(0.1)),
        lambda: roofstep.Adam(0.01, parameters=params, grad_clip=shared.clip, lazy_mode=True),
    ]
    optimizer = made[kind % 6]()
    if kind in (1, 3):
        optimizer.average_weights(0.9)
    return optimizer


def all_of(optimizer: roofstep.Optimizer, norms: list[float | None]) -> list[bytes]:
    """The bits of what an optimizer has come to."""
    state = optimizer.state_dict()
    arrays = [p.data for p in optimizer.parameters]
    arrays += [state[key] for key in sorted(state) if isinstance(state[key], np.ndarray)]
    return [array.tobytes() for array in arrays] + [repr(norms).encode()]


@pytest.mark.parametrize("sharing", [False, True], ids=["own", "shared gradients"])
@pytest.mark.parametrize(("optimizers", "threads"), [(2, 2), (6, 2), (6, 5)])
def test_optimizers_in_threads(optimizers: int, threads: int, sharing: bool) -> None:
    """Bit for bit what each does alone, on more threads than there are CPUs as well."""
    shared = Shared(gradients_of(99) if sharing else None)
    steps = 12

    def go(optimizer: roofstep.Optimizer) -> list[bytes]:
        norms = []
        for _ in range(steps):
            optimizer.step()
            norms.append(optimizer.last_grad_norm)
        return all_of(optimizer, norms)

    roofstep.set_num_threads(1)
    alone = [go(an_optimizer(kind, shared)) for kind in range(optimizers)]
    roofstep.set_num_threads(threads)
    found: dict[int, list[bytes]] = {}
    for _ in range(TIMES):
        found.clear()
        row = [an_optimizer(kind, shared) for kind in range(optimizers)]
        at_once([lambda k=k, one=one: found.update({k: go(one)}) for k, one in enumerate(row)])
        assert [found[kind] for kind in range(optimizers)] == alone


def test_the_pool_of_a_thread_ends_with_it() -> None:
    """Otherwise a server that steps in short-lived threads would come to have thousands."""
    roofstep.set_num_threads(3)
    before = len(list(Path("/proc/self/task").iterdir()))
    optimizer = roofstep.SGD(1e-3, [large()])
    for _ in range(20):
        thread = threading.Thread(target=optimizer.step)
        thread.start()
        thread.join()
    end = time.monotonic() + 30  # threads of a pool end soon after it
    while len(list(Path("/proc/self/task").iterdir())) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(list(Path("/proc/self/task").iterdir())) <= before


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


CALLS: dict[str, Callable[[roofstep.Optimizer, Path], Any]] = {
    "step": lambda o, _: o.step(),
    "minimize": lambda o, _: o.minimize(lambda: (0.0, [np.ones(3)])),
    "apply_gradients": lambda o, _: o.apply_gradients([(o.parameters[0], np.ones(3))]),
    "state_dict": lambda o, _: o.state_dict(),
    "set_state_dict": lambda o, _: o.set_state_dict({}),
    "save": lambda o, path: o.save(path / "new"),
    "load": lambda o, path: o.load(path / "saved"),
    "average_weights": lambda o, _: o.average_weights(),
    "averaged": lambda o, _: o.averaged().__enter__(),
    "add_param_group": lambda o, _: o.add_param_group({"params": [np.zeros(2)]}),
    "pickle": lambda o, _: pickle.dumps(o),
    "deepcopy": lambda o, _: copy.deepcopy(o),
    "copy": lambda o, _: copy.copy(o),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_is_asked_of_an_optimizer_in_a_step(
    call: Callable[[roofstep.Optimizer, Path], Any], tmp_path: Path
) -> None:
    """All that reads or writes states, counts, groups or averaged weights is refused."""
    parameter, clip = roofstep.Parameter(np.zeros(3), name="w"), Holding()
    parameter.grad = np.ones(3)
    optimizer = roofstep.Momentum(1.0, 0.5, [parameter], grad_clip=clip)
    optimizer.average_weights(0.5)
    twin = roofstep.Momentum(1.0, 0.5, [roofstep.Parameter(np.zeros(3), name="w")])
    twin.save(tmp_path / "saved")
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    assert clip.begun.wait(30)
    try:
        with pytest.raises(RuntimeError, match="this Momentum is being stepped, by another thread"):
            call(optimizer, tmp_path)
    finally:
        clip.may_end.set()
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert (parameter.data == -1).all()
    assert optimizer.state_dict()["w_step_0"] == 1
    assert len(optimizer.parameters) == 1


def test_two_threads_give_parameters_to_one_optimizer() -> None:
    """The one that fails does not take away what the other is stepping."""
    parameter, clip = roofstep.Parameter(np.zeros(3), name="w"), Holding()
    optimizer = roofstep.Momentum(1.0, 0.5, grad_clip=clip)
    gradients = [(parameter, np.ones(3))]
    late = threading.Event()
    refused: list[BaseException] = []

    def failing() -> None:
        """What minimize does with a loss that fails, while the other is in its step."""
        try:
            with optimizer._adopting([parameter]):
                late.set()
                assert clip.begun.wait(30)
                raise KeyError("whatever fails")
        except (KeyError, RuntimeError) as error:
            refused.append(error)

    other = threading.Thread(target=failing)
    other.start()
    assert late.wait(30)
    thread = threading.Thread(target=optimizer.apply_gradients, args=(gradients,))
    thread.start()
    other.join()
    clip.may_end.set()
    thread.join()
    (error,) = refused
    assert isinstance(error, RuntimeError)
    assert optimizer.parameters == (parameter,)
    assert optimizer.state_dict()["w_step_0"] == 1
    assert (parameter.data == -1).all()


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


class Slow:
    """Stands in a group, and steps the optimizer when it is copied."""

    def __init__(self, optimizer: roofstep.Optimizer) -> None:
        self.optimizer = optimizer

    def __reduce__(self) -> tuple[Any, ...]:
        self.optimizer.step()
        return int, ()


@pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_copy_during_which_a_step_came_is_refused(
    how: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = roofstep.Parameter(np.ones(3), "w")
    parameter.grad = np.ones(3)
    optimizer = roofstep.SGD(0.5, [parameter])
    optimizer.step()
    how(optimizer)
    # copy.copy copies a state alone, as the new one takes it over.
    held = {} if how is copy.copy else vars(optimizer)
    laid_out = state.laid_out

    def slowly(*args: Any) -> Any:
        optimizer.step()
        return laid_out(*args)

    if how is copy.copy:
        monkeypatch.setattr(state, "laid_out", slowly)
    held["_own"] = Slow(optimizer)
    with pytest.raises(RuntimeError, match="nobody uses while it is copied"):
        how(optimizer)
    del held["_own"]
    monkeypatch.undo()
    how(optimizer)
    assert parameter.data.tolist() == [0.0] * 3


@pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_copy_begins_in_one_turn(
    how: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared at its end is noted before any other turn can come."""
    parameter = roofstep.Parameter(np.ones(3), "w")
    parameter.grad = np.ones(3)
    optimizer = roofstep.SGD(0.5, [parameter])
    noted = threads.Undisturbed.__init__
    refused: list[RuntimeError] = []

    def late(self: threads.Undisturbed, alone: Any) -> None:
        try:
            optimizer.step()
        except RuntimeError as error:
            refused.append(error)
        noted(self, alone)

    monkeypatch.setattr(threads.Undisturbed, "__init__", late)
    how(optimizer)
    assert len(refused) == 1
    assert parameter.data.tolist() == [1.0] * 3


def test_what_put_replaces_dies_after_the_exchange() -> None:
    """Its finalizer, which may be Python's, finds all done."""
    parameter, other = np.zeros(2), np.ones(2)
    seen: list[tuple[str, list[float]]] = []

    class Old:
        def __del__(self) -> None:
            seen.append((kept["key"], parameter.tolist()))

    kept: dict[str, Any] = {"key": Old()}
    exchange = _core.Exchange((("w", parameter, other),))
    _core.put(((kept, {"key": "new"}),), exchange)
    assert seen == [("new", [1.0, 1.0])]


def test_a_new_norm_has_its_value_when_it_is_shown() -> None:
    """A step puts its records before it lets others look while it writes."""
    parameter = roofstep.Parameter(np.ones(2), "w")
    parameter.grad = np.array([3.0, 4.0])
    clip = roofstep.ClipGradByGlobalNorm(float("inf"))
    optimizer = roofstep.SGD(0.5, [parameter], grad_clip=clip)
    seen: list[tuple[float | None, list[float]]] = []

    class Key(str):
        def __eq__(self, other: object) -> bool:
            if len(vars(optimizer)["_norms"] or ()):
                seen.append((optimizer.last_grad_norm, parameter.data.tolist()))
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    current = optimizer._current_plan()
    told = {Key("kept"): 0}
    entries = current.entries
    counts, numbers = np.zeros(1, np.int64), np.ones(1)
    current.kinds[0].settings.learning_rate = 0.5
    records = ((vars(optimizer), {"_norms": current.norms}), (told, {Key("kept"): 1}))
    entries.step(None, counts, numbers, False, 1, records=records)
    assert seen
    assert all(found == (5.0, [1.0, 1.0]) for found in seen)
    assert told == {"kept": 1}
