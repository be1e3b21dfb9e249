"""The compiled door, from the wheel: every function called from outside, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from building import HERE, build_in_place, declared, includes, strict
from conftest import Environment


@pytest.fixture(scope="module")
def consumers(workshop: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `inside` with its modules built."""
    folder = tmp_path_factory.mktemp("consumers") / "inside"
    shutil.copytree(HERE / "inside", folder, ignore=shutil.ignore_patterns("__pycache__"))
    build_in_place(workshop, folder)
    return folder


@pytest.mark.parametrize("isa", ["", "baseline"])
@pytest.mark.parametrize("file", ["bits.py", "refusals.py"])
def test_every_function(workshop: Environment, consumers: Path, file: str, isa: str) -> None:
    """The tests of that file, which run in the environment of the consumers."""
    env = {**os.environ, **({"ROOFSTEP_ISA": isa} if isa else {})}
    pytest_ = ("-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--import-mode=importlib")
    workshop.run(*pytest_, file, cwd=consumers, env=env, stdout=None)


@pytest.mark.parametrize("language", ["c99", "c17", "c++11", "c++20"])
@pytest.mark.parametrize("headers", ["roofstep", "Python roofstep", "roofstep Python roofstep"])
def test_the_header(workshop: Environment, tmp_path: Path, language: str, headers: str) -> None:
    """It is clean in every language, and imports where Python.h came before it at last."""
    source = tmp_path / ("header.cpp" if "+" in language else "header.c")
    files = {"roofstep": "roofstep/roofstep.h", "Python": "Python.h"}
    lines = [f"#include <{files[header]}>" for header in headers.split()]
    condition = "k == roofstep_import()" if "Python" in headers else "k"
    lines += ["int version(const roofstep_kernels* k);", "int version(const roofstep_kernels* k) {"]
    lines += [f"  return {condition} ? k->version : 0;", "}", ""]
    source.write_text("\n".join(lines))
    strict(source, f"-std={language}", *includes(workshop))


# Of each version, how many functions the table has, and a digest of what they are declared as.
VERSIONS = {1: (30, "58538fb41f1c2797")}


def test_the_table_is_appended_to_alone(workshop: Environment) -> None:
    """Compiled modules know its functions by their places; a new version has a line of its own."""
    functions = [*declared(workshop).items()]
    for count, digest in VERSIONS.values():
        assert sha256(json.dumps(functions[:count]).encode()).hexdigest()[:16] == digest
    header = Path(includes(workshop)[1], "roofstep", "roofstep.h").read_text()
    newest = re.findall(r"^#define ROOFSTEP_VERSION (\d+)$", header, re.MULTILINE)
    assert newest == [str(max(VERSIONS))]
    assert len(functions) == VERSIONS[max(VERSIONS)][0]
    script = "from roofstep import kernels; print(kernels.version)"
    assert workshop.run("-c", script).split() == newest


def importing(workshop: Environment, script: str, folder: Path) -> str:
    """The last line of the error by which the script ends."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        workshop.run("-c", script, cwd=folder, stderr=subprocess.PIPE)
    return str(failed.value.stderr).splitlines()[-1]


def test_a_consumer_of_a_newer_header_is_refused(workshop: Environment, tmp_path: Path) -> None:
    header = Path(includes(workshop)[1], "roofstep", "roofstep.h").read_text()
    newer, count = re.subn(r"(#define ROOFSTEP_VERSION) \d+", r"\1 1000", header)
    assert count == 1
    source = workshop.run("-c", "import calls; print(calls.in_c())", cwd=HERE / "inside")
    (tmp_path / "in_c.c").write_text(source)
    (tmp_path / "roofstep").mkdir()
    (tmp_path / "roofstep" / "roofstep.h").write_text(newer)
    (tmp_path / "setup.py").write_text(
        "from setuptools import Extension, setup\n"
        "setup(ext_modules=[Extension('in_c', ['in_c.c'], include_dirs=['.'])], py_modules=[])\n"
    )
    build_in_place(workshop, tmp_path)
    shutil.rmtree(tmp_path / "roofstep")  # it would be found as a package
    error = importing(workshop, "import in_c", tmp_path)
    version = workshop.run("-c", "from roofstep import kernels; print(kernels.version)").strip()
    assert error == (
        "ImportError: roofstep: expected version 1000 of its kernels or a later one, got "
        f"{version}; install a newer roofstep, or compile against the one that is installed"
    )


OLDER = """
import ctypes
import roofstep
from roofstep import _core

table = ctypes.c_int(0)
new = ctypes.pythonapi.PyCapsule_New
new.restype = ctypes.py_object
new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_core.kernels = new(ctypes.addressof(table), b"roofstep._core.kernels", None)
import roofstep.kernels
"""


def test_kernels_over_an_older_core_are_refused(workshop: Environment, tmp_path: Path) -> None:
    error = importing(workshop, OLDER, tmp_path)
    assert re.match(r"ImportError: roofstep: expected version \d+ .* got 0; install", error)


SIGNATURES = {
    "cdef int sgd_f64(double *, const double *, int, double) noexcept nogil": (
        "TypeError: C function roofstep.kernels.sgd_f64 has wrong signature"
    ),
    "cdef int sgd_f16(double *, const double *, Py_ssize_t, double) noexcept nogil": (
        "ImportError: roofstep.kernels does not export expected C function sgd_f16"
    ),
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_other_signatures_in_cython_are_refused(
    workshop: Environment, tmp_path: Path, signature: str
) -> None:
    """A module that was compiled against other functions than those of the roofstep it finds."""
    (tmp_path / "other" / "roofstep").mkdir(parents=True)
    (tmp_path / "other" / "roofstep" / "__init__.pxd").touch()
    (tmp_path / "other" / "roofstep" / "kernels.pxd").write_text(signature)
    (tmp_path / "stale.pyx").write_text(
        "from roofstep cimport kernels\n"
        f"def move(double[::1] p): kernels.{signature[9:16]}(&p[0], &p[0], 1, 1.0)\n"
    )
    (tmp_path / "setup.py").write_text(
        "from Cython.Build import cythonize\nfrom setuptools import setup\n"
        "setup(ext_modules=cythonize('stale.pyx', include_path=['other'], language_level=3))\n"
    )
    build_in_place(workshop, tmp_path)
    assert importing(workshop, "import stale", tmp_path).startswith(SIGNATURES[signature])
