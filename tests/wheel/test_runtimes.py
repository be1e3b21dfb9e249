"""OpenMP in a process with other libraries, and where the system has no libgomp."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import Environment

SCRIPT = Path(__file__).with_name("together.py")
ORDERS = list(itertools.permutations(("roofstep", "torch")))


def together(
    environment: Environment, imported: Sequence[str], computing: Sequence[str]
) -> list[dict[str, Any]]:
    """The states that together.py tells of, in a process of its own."""
    states: list[dict[str, Any]] = json.loads(
        environment.run("-I", SCRIPT, *imported, "--", *computing)
    )
    return states


@pytest.mark.parametrize("computing", ORDERS, ids="-".join)
@pytest.mark.parametrize("imported", ORDERS, ids="-".join)
def test_one_runtime_with_torch(
    furnished: Environment, imported: tuple[str, ...], computing: tuple[str, ...]
) -> None:
    """And one pool: the second thread of whoever computes first is that of the other as well."""
    states = together(furnished, imported, computing * 2)
    assert all(len(state["runtimes"]) == 1 for state in states), states
    assert Path(states[0]["runtimes"][0]).is_relative_to(furnished.python.parents[1])
    before, *after = (state["threads"] for state in states)
    assert after == [before + 1] * 4


def test_a_renamed_runtime_beside(furnished: Environment) -> None:
    """Scikit-learn brings a libgomp under another name, and both compute by turns."""
    for imported in itertools.permutations(("roofstep", "sklearn")):
        states = together(furnished, imported, ("sklearn", "roofstep") * 2)
        names = sorted(Path(runtime).name for runtime in states[-1]["runtimes"])
        assert len(names) == 2, names
        assert "libgomp.so.1" in names


# A bind mount in a name space of its own: the file is empty for what is started there, and for
# nothing else. The search of the loader ends with an error at such a file.
HIDE = 'for file in $FILES; do mount --bind "$EMPTY" "$file"; done; exec "$@"'


def test_a_system_without_libgomp(environment: Environment, tmp_path: Path) -> None:
    """The wheel steps on two threads, by its own."""
    cache = subprocess.run(("/sbin/ldconfig", "-p"), capture_output=True, text=True, check=True)
    files = {Path(file).resolve() for file in re.findall(r"libgomp\.so\.1 .*=> (.+)", cache.stdout)}
    empty = tmp_path / "empty"
    empty.touch()
    hide = ("unshare", "--mount", "bash", "-euc", HIDE, "bash")
    variables = {**os.environ, "FILES": " ".join(map(str, files)), "EMPTY": str(empty)}

    def hidden(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*hide, environment.python, "-I", *arguments],
            env=variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    alone = hidden("-c", "import ctypes; ctypes.CDLL('libgomp.so.1')")
    assert "OSError" in alone.stderr, alone
    ran = hidden(SCRIPT, "roofstep", "--", "roofstep")
    assert ran.returncode == 0, ran.stderr
    before, after = json.loads(ran.stdout)
    assert after["threads"] == before["threads"] + 1
    (runtime,) = after["runtimes"]
    assert Path(runtime).is_relative_to(environment.python.parents[1])
    for file in files:
        ctypes.CDLL(str(file))  # it is still there for us
