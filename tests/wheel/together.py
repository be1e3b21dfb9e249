"""Imports libraries and has them compute, in the orders given, and says what the process holds.

A script for test_runtimes.py: `together.py IMPORTED... -- COMPUTING...`; the answer is JSON.
"""

import importlib
import json
import os
import sys

import numpy as np

THREADS = 2
SIZE = 1 << 21  # enough for two threads in every library


def roofstep() -> None:
    """An update on two threads is what NumPy says."""
    import roofstep

    parameter = roofstep.Parameter(np.ones(SIZE, "f4"))
    parameter.grad = np.arange(SIZE, dtype="f4")
    roofstep.SGD(0.5, parameters=[parameter]).step()
    assert np.array_equal(parameter.data, 1 - 0.5 * np.arange(SIZE, dtype="f4"))


def torch() -> None:
    """Arithmetic on two threads is what NumPy says."""
    import torch

    assert "OpenMP" in torch.__config__.parallel_info()
    computed = torch.arange(SIZE, dtype=torch.float32).mul(-0.5).add(1)
    assert np.array_equal(computed.numpy(), 1 - 0.5 * np.arange(SIZE, dtype="f4"))


def sklearn() -> None:
    """Clusters that are far apart are found."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_info

    assert any("scikit_learn.libs" in pool["filepath"] for pool in threadpool_info())
    labels = np.arange(40_000) % 3
    points = 100.0 * labels[:, None] + np.random.default_rng(0).random((40_000, 2))
    found = KMeans(3, n_init=1, random_state=0).fit(points).labels_
    assert len({*zip(labels, found, strict=True)}) == 3


def state() -> dict[str, object]:
    """How many threads there are, and which files of libgomp are mapped."""
    with open("/proc/self/maps") as maps:
        runtimes = {line.split()[-1] for line in maps if "libgomp" in line}
    return {"threads": len(os.listdir("/proc/self/task")), "runtimes": sorted(runtimes)}


def main(arguments: list[str]) -> None:
    """Imports, computes, and prints the state after the imports and after each computation."""
    border = arguments.index("--")
    for name in arguments[:border]:
        library = importlib.import_module(name)
        if name != "sklearn":
            library.set_num_threads(THREADS)  # torch starts a thread here that is not OpenMP's
    states = [state()]
    for name in arguments[border + 1 :]:
        {"roofstep": roofstep, "torch": torch, "sklearn": sklearn}[name]()
        states.append(state())
    print(json.dumps(states))


if __name__ == "__main__":
    main(sys.argv[1:])
