"""Microbenchmarks of one tensor: rule x dtype x ISA x size x threads, each beside its traffic.

python -m pytest bench/test_kernels.py runs all, which takes hours. Names are like
``adamw-float32-avx512-64K-1t-step``, and ``-stream`` for the streaming loop of the same traffic:
-k "[adamw-float32 and 1t" runs those of one rule. The plain `pytest` does not collect this file.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import roofstep
from bench.kernels import CASES, slug
from roofstep import _core, traffic

SIZES = {
    "1K": 1 << 10,
    "4K": 1 << 12,
    "16K": 1 << 14,
    "64K": 1 << 16,
    "256K": 1 << 18,
    "1M": 1 << 20,
    "4M": 1 << 22,
    "16M": 1 << 24,
    "64M": 1 << 26,
}
DTYPES = {"float32": np.float32, "float64": np.float64}


# Every combination; a step and its streaming loop follow each other.
ALL = [
    pytest.param(*one, id="-".join((slug(one[0]), *one[1:4], f"{one[4]}t", one[5])))
    for one in itertools.product(CASES, DTYPES, _core.isas(), SIZES, (1, 2), ("step", "stream"))
]


def kernel(case: traffic.Case, parameter: roofstep.Parameter) -> Callable[[], Any]:
    """The call of the compiled step that the optimizer makes, without what Python does before."""
    step = case.step([parameter])
    step()  # creates the states
    plan = getattr(step, "func", step).__self__._plan
    entries = plan.entries
    calls: list[tuple[Any, ...]] = []
    plan.entries = SimpleNamespace(step=lambda *call: calls.append(call) or entries.step(*call))
    step()
    plan.entries = entries
    (call,) = calls
    return functools.partial(entries.step, *call)


@pytest.mark.parametrize(("name", "dtype", "isa", "size", "threads", "what"), ALL)
def test_kernel(
    benchmark: BenchmarkFixture,
    name: str,
    dtype: str,
    isa: str,
    size: str,
    threads: int,
    what: str,
) -> None:
    """What it takes is in the report of pytest-benchmark, which keeps what else is to be known."""
    case, elements = traffic.CASES[name], SIZES[size]
    width = DTYPES[dtype]().itemsize // 4  # in float32, of which the streaming loop is
    _core.set_isa(isa)
    roofstep.set_num_threads(threads)
    benchmark.extra_info = {
        "rule": name,
        "dtype": dtype,
        "isa": isa,
        "elements": elements,
        "threads": threads,
        "bytes": width * sum(one.bytes for one in case.passes),
        "what": what,
    }
    if what == "stream":
        roof = traffic.Roof(width * elements, [case])
        benchmark(roof.stream, case.passes)
    else:
        benchmark(kernel(case, traffic.parameter(elements, DTYPES[dtype])))
