"""Tensors of more than 2^31 elements, by hand: `python tests/past_2_31.py`, with 10 GB free.

Each case fills its arrays by a formula of the position, so that every element is held against the
oracle's, block by block, with no second copy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roofstep
from roofstep import kernels

N = 2**31 + 37
BLOCK = 1 << 22
PERIOD = 8191  # a prime, so that no block and no row looks like another
WINDOW = 16381 * 1024  # elements: pages, and a prime number of them
MAP_FIXED = 0x10
PATTERN = (np.arange(PERIOD + BLOCK) % PERIOD).astype("f4")
WINDOWS = (np.arange(WINDOW + BLOCK) % WINDOW % PERIOD).astype("f4")


def zeros(size: int = N) -> Any:
    """float32 in memory that is handed out at first touch, and given back at once."""
    return np.frombuffer(mmap.mmap(-1, 4 * size), np.float32)


def repeated(size: int = N) -> Any:
    """The same, of which every window of WINDOW elements is the same memory, but for the last page.

    It holds `windows`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]
    whole = mmap.mmap(-1, 4 * size)
    array = np.frombuffer(whole, np.float32)
    file = os.memfd_create("window")
    os.truncate(file, 4 * WINDOW)
    own = size % 1024 or 1024
    for begin in range(0, size - own, WINDOW):
        length = 4 * min(WINDOW, size - own - begin)
        at, access = array.ctypes.data + 4 * begin, mmap.PROT_READ | mmap.PROT_WRITE
        assert libc.mmap(at, length, access, mmap.MAP_SHARED | MAP_FIXED, file, 0) == at
    os.close(file)
    array[:WINDOW] = WINDOWS[:WINDOW]
    array[-own:] = windows(size - own, size)
    return array


def pattern(begin: int, end: int) -> Any:
    """What stands there, at most BLOCK: whole numbers, of which sums and differences are exact."""
    return PATTERN[begin % PERIOD :][: end - begin]


def windows(begin: int, end: int) -> Any:
    """What `repeated` holds, at most BLOCK."""
    return WINDOWS[begin % WINDOW :][: end - begin]


def fill(array: Any) -> None:
    for begin in range(0, array.size, BLOCK):
        end = min(begin + BLOCK, array.size)
        array[begin:end] = pattern(begin, end)


def hold(array: Any, expected: Callable[[int, int], Any]) -> None:
    """Compare every element, bit by bit."""
    for begin in range(0, array.size, BLOCK):
        end = min(begin + BLOCK, array.size)
        wanted = np.asarray(expected(begin, end), np.float32)
        assert np.array_equal(array[begin:end].view("u4"), wanted.view("u4")), (begin, end)


def broadcast(value: float, shape: Any) -> Any:
    """A gradient of one element in memory."""
    return np.broadcast_to(np.float32(value), shape)


def stepped(w: Any, gradient: Any, **options: Any) -> roofstep.Optimizer:
    """SGD by one step, over the parameter w."""
    parameter = roofstep.Parameter(w, "w")
    parameter.grad = gradient
    made = roofstep.SGD(0.5, [parameter], **options)
    made.step()
    return made


def plain() -> None:
    """A gradient with strides of 0."""
    w = zeros()
    fill(w)
    stepped(w, broadcast(2.0, N))
    hold(w, lambda begin, end: pattern(begin, end) - 1)


def strided() -> None:
    """A gradient that lies backwards, over the half of the memory that a parameter has."""
    w, g = zeros(), zeros(PERIOD)
    fill(g)
    whole = N // PERIOD * PERIOD
    rows = w[:whole].reshape(-1, PERIOD)
    stepped(rows, np.broadcast_to(g[::-1], rows.shape))
    hold(w[:whole], lambda b, e: 0 - 0.5 * (PERIOD - 1 - pattern(b, e)))
    assert not w[whole:].any()


def clipped() -> None:
    """By a norm over all elements, to a half; and gradients that are looked at."""
    w = zeros()
    norm = 2.0 * N**0.5
    optimizer = stepped(
        w, broadcast(2.0, N), grad_clip=roofstep.ClipGradByGlobalNorm(norm / 2),
        skip_nonfinite=True,
    )  # fmt: skip
    assert optimizer.last_grad_norm is not None
    assert abs(optimizer.last_grad_norm / norm - 1) < 1e-15
    factor = np.float32((norm / 2) / optimizer.last_grad_norm)
    hold(w, lambda begin, end: np.full(end - begin, -0.5 * factor * np.float32(2), "f4"))


def skipped() -> None:
    """One infinity, as the very last element of a gradient."""
    w, g = zeros(), repeated()
    g[-1] = np.inf
    optimizer = stepped(w, g, skip_nonfinite=True)
    assert (optimizer.skipped_steps, w.any()) == (1, False)
    g[-1] = 2
    optimizer.step(clear_grad=True)
    assert optimizer.last_step_applied
    assert w[-1] == -1
    assert not g.any()


def states() -> None:
    """A state of so many elements; the parameter's own are written over each other."""
    parameter = roofstep.Parameter(repeated(), "w")
    parameter.grad = repeated()
    optimizer = roofstep.Momentum(0.0, 0.5, [parameter])
    optimizer.step()
    hold(optimizer._states["w"]["velocity"], windows)


def sparse() -> None:
    """Rows of a table around element 2^31, the first and the last; one of them twice."""
    width, height = 1021, 2**31 // 1021 + 9
    table = zeros(width * height).reshape(height, width)
    middle = 2**31 // width
    rows = np.array([height - 1, middle, 0, middle + 1, middle])
    values = np.ones((5, width), "f4") * np.arange(1, 6, dtype="f4")[:, None]
    stepped(
        table, roofstep.SelectedRows(rows, values), grad_clip=roofstep.ClipGradByGlobalNorm(1e9)
    )
    expected = {height - 1: -0.5, middle: -3.5, 0: -1.5, middle + 1: -2.0}
    for row, value in expected.items():
        assert (table[row] == value).all()
    flat = table.reshape(-1)
    found = sum(int(np.count_nonzero(flat[b : b + BLOCK])) for b in range(0, flat.size, BLOCK))
    assert found == len(expected) * width


def saved() -> None:
    """Parameters in a file of 8 GB: what is in it, what is read back, and a bit near its end."""
    w = repeated()
    optimizer = roofstep.SGD(0.5, [roofstep.Parameter(w, "w")])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "large.safetensors")
        optimizer.save(path, parameters=True)
        begin = path.stat().st_size - 4 * N
        with path.open("r+b") as file:
            stored = mmap.mmap(file.fileno(), 0)
            hold(np.frombuffer(stored, np.float32, N, begin), windows)
            w[:WINDOW] = w[-100:] = 0
            optimizer.load(path)
            hold(w, windows)
            w[:WINDOW] = w[-100:] = 0
            stored[-5] ^= 1
            with pytest.raises(ValueError, match="checksum"):
                optimizer.load(path)
        assert not w.any()


def compiled() -> None:
    """The functions of roofstep.h, by their place in the table."""
    w, g = zeros(), repeated()
    size, pointer, real = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double

    def function(place: int, result: Any, *arguments: Any) -> Any:
        address = ctypes.string_at(kernels.address() + 8 * (1 + place), 8)
        return ctypes.CFUNCTYPE(result, *arguments)(struct.unpack("P", address)[0])

    sgd = function(0, ctypes.c_int, pointer, pointer, size, real)
    assert sgd(w.ctypes.data, g.ctypes.data, N, 0.5) == 0
    hold(w, lambda begin, end: 0 - 0.5 * windows(begin, end))
    rows_of = function(2, ctypes.c_int, pointer, pointer, pointer, size, size, size, real)
    height = N // PERIOD
    row = np.array([0, height - 1], np.int64)
    assert rows_of(w.ctypes.data, g.ctypes.data, row.ctypes.data, 2, height, PERIOD, 2.0) == 0
    at = (height - 1) * PERIOD  # which has been moved by other numbers
    assert (w[:PERIOD] == -2.5 * pattern(0, PERIOD)).all()
    moved = -0.5 * windows(at, at + PERIOD) - 2 * pattern(PERIOD, 2 * PERIOD)
    assert (w[at : at + PERIOD] == moved).all()
    squares = function(28, real, pointer, size)
    whole, rest = divmod(N, WINDOW)
    expected = whole * squared(WINDOWS[:WINDOW]) + squared(WINDOWS[:rest])
    found = squares(g.ctypes.data, N)
    assert abs(found / expected - 1) < 1e-6, (found, expected)  # blocks are summed in float32


def squared(array: Any) -> float:
    return float((array.astype("f8") ** 2).sum())


def of_torch() -> None:
    """A tensor of torch, by its own gradient."""
    import torch

    tensor = torch.from_numpy(zeros()).requires_grad_()
    tensor.grad = torch.full((1,), 2.0).expand(N)
    optimizer = roofstep.SGD(0.5, [tensor])
    optimizer.step()
    hold(tensor.detach().numpy(), lambda begin, end: np.full(end - begin, -1.0))
    assert tensor._version == 1


CASES = [plain, strided, clipped, skipped, states, sparse, compiled, of_torch, saved]


def main(names: list[str]) -> None:
    """Run these cases, or all."""
    for case in CASES:
        if not names or case.__name__ in names:
            warnings.simplefilter("ignore")  # of a step that is skipped
            begin = time.perf_counter()
            case()
            print(f"{case.__name__}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
