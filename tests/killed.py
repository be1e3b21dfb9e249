"""A process that saves again and again is killed at random moments: `python tests/killed.py 200`.

All arrays of a file hold the count of the steps before it, so that one of two saves is seen.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import roofstep

SIDE = 1024


def optimizer() -> roofstep.Optimizer:
    """Parameters and averages of 8 MB each; half of them in other than C order."""
    arrays = [np.zeros((SIDE, SIDE), "f4"), np.zeros((SIDE, SIDE), "f4").T, np.zeros(3)]
    parameters = [roofstep.Parameter(array, f"p{i}") for i, array in enumerate(arrays)]
    made = roofstep.SGD(1.0, parameters)
    made.average_weights(0.0)
    for parameter in parameters:
        parameter.grad = np.full(parameter.data.shape, -1, parameter.data.dtype)
    return made


def steps_in(path: Path) -> int:
    """The count of steps in a file, all of which must agree."""
    found = optimizer()
    found.load(path, parameters=True)
    saved = found.state_dict()
    count = int(saved["p0_step_0"])
    for i, parameter in enumerate(found.parameters):
        assert saved[f"p{i}_step_0"] == count
        assert (saved[f"p{i}_average_0"] == count).all()
        assert (parameter.data == count).all()
    return count


def saver(path: Path) -> subprocess.Popen[str]:
    """A process that goes on from a file, if it is there, and saves after every step."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import killed; "
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}killed.save_for_ever(killed.Path({str(path)!r}))"],
        stdout=subprocess.PIPE,
        text=True,
    )


def save_for_ever(path: Path) -> None:
    """Say once that a file is there, and go on."""
    own = optimizer()
    if path.exists():
        own.load(path, parameters=True)
    for number in range(1_000_000_000):
        own.step()
        own.save(path, parameters=True)
        if not number:
            print("saved", flush=True)


def left_over(path: Path) -> list[Path]:
    """Temporary files beside it."""
    return [p for p in path.parent.iterdir() if p != path]


def kill(path: Path, times: int, seed: int) -> tuple[int, int]:
    """Kill so many processes, one after another, and look at the file after each.

    Returns:
        The steps that came through, and how many processes left a temporary file.
    """
    rng, steps, interrupted = random.Random(seed), 0, 0
    for _ in range(times):
        process = saver(path)
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        found = steps_in(path)
        assert found > steps
        assert len(left_over(path)) <= 1
        steps, interrupted = found, interrupted + len(left_over(path))
    return steps, interrupted


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        runs = int(sys.argv[1])
        done, cut = kill(Path(scratch, "checkpoint.safetensors"), runs, seed=0)
    print(f"{runs} processes killed, {cut} of them while writing; {done} steps, every file whole")
