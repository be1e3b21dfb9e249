"""What a step of each optimizer must move, and a loop that moves this and hardly computes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import roofstep
from roofstep import _core, state
from roofstep.plan import State


class Pass(NamedTuple):
    """How many arrays of the parameter's size a pass rewrites, and how many it only reads."""

    updated: int
    read: int

    @property
    def bytes(self) -> int:
        """For each float32 element; what is rewritten is read before."""
        return 8 * self.updated + 4 * self.read


class Case(NamedTuple):
    """An optimizer, and the passes over memory that a step of it cannot do without."""

    make: Callable[..., roofstep.Optimizer]
    states: int
    measured: int = 0  # arrays read by the pass of a trust ratio
    averages: bool = False
    clips: bool = False  # by the global norm, which a pass reads
    clears: bool = False  # zeroes the gradients in the update

    @property
    def passes(self) -> list[Pass]:
        """The update, and before it those of the norm and of a trust ratio."""
        reads = [Pass(0, arrays) for arrays in (int(self.clips), self.measured) if arrays]
        gradient = (1, 0) if self.clears else (0, 1)
        return [*reads, Pass(1 + self.states + self.averages + gradient[0], gradient[1])]

    @property
    def bytes(self) -> str:
        """Those of each pass, for a parameter."""
        return " + ".join(str(one.bytes) for one in self.passes)

    def step(self, parameters: Sequence[roofstep.Parameter]) -> Callable[[], Any]:
        """One step over parameters that have gradients, which clipping scales down."""
        clip = roofstep.ClipGradByGlobalNorm(1e-3) if self.clips else None
        optimizer = self.make(learning_rate=0.001, parameters=parameters, grad_clip=clip)
        if self.averages:
            optimizer.average_weights()
        return functools.partial(optimizer.step, clear_grad=self.clears)


CASES = {
    "SGD": Case(roofstep.SGD, 0),
    "Momentum": Case(roofstep.Momentum, 1),
    "Momentum, Nesterov": Case(lambda **k: roofstep.Momentum(use_nesterov=True, **k), 1),
    "LARS": Case(roofstep.LARS, 1, measured=2),
    "ASGD": Case(lambda **k: roofstep.ASGD(batch_num=2, **k), 2),
    "Rprop": Case(roofstep.Rprop, 2),
    "Lion": Case(roofstep.Lion, 1),
    "Adagrad": Case(roofstep.Adagrad, 1),
    "Adadelta": Case(roofstep.Adadelta, 2),
    "RMSProp": Case(roofstep.RMSProp, 2),
    "RMSProp, centered": Case(lambda **k: roofstep.RMSProp(centered=True, **k), 3),
    "Adam": Case(roofstep.Adam, 2),
    "Adam, zeroing the gradients": Case(roofstep.Adam, 2, clears=True),
    "Adam, amsgrad": Case(lambda **k: roofstep.Adam(amsgrad=True, **k), 3),
    "AdamW": Case(roofstep.AdamW, 2),
    "AdamW, averaged weights": Case(roofstep.AdamW, 2, averages=True),
    "AdamW, clipped": Case(roofstep.AdamW, 2, clips=True),
    "Lamb": Case(roofstep.Lamb, 2, measured=4),
    "Adamax": Case(roofstep.Adamax, 2),
    "RAdam": Case(roofstep.RAdam, 2),
    "NAdam": Case(roofstep.NAdam, 2),
    "Adan": Case(roofstep.Adan, 4),
}


class Roof:
    """The streaming loop over arrays of one size, with the memory and threads that a step has."""

    def __init__(self, size: int, cases: Sequence[Case]) -> None:
        """Arrays of float32, enough for each of the cases."""
        most = max(one.updated + one.read for case in cases for one in case.passes)
        like = np.empty(size, np.float32)
        self._arrays = state.zeros((State(0.0), like) for _ in range(most))
        for array in self._arrays:
            array.fill(1)  # a page that was never written is no page

    def stream(self, passes: Sequence[Pass]) -> None:
        """Move what these passes move, on the threads of a step."""
        threads, arrays = roofstep.get_num_threads(), self._arrays
        for one in passes:
            read = arrays[len(arrays) - one.read :]
            _core.stream(tuple(arrays[: one.updated]), tuple(read), threads)


def parameter(size: int, dtype: type[np.floating[Any]] = np.float32) -> roofstep.Parameter:
    """One with a gradient."""
    rng = np.random.default_rng(0)
    weights, gradient = (rng.standard_normal(size, dtype) for _ in range(2))
    made = roofstep.Parameter(weights)
    made.grad = gradient
    return made
