"""What is chosen for the process, ISA and threads; and the streaming loops of every ISA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import roofstep
from roofstep import _core, threads

ISAS = _core.isas()  # best first
# Neither x86-64 nor AArch64 runs an ISA of the other.
FOREIGN = next(name for name in ("neon", "avx2") if name not in ISAS)
FROM_ENVIRONMENT = ("ROOFSTEP_ISA", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with no setting from outside but these."""
    clean = {k: v for k, v in os.environ.items() if k not in FROM_ENVIRONMENT}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output(code: str, **environment: str) -> str:
    done = run(code, **environment)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr}"
    return done.stdout.strip()


# The ISA.

WHICH = "import roofstep._core as c; print(c.isa(), *c.isas())"


def test_the_best_isa_is_the_default() -> None:
    assert output(WHICH).split() == [ISAS[0], *ISAS]
    assert output(WHICH, ROOFSTEP_ISA="").split() == [ISAS[0], *ISAS]


@pytest.mark.parametrize("isa", ISAS)
def test_an_isa_can_be_forced(isa: str) -> None:
    assert output(WHICH, ROOFSTEP_ISA=isa).split() == [isa, *ISAS]
    told = output("import roofstep.__main__ as m; m.main(['info'])", ROOFSTEP_ISA=isa)
    assert f" {isa} (" in told
    assert "self-test passed" in told


@pytest.mark.parametrize("isa", [FOREIGN, "avx1024", "AVX2", f" {ISAS[0]}", f"{ISAS[0]},", "0"])
def test_an_isa_that_cannot_run_is_an_error_at_import(isa: str) -> None:
    done = run("import roofstep", ROOFSTEP_ISA=isa)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ROOFSTEP_ISA: ")
    assert f"'{isa}'" in message
    assert ", ".join(ISAS) in message
    assert "; " in message  # and the remedy


def test_after_that_error_the_import_can_be_tried_again() -> None:
    code = """
import os
try:
    import roofstep
except ImportError:
    os.environ["ROOFSTEP_ISA"] = "%s"
import roofstep._core as c
print(c.isa())
"""
    assert output(code % ISAS[-1], ROOFSTEP_ISA="no") == ISAS[-1]


# Threads.

THREADS = "import roofstep; print(roofstep.get_num_threads())"
ON_ONE_CPU = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"


def test_threads_follow_the_cpus_and_the_environment() -> None:
    default = int(output(THREADS))
    assert 1 <= default <= len(os.sched_getaffinity(0))
    assert output(THREADS, OMP_NUM_THREADS="1") == "1"
    assert output(ON_ONE_CPU + THREADS) == "1"
    most = threads._cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")) or 64
    most = min(most, len(os.sched_getaffinity(0)))
    expected = min(64, most) if _core.openmp_version else 1
    assert int(output(THREADS, OMP_NUM_THREADS="64")) == expected


CGROUPS = {
    "none": ("0::/", {"cpu.max": "max 100000"}, 0),
    "whole": ("0::/", {"cpu.max": "300000 100000"}, 3),
    "a part more": ("0::/", {"cpu.max": "250000 100000"}, 3),
    "of a slice": ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
    "the least": ("0::/a/b", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "400000 100000"}, 1),
    "of another": ("0::/a", {"b/cpu.max": "100000 100000"}, 0),
    "seen from inside": ("0::/host/x", {"cpu.max": "200000 100000"}, 2),
    "version 1": (
        "5:memory:/m\n4:cpu,cpuacct:/a",
        {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"},
        2,
    ),
    "version 1, none": (
        "4:cpu,cpuacct:/",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        0,
    ),
}


@pytest.mark.parametrize(("membership", "files", "cpus"), CGROUPS.values(), ids=CGROUPS)
def test_cgroup_quota(membership: str, files: dict[str, str], cpus: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert threads._cgroup_quota(tmp_path / "membership", root) == cpus


def test_no_cgroups(tmp_path: Path) -> None:
    assert threads._cgroup_quota(tmp_path / "nothing", tmp_path) == 0


@pytest.mark.parametrize("n", [1, 2, 7])
def test_threads_can_be_set(n: int) -> None:
    set_and_reset = f"""
import roofstep
roofstep.set_num_threads({n})
print(roofstep.get_num_threads())
roofstep.set_num_threads(None)
print(roofstep.get_num_threads())
"""
    assert output(set_and_reset, OMP_NUM_THREADS="1").split() == [str(n), "1"]


# A step in a process of its own, which prints how many threads of the system it has added. NumPy
# starts its own threads, if any, when it is imported.
COUNT = """
import os, numpy as np, roofstep
count = lambda: len(os.listdir("/proc/self/task"))
def optimizer(*sizes):
    params = [roofstep.Parameter(np.ones(n, "f4")) for n in sizes]
    for p in params:
        p.grad = np.ones_like(p.data)
    return roofstep.SGD(0.25, params, grad_clip=roofstep.ClipGradByGlobalNorm(1e9))
"""
STEP = """
before = count()
made = optimizer(*{sizes})
made.step()
assert all((p.data == 0.75).all() for p in made.parameters)
print(count() - before)
"""


@pytest.mark.parametrize(
    ("n", "sizes", "added"),
    [
        (2, [1 << 16], 0),
        (2, [1 << 10] * 64, 0),
        (2, [1 << 18], 1),
        (2, [1 << 12] * 64, 1),
        (3, [1 << 20], 2),
        (1, [1 << 18], 0),
    ],
)
def test_a_large_step_runs_on_as_many_threads(n: int, sizes: list[int], added: int) -> None:
    code = COUNT + f"roofstep.set_num_threads({n})" + STEP.format(sizes=sizes)
    assert int(output(code)) == (added if _core.openmp_version else 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 4096, 70_001])
def test_what_is_fetched_ahead_changes_no_bits(isa: str, size: int) -> None:
    """It may lie behind the end of an array: asking for it reads nothing."""
    _core.set_isa(isa)
    rng = np.random.default_rng(0)
    start, gradient = (rng.standard_normal(size, np.float32) for _ in range(2))
    found = set()
    for ahead in (0, 64, 2560, 1 << 20):
        _core.set_fetch_ahead(ahead)
        weights = roofstep.Parameter(start.copy())
        weights.grad = gradient
        clip = roofstep.ClipGradByGlobalNorm(0.5)
        optimizer = roofstep.AdamW(0.01, parameters=[weights], grad_clip=clip)
        for _ in range(3):
            optimizer.step()
        found.add((weights.data.tobytes(), optimizer.last_grad_norm))
    assert len(found) == 1


def test_no_more_threads_than_pieces_of_work() -> None:
    code = COUNT + "roofstep.set_num_threads(1024)" + STEP.format(sizes=[1 << 18])
    assert int(output(code)) <= 3


def test_threads_may_run_where_they_might_before() -> None:
    """One that was woken on the caller's CPU leaves it for a moment, not for good."""
    code = """
import time
roofstep.set_num_threads(2)
made = optimizer(1 << 20)
for _ in range(8):
    made.step()
    time.sleep(0.02)
threads = Path("/proc/self/task").glob("*/status")
print(len({re.search("Cpus_allowed:.*", one.read_text())[0] for one in threads}))
"""
    assert output(COUNT + "import re\nfrom pathlib import Path" + code) == "1"


def test_a_forked_child_can_step() -> None:
    """The OpenMP threads of the parent do not exist in the child, which must not wait for them."""
    code = """
import signal
roofstep.set_num_threads(2)
made = optimizer(1 << 18)
made.step()
child = os.fork()
if not child:
    signal.alarm(3)  # a child that hangs dies of it
    made.step()
    os._exit(int(made.parameters[0].data[-1] != 0.5))
print(os.waitpid(child, 0)[1])
made.step()
"""
    assert output(COUNT + code) == "0"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("updated", range(7))
@pytest.mark.parametrize("read", range(5))
def test_the_roof_moves_every_byte(isa: str, updated: int, read: int) -> None:
    """A streaming loop that left some out would be a roof too high to reach."""
    _core.set_isa(isa)
    n = 65536 + 4099  # two pieces of work and a ragged tail
    start = [np.full(n, 2.0 + i, np.float32) for i in range(updated)]
    given = [np.arange(n, dtype=np.float32) % 7 + i for i in range(read)]
    arrays = [array.copy() for array in start]
    seen = _core.stream(tuple(arrays), tuple(given), 2)
    total = sum(given, np.zeros(n, np.float32))
    for array, before in zip(arrays, start, strict=True):
        np.testing.assert_array_equal(array, before / 2 + total)
    if not updated:
        np.testing.assert_allclose(seen, total.sum(dtype=np.float64), rtol=1e-4)


def test_the_roof_takes_arrays_of_one_kind() -> None:
    one = np.zeros(8, np.float32)
    for wrong in (np.zeros(8), np.zeros(9, np.float32), np.zeros(16, np.float32)[::2]):
        with pytest.raises(ValueError, match="contiguous float32 arrays of one size"):
            _core.stream((one,), (wrong,), 1)
    with pytest.raises(ValueError, match="at most 6 arrays to update and 4 to read"):
        _core.stream((), (one,) * 5, 1)
