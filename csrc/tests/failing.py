"""Calls in which the n-th allocation fails, for every n: run under failing.c by test_memory.py."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import roofstep as rs

ALLOCATOR = ctypes.CDLL(None)
MOST = 200_000


SCRATCH = tempfile.TemporaryDirectory()
PATH = Path(SCRATCH.name, "file.safetensors")


class World:
    """An optimizer after some steps, with gradients for one more, and what is done to it then."""

    def __init__(self, case: str, steps: int) -> None:
        rng = np.random.default_rng(0)
        many = case == "many"
        shapes = [(700, 41)] * 8 + [(5,)] * 120 if many else [(40, 3), (3,), ()]
        self.params = [
            rs.Parameter(rng.standard_normal(s).astype("f4"), f"p{i}") for i, s in enumerate(shapes)
        ]
        self.sparse = case == "sparse"
        if self.sparse:
            self.params = self.params[:1]
        clip = rs.ClipGradByGlobalNorm(0.1) if case in ("clipped", "many", "sparse") else None
        self.act: Callable[[World], object] = {**STEPS, **BESIDE}.get(case, step)
        cls: Any = rs.Lamb if case == "trust" else rs.Adam
        self.optimizer = cls(
            0.1,
            parameters=self.params,
            grad_clip=clip,
            skip_nonfinite=case in ("watched", "skipped"),
        )
        if case in ("averaged", "averages", "load"):
            self.optimizer.average_weights(0.5)
        self.rng = rng
        for _ in range(steps + 1):
            for p in self.params:
                p.grad = rng.standard_normal(p.data.shape).astype("f4")
                if self.sparse:
                    p.grad = rs.SelectedRows(np.array([7, 2, 7]), p.grad[:3])
            if steps:
                self.optimizer.step()
        if case == "skipped":
            self.params[-1].grad[...] = np.inf
            self.optimizer._has_warned = True  # warnings.warn() of 3.11 crashes without memory
        if case == "strided":
            self.params[0].grad = np.repeat(self.params[0].grad, 2, 1)[:, ::2]

    def seen(self) -> list[bytes]:
        """Parameters, states and counts."""
        optimizer = self.optimizer
        rows = [p.data for p in self.params]
        rows += [a for own in optimizer._states.values() for a in own.values()]
        told = (
            *(optimizer.last_grad_norm, optimizer.last_step_applied, optimizer.skipped_steps),
            *(optimizer.get_lr(), [*optimizer._states], len(optimizer.parameters)),
            optimizer.param_groups[0]["average_decay"],
        )
        return [*(a.tobytes() for a in rows), optimizer._counts.tobytes(), repr(told).encode()]


def step(world: World) -> None:
    world.optimizer.step()


def averaged(world: World) -> None:
    with world.optimizer.averaged():
        pass


# What is done in the cases that are not of a plain step: others of it, and what is beside.
STEPS: dict[str, Callable[[World], object]] = {
    "scaled": lambda world: world.optimizer.step(True, grad_scale=4.0),
    "applied": lambda world: world.optimizer.apply_gradients([(p, p.grad) for p in world.params]),
}
BESIDE: dict[str, Callable[[World], object]] = {
    "set_state_dict": lambda world: world.optimizer.set_state_dict(OTHER),
    "state_dict": lambda world: world.optimizer.state_dict(),
    "save": lambda world: world.optimizer.save(PATH.with_name("other")),
    "load": lambda world: world.optimizer.load(PATH),
    "add": lambda world: world.optimizer.add_param_group({"params": [np.zeros(3)]}),
    "average": lambda world: world.optimizer.average_weights(0.5),
    "averages": averaged,
    "copy": lambda world: copy.deepcopy(world.optimizer),
    "pickle": lambda world: pickle.dumps(world.optimizer),
}
OTHER: dict[str, Any] = {}


def attempt(world: World, n: int, in_a_row: int) -> bool:
    """Whether it was done, with the n-th allocation failing."""
    act = world.act
    # Of files, pickles and NumPy's lists Python has other words for it.
    lacking = Exception if act in BESIDE.values() else MemoryError
    try:
        ALLOCATOR.roofstep_fail(n, in_a_row)
        act(world)
    except lacking:
        return False
    finally:
        while True:
            try:
                ALLOCATOR.roofstep_fail(-1, 0)
                break
            except MemoryError:
                pass
    return True


def main(case: str, steps: int, in_a_row: int, stride: int) -> None:
    """Prints how many allocations failed, and how often it was done nonetheless."""
    warnings.simplefilter("ignore")
    rs.set_num_threads(2)
    World("many", 1)  # OpenMP's threads are there now
    other = World(case, 3).optimizer
    OTHER.update(other.state_dict())
    other.save(PATH, parameters=True)
    expected = World(case, steps)
    expected.act(expected)
    after = expected.seen()
    failures = made = 0
    gc.disable()
    for n in range(0, allocations(case, steps), stride):
        if n % 100 == 0:
            gc.collect()
        world = World(case, steps)
        before = world.seen()
        done = attempt(world, n, in_a_row)
        found = world.seen()
        failures += 1
        if found == after:
            made += 1
        elif found != before or done:
            sys.exit(f"{case}: torn where allocation {n} fails")
        else:
            world.act(world)
            if world.seen() != after:
                sys.exit(f"{case}: another outcome after allocation {n} failed")
    print(f"{case}: {failures} allocations failed, {made} times it was done nonetheless")


def allocations(case: str, steps: int) -> int:
    """How many it makes."""
    world = World(case, steps)
    ALLOCATOR.roofstep_fail(MOST, 1)
    world.act(world)
    left = int(ALLOCATOR.roofstep_left())
    ALLOCATOR.roofstep_fail(-1, 0)
    return MOST - left


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
