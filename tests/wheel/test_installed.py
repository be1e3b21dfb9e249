"""Installed where there is no compiler, the wheel passes the tests of the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from conftest import SOURCE, Environment

# What a build may have changed, by oracles in NumPy; `--whole` has the rest, and takes minutes.
PART = ("average", "custom", "grad_scale", "isa", "norm", "process", "rows", "state")
NEEDED = ("pyproject.toml", "README.md", "bench", "docs", "tests")


def test_info(environment: Environment) -> None:
    """It steps on every ISA that this CPU has, and compares with NumPy."""
    told = environment.run("-m", "roofstep", "info")
    assert "self-test passed" in told
    assert "libgomp" in told


def test_suite(furnished: Environment, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Beside a copy of the tests, so that python/ cannot be imported in place of the wheel."""
    for name in NEEDED:
        copy = shutil.copytree if (SOURCE / name).is_dir() else shutil.copy
        copy(SOURCE / name, tmp_path / name)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    where = furnished.run("-c", "import roofstep; print(roofstep.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(furnished.python.parents[1])

    whole = request.config.getoption("whole")
    chosen = ["tests"] if whole else [f"tests/test_{part}.py" for part in PART]
    options = {"cwd": tmp_path, "env": {**os.environ, "PATH": str(nothing)}, "stdout": None}
    furnished.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, **options)
