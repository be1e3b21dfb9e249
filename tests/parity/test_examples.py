"""Examples and the pages' code in each framework run, and both sides of an example agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
import pairs
import test_jax
from test_docs import PAGES, TOP, blocks_of, rows_of

EXAMPLES = sorted(TOP.glob("examples/*.py"))
BLOCKS = [block for page in PAGES for block in blocks_of(page, in_frameworks=True)]


def output_of(*arguments: str, cwd: Path = TOP) -> str:
    """What Python prints, in a process of its own: frameworks share threads, modes and seeds."""
    # Threads that spin for each other take minutes where other work keeps a core busy.
    patient = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **patient},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_both_sides_of_an_example_agree(path: Path) -> None:
    found = re.fullmatch(
        r"loss: (\S+) at the start, then (\S+) by roofstep, (\S+) by \w+\n"
        r"(?:step|run): (\S+) us of roofstep, (\S+) us of \w+ \(medians\)\n",
        output_of(str(path)),
    )
    assert found
    start, own, peer, own_time, peer_time = map(float, found.groups())
    assert abs(own - peer) <= 0.02 * peer
    assert max(own, peer) < 0.5 * start
    assert min(own_time, peer_time) > 0


def test_the_readme_lists_all_examples() -> None:
    listed = re.findall(r"^\| `python (examples/\w+\.py)` \|", PAGES[0].read_text(), re.MULTILINE)
    assert {TOP / name for name in listed} == {*EXAMPLES}
    assert len(listed) == len(EXAMPLES)


def imports_of(block: str) -> str:
    return ", ".join(re.findall(r"^import ([\w.]+)", block, re.MULTILINE))


@pytest.mark.parametrize("block", BLOCKS, ids=imports_of)
def test_code_in_a_framework(block: str, tmp_path: Path) -> None:
    output_of("-c", block, cwd=tmp_path)


def test_every_framework_is_shown() -> None:
    shown = {name for block in BLOCKS for name in imports_of(block).split(", ")}
    assert {"roofstep.torch", "roofstep.paddle", "roofstep.jax"} <= shown


def test_the_differences_on_the_page_are_those_of_the_tests() -> None:
    shown = dict(rows_of("numerics.md", "Beside torch, Paddle and optax"))
    limits = {name: limit for name, (*_, limit) in test_jax.PEERS.items()}
    assert shown == {
        "torch": f"{pairs.BUDGET:g} ULPs of the largest element, "
        f"RAdam {pairs.BUDGET_OF_DIFFERENCES:g}",
        "Paddle, float32": f"`{harness.BARS['float32']} * max(1, abs(b))`",
        "Paddle, float64": f"`{harness.BARS['float64']} * max(1, abs(b))`",
        "optax, SGD and momentum": f"{limits['sgd']} ULPs",
        "optax, Adam and AdamW": f"{limits['adam']} ULPs of the largest weight",
    }
    assert limits["sgd"] == limits["momentum"] == limits["nesterov"]
    assert limits["adam"] == limits["adamw"] == limits["clipped"]
