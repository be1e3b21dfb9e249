"""The compiled door, from the wheel: consumers of every kind, the examples and the page of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import SOURCE, Environment

HERE = Path(__file__).parent
PAGE = SOURCE / "docs" / "compiled.md"
README = SOURCE / "README.md"
EXAMPLES = SOURCE / "examples" / "compiled"
TOOLS = ("cffi", "cython", "numba", "pybind11", "pytest", "scikit-learn", "setuptools>=77")


@pytest.fixture(scope="module")
def workshop(new_environment: Callable[[], Environment]) -> Environment:
    """An environment with the wheel and what its users build with."""
    environment = new_environment()
    environment.install(*TOOLS)
    return environment


def build(workshop: Environment, folder: Path) -> None:
    workshop.run("setup.py", "--quiet", "build_ext", "--inplace", cwd=folder, stdout=None)


@pytest.fixture(scope="module")
def consumers(workshop: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `inside` with its modules built."""
    folder = tmp_path_factory.mktemp("consumers") / "inside"
    shutil.copytree(HERE / "inside", folder, ignore=shutil.ignore_patterns("__pycache__"))
    build(workshop, folder)
    return folder


@pytest.fixture(scope="module")
def examples(workshop: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the examples, installed from there as a package is."""
    folder = tmp_path_factory.mktemp("examples") / "compiled"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("build", "*.so", "*.c"))
    pip = ("-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps")
    workshop.run(*pip, folder, stdout=None)
    return folder


def report(workshop: Environment, folder: Path, script: str) -> Any:
    """What the last line of its output says in JSON."""
    # Threads that spin for each other take long where other work keeps a core busy.
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    return json.loads(workshop.run("-c", script, cwd=folder, env=env).splitlines()[-1])


@pytest.mark.parametrize("isa", ["", "baseline"])
@pytest.mark.parametrize("file", ["bits.py", "refusals.py"])
def test_every_function(workshop: Environment, consumers: Path, file: str, isa: str) -> None:
    """The tests of that file, which run in the environment of the consumers."""
    env = {**os.environ, **({"ROOFSTEP_ISA": isa} if isa else {})}
    pytest_ = ("-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--import-mode=importlib")
    workshop.run(*pytest_, file, cwd=consumers, env=env, stdout=None)


WORDS = """
import json
import numpy as np
import train_words, word2vec

names, vectors, losses = train_words.train(word2vec.{learn}, threads={threads}, epochs=2)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
pairs = [("day", "month"), ("thread", "lock"), ("server", "client"), ("read", "write"),
         ("int", "float"), ("list", "tuple"), ("url", "http"), ("key", "value")]
likeness = [float(vectors[names.index(a)] @ vectors[names.index(b)]) for a, b in pairs]
others = vectors[np.random.default_rng(0).integers(0, len(names), (2, 1000))]
print(json.dumps([losses, likeness, float((others[0] * others[1]).sum(axis=1).mean())]))
"""


@pytest.mark.parametrize("learn", ["learn", "learn_in_batches"])
def test_word2vec_learns(workshop: Environment, examples: Path, learn: str) -> None:
    """From a loss of log 2 for each of 6 words; related words come to lie near each other."""
    losses, likeness, random = report(workshop, examples, WORDS.format(learn=learn, threads=1))
    assert losses[-1] < 2.5 < 6 * 0.693
    assert sum(likeness) / len(likeness) > random + 0.15
    assert sum(value > random for value in likeness) >= len(likeness) - 1


BATCHES = """
import json
import numpy as np
import word2vec

def train(threads):
    rng = np.random.default_rng(0)
    words, noise = (rng.zipf(1.5, n).clip(1, 300).astype("int32") - 1 for n in (20_000, 1000))
    matrices = [rng.random((300, 32), "float32") - 0.5, *np.zeros((3, 300, 32), "float32")]
    word2vec.learn_in_batches(*matrices, words, noise, threads=threads)
    return [matrix.tobytes() for matrix in matrices]

print(json.dumps([train(threads) == train(1) for threads in (2, 3, 7)]))
"""


def test_batches_have_the_same_bits_on_any_threads(workshop: Environment, examples: Path) -> None:
    assert report(workshop, examples, BATCHES) == [True] * 3


def test_hogwild_threads_learn(workshop: Environment, examples: Path) -> None:
    losses, *_ = report(workshop, examples, WORDS.format(learn="learn", threads=3))
    assert losses[-1] < 2.5


DIGITS = """
import json
import complete_digits

start, end, users, items = complete_digits.train(threads=1)
again = complete_digits.train(threads=3)
same = users.tobytes() == again[2].tobytes() and items.tobytes() == again[3].tobytes()
print(json.dumps([float(start), float(end), same]))
"""


def test_the_factorization_learns_on_any_threads(workshop: Environment, examples: Path) -> None:
    start, end, same = report(workshop, examples, DIGITS)
    assert end < 0.75 * start
    assert same


BANDIT = """
import json
import bandit
import numpy as np

rng = np.random.default_rng(0)
missed = bandit.play(rng.standard_normal((10, 20)), 20_000, 0.05, 0.02, rng)
print(json.dumps([missed[:1000].mean(), missed[-1000:].mean()]))
"""


def test_the_bandit_learns(workshop: Environment, examples: Path) -> None:
    start, end = report(workshop, examples, BANDIT)
    assert end < 0.25 * start


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_readme_lists_every_script(script: Path) -> None:
    listed = re.findall(r"`python (examples/compiled/\w+\.py)", README.read_text())
    assert (f"examples/compiled/{script.name}" in listed) is (script.name != "setup.py")


def blocks_of(page: Path) -> dict[str, str]:
    """The code on the page by the file names that stand in the first lines."""
    found = {}
    text = page.read_text()
    for language, block in re.findall(r"```(cython|c|cpp|python)\n(.*?)```", text, re.DOTALL):
        name = re.match(r"(?:#|//|/\*) (\w+\.(?:pyx|c|cpp|py))(?: \*/)?\n", block)
        if page == PAGE or language == "cython":
            assert name, block
            found[name[1]] = block
    return found


def write_blocks(page: Path, folder: Path) -> dict[str, str]:
    blocks = blocks_of(page)
    for name, block in blocks.items():
        (folder / name).write_text(block)
    return blocks


def test_the_page_runs(workshop: Environment, tmp_path: Path) -> None:
    """Its modules are built by its own setup.py, in strict C99 too; then its scripts are run."""
    blocks = write_blocks(PAGE, tmp_path)
    assert len(blocks) == PAGE.read_text().count("\n```") // 2
    build(workshop, tmp_path)
    strict(tmp_path / "vectors.c", "-std=c99", *includes(workshop))
    for name in blocks:
        if name.endswith(".py") and name != "setup.py":
            workshop.run(name, cwd=tmp_path)


def includes(workshop: Environment) -> list[str]:
    """The directories of the headers: roofstep's, and Python's, whose warnings are not ours."""
    script = "import roofstep, sysconfig as s; print(roofstep.get_include(), s.get_path('include'))"
    roofstep, python = workshop.run("-c", script).split()
    return ["-I", roofstep, "-isystem", python]


def strict(source: Path, *options: str) -> None:
    """Reads it with all warnings as errors."""
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run(["cc", *flags, *options, source], check=True)


@pytest.mark.parametrize("language", ["c99", "c17", "c++11", "c++20"])
@pytest.mark.parametrize("lines", ["", "#include <Python.h>\n"], ids=["alone", "with Python"])
def test_the_header(workshop: Environment, tmp_path: Path, language: str, lines: str) -> None:
    """It is clean in every language, with and without the part that imports."""
    source = tmp_path / ("header.cpp" if "+" in language else "header.c")
    use = "int version(const roofstep_kernels* k);\nint version(const roofstep_kernels* k) "
    source.write_text(f"{lines}#include <roofstep/roofstep.h>\n{use}{{ return k->version; }}\n")
    strict(source, f"-std={language}", *includes(workshop))


def test_the_table_of_the_page_is_that_of_the_header(
    workshop: Environment, consumers: Path
) -> None:
    """Names, states and settings in their order; and the statuses."""
    script = "import calls, json; print(json.dumps(calls.FUNCTIONS))"
    functions = report(workshop, consumers, script)
    page = PAGE.read_text()
    rows = re.findall(r"^\| `(\w+)` \|([^|\n]*)\|([^|\n]*)\|$", page, re.MULTILINE)
    shown = {name: re.findall(r"`(\w+)`", states + settings) for name, states, settings in rows}
    of_status = {name: found for name, found in shown.items() if name.startswith("ROOFSTEP_")}
    order = {name: found for name, found in shown.items() if name not in of_status}
    place = {"f": ["n"], "rows_f": ["rows", "count", "height", "width"]}
    expected = {}
    for name, found in order.items():
        states = re.findall(r"`(\w+)`", next(row[1] for row in rows if row[0] == name))
        for form, where in place.items():
            for bits in ("32", "64"):
                head = ["param", "grad", *states, *where, "learning_rate"]
                expected[f"{name}_{form}{bits}"] = head + found[len(states) :]
    for bits in ("32", "64"):
        expected[f"sum_squares_f{bits}"] = ["x", "n"]
    assert {name: list(arguments) for name, (_, arguments) in functions.items()} == expected
    header = workshop.run("-c", "import calls; print(calls.HEADER.read_text())", cwd=consumers)
    declared = re.findall(r"^  (ROOFSTEP_\w+) = (\d)", header, re.MULTILINE)
    assert re.findall(r"^\| `(ROOFSTEP_\w+)` \| (\d) \|", page, re.MULTILINE) == declared


README_RUNS = """
import json
import numpy as np
import regression

w, moment1, moment2 = np.zeros((3, 5))
for t in range(1, 4):
    regression.step(w, np.ones(5), moment1, moment2, t)
print(json.dumps(w.tolist()))
"""


def test_the_readme_runs(workshop: Environment, tmp_path: Path) -> None:
    (name,) = write_blocks(README, tmp_path)
    workshop.run("-m", "Cython.Build.Cythonize", "-q", "-3", "-i", name, cwd=tmp_path)
    assert report(workshop, tmp_path, README_RUNS) == pytest.approx([-3e-3] * 5)


def importing(workshop: Environment, script: str, folder: Path) -> str:
    """The last line of the error by which the script ends."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        workshop.run("-c", script, cwd=folder, stderr=subprocess.PIPE)
    return str(failed.value.stderr).splitlines()[-1]


def test_a_consumer_of_a_newer_header_is_refused(workshop: Environment, tmp_path: Path) -> None:
    (name,) = (name for name in write_blocks(PAGE, tmp_path) if name.endswith(".c"))
    roofstep = Path(includes(workshop)[1], "roofstep", "roofstep.h").read_text()
    newer, count = re.subn(r"(#define ROOFSTEP_VERSION) \d+", r"\1 1000", roofstep)
    assert count == 1
    (tmp_path / "roofstep").mkdir()
    (tmp_path / "roofstep" / "roofstep.h").write_text(newer)
    setup = "from setuptools import *; setup(py_modules=[], ext_modules=[Extension('vectors', "
    (tmp_path / "setup.py").write_text(f"{setup}['{name}'], include_dirs=['.'])])")
    build(workshop, tmp_path)
    shutil.rmtree(tmp_path / "roofstep")  # it would be found as a package
    error = importing(workshop, "import vectors", tmp_path)
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
    build(workshop, tmp_path)
    assert importing(workshop, "import stale", tmp_path).startswith(SIGNATURES[signature])
