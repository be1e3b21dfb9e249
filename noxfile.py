"""What takes an environment or a build of its own: `nox -s NAME`, or in short `-- short`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nox

nox.options.sessions = []
nox.options.error_on_missing_interpreters = True

BUILD = ("scikit-build-core", "pybind11", "cython", "cmake", "ninja")
CLANG = ("CMAKE_C_COMPILER=clang", "CMAKE_CXX_COMPILER=clang++", "ROOFSTEP_BASELINE_ALONE=ON")
REPORTED = 66  # the status of a process in which something was reported

# Each way into the C++ once: arrays, dense and sparse gradients and refusals of them, norms,
# exchanges with averages, files, streaming loops, several threads; `watch` adds the compiled door.
# Those that valgrind, by far the slowest, has time for stand first; its norms are in those threads.
FEW = (
    "tests/test_average.py::test_in_the_block_the_parameters_hold_the_mean",
    "tests/test_process.py::test_optimizers_in_threads[2-2-own]",
    "tests/test_rows.py::test_gradients_that_do_not_fit",
    "tests/test_save.py::test_values_are_written_to_where_the_parameters_lie",
)
SHORT = (
    *FEW,
    "tests/test_isa.py::test_the_roof_moves_every_byte",
    "tests/test_norm.py::test_both_dtypes_in_one_norm",
    "tests/test_norm.py::test_many_tensors",
    "tests/test_process.py::test_optimizers_in_threads[2-2-shared gradients]",
    "tests/test_rows.py::test_the_same_bits_everywhere",
)

# What the long form leaves out, as it holds nothing that the rest lacks of C++ and memory.
LEFT_OUT = (
    "tests/test_bench.py",  # speed, which means nothing here
    "tests/test_bench_peers.py",
    "tests/test_demo.py",  # a run of scikit-learn and matplotlib
    "tests/test_docs.py",  # the pages
    "tests/test_typed_use.py",  # mypy's
    "tests/test_isa.py",  # processes that are given seconds; its loops are in the short form
    "tests/test_processes.py",  # forks, and interpreters that end at once
)


def is_short(session: nox.Session) -> bool:
    """Whether the short form is asked for."""
    if session.posargs not in ([], ["short"]):
        session.error(f"expected nothing or 'short' after --, got {session.posargs}")
    return bool(session.posargs)


def install(session: nox.Session, *wanted: str) -> None:
    """Installs packages in the versions of constraints.txt."""
    session.install("-c", "constraints.txt", *wanted)


def build(session: nox.Session, *defined: str, kind: str = "None") -> None:
    """Builds and installs roofstep with these settings of CMake, and what its tests need."""
    install(session, *BUILD, "cffi", "hypothesis", "numpy", "pytest", "safetensors", "tqdm")
    settings = [f"cmake.define.{setting}" for setting in defined]
    settings += [f"build-dir=build/{session.name}", f"cmake.build-type={kind}"]
    settings += ["install.strip=false"]  # reports name lines
    options = [part for setting in settings for part in ("-C", setting)]
    session.install("--no-build-isolation", "--no-deps", "--force-reinstall", ".", *options)


def found_by(compiler: str, library: str) -> str:
    """Where a compiler has a library."""
    command = [compiler, f"-print-file-name={library}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if path == library:
        raise FileNotFoundError(f"{compiler} has no {library}: see .ci/apt-packages.txt")
    return path


def watch(
    session: nox.Session,
    *watcher: str,
    misuses: tuple[str, ...],
    env: dict[str, str],
    tests: tuple[str, ...] = SHORT,
) -> None:
    """Runs the tests behind the command that watches, once it has seen that misuse is reported.

    In the long form the suite as well.
    """
    # BLAS has threads of its own, of which nothing is known here.
    env = {"PYTHONMALLOC": "malloc", "OPENBLAS_NUM_THREADS": "1", **env}
    # The addresses are the same each time: the runtimes of clang 14 need room in some places.
    watched = ("setarch", "-R", *watcher, "python")

    def run(*arguments: str, status: int = 0) -> None:
        session.run(*watched, *arguments, env=env, external=True, success_codes=[status])

    run("csrc/tests/misuse.py", "nothing")
    for misuse in misuses:
        run("csrc/tests/misuse.py", misuse, status=REPORTED)
    # Reports go to where pytest would keep them from being seen if the process ends.
    pytest = ("-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider")
    run(*pytest, *tests)
    # The compiled door, by one of its ways.
    door = "cffi and adamw and f32" if is_short(session) else "cffi"
    run(*pytest, "--noconftest", "-k", door, "tests/wheel/inside/refusals.py")
    if not is_short(session):
        run(*pytest, "tests", *(f"--ignore={path}" for path in LEFT_OUT))


def preload(*libraries: str) -> tuple[str, ...]:
    """Python is not instrumented: the runtime comes before all else, with what it looks into."""
    return ("env", "LD_PRELOAD=" + ":".join([*libraries, found_by("clang++", "libstdc++.so.6")]))


@nox.session
def address(session: nox.Session) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer in one build.

    Leaks are not looked for: to LeakSanitizer all is lost that CPython keeps to its end, and ours
    cannot be told from it. Tests that count memory over many steps do that.
    """
    build(session, *CLANG, "ROOFSTEP_SANITIZE=address,undefined")
    arch = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout
    watch(
        session,
        *preload(found_by("clang++", f"libclang_rt.asan-{arch.strip()}.so")),
        misuses=("beyond", "freed", "misaligned"),
        env={
            "ASAN_OPTIONS": f"exitcode={REPORTED}:detect_leaks=0",
            "UBSAN_OPTIONS": f"exitcode={REPORTED}:print_stacktrace=1",
        },
    )


@nox.session
def thread(session: nox.Session) -> None:
    """ThreadSanitizer, with LLVM's OpenMP and Archer, which tells it of forks, joins and barriers.

    The runtime is g++'s: clang 14's dies at once where it is preloaded.
    """
    clang = Path(shutil.which("clang++") or session.error("no clang++")).resolve()
    archer = clang.parents[1] / "lib" / "libarcher.so"
    if not archer.exists():
        session.error(f"no {archer}: see .ci/apt-packages.txt")  # races would be seen in every step
    build(session, *CLANG, "ROOFSTEP_SANITIZE=thread")
    watch(
        session,
        *preload(found_by("g++", "libtsan.so")),
        misuses=("race",),
        env={
            "OMP_TOOL_LIBRARIES": str(archer),
            # CPython's own accesses are not known, its locks are.
            "TSAN_OPTIONS": f"exitcode={REPORTED}:halt_on_error=1:ignore_noninstrumented_modules=1",
        },
    )


@nox.session
def memcheck(session: nox.Session) -> None:
    """Valgrind on the loops as they are released, but for AVX-512, which it does not have."""
    baseline = ("ROOFSTEP_BASELINE_ALONE=ON",) if is_short(session) else ()
    build(session, *baseline, kind="RelWithDebInfo")
    watch(
        session,
        *("valgrind", "--quiet", f"--error-exitcode={REPORTED}", "--fair-sched=yes"),
        "--suppressions=csrc/tests/valgrind.supp",
        misuses=("beyond", "freed", "uninitialised"),
        env={"OMP_WAIT_POLICY": "passive"},
        tests=FEW if is_short(session) else SHORT,
    )


@nox.session
def machine(session: nox.Session) -> None:
    """Any calls in any order, held to the oracle: at random, 100 times as many as the suite has."""
    if not is_short(session):
        session.env["ROOFSTEP_MACHINE"] = "100"
    install(session, ".[test]")
    session.run("python", "-m", "pytest", "tests/machine", "--no-showlocals")


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """Hostile tensors and files, each for 10 minutes or `-- SECONDS`; needs clang.

    Of another Python that atheris has wheels for, 3.12 and 3.13: `-P 3.12`.
    """
    match session.posargs or ["600"]:
        case ["short"]:
            seconds = "8"
        case [seconds] if seconds.isdecimal() and int(seconds):
            pass
        case _:
            session.error(f"expected seconds or 'short' after --, got {session.posargs}")
    install(session, ".[fuzz]")
    session.run("python", "tests/fuzz/run.py", seconds)


@nox.session(python="3.14t")
def freethreaded(session: nox.Session) -> None:
    """The suite without a GIL, in short what has threads; of another Python: `-P python3.13t`.

    The long form needs a wheel of safetensors, which 3.13t has not.
    """
    short = is_short(session)
    if short:
        install(session, ".", "pytest", "threadpoolctl")
    else:  # the safetensors of constraints.txt has no wheel for this Python, a later one has
        session.install("--only-binary", "safetensors", ".[test]")
    session.env["PYTHON_GIL"] = "0"  # which a Python with a GIL refuses
    tests = ("threads", "process", "processes") if short else ()
    session.run("python", "-m", "pytest", *(f"tests/test_{name}.py" for name in tests))
