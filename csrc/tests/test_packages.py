"""The whole package builds without a warning under each compiler and without OpenMP, and runs.

With the kernels of the baseline alone: test_bits.py builds those of every ISA, and compares them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from conftest import SOURCE

BUILDS = {
    "g++": ("g++", "ON", "GNU", "libgomp"),
    "clang++": ("clang++", "ON", "Clang", "libomp"),
    "g++ without OpenMP": ("g++", "OFF", "GNU", "none: built without OpenMP"),
}


@pytest.mark.parametrize("build", BUILDS)
def test_package(build: str, tmp_path: Path) -> None:
    """`info` steps and compares with NumPy, so the package is more than importable."""
    compiler, openmp, named, runtime = BUILDS[build]
    target = tmp_path / "site"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--target", target, SOURCE),
            *("-C", f"build-dir={tmp_path / 'build'}"),
            *("-C", f"cmake.define.CMAKE_CXX_COMPILER={compiler}"),
            *("-C", "cmake.define.ROOFSTEP_WERROR=ON"),
            *("-C", "cmake.define.ROOFSTEP_BASELINE_ALONE=ON"),
            *("-C", f"cmake.define.ROOFSTEP_OPENMP={openmp}"),
        ],
        check=True,
    )
    # Without site, since an editable install of the package would win over PYTHONPATH.
    numpy_home = Path(numpy.__file__).parents[1]
    code = "import roofstep.__main__ as m, roofstep; print(roofstep.__file__); m.main(['info'])"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (target, numpy_home)))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(target) in ran.stdout
    assert named in ran.stdout
    assert runtime in ran.stdout
    assert "self-test passed" in ran.stdout
