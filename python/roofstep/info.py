"""What this installation is and whether it computes right: `python -m roofstep info`."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

import roofstep
from roofstep import _core, threads

# More than one piece of work, so that several threads take part; an odd size, so that vectors
# have a tail.
_SELF_TEST_SIZE = 200_003


def run() -> int:
    """Print the report; the exit status is 1 if the self-test fails."""
    print(f"roofstep {roofstep.__version__}")
    for name, value in {
        "ISA": f"{_core.isa()} (this CPU runs {', '.join(_core.isas())})",
        "threads": f"{roofstep.get_num_threads()}",
        "OpenMP": _openmp(),
        "compiler": _core.compiler,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "NumPy": np.__version__,
    }.items():
        print(f"  {name:<9} {value}")
    failures = self_test()
    print(f"  self-test {'FAILED: ' + ', '.join(failures) if failures else 'passed'}")
    return 1 if failures else 0


def self_test() -> list[str]:
    """Steps AdamW on every ISA with one and more threads; names those that differ from NumPy."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal(_SELF_TEST_SIZE, np.float32)
    gradients = [rng.standard_normal(_SELF_TEST_SIZE, np.float32) for _ in range(3)]
    expected = _adamw_in_numpy(start.copy(), gradients)

    failures = []
    isa, chosen, available = _core.isa(), threads._chosen, threads.get_num_threads()
    try:
        for candidate in _core.isas():
            for n in {1, 2, available}:
                _core.set_isa(candidate)
                roofstep.set_num_threads(n)
                weights = roofstep.Parameter(start.copy())
                optimizer = roofstep.AdamW(2**-10, 0.875, 0.9375, parameters=[weights])
                for weights.grad in gradients:
                    optimizer.step()
                if weights.data.tobytes() != expected.tobytes():
                    failures.append(f"{candidate} with {n} threads")
    finally:
        _core.set_isa(isa)
        threads.set_num_threads(chosen)
    return failures


def _adamw_in_numpy(
    p: np.ndarray[tuple[int], np.dtype[np.float32]],
    gradients: list[np.ndarray[tuple[int], np.dtype[np.float32]]],
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """AdamW in the order of operations of csrc/rules.hpp, with betas that float32 holds exactly."""
    f32 = np.float32
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        root = np.sqrt(1 - 0.9375**t)
        m = f32(0.875) * m + f32(0.125) * g
        v = f32(0.9375) * v + f32(0.0625) * g * g
        direction = f32(root / (1 - 0.875**t)) * m / (np.sqrt(v) + f32(1e-8 * root))
        p = p - f32(2**-10) * (direction + f32(0.01) * p)
    return p


def _openmp() -> str:
    if not _core.openmp_version:
        return "none: built without OpenMP, every step runs on one thread"
    return f"{_core.openmp_version}, {_openmp_library()}"


def _openmp_library() -> str:
    """The OpenMP libraries in this process, where the operating system tells."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return "library unknown"
    paths = {line.split()[-1] for line in maps.read_text().splitlines()}
    names = ("libgomp", "libomp", "libiomp")
    found = sorted(path for path in paths if Path(path).name.startswith(names))
    return ", ".join(found) or "linked statically"
