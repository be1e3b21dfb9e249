"""On what was measured: the header of a report."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import roofstep
from roofstep import _core

LIBRARIES = ("numpy", "torch", "deepspeed", "paddlepaddle", "jax", "jaxlib", "optax")


def header(threads: int) -> dict[str, str]:
    """Machine, cores, compiler, ISA, threads, versions and date, as text."""
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "CPU": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "load before": load(),
        "system": platform.platform(),
        "compiler": _core.compiler,
        "ISA": _core.isa(),
        "threads": f"{threads}",
        "Python": platform.python_version(),
        "roofstep": roofstep.__version__,
        **{name: version(name) for name in LIBRARIES},
    }


def load() -> str:
    """Processes that ran or waited, the averages of 1, 5 and 15 minutes."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def version(library: str) -> str:
    """Of an installed distribution."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    """The model and its caches, where Linux tells."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        caches.append(f"L{level}{'' if kind == 'Unified' else kind[0].lower()} {size}")
    return ", ".join([names[0] if names else platform.machine(), *caches])
