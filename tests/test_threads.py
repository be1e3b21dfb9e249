"""Many threads at once, with and without a GIL: what they get is whole, or refused."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
from at_once import at_once
from handmade import library
from roofstep import _core

together = pytest.mark.parametrize("threads", [2, 8])


# One optimizer. Every gradient is of ones, so that with Adagrad the state of a parameter is the
# number of its updates in each element: what is torn, or not in accord, shows.

SIZES = (1, 7, 300, 70_001)


def counting(sizes: tuple[int, ...] = SIZES) -> roofstep.Adagrad:
    parameters = [roofstep.Parameter(np.zeros(n), f"w{n}") for n in sizes]
    for parameter in parameters:
        parameter.grad = np.ones_like(parameter.data)
    clip = roofstep.ClipGradByGlobalNorm(float("inf"))
    return roofstep.Adagrad(0.5, parameters=parameters, grad_clip=clip)


def updates(state: dict[str, Any], sizes: tuple[int, ...] = SIZES) -> list[int]:
    """How many a state dict tells of, for each parameter; all of it is in accord."""
    told = []
    for n in sizes:
        count = int(state.get(f"w{n}_step_0", 0))
        assert (state.get(f"w{n}_moment_0", np.zeros(n)) == count).all()
        told.append(count)
    return told


class Asking:
    """Calls of one optimizer by many threads; each call is made whole, or refused."""

    def __init__(self, optimizer: roofstep.Optimizer) -> None:
        self.optimizer = optimizer
        self.steps: list[None] = []
        self.refused: list[str] = []
        self.last = time.monotonic() + 60

    def until_over(self, call: Callable[[], None]) -> Callable[[], None]:
        """Again and again, until there were updates and refusals enough."""

        def go() -> None:
            few = True
            while few:
                few = self.optimizer._counts.max() < 20 or len(self.refused) < 20
                assert time.monotonic() < self.last, (self.optimizer._counts, len(self.refused))
                try:
                    call()
                except RuntimeError as error:
                    self.refused.append(str(error))
                    time.sleep(1e-4)  # or who saves, and waits for the disk, has all turns

        return go

    def step(self) -> None:
        self.optimizer.step()
        self.steps.append(None)

    def read(self) -> None:
        told = updates(self.optimizer.state_dict())
        assert min(told) == max(told)

    def look(self) -> None:
        norm = self.optimizer.last_grad_norm
        assert norm is None or norm == pytest.approx(sum(SIZES) ** 0.5)
        assert self.optimizer.last_step_applied in (None, True)
        assert len(self.optimizer.parameters) == len(SIZES)
        assert self.optimizer.get_lr() in (0.5, 0.25)

    def save(self, path: Path) -> None:
        self.optimizer.save(path)
        other = counting()
        other.load(path)
        told = updates(other.state_dict())
        assert min(told) == max(told)

    def edit(self) -> None:
        """What makes the plan of every optimizer anew."""
        self.optimizer.parameters[0].need_clip = True
        self.optimizer.set_lr(0.5)


def test_many_threads_ask_one_optimizer(tmp_path: Path) -> None:
    """Steps are as many as have returned, and bit for bit those of one thread."""
    optimizer = counting()
    asking = Asking(optimizer)
    calls: list[Callable[[], None]] = [asking.step] * 3 + [asking.read, asking.look, asking.edit]
    calls += [lambda: asking.save(tmp_path / "one"), lambda: asking.save(tmp_path / "two")]
    at_once([asking.until_over(call) for call in calls])
    done = len(asking.steps)
    assert done > 0
    assert asking.refused
    assert all("another thread" in message for message in asking.refused)
    assert updates(optimizer.state_dict()) == [done] * len(SIZES)
    twin = counting()
    for _ in range(done):
        twin.step()
    for one, other in zip(optimizer.parameters, twin.parameters, strict=True):
        assert one.data.tobytes() == other.data.tobytes()


def test_gradients_come_and_go_during_steps() -> None:
    """A parameter is stepped by a gradient that it had, or left out; the rest is as ever."""
    optimizer = counting()
    asking = Asking(optimizer)
    gradients = [parameter.grad for parameter in optimizer.parameters]

    def drop() -> None:
        optimizer.clear_grad()

    def give() -> None:
        for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
            parameter.grad = gradient

    def give_new() -> None:
        for parameter in optimizer.parameters:
            parameter.grad = np.ones_like(parameter.data)

    def read() -> None:
        updates(optimizer.state_dict())

    calls = [asking.step, asking.step, drop, give, give_new, read]
    at_once([asking.until_over(call) for call in calls])
    told = updates(optimizer.state_dict())
    assert 0 < max(told) <= len(asking.steps)
    for count, parameter in zip(told, optimizer.parameters, strict=True):
        (twin,) = counting((1,)).parameters
        alone = roofstep.Adagrad(0.5, parameters=[twin])
        twin.grad = np.ones(1)
        for _ in range(count):
            alone.step()
        assert (parameter.data == twin.data).all()


# Several optimizers. Shared.


def trained(kind: int, shared: list[Any], clip: roofstep.ClipGradByGlobalNorm) -> bytes:
    """The bits of small parameters after some steps of an optimizer that is made for them."""
    made = [roofstep.Parameter(np.full(g.shape, 1.0 + kind)) for g in shared]
    for parameter, gradient in zip(made, shared, strict=True):
        parameter.grad = gradient
    optimizer = (roofstep.AdamW, roofstep.Adagrad, roofstep.NAdam)[kind % 3](
        0.01, parameters=made, grad_clip=clip
    )
    for step in range(4):
        made[step].need_clip = bool(kind & 1)  # makes all threads look at their settings anew
        optimizer.step()
    return b"".join(p.data.tobytes() for p in made)


@together
def test_optimizers_are_made_in_threads(threads: int) -> None:
    """With gradients, a clip and all that the process keeps in common; as if each were alone."""
    rng = np.random.default_rng(0)
    shared = [rng.standard_normal(shape) for shape in ((3,), (5, 4), (300,), (2, 3, 4))]
    clip = roofstep.ClipGradByGlobalNorm(0.5)
    alone = [trained(kind, shared, clip) for kind in range(6)]
    found: list[tuple[int, bytes]] = []

    def go(first: int) -> None:
        for i in range(60):
            kind = (first + i) % 6
            found.append((kind, trained(kind, shared, clip)))

    at_once([lambda k=k: go(k) for k in range(threads)])
    assert len(found) == 60 * threads
    assert all(bits == alone[kind] for kind, bits in found)


# What the module remembers of types: see csrc/dlpack.cpp.


@together
def test_types_are_told_apart_in_threads(threads: int) -> None:
    """More types that publish a table than are remembered, which all threads meet at once."""
    kinds: list[tuple[Any, bool]] = []
    for i in range(40):
        kinds.append((library(), True))
        kinds.append((type(f"Other{i}", (), {}), False))
    objects = [(kind(), answer) for kind, answer in kinds]

    def go(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(objects))
        for i in [*order] * 100:
            made, answer = objects[i]
            assert _core.is_tensor(made) is answer

    at_once([lambda k=k: go(k) for k in range(threads)])


def test_a_type_takes_one_place_however_many_threads_meet_it() -> None:
    """In a fresh process: a second type is remembered still, which one look tells."""
    ran = subprocess.run(
        [sys.executable, "-c", MEETING], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "0\n"


MEETING = f"""
import sys, threading, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from handmade import library
from roofstep import _core

looks = 0

class Meta(type):
    def __getattr__(cls, name):  # what no type of a library has; others get the GIL meanwhile
        global looks
        looks += 1
        time.sleep(0.02)
        raise AttributeError(name)

first, second = (Meta(name, (library(),), {{}})() for name in ("First", "Second"))
row = [threading.Thread(target=_core.is_tensor, args=(first,)) for _ in range(32)]
for thread in row:
    thread.start()
for thread in row:
    thread.join()
assert looks > 32  # they met
_core.is_tensor(second)
looks = 0
assert _core.is_tensor(second)
print(looks)
"""
