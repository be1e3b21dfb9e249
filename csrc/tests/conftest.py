"""Builds of the C++ code with every compiler, warnings being errors; these tests need them all."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
CROSS = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DROOFSTEP_OPENMP=OFF")


@dataclass
class Build:
    """A build of csrc/ without the Python module."""

    folder: Path
    isas: tuple[str, ...]
    binutils: str  # the prefix of objdump and nm
    runner: tuple[str, ...]  # what runs its executables

    def kernels(self, isa: str) -> Path:
        """The object file of the kernels of one ISA."""
        (objects,) = self.folder.glob(f"CMakeFiles/kernels_{isa}.dir/**/*.o")
        return objects

    def replay(self, isa: str, threads: int, told: bytes) -> bytes:
        """What csrc/tests/replay.cpp answers."""
        return self._answer("replay", isa, str(threads), told=told)

    def door(self, isa: str, told: bytes) -> bytes:
        """What csrc/tests/door.cpp answers."""
        return self._answer("door", isa, told=told)

    def _answer(self, program: str, *arguments: str, told: bytes) -> bytes:
        command = [*self.runner, self.folder / program, *arguments]
        return subprocess.run(command, input=told, stdout=subprocess.PIPE, check=True).stdout

    def tool(self, name: str, *arguments: str | Path) -> str:
        """The output of a binary tool."""
        command = [self.binutils + name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


X86 = ("baseline", "avx2", "avx512")
TOOLCHAINS = {
    "g++": Build(Path(), X86, "", ()),
    "clang++": Build(Path(), X86, "", ()),
    "aarch64-linux-gnu-g++": Build(
        Path(), ("neon",), "aarch64-linux-gnu-", ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
    ),
}


@pytest.fixture(scope="session", params=TOOLCHAINS)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """One build for each compiler."""
    compiler: str = request.param
    folder = tmp_path_factory.mktemp(compiler)
    subprocess.run(
        [
            *("cmake", "-S", SOURCE, "-B", folder, "-G", "Ninja"),
            f"-DCMAKE_CXX_COMPILER={compiler}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DROOFSTEP_WITHOUT_PYTHON=ON",
            "-DROOFSTEP_WERROR=ON",
            *(CROSS if compiler.startswith("aarch64") else ()),
        ],
        check=True,
    )
    subprocess.run(["cmake", "--build", folder], check=True)
    toolchain = TOOLCHAINS[compiler]
    return Build(folder, toolchain.isas, toolchain.binutils, toolchain.runner)
