"""Without memory: an error with nothing changed, or the whole of what was asked; never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Every allocation of a call is one case. ROOFSTEP_FAULTS=all tries each; else a share of them.
ALL = os.environ.get("ROOFSTEP_FAULTS") == "all"
STRIDES = {"many": 1 if ALL else 997}


@pytest.fixture(scope="module")
def allocator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("failing") / "failing.so"
    source = HERE / "failing.c"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"],
        check=True,
    )
    return library


@pytest.mark.parametrize("in_a_row", [1, 5])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    "case",
    [
        *("plain", "clipped", "sparse", "averaged", "trust", "watched", "skipped", "scaled"),
        *("strided", "applied", "many"),
    ],
)
def test_no_allocation_tears_a_step(allocator: Path, case: str, steps: int, in_a_row: int) -> None:
    """On two threads where it is worth while: "many" are 128 tensors."""
    run(allocator, case, steps, in_a_row, 1 if steps else STRIDES.get(case, 1 if ALL else 11))


@pytest.mark.parametrize("in_a_row", [1, 5])
@pytest.mark.parametrize(
    "case",
    [
        *("set_state_dict", "state_dict", "save", "load", "add", "average", "averages"),
        *("copy", "pickle"),
    ],
)
def test_no_allocation_tears_what_is_beside(allocator: Path, case: str, in_a_row: int) -> None:
    run(allocator, case, 2, in_a_row, 1 if ALL else 11)


def run(allocator: Path, case: str, steps: int, in_a_row: int, stride: int) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "failing.py", case, str(steps), str(in_a_row), str(stride)],
        env={**os.environ, "LD_PRELOAD": str(allocator), "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert int(done.stdout.split()[1]) > (10 if stride == 1 else 1)
