"""What users of the compiled door do in an environment: build, include, run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from conftest import Environment

HERE = Path(__file__).parent


def build_in_place(workshop: Environment, folder: Path) -> None:
    """By the setup.py of the folder."""
    workshop.run("setup.py", "--quiet", "build_ext", "--inplace", cwd=folder, stdout=None)


def report(workshop: Environment, folder: Path, script: str) -> Any:
    """What the last line of its output says in JSON."""
    # Threads that spin for each other take long where other work keeps a core busy.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    return json.loads(workshop.run("-c", script, cwd=folder, env=env).splitlines()[-1])


def declared(workshop: Environment) -> dict[str, tuple[str, dict[str, str]]]:
    """The functions of the header: what they return, and their arguments by name."""
    script = "import calls, json; print(json.dumps(calls.FUNCTIONS))"
    found: dict[str, tuple[str, dict[str, str]]] = report(workshop, HERE / "inside", script)
    return found


def includes(workshop: Environment) -> list[str]:
    """The directories of the headers: roofstep's, and Python's, whose warnings are not ours."""
    script = "import roofstep, sysconfig as s; print(roofstep.get_include(), s.get_path('include'))"
    roofstep, python = workshop.run("-c", script).split()
    return ["-I", roofstep, "-isystem", python]


def strict(source: Path, *options: str) -> None:
    """Reads it with all warnings as errors."""
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run(["cc", *flags, *options, source], check=True)
