"""How many threads a step may use, a setting of the process; and that one at a time may step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roofstep import _core, checks
from roofstep.types import Integer

# Beyond this a mistake is likelier than a machine, and too many threads end a process.
_MOST = 1024

_chosen: int | None = None


def alone(kind: str) -> _core.Alone:
    """What refuses two threads at once: a step lets go of the GIL while it writes.

    Args:
        kind: what is being stepped, for the message.
    """
    return _core.Alone(
        f"this {kind} is being stepped, by another thread or by a step that "
        f"is asking for this, or its parameters hold their averaged weights, or so it was when "
        f"this process was forked; give each thread an optimizer of its own or a lock around this "
        f"one, ask nothing of it in a closure or a clip, leave the block of averaged() first, and "
        f"fork between steps"
    )


class Undisturbed:
    """Stands in a copy for what refuses two threads, and refuses the copy if one came meanwhile.

    Who pickles or copies an optimizer has let go of it before its arrays are read, and comes to
    this at the end. It is made in the turn in which the copy begins, and copied as None.

    Args:
        alone: what refuses two threads.
    """

    def __init__(self, alone: _core.Alone) -> None:
        self._alone = alone
        self._turns = alone.turns

    def require(self) -> None:
        """Check that nothing has been done since.

        Raises:
            RuntimeError: something was.
        """
        if self._alone.turns != self._turns:
            raise RuntimeError(
                "copy: expected an optimizer that nobody uses while it is copied or pickled, got "
                "one that another thread has stepped, saved or changed meanwhile; put a lock "
                "around both, or take state_dict()"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        self.require()
        return type(None), ()


def set_num_threads(n: Integer | None) -> None:
    """Let every later step use up to ``n`` threads, or with None the default number again.

    It is a setting of the process, whichever thread steps, and a forked child has it too. A number
    stands whatever CPUs there are and whatever threadpoolctl says; the default follows both. A step
    below 65 536 elements in total runs on the calling thread alone, as does one below 262 144 after
    a pause of some milliseconds. No setting changes a single bit of a result.

    Args:
        n: from 1 to 1024, or None for the default, see `get_num_threads`. A build without OpenMP
            runs on one thread whatever ``n`` is.

    Raises:
        TypeError: ``n`` is neither an int nor None.
        ValueError: ``n`` is out of this range.

    Example:
        >>> import roofstep
        >>> roofstep.set_num_threads(1)
        >>> roofstep.get_num_threads()
        1
        >>> roofstep.set_num_threads(None)
    """
    global _chosen
    _chosen = None if n is None else checks.whole("n", n, 1, _MOST)


def get_num_threads() -> int:
    """The number of threads that a step by this thread may use.

    By default it is the least of three: what OpenMP would use, which is ``OMP_NUM_THREADS``, or
    what threadpoolctl, ``torch.set_num_threads`` and others have told OpenMP of this thread since;
    the CPUs that this thread may run on now (its affinity); and what the CPU quotas of this
    process's cgroups granted when roofstep was imported.
    """
    if not _core.openmp_version:
        return 1
    return _chosen if _chosen is not None else _core.default_threads()


def wanted() -> int:
    """The number that was set; 0 for the default, which work of little size need not ask for."""
    return _chosen or 0


def _cgroup_quota(membership: Path, root: Path) -> int:
    """Whole CPUs granted to this process by its cgroups of version 2 or 1; 0 for no limit."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:  # no cgroups here
        return 0
    quotas = []
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        home = root / ("cpu" if controllers else "") / path.lstrip("/")
        # In a container the path may be that of the host, of which only the root is seen.
        for group in {home, *home.parents, root / "cpu" if controllers else root}:
            if group.is_relative_to(root):
                quotas.append(_quota(group))
    return min(filter(None, quotas), default=0)


def _quota(group: Path) -> int:
    """The CPUs that one cgroup grants, rounded up; 0 for no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return max(0, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # none, or the word "max"
        return 0


if _quota_now := _cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")):
    _core.limit_threads(_quota_now)
