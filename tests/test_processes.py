"""Steps in processes of their own: forks, pools, the end of the interpreter, signals, CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from at_once import IN_CHILD, TIMES
from roofstep import _core

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")

# What every process begins with. After n steps every element is n.
BEGIN = (
    IN_CHILD
    + """
import os, signal, sys, threading, time
import numpy as np
import roofstep

LARGE = 1 << 20
roofstep.set_num_threads(2)
signal.alarm(100)  # whatever hangs dies of it

def optimizer(size=LARGE, **settings):
    parameter = roofstep.Parameter(np.zeros(size, "f4"), name="w")
    parameter.grad = np.full(size, -1, "f4")
    return roofstep.Momentum(1.0, 0.0, [parameter], **settings)

def is_after(n, made):
    return bool((made.parameters[0].data == n).all())

def stepping(made):
    def go():
        while True:
            made.step()
    threading.Thread(target=go, daemon=True).start()
"""
)


def run(code: str, *arguments: str, **environment: str) -> str:
    """What a process prints that must end well, with nothing on its standard error."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "ROOFSTEP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments, *(["-c", BEGIN + code] if code else [])],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


# Forks.

FORKS = """
made = optimizer()
made.step()

def nested():
    made.step()
    assert is_after(2, made)
    in_child(lambda: (made.step(), in_child(made.step)))
    made.step()
    assert is_after(3, made)

in_child(nested)
assert is_after(1, made)
made.step()

# By another thread than the one that has stepped, and which has stepped itself.
other = optimizer()
def forking():
    other.step()
    in_child(lambda: (other.step(), made.step()))
    other.step()
    assert is_after(2, other)
thread = threading.Thread(target=forking)
thread.start()
thread.join()
made.step()
assert is_after(3, made)

made.average_weights(0.0)  # the average is the weights before the step
made.step()
weights = made.parameters[0].data
average = made.state_dict()["w_average_0"].copy()
latest = weights.copy()
with made.averaged():
    def inside():
        assert (weights == average).all()
        try:
            made.step()
        except RuntimeError as error:
            assert "averaged()" in str(error)
        else:
            raise AssertionError
    in_child(inside)
    assert (weights == average).all()
assert (weights == latest).all()
child = None
with made.averaged():
    child = os.fork()  # which leaves the block as well
    if not child:
        signal.alarm(30)
if not child:
    whole = (weights == latest).all()
    made.step()
    os._exit(not whole)
assert os.waitpid(child, 0)[1] == 0
made.step()
"""


def test_forks_between_steps() -> None:
    """Nested, by another thread, inside averaged(): child and parent go on."""
    run(FORKS)


DURING = """
made, own = optimizer(), optimizer()
own.step()
stepping(made)
while is_after(0, made):
    time.sleep(0.001)
refused = 0

def whole():
    assert is_after(made.parameters[0].data[0], made)
    own.step()
    assert is_after(2, own)
    # The parameters are another optimizer's from now on.
    roofstep.SGD(0.0, made.parameters).step()
    try:
        made.step()
    except RuntimeError as error:
        assert "forked" in str(error)
        os._exit(7)

for _ in range({forks}):
    time.sleep(np.random.default_rng().uniform(0, 0.01))
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(60)
            whole()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 7), status
    refused += status == 7
print(refused)
os._exit(0)
"""


def test_a_fork_while_another_thread_steps() -> None:
    """The child has whole weights, and steps with an optimizer that was at rest."""
    assert sum(int(run(DURING.format(forks=20))) for _ in range(TIMES)) > 0


# Pools. The functions that they call are in a file, as a spawned process imports it.

POOLS = """
import multiprocessing

def work(made):
    for _ in range(3):
        made.step()
    return made

def main():
    made = optimizer()
    made.step()
    for method in ("fork", "forkserver", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            for back in pool.map(work, [made] * 4):
                assert is_after(4, back)
                back.step()
                assert is_after(5, back)
                assert back.state_dict()["w_step_0"] == 5
        made.step()
        made.parameters[0].data[...] = 1
        made.set_state_dict({**made.state_dict(), "w_step_0": np.array(1)})

if __name__ == "__main__":
    main()
"""


def test_pools_of_processes(tmp_path: Path) -> None:
    """An optimizer goes there and comes back by pickle; so does its state."""
    script = tmp_path / "pools.py"
    script.write_text(BEGIN + POOLS)
    run("", str(script))


# The end of the interpreter.

DAEMON = """
row = [optimizer({size}) for _ in range(4)]
for made in row:
    stepping(made)
while is_after(0, row[0]):
    time.sleep(0.001)
time.sleep(np.random.default_rng().uniform(0, 0.02))
"""


@pytest.mark.parametrize("size", [100, 1 << 22])
def test_the_interpreter_ends_during_a_step(size: int) -> None:
    """In a thread that is a daemon: Python would end it by unwinding the stack of the step."""
    for _ in range(3 * TIMES):
        run(DAEMON.format(size=size))


AT_THE_END = """
import atexit
made = optimizer()
made.step()

def last():
    made.step()
    assert is_after(2, made)
    print("atexit")

class Last:
    def __init__(self, made, is_after):
        self.made, self.is_after = made, is_after
    def __del__(self):
        self.made.step()
        assert self.is_after(3, self.made)
        print("del")

atexit.register(last)
cycle = Last(made, is_after)
cycle.itself = cycle
"""


def test_a_step_at_the_end_of_the_interpreter() -> None:
    assert run(AT_THE_END).split() == ["atexit", "del"]


SUBINTERPRETER = """
import sys
{first}
sub = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = __import__(sub)
for isolated in (True, False):
    if sys.version_info >= (3, 13):
        made = interpreters.create("isolated" if isolated else "legacy")
    else:
        made = interpreters.create(isolated=isolated)
    interpreters.run_string(made, '''
for name in ("roofstep", "roofstep._core", "roofstep.kernels", "roofstep"):
    try:
        __import__(name)
    except ImportError as error:
        assert "subinterpreter" in str(error), error
    else:
        raise AssertionError("it was imported")
print("refused", flush=True)
''')
    interpreters.destroy(made)
import roofstep
roofstep.SGD(1.0, [roofstep.Parameter(__import__("numpy").zeros(3))])
"""


@pytest.mark.parametrize("first", ["", "import roofstep"])
def test_a_subinterpreter_is_refused(first: str) -> None:
    """In words, whether or not the main interpreter has it, and this one can import it later."""
    done = run("", "-W", "ignore", "-c", SUBINTERPRETER.format(first=first))
    assert done.split() == ["refused"] * 2


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_a_free_threaded_python_stays_so() -> None:
    """It turns the GIL on, and warns, for a module that does not say it can do without."""
    code = "import sys, roofstep.kernels; print(sys._is_gil_enabled())"
    assert run("", "-c", code, PYTHON_GIL="") == "False"


# Signals.

SIGNALS = """
made = optimizer()
rounds, interrupted = {rounds}, 0
begin = time.perf_counter()
made.step()
one = time.perf_counter() - begin

def alarm(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, alarm)
random = np.random.default_rng()
for _ in range(rounds):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2 * one))
        while True:
            made.step()
    except KeyboardInterrupt:
        interrupted += 1
    # All of a step or nothing of it, and the optimizer can go on.
    n = made.parameters[0].data[0]
    assert is_after(n, made)
    assert made.state_dict()["w_step_0"] == n

# One that is no error, and comes to the thread that steps.
made, seen = optimizer(), []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(is_after(weights()[0], made)))
weights = lambda: made.parameters[0].data
main = threading.main_thread().ident
over = threading.Event()
def send():
    sent = 0
    while not over.wait(one / 3):
        if len(seen) == sent:  # on a busy machine handlers would else come one inside another
            sent += 1
            signal.pthread_kill(main, signal.SIGUSR1)
sender = threading.Thread(target=send)
sender.start()
while len(seen) < rounds:
    made.step()
over.set()
sender.join()
assert all(seen)
print(interrupted)
"""


def test_signals_during_a_step() -> None:
    """Handlers run before it or after it: they see all of a step or nothing."""
    for _ in range(TIMES):
        assert run(SIGNALS.format(rounds=30)) == "30"


# CPUs. How many threads a step takes is how many of them a process has more afterwards.

CPUS = """
roofstep.set_num_threads(None)
count = lambda: len(os.listdir("/proc/self/task"))
made = optimizer()
def added():
    before = count()
    made.step()
    return count() - before
"""
AFFINITY = """
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cpus[:1])
assert (roofstep.get_num_threads(), added()) == (1, 0)
found, alone = [], count()
def other():
    os.sched_setaffinity(0, cpus)
    found.append((roofstep.get_num_threads(), added()))
thread = threading.Thread(target=other)
thread.start()
thread.join()
assert found == [(2, 1)], found
while count() > alone:  # the pool of a thread ends with it
    time.sleep(0.001)
assert roofstep.get_num_threads() == 1
os.sched_setaffinity(0, cpus)
assert (roofstep.get_num_threads(), added()) == (2, 1)
assert is_after(3, made)
"""
THREADPOOLCTL = """
from threadpoolctl import threadpool_limits
with threadpool_limits(1):
    assert (roofstep.get_num_threads(), added()) == (1, 0)
    roofstep.set_num_threads(2)
    assert (roofstep.get_num_threads(), added()) == (2, 1)
    roofstep.set_num_threads(None)
assert roofstep.get_num_threads() == 2
"""
needs_two_cpus = pytest.mark.skipif(
    not _core.openmp_version or len(os.sched_getaffinity(0)) != 2, reason="two CPUs, and OpenMP"
)


@needs_two_cpus
@pytest.mark.parametrize("code", [AFFINITY, THREADPOOLCTL], ids=["affinity", "threadpoolctl"])
def test_the_default_follows(code: str) -> None:
    """It is asked for by each step of some size, of the thread that makes it."""
    run(CPUS + code)


@needs_two_cpus
def test_openmp_binds_threads() -> None:
    """The calling thread then has one CPU of its own, and the others theirs."""
    bound = CPUS + "assert (roofstep.get_num_threads(), added()) == (2, 1)"
    run(bound, OMP_PROC_BIND="true")


@contextmanager
def cgroup(quota: int) -> Iterator[Path]:
    """A cgroup with this quota for each 100 ms, if root may make one here."""
    hierarchies = [
        (Path("/sys/fs/cgroup"), "cpu.max"),
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"),
    ]
    for root, file in hierarchies:
        made = root / f"roofstep-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            if (made / file).exists():
                (made / file).write_text(str(quota))
                yield made
                return
        finally:
            made.rmdir()
    pytest.skip("no cgroup can be made here")


@needs_two_cpus
@pytest.mark.parametrize(("quota", "threads"), [(100_000, 1), (150_000, 2)])
def test_a_cgroup(quota: int, threads: int) -> None:
    """A real one, which the process enters before it imports roofstep."""
    with cgroup(quota) as made:
        procs = str(made / "cgroup.procs")
        enter = f"import os, pathlib; pathlib.Path({procs!r}).write_text(str(os.getpid()))"
        added = f"assert (roofstep.get_num_threads(), added()) == ({threads}, {threads - 1})"
        run("", "-c", f"{enter}\n{BEGIN}{CPUS}{added}")
