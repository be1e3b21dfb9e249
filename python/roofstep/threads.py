"""How many threads a step may use: a setting of the process."""

from __future__ import annotations

import functools
from pathlib import Path

from roofstep import _core, checks

# Beyond this a mistake is likelier than a machine, and too many threads end a process.
_MOST = 1024

_chosen: int | None = None


def set_num_threads(n: int | None) -> None:
    """Let every later step use up to ``n`` threads, or with None the default number again.

    A step below 65 536 elements in total runs on the calling thread alone, and no setting changes
    a single bit of a result.

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
    """The number of threads a step may use.

    By default that of the CPUs this process may run on (its affinity), or ``OMP_NUM_THREADS``,
    but no more than a cgroup's CPU quota grants.
    """
    return _chosen if _chosen is not None else _default()


@functools.cache
def _default() -> int:
    return max(1, min(_core.max_threads(), _cgroup_quota() or _core.max_threads()))


def _cgroup_quota() -> int:
    """Whole CPUs granted by a cgroup (version 2, then 1), 0 for no limit."""
    root = Path("/sys/fs/cgroup")
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return max(0, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroups here, or the word "max"
        return 0
