"""Runs each target for some seconds, `run.py [seconds]`: on a build of its own or the installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parents[1]
BUILD = TOP / "build" / "fuzz"


def build() -> Path:
    """The module as libFuzzer wants it, compiled anew where sources have changed."""
    where = BUILD / "module"
    pybind11 = importlib.util.find_spec("pybind11")
    assert pybind11
    assert pybind11.origin
    options = {
        "CMAKE_C_COMPILER": "clang",
        "CMAKE_CXX_COMPILER": "clang++",
        "Python_EXECUTABLE": sys.executable,
        "ROOFSTEP_BASELINE_ALONE": "ON",
        "ROOFSTEP_OPENMP": "OFF",
        "ROOFSTEP_SANITIZE": "address,undefined,fuzzer-no-link",
        "SKBUILD_PROJECT_VERSION": "0",
        "pybind11_ROOT": str(Path(pybind11.origin).parent),
    }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(["cmake", "-S", TOP, "-B", where, "-G", "Ninja", *definitions], check=True)
    subprocess.run(["cmake", "--build", where, "--target", "_core"], check=True)
    return where / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"


def sanitized(core: Path) -> dict[str, str]:
    """What a process with this module has in its environment."""
    # That of the sanitizers and of libFuzzer, which atheris brings.
    runtime = next(Path(p) / "asan_with_fuzzer.so" for p in sys.path if _has_runtime(p))
    return {
        "ROOFSTEP_FUZZED": str(core),
        "LD_PRELOAD": str(runtime),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that each object has an end that the sanitizer knows
    }


def _has_runtime(path: str) -> bool:
    return (Path(path) / "asan_with_fuzzer.so").exists()


def run(target: str, seconds: int, env: dict[str, str]) -> int:
    """The exit status. What is found is kept in `BUILD`, as is what covers the most."""
    corpus = BUILD / target
    corpus.mkdir(parents=True, exist_ok=True)
    script = HERE / f"{target}.py"
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-max_len=65536"]
    with tempfile.TemporaryDirectory() as files:
        path = os.pathsep.join(map(str, (TOP / "tests", HERE)))
        given = {**os.environ, **env, "PYTHONPATH": path, "ROOFSTEP_FUZZ_FILES": files}
        subprocess.run([sys.executable, script, "--seeds", corpus], check=True, env=given)
        done = subprocess.run(
            [sys.executable, script, corpus, *limits, f"-artifact_prefix={BUILD}/{target}-",
             "-print_final_stats=1", "-reload=0"],
            env=given, stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
    if done.returncode:
        print(done.stderr)
    executions = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
    if not covered:
        print(f"{target}: nothing was counted; is another roofstep installed here, to be edited?")
        return 1
    print(f"{target}: {executions[-1:]} executions; counters, features, inputs: {covered[-1:]}")
    return done.returncode


if __name__ == "__main__":
    seconds = int(sys.argv[1]) if sys.argv[1:] else 600
    # The reader is Python, and libFuzzer asks no mutator in Python where its runtime comes first.
    environments = {"tensors": sanitized(build()), "checkpoints": {}}
    sys.exit(max(run(target, seconds, env) for target, env in environments.items()))
