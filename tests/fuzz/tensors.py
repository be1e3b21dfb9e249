"""Hand-made tensors, hostile in every field, against the door for tensors: a target for libFuzzer.

A tensor that fits into memory of ours must do what the NumPy array over the same bytes does, be it
a step or a refusal. One that cannot be must be refused with nothing changed. What lies about its
extents and is possible cannot be known to be wrong: it is passed over.

The door is C++, compiled with Clang's counters; the case and what must come of it are Python, since
the feedback comes from the door alone. The tensors are those of `handmade`.
"""

from __future__ import annotations

import ctypes
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import atheris
import numpy as np

import instrumented  # isort: skip  # noqa: F401  # before roofstep
import roofstep as rs
from handmade import Claim, Handmade, library
from roofstep import _core
from roofstep.tensors import TensorParameter

SIZE = 512  # bytes of the memory that tensors lie in; a second one is for the arrays beside them
MOST = 2**62 - 1  # bytes that one of them may reach over
DIMENSIONS = 64


class Memory:
    """Aligned memory of known bytes, which ends where another owner's begins."""

    def __init__(self) -> None:
        self._block = (ctypes.c_char * (SIZE + 64))()
        self.address = -(-ctypes.addressof(self._block) // 64) * 64
        at = self.address - ctypes.addressof(self._block)
        self.bytes: Any = np.frombuffer(self._block, np.uint8)
        self.inner = self.bytes[at : at + SIZE]
        self._begin = np.arange(SIZE + 64, dtype=np.uint8)
        numbers = (np.arange(SIZE // 4) % 7 - 3).astype(np.float32)
        self._begin[at : at + SIZE] = numbers.view(np.uint8)
        self._marked = self._begin

    def reset(self) -> None:
        """To what it begins with."""
        self.bytes[:] = self._marked = self._begin

    def mark(self) -> None:
        """What is there now has come of a step."""
        self._marked = self.bytes.copy()

    @property
    def changed(self) -> bool:
        """Whether anything has been written since."""
        return bool((self.bytes != self._marked).any())


OURS, BESIDE = Memory(), Memory()

HOSTILE = [
    *(sign * 2**power for power in (16, 31, 32, 40, 59, 60, 61, 62) for sign in (1, -1)),
    *(
        2**31 - 1,
        2**61 - 1,
        2**62 - 1,
        2**63 - 1,
        -(2**63),
        1 - 2**63,
        -1,
        -2,
        0,
        1,
        2,
        64,
        65,
        128,
    ),
]


def hostile(data: Any, bits: int = 64) -> int:
    """An integer that is small or near a power of two, mostly."""
    value = (
        data.ConsumeInt(8) if data.ConsumeBool() else data.PickValueInList(HOSTILE)
    ) + data.ConsumeIntInRange(-1, 1)  # fmt: skip
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def reach(claim: Claim) -> tuple[int, int]:
    """Where the elements begin and end, in bytes from the first one."""
    item, begin, end = claim.bits // 8, 0, claim.bits // 8
    for extent, stride in zip(claim.shape or (), steps(claim), strict=True):
        far = (extent - 1) * stride * item
        begin, end = begin + min(far, 0), end + max(far, 0)
    return begin, end


def steps(claim: Claim) -> list[int]:
    """The strides, in elements."""
    if claim.strides is not None:
        return [*claim.strides]
    shape = claim.shape or ()
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def claim_of(data: Any, like: Claim | None) -> Claim:
    """What some tensor says, mostly of the shape and dtype of another one."""
    if like and data.ConsumeIntInRange(0, 7):
        shape, bits = [*(like.shape or ())], like.bits
    else:
        shape = [data.ConsumeIntInRange(0, 4) for _ in range(data.ConsumeIntInRange(0, 4))]
        bits = 64 if data.ConsumeBool() else 32
    claim = Claim(OURS.address, shape, bits=bits)
    order = data.ConsumeIntInRange(0, 3)
    if order == 1:
        claim.strides = steps(claim)
    elif order == 2:
        keys = [data.ConsumeIntInRange(0, 3) for _ in shape]
        inner, claim.strides = 1, [0] * len(shape)
        for d in sorted(range(len(shape)), key=keys.__getitem__):
            claim.strides[d] = inner
            inner *= max(shape[d], 1)
    elif order == 3:
        claim.strides = [data.ConsumeIntInRange(-8, 8) for _ in shape]
    begin, end = reach(claim)
    if end - begin <= SIZE:
        claim.offset = data.ConsumeIntInRange(-begin, SIZE - end) // 8 * 8
    if data.ConsumeBool():
        claim.data, claim.offset = OURS.address + claim.offset, 0
    for _ in range(data.ConsumeIntInRange(0, 2)):
        twist(claim, data)
    pad(claim)
    return claim


def twist(claim: Claim, data: Any) -> None:
    """Make one field of it hostile."""
    which = data.ConsumeIntInRange(0, 11)
    rank = len(claim.shape or ())
    if which == 0:
        claim.ndim = hostile(data, 32)
    elif which <= 2 and rank:
        claim.shape = [*(claim.shape or ())]
        claim.shape[data.ConsumeIntInRange(0, rank - 1)] = hostile(data)
    elif which <= 4 and rank:
        claim.strides = steps(claim)
        claim.strides = [(s + 2**63) % 2**64 - 2**63 for s in claim.strides]
        for d in range(rank) if data.ConsumeBool() else [data.ConsumeIntInRange(0, rank - 1)]:
            claim.strides[d] = hostile(data)
    elif which == 5:
        claim.shape = None
    elif which == 6:
        claim.offset = hostile(data) % 2**64
    elif which == 7:
        base = data.PickValueInList([0, OURS.address, OURS.address, 2**63])
        claim.data = (base + hostile(data)) % 2**64 or None
    elif which == 8:
        claim.device = hostile(data, 32)
    elif which == 9:
        claim.code = hostile(data, 8) % 2**8
    elif which == 10:
        claim.bits = data.PickValueInList([0, 1, 8, 16, 32, 64, 128, 255])
    else:
        claim.lanes = hostile(data, 16) % 2**16


def pad(claim: Claim) -> None:
    """Give it as many extents as it says, if so many may be read."""
    if claim.shape is None and not claim.ndim:
        claim.strides = None
    if claim.ndim is None or not 0 <= claim.ndim <= DIMENSIONS or claim.shape is None:
        return
    more = [1] * (claim.ndim - len(claim.shape))
    if claim.strides is not None:
        claim.strides = [*claim.strides, *more][: claim.ndim]
    claim.shape = [*claim.shape, *more][: claim.ndim]


def verdict(claim: Claim) -> str:
    """Whether it "fits" into our memory, is "wrong", or may be a "lie" that nobody can see."""
    ndim = len(claim.shape or ()) if claim.ndim is None else claim.ndim
    if not 0 <= ndim <= DIMENSIONS or (ndim and claim.shape is None):
        return "wrong"
    shape = [*(claim.shape or ())]
    if claim.device != 1 or (claim.code, claim.lanes) != (2, 1) or claim.bits not in (32, 64):
        return "wrong"
    item = claim.bits // 8
    if any(n < 0 for n in shape) or math.prod(n for n in shape if n) * item > MOST:
        return "wrong"
    if any(abs(stride) * item > MOST for stride in steps(claim)):
        return "wrong"
    first = (claim.data or 0) + claim.offset
    if first >= 2**64 or first % item:
        return "wrong"
    if not math.prod(shape):
        return "fits"
    begin, end = reach(claim)
    if claim.data is None or end - begin > MOST or first + begin < 0:
        return "wrong"
    if first + end >= 2**64:
        return "wrong"
    inside = OURS.address <= first + begin and first + end <= OURS.address + SIZE
    return "fits" if inside else "lie"


def array_of(claim: Claim) -> Any:
    """The NumPy array that the claim stands for, in the memory beside ours."""
    shape, dtype = tuple(claim.shape or ()), np.dtype(f"f{claim.bits // 8}")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    start = (claim.data or 0) + claim.offset - OURS.address
    strides = [stride * dtype.itemsize for stride in steps(claim)]
    return np.ndarray(shape, dtype, BESIDE.inner, start, strides)


# Classes of tensors: what of one that fits is stepped, what may be, what never is.
GOOD = [
    library(), library(major=2, older=library()), library(is_neg=lambda self: False),
    library(is_dense=lambda self: True), library(major=9, older=library(major=5, older=library())),
]  # fmt: skip


def _raise(self: Handmade) -> bool:
    raise ValueError("of a method, which is not hidden")


DOUBTFUL = [
    library(share="raises"), library(share="refuses"), library(is_neg=_raise),
    library(is_neg=lambda self: True), library(is_neg=3),
]  # fmt: skip
BAD = [
    library(show="raises"), library(show="refuses"), library(show="nothing"),
    library(share="nothing"), library(major=0), library(major=2), library(major=7, older=Handmade),
    library(major=2, older=library(major=0)), library(name=b"dltensor"),
    library(name=b"used_dltensor"), library(is_dense=lambda self: False), library(is_dense=_raise),
    type("NoCapsule", (Handmade,), {"__dlpack_c_exchange_api__": 1}),
    type("NoTable", (Handmade,), {"__dlpack__": lambda self: GOOD[0].__dlpack_c_exchange_api__}),
]  # fmt: skip
ERRORS = [ValueError, TypeError, BufferError, RuntimeError, MemoryError, KeyboardInterrupt, OSError]


def tensor_of(data: Any, claims: list[Claim]) -> tuple[Handmade, str]:
    """A tensor that makes these claims, and whether its class is good, doubtful or bad."""
    quality = data.PickValueInList(["good", "good", "good", "good", "doubtful", "bad"])
    if quality == "good" and not data.ConsumeIntInRange(0, 31):
        made = library()  # so that those who were known are forgotten
    else:
        made = data.PickValueInList({"good": GOOD, "doubtful": DOUBTFUL, "bad": BAD}[quality])
    version, flags = 1, 0
    if not data.ConsumeIntInRange(0, 7):
        version, quality = data.PickValueInList([0, 2, 2**32 - 1]), min(quality, "doubtful")
    if not data.ConsumeIntInRange(0, 7):
        flags = data.PickValueInList([1, 2, 3, 2**64 - 1])
    error = data.PickValueInList(ERRORS)("of another library")
    return made(*claims, version=version, flags=flags, error=error), quality


class Same(rs.clip.ClipGradBase):
    """A user's clip, which gets the gradients as tensors of their library."""

    def _dygraph_clip(self, pairs: Any) -> Any:
        return pairs


OPTIMIZERS = [
    lambda p: rs.SGD(0.5, [p]),
    lambda p: rs.Adam(0.5, parameters=[p]),
    lambda p: rs.Momentum(0.5, 0.5, [p], grad_clip=rs.ClipGradByGlobalNorm(0.5)),
    lambda p: rs.Lamb(0.5, parameters=[p]),
    lambda p: rs.SGD(0.5, [p], grad_clip=Same(), skip_nonfinite=True),
]
DOCUMENTED = (TypeError, ValueError, MemoryError, KeyboardInterrupt)


def run(way: int, which: int, clear: bool, param: Any, grad: Any, other: Any) -> Any:
    """Step twice, or look; what has come of it, but for what is in memory."""
    try:
        if way == 0:
            view = _core.as_numpy(param, "p", "parameter ")
            return view.shape, view.dtype, view.tobytes()
        if way == 1:
            _core.check_parameter(param, "p")
            _core.check_gradient(grad, param, "p")
            return None
        if way > 2 and _core.is_tensor(param):
            p = TensorParameter(param, "p")
            param.grad = grad
        else:
            p = rs.Parameter(param if isinstance(param, np.ndarray) else other, "p")
            p.data, p.grad = param, grad
        optimizer = OPTIMIZERS[which](p)
        if way == 5:
            optimizer.apply_gradients([(p, grad)])
        else:
            optimizer.step(clear)
            OURS.mark()
            optimizer.step(clear)
        return [array.tobytes() for array in optimizer._save().values()]
    except DOCUMENTED as error:
        return type(error)


def one_input(raw: bytes) -> None:
    """One case."""
    data = atheris.FuzzedDataProvider(raw)
    way, which = data.ConsumeIntInRange(0, 5), data.ConsumeIntInRange(0, len(OPTIMIZERS) - 1)
    clear, whose = data.ConsumeBool(), data.ConsumeIntInRange(1, 3)
    param = claim_of(data, None)
    grad = claim_of(data, param)
    claims = [[param], [grad]]
    changes = not data.ConsumeIntInRange(0, 7)
    if changes:
        for row in claims:
            row += [claim_of(data, row[0]) for _ in range(data.ConsumeIntInRange(1, 3))]
    verdicts = [[verdict(claim) for claim in row] for row in claims]
    looked_at = 1 if way == 0 else 2
    if way == 0:
        whose = 1
    for i in range(looked_at):
        is_ours = whose & 1 << i
        if "lie" in verdicts[i] or (not is_ours and {*verdicts[i]} != {"fits"}):
            return
    OURS.reset()
    BESIDE.reset()
    tensors = [tensor_of(data, row) for row in claims]
    fits = ["wrong" not in row for row in verdicts[:looked_at]]
    arrays = [array_of(row[0]) if fits[i] else None for i, row in enumerate(claims[:looked_at])]
    given = [
        tensors[i][0] if whose & 1 << i else over(OURS, arrays[i], claims[i][0])
        for i in range(looked_at)
    ] + [None] * (2 - looked_at)
    arrays += [None] * (2 - looked_at)
    qualities = [
        quality for i, (_, quality) in enumerate(tensors) if whose & 1 << i and i < looked_at
    ]
    other = np.zeros(3, np.float32)

    came = run(way, which, clear, *given, other)

    refused = isinstance(came, type)
    if refused:
        assert not OURS.changed, "refused, and yet written"
    is_misplaced = way == 2 and whose & 1  # a tensor in the place of a Parameter's array
    must_refuse = "bad" in qualities or not all(fits) or is_misplaced
    if not changes:
        if must_refuse:
            assert refused, f"taken: {claims}"
        elif not (refused and "doubtful" in qualities):
            expected = run(way, which, clear, *arrays, other)
            assert came == expected, f"{came} is not {expected}: {claims}"
            assert (OURS.inner == BESIDE.inner).all(), f"other bytes than an array's: {claims}"
    del given, arrays
    for tensor, _ in tensors:
        tensor.grad = None
        assert not tensor.held, "shared, and never given back"
        assert tensor.released == tensor.shared


def over(memory: Memory, array: Any, claim: Claim) -> Any:
    """The same array in our memory."""
    if not array.size:
        return array
    start = (claim.data or 0) + claim.offset - OURS.address
    return np.ndarray(array.shape, array.dtype, memory.inner, start, array.strides)


def _unraisable(hook: Any) -> None:
    """Such as memory that is given back twice: an error in a call from C ends everything."""
    sys.__unraisablehook__(hook)
    os.abort()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seeds"]:
        random_ = random.Random(0)
        for i in range(100):
            (Path(sys.argv[2]) / f"seed-{i}").write_bytes(random_.randbytes(2 * i))
        sys.exit()
    sys.unraisablehook = _unraisable
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
