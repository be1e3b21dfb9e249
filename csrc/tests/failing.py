"""Steps in which the n-th allocation fails, for every n: run under failing.c by test_memory.py."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import roofstep as rs

ALLOCATOR = ctypes.CDLL(None)
MOST = 200_000


class World:
    """An optimizer after some steps, with gradients for one more."""

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
        cls: Any = rs.Lamb if case == "trust" else rs.Adam
        self.optimizer = cls(
            0.1, parameters=self.params, grad_clip=clip, skip_nonfinite=case == "watched"
        )
        if case == "averaged":
            self.optimizer.average_weights(0.5)
        self.rng = rng
        for _ in range(steps + 1):
            for p in self.params:
                p.grad = rng.standard_normal(p.data.shape).astype("f4")
                if self.sparse:
                    p.grad = rs.SelectedRows(np.array([7, 2, 7]), p.grad[:3])
            if steps:
                self.optimizer.step()

    def seen(self) -> list[bytes]:
        """Parameters, states and counts."""
        optimizer = self.optimizer
        rows = [p.data for p in self.params]
        rows += [a for own in optimizer._states.values() for a in own.values()]
        told = (optimizer.last_grad_norm, optimizer.last_step_applied, [*optimizer._states])
        return [*(a.tobytes() for a in rows), optimizer._counts.tobytes(), repr(told).encode()]


def attempt(world: World, n: int, in_a_row: int) -> bool:
    """Whether the step was made, with the n-th allocation failing."""
    step: Callable[[], None] = world.optimizer.step
    try:
        ALLOCATOR.roofstep_fail(n, in_a_row)
        step()
    except MemoryError:
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
    """Prints how many allocations failed, and in how many steps that were made nonetheless."""
    rs.set_num_threads(2)
    World("many", 1)  # OpenMP's threads are there now
    expected = World(case, steps)
    expected.optimizer.step()
    after = expected.seen()
    failures = made = 0
    gc.disable()
    for n in range(0, allocations(case, steps), stride):
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
            world.optimizer.step()
            if world.seen() != after:
                sys.exit(f"{case}: another step after allocation {n} failed")
    print(f"{case}: {failures} allocations failed, {made} steps were made nonetheless")


def allocations(case: str, steps: int) -> int:
    """How many a step makes."""
    world = World(case, steps)
    ALLOCATOR.roofstep_fail(MOST, 1)
    world.optimizer.step()
    left = int(ALLOCATOR.roofstep_left())
    ALLOCATOR.roofstep_fail(-1, 0)
    return MOST - left


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
