"""Faults in a step: wherever it fails, all is as before it or as after it, and training goes on."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import roofstep as rs
from roofstep.checkpoint import replace
from test_exact import ordinary

# Every opcode of a step is one case. ROOFSTEP_FAULTS=all tries each; else a share of them.
STRIDE = 1 if os.environ.get("ROOFSTEP_FAULTS") == "all" else 13
PACKAGE = str(Path(rs.__file__).parent)


class Interrupter:
    """Raises KeyboardInterrupt before the k-th opcode that runs in the package's own lines.

    From 3.12 on by sys.monitoring: tracers miss opcodes of 3.12 and 3.13 when they are set anew.
    """

    TOOL = 4  # which no tool has by convention

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        return self._trace

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._count()
        return self._trace

    def _before(self, code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(PACKAGE):
            return sys.monitoring.DISABLE
        return self._count()

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self.at + 1:
            raise KeyboardInterrupt

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if sys.version_info < (3, 12):
            old = sys.gettrace()
            sys.settrace(self)
            try:
                yield
            finally:
                sys.settrace(old)
        else:
            watch = sys.monitoring
            watch.use_tool_id(self.TOOL, "roofstep's tests")
            watch.register_callback(self.TOOL, watch.events.INSTRUCTION, self._before)
            watch.set_events(self.TOOL, watch.events.INSTRUCTION)
            try:
                yield
            finally:
                watch.set_events(self.TOOL, 0)
                watch.free_tool_id(self.TOOL)

    def run(self, function: Callable[[], Any]) -> bool:
        """Whether the function was interrupted."""
        try:
            with self._watching():
                function()
        except KeyboardInterrupt:
            return True
        return False


class Halve(rs.ClipGradBase):
    """A user's clip."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        return [(p, np.asarray(np.float32(0.5) * g)) for p, g in params_grads]


class Pull(rs.WeightDecayRegularizer):
    """A user's regularizer."""

    def __call__(self, param: Any, grad: Any, block: Any) -> Any:
        return np.asarray(np.float32(0.25) * param.data)


class Training:
    """An optimizer of three parameters after some steps, ready for one more."""

    def __init__(
        self, steps: int, make: Callable[[list[rs.Parameter]], rs.Optimizer], sparse: bool = False
    ) -> None:
        self.rng = np.random.default_rng(0)
        self.sparse = sparse
        self.params = [
            rs.Parameter(ordinary(self.rng, 12, np.float32).reshape(4, 3), f"p{i}")
            for i in range(3)
        ]
        self.optimizer = make(self.params)
        for _ in range(steps):
            self.give()
            self.step()
        self.give()

    def give(self) -> None:
        """New gradients; the last parameter has one from the second step on alone."""
        row = [ordinary(self.rng, 12, np.float32).reshape(4, 3) for _ in self.params]
        for p, g in zip(self.params, row, strict=True):
            p.grad = rs.SelectedRows(np.array([3, 1]), g[:2]) if self.sparse else g
        if not self.optimizer._counts.any():
            self.params[2].grad = None

    def step(self) -> None:
        self.optimizer.step(clear_grad=not self.sparse)

    def seen(self) -> dict[str, Any]:
        """All that a user can see of it, but for the gradients."""
        saved = self.optimizer.state_dict()
        return {
            **{k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in saved.items()},
            **{str(p.name): p.data.tobytes() for p in self.params},
            "norm": self.optimizer.last_grad_norm,
            "applied": self.optimizer.last_step_applied,
            "skipped": self.optimizer.skipped_steps,
        }


def averaging(optimizer: rs.Optimizer) -> rs.Optimizer:
    optimizer.average_weights(0.5)
    return optimizer


WORLDS: dict[str, Callable[[int], Training]] = {
    "Adam": lambda n: Training(n, lambda p: rs.Adam(0.1, parameters=p)),
    "global norm": lambda n: Training(
        n, lambda p: rs.NAdam(0.1, parameters=p, grad_clip=rs.ClipGradByGlobalNorm(0.1))
    ),
    "user's clip and regularizer": lambda n: Training(
        n,
        lambda p: rs.Momentum(
            0.1,
            parameters=[{"params": p[:1], "weight_decay": Pull()}, {"params": p[1:]}],
            grad_clip=Halve(),
        ),
    ),
    "averages, watched": lambda n: Training(
        n, lambda p: averaging(rs.SGD(0.1, p, skip_nonfinite=True))
    ),
    "sparse": lambda n: Training(n, lambda p: rs.Adam(0.1, parameters=p), sparse=True),
    "schedule": lambda n: Training(
        n, lambda p: rs.Lamb(rs.lr.CosineAnnealingDecay(0.1, 9), parameters=p)
    ),
}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", WORLDS)
def test_interrupted_before_any_opcode(name: str, steps: int) -> None:
    """Wholly before or wholly after; the next steps are those of a run that was not disturbed."""
    start = WORLDS[name](steps)
    before = start.seen()
    expected = copy.deepcopy(start)
    expected.step()
    after = expected.seen()
    expected.give()
    expected.step()
    later = expected.seen()
    assert before != after != later
    counts = {True: 0, False: 0}
    for at in range(0, 100_000, STRIDE):
        world = copy.deepcopy(start)
        world.optimizer._norms = start.optimizer._norms  # a copy has none
        if steps:  # a copy has no plan as yet, and that of a later step is there
            world.optimizer._current_plan()
        gradients = [p.grad for p in world.params]
        values = [None if g is None else np.array(getattr(g, "values", g)) for g in gradients]
        if not Interrupter(at).run(world.step):
            break
        found = world.seen()
        assert found in (before, after), at
        stepped = found == after
        counts[stepped] += 1
        for p, gradient, value in zip(world.params, gradients, values, strict=True):
            assert p.grad is gradient
            if value is not None and not world.sparse:
                assert np.array_equal(gradient, 0 * value if stepped else value)
        if not stepped:
            world.step()
            assert world.seen() == after, at
        world.give()
        world.step()
        assert world.seen() == later, at
    else:
        pytest.fail("the step never ended")
    print(f"{name}, step {steps + 1}: {sum(counts.values())} interrupts, {counts[True]} after")
    assert counts[False] > 20


# Errors at each point where a step asks something of others.


class Broken(rs.ClipGradBase, rs.WeightDecayRegularizer):
    """A user's clip or regularizer that fails."""

    def _dygraph_clip(self, params_grads: Any) -> Any:
        raise FailureError

    def __call__(self, *_: Any) -> Any:
        raise FailureError


class FailureError(Exception):
    """What users' code raises here."""


class BrokenGrad(rs.Parameter):
    """Its gradient cannot be looked at."""

    @property
    def grad(self) -> Any:
        raise FailureError

    @grad.setter
    def grad(self, value: Any) -> None: ...


def broken_gradient(world: Training) -> None:
    world.params[-1].grad = world.params[-1].grad[:2]


def broken_clip(world: Training) -> None:
    world.optimizer.param_groups[0]["grad_clip"] = Broken()


def broken_regularizer(world: Training) -> None:
    world.optimizer.param_groups[0]["weight_decay"] = Broken()


def broken_schedule(world: Training) -> None:
    def rate() -> float:
        raise FailureError

    world.optimizer.get_lr = rate  # type: ignore[method-assign]


def broken_factor(world: Training) -> None:
    world.optimizer.param_groups[0]["learning_rate"] = -1.0


def broken_setting(world: Training) -> None:
    world.optimizer.param_groups[0]["beta1"] = 1.5


def broken_memory(world: Training) -> None:
    world.params[-1].data = world.params[0].data


BREAKS = (
    broken_gradient,
    broken_clip,
    broken_regularizer,
    broken_schedule,
    broken_factor,
    broken_setting,
    broken_memory,
)


def of_thousand(steps: int) -> Training:
    world = Training.__new__(Training)
    world.rng, world.sparse = np.random.default_rng(0), False
    world.params = [
        rs.Parameter(ordinary(world.rng, 12, np.float32).reshape(4, 3), f"p{i}")
        for i in range(1000)
    ]
    world.optimizer = rs.Adam(0.1, parameters=world.params)
    for p in world.params:
        p.grad = np.ones((4, 3), "f4")
    for _ in range(steps):
        world.optimizer.step()
    return world


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("broken", BREAKS)
def test_an_error_in_a_step_of_a_thousand(broken: Any, steps: int) -> None:
    world = of_thousand(steps)
    expected = copy.deepcopy(world)
    before = world.seen()
    group = dict(world.optimizer.param_groups[0])
    last = world.params[-1]
    data, grad = last.data, last.grad
    broken(world)
    with pytest.raises((FailureError, ValueError)):
        world.optimizer.step()
    last.data, last.grad = data, grad
    world.optimizer.__dict__.pop("get_lr", None)
    world.optimizer.param_groups[0].update(group)
    assert world.seen() == before
    for one in (world, expected):
        one.optimizer.step()
    assert world.seen() == expected.seen()


def test_a_gradient_that_cannot_be_looked_at() -> None:
    good, bad = rs.Parameter(np.zeros(3), "good"), BrokenGrad(np.zeros(3), "bad")
    good.grad = np.ones(3)
    optimizer = rs.Adam(0.1, parameters=[good, bad])
    for _ in range(2):
        with pytest.raises(FailureError):
            optimizer.step()
    assert (good.data.tolist(), optimizer._states) == ([0.0] * 3, {})
    bad.trainable = False  # a step looks all the same
    with pytest.raises(FailureError):
        optimizer.step()
    optimizer.apply_gradients([(good, good.grad)])
    assert optimizer._counts.tolist() == [1, 0]


def test_an_optimizer_without_parameters_stays_so_if_its_first_step_fails() -> None:
    w = rs.Parameter(np.zeros(3), "w")
    optimizer = rs.Adam(0.1, grad_clip=Broken())
    with pytest.raises(FailureError):
        optimizer.apply_gradients([(w, np.ones(3))])
    assert (optimizer.parameters, optimizer.param_groups) == ((), [])
    found = 0
    for at in range(0, 100_000, STRIDE):
        optimizer = rs.Adam(0.1)
        w.data[...] = 0
        interrupted = Interrupter(at).run(partial(optimizer.apply_gradients, [(w, np.ones(3))]))
        moved = bool(w.data.any())
        assert moved == (optimizer.parameters == (w,)) == bool(optimizer.param_groups)
        if not interrupted:
            break
        found += 1
        if not moved:
            optimizer.apply_gradients([(w, np.ones(3))])
        assert optimizer._counts.tolist() == [1]
    assert found > 20


# What is done beside steps, to a world, with what another has saved and the path of its file.
BESIDE: dict[str, Callable[[Training, Any, Path], object]] = {
    "set_state_dict": lambda world, saved, path: world.optimizer.set_state_dict(saved),
    "load": lambda world, saved, path: world.optimizer.load(path),
    "add": lambda world, saved, path: world.optimizer.add_param_group(
        {"params": [rs.Parameter(np.zeros(3, "f4"), "new")]}
    ),
    "average": lambda world, saved, path: world.optimizer.average_weights(0.25),
    "no average": lambda world, saved, path: world.optimizer.average_weights(None),
    "averaged": lambda world, saved, path: world.optimizer.averaged().__enter__(),
    "save": lambda world, saved, path: world.optimizer.save(path.with_name("another")),
    "copy": lambda world, saved, path: copy.deepcopy(world.optimizer),
}


# A file that Python lets go of, being interrupted before it is in the hands of a `with`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", BESIDE)
def test_interrupted_beside_steps(what: str, tmp_path: Path) -> None:
    """Either all of it or nothing, and the optimizer can be used again."""
    path = tmp_path / "file.safetensors"

    def world_of(steps: int, beta1: float) -> Training:
        def make(params: list[rs.Parameter]) -> rs.Optimizer:
            schedule = rs.lr.StepDecay(0.1, 2)
            return averaging(rs.Adam(schedule, parameters=params, beta1=beta1))

        return Training(steps, make)

    start, other = world_of(2, 0.9), world_of(5, 0.5)
    for _ in range(3):
        other.optimizer._learning_rate.step()
    saved = other.optimizer.state_dict()
    other.optimizer.save(path, parameters=True)

    expected = copy.deepcopy(start)
    before = expected.seen()
    BESIDE[what](expected, saved, path)
    after = expected.seen()
    assert (before != after) == (what not in ("averaged", "save", "copy"))
    found = 0
    for at in range(0, 100_000, STRIDE):
        world = copy.deepcopy(start)
        if not Interrupter(at).run(partial(BESIDE[what], world, saved, path)):
            break
        found += 1
        assert world.seen() in (before, after), at
        assert {p.name for p in tmp_path.iterdir()} <= {path.name, "another"}, at
    assert found > (0 if STRIDE > 1 else 10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_while_a_file_takes_anothers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any opcode there: the old file or the new one, and nothing beside it."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", replace.__file__)
    path, found = tmp_path / "file", set()

    def write() -> None:
        with replace.replacing(str(path)) as file:
            file.write(b"new")

    for at in range(100_000):
        path.write_bytes(b"old")
        if not Interrupter(at).run(write):
            break
        assert [*tmp_path.iterdir()] == [path], at
        found.add(path.read_bytes())
    assert found == {b"old", b"new"}


def test_a_closure_of_lbfgs_that_fails() -> None:
    """At any of its calls: the parameters are where an iteration began, and the step can go on."""
    for at in range(10):
        p = rs.Parameter(np.array([-1.0, 2.0]))
        optimizer = rs.LBFGS(line_search_fn="strong_wolfe", max_iter=8, parameters=[p])
        points, calls = [p.data.tolist()], 0

        def closure(p: Any = p, at: int = at, points: Any = points) -> float:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                raise FailureError
            x, y = p.data
            points.append(p.data.tolist())
            p.grad = np.array([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)])
            return float(100 * (y - x**2) ** 2 + (1 - x) ** 2)

        with pytest.raises(FailureError):
            optimizer.step(closure)
        assert p.data.tolist() in points
        optimizer.step(closure)
        assert np.isfinite(p.data).all()


def test_interrupted_while_averages_are_shown() -> None:
    """When the block has ended, however it did, the parameters hold their own weights."""
    world = WORLDS["averages, watched"](2)
    before = world.seen()

    def block() -> None:
        with world.optimizer.averaged():
            raise FailureError

    with pytest.raises(FailureError):
        block()
    assert world.seen() == before
