"""Threads and forks in a process with torch, whose threads are the same."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import roofstep
import roofstep.torch
from at_once import IN_CHILD, Holding
from roofstep import _core

FORKS = (
    IN_CHILD
    + """
import os, signal, threading
import torch
import roofstep, roofstep.torch
signal.alarm(100)  # whatever hangs dies of it

roofstep.set_num_threads(2)
torch.set_num_threads(2)
SIZE = 1 << 20

def compute():
    # By several threads, forward and backward: what came out is a number of ones.
    ones = torch.ones(SIZE, requires_grad=True)
    (ones * 2).sum().backward()
    return float(ones.grad.sum()) == 2 * SIZE

def optimizer():
    weights = torch.zeros(SIZE, requires_grad=True)
    weights.grad = torch.full((SIZE,), -1.0)
    return roofstep.torch.SGD([weights], lr=1.0, momentum=0.0), weights

made, weights = optimizer()
assert compute()
made.step()

def child(n):
    for k in range(3):
        made.step()
        assert bool((weights == n + 1 + k).all())
    with torch.no_grad():  # its backward passes refuse, if the parent has made some
        assert float((weights * 2).sum()) == 2 * (n + 3) * SIZE

in_child(lambda: child(1))
assert compute()
made.step()

def forking():
    assert compute()
    in_child(lambda: child(2))
    assert compute()
thread = threading.Thread(target=forking)
thread.start()
thread.join()

# While another thread steps, forward and backward go on in this one.
over = threading.Event()
other, its = optimizer()
def stepping():
    while not over.is_set():
        other.step()
thread = threading.Thread(target=stepping)
thread.start()
for _ in range(20):
    assert compute()
    def whole():
        assert bool((its == its[0]).all())
        child(2)
    in_child(whole)
over.set()
thread.join()
made.step()
assert bool((weights == 3).all())
"""
)


def test_forks() -> None:
    """By a process whose torch has used its threads: children step, and go forward with torch."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.skipif(not _core.openmp_version, reason="OpenMP")
def test_the_default_follows_torch() -> None:
    """Both have the same runtime, and torch tells it how many threads it may use."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert roofstep.get_num_threads() == 1
        torch.set_num_threads(2)
        assert roofstep.get_num_threads() == min(2, len(os.sched_getaffinity(0)))
    finally:
        torch.set_num_threads(before)


def train(seed: int, clip: roofstep.ClipGradByGlobalNorm) -> list[torch.Tensor]:
    """The weights and states after some steps of a network of its own."""
    generator = torch.Generator().manual_seed(seed)
    weights = [
        torch.rand(shape, generator=generator, requires_grad=True)
        for shape in ((64, 3000), (3000, 40), (40,))
    ]
    made = roofstep.torch.AdamW(weights, lr=0.01, grad_clip=clip)
    inputs = torch.rand((8, 64), generator=generator)
    for _ in range(12):
        made.zero_grad()
        hidden = torch.tanh(inputs @ weights[0])
        (hidden @ weights[1] + weights[2]).square().mean().backward()
        made.step()
    return [*weights, *(made.state[w][key] for w in weights for key in ("exp_avg", "exp_avg_sq"))]


def test_training_in_threads() -> None:
    """Each to the bits that it has alone, with one clip for all."""
    clip = roofstep.ClipGradByGlobalNorm(0.1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's sums depend on it
    roofstep.set_num_threads(2)
    found: dict[int, list[torch.Tensor]] = {}

    def go(seed: int) -> None:
        torch.set_num_threads(1)
        found[seed] = train(seed, clip)

    threads = [threading.Thread(target=go, args=(seed,)) for seed in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed in range(4):
            alone = train(seed, clip)
            assert all(map(torch.equal, found[seed], alone))
    finally:
        torch.set_num_threads(before)


CALLS: dict[str, Callable[[roofstep.torch.Optimizer], Any]] = {
    "step": lambda o: o.step(),
    "state_dict": lambda o: o.state_dict(),
    "load_state_dict": lambda o: o.load_state_dict({"state": {}, "param_groups": o.param_groups}),
    "add_param_group": lambda o: o.add_param_group({"params": [torch.zeros(2)]}),
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nothing_is_asked_of_an_optimizer_in_a_step(
    call: Callable[[roofstep.torch.Optimizer], Any],
) -> None:
    weights, clip = torch.zeros(3, requires_grad=True), Holding()
    weights.grad = torch.ones(3)
    made = roofstep.torch.SGD([weights], lr=1.0, momentum=0.5, grad_clip=clip)
    thread = threading.Thread(target=made.step)
    thread.start()
    assert clip.begun.wait(30)
    try:
        with pytest.raises(RuntimeError, match="this SGD is being stepped, by another thread"):
            call(made)
    finally:
        clip.may_end.set()
        thread.join()
    assert weights.tolist() == [-1.0] * 3
    assert len(made.param_groups) == 1
