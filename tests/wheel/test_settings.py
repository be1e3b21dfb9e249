"""For which Pythons and systems cibuildwheel makes a wheel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import SOURCE, TOOLS

ARCHITECTURES = {
    "linux": {"x86_64": "manylinux_x86_64", "aarch64": "manylinux_aarch64"},
    "macos": {"x86_64": "macosx_x86_64", "arm64": "macosx_arm64"},
    "windows": {"AMD64": "win_amd64"},
}


@pytest.mark.parametrize("system", ARCHITECTURES)
def test_builds(system: str) -> None:
    """It reads its settings and refuses what it does not know."""
    for architecture, tag in ARCHITECTURES[system].items():
        asked = ("--print-build-identifiers", "--platform", system, "--archs", architecture)
        command = [sys.executable, "-m", "cibuildwheel", *asked, SOURCE]
        answer = subprocess.run(command, env=TOOLS, stdout=subprocess.PIPE, text=True, check=True)
        pythons = [*(f"cp3{minor}" for minor in range(10, 15)), "cp314t"]
        assert answer.stdout.split() == [f"{python}-{tag}" for python in pythons]
