"""Misuses the compiled door on purpose: noxfile.py asks whether what watches the run reports it."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from roofstep import kernels

SIZE = 4099  # the last elements are those of a loop's tail
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of the door; ctypes gives the GIL away while it runs."""
    get_name, get_pointer = (
        ctypes.pythonapi.PyCapsule_GetName,
        ctypes.pythonapi.PyCapsule_GetPointer,
    )
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = kernels.__pyx_capi__[name]  # type: ignore[attr-defined]
    return ctypes.CFUNCTYPE(result, *arguments)(get_pointer(capsule, get_name(capsule)))


ADDRESS = ctypes.c_void_p
sgd = function("sgd_f32", ctypes.c_int, ADDRESS, ADDRESS, ctypes.c_ssize_t, ctypes.c_double)
sum_squares = function("sum_squares_f32", ctypes.c_double, ADDRESS, ctypes.c_ssize_t)


def nothing() -> None:
    """Sound use, of which nothing must be reported."""
    param, grad = np.ones(SIZE, "f4"), np.ones(SIZE, "f4")
    sgd(param.ctypes.data, grad.ctypes.data, SIZE, 0.1)
    print(sum_squares(grad.ctypes.data, SIZE) > 1)


def beyond() -> None:
    """The last element of the parameter is behind its end."""
    param, grad = np.ones(SIZE - 1, "f4"), np.ones(SIZE, "f4")
    sgd(param.ctypes.data, grad.ctypes.data, SIZE, 0.1)


def freed() -> None:
    """The gradient is no more."""
    param, grad = np.ones(SIZE, "f4"), LIBC.malloc(4 * SIZE)
    ctypes.memset(grad, 0, 4 * SIZE)
    LIBC.free(grad)
    sgd(param.ctypes.data, grad, SIZE, 0.1)


def misaligned() -> None:
    """The parameter begins in the middle of a number."""
    param, grad = np.ones(SIZE + 1, "f4"), np.ones(SIZE, "f4")
    sgd(param.ctypes.data + 1, grad.ctypes.data, SIZE, 0.1)


def uninitialised() -> None:
    """Nobody has written the gradient."""
    grad = LIBC.malloc(4 * SIZE)
    print(sum_squares(grad, SIZE) > 1)


def race() -> None:
    """Two threads step one parameter, until each has found the other in a step many times.

    A call that begins when another has ended comes after it by the GIL, which ThreadSanitizer sees.
    """
    size = 1 << 20  # which takes longer than to pass the GIL on
    param, grad = np.ones(size, "f4"), np.ones(size, "f4")
    start = threading.Barrier(2)
    inside, met = [False, False], [0, 0]

    def step(me: int) -> None:
        start.wait()
        while min(met) < 20:
            inside[me] = True
            sgd(param.ctypes.data, grad.ctypes.data, size, 0.1)
            inside[me] = False
            met[me] += inside[1 - me]

    threads = [threading.Thread(target=step, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
