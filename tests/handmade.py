"""Tensors made by hand: objects that tell through DLPack's C exchange API what they are told."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CAPSULE = b"dlpack_exchange_api"


class Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class Shared(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


class Table(ctypes.Structure):
    """DLPackExchangeAPI."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("share", ctypes.c_void_p),
        ("adopt", ctypes.c_void_p),
        ("show", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


@dataclass
class Claim:
    """What a tensor says of itself; strides in elements, the number of dimensions that of the shape
    if it is None.
    """

    data: int | None
    shape: Sequence[int] | None
    strides: Sequence[int] | None = None
    ndim: int | None = None
    code: int = 2
    bits: int = 32
    lanes: int = 1
    device: int = 1
    offset: int = 0

    def put(self, tensor: Tensor) -> list[Any]:
        """Fill the struct; returns what must live as long as it."""
        rows = [
            None if row is None else (ctypes.c_int64 * max(len(row), 1))(*row)
            for row in (self.shape, self.strides)
        ]
        tensor.data = self.data
        tensor.device_type, tensor.device_id = self.device, 0
        tensor.ndim = len(self.shape or ()) if self.ndim is None else self.ndim
        tensor.code, tensor.bits, tensor.lanes = self.code, self.bits, self.lanes
        tensor.shape, tensor.strides = (row and ctypes.addressof(row) for row in rows)
        tensor.byte_offset = self.offset
        return rows


class Handmade:
    """A tensor, of a class that `library` made.

    Args:
        claims: what it says, the next one each time it is asked, the last one ever after.
        version: of the structs that it shares.
        flags: of them.
        error: what it raises, if its library does.

    Attributes:
        asked: how often it was asked.
        held: what it has shared and got back no more than once, by address.
        released: how often it got something back.
    """

    def __init__(
        self,
        *claims: Claim,
        version: int = 1,
        flags: int = 0,
        error: BaseException | None = None,
    ) -> None:
        self.claims, self.version, self.flags, self.error = claims, version, flags, error
        self.asked = self.shared = self.released = 0
        self.held: dict[int, tuple[Shared, Any]] = {}
        self.grad: Any = None
        self._kept: list[Any] = []

    def fill(self, tensor: Tensor) -> list[Any]:
        """Put the next claim."""
        claim = self.claims[min(self.asked, len(self.claims) - 1)]
        self.asked += 1
        return claim.put(tensor)

    def fileno(self) -> int:
        """What `_RAISES` asks for."""
        raise self.error or ValueError("of another library")


def _show(self: Handmade, out: Any) -> int:
    self._kept.append(self.fill(out[0]))
    return 0


def _share(self: Handmade, out: Any) -> int:
    made = Shared(self.version, 0, None, ctypes.cast(_RELEASES, ctypes.c_void_p), self.flags)
    at = ctypes.addressof(made)
    _OWNERS[at] = self
    self.held[at] = (made, self.fill(made.tensor))
    self.shared += 1
    out[0] = at
    return 0


def _release(at: int) -> None:
    owner = _OWNERS.pop(
        at
    )  # a KeyError here, which sys.unraisablehook is told of, is a second call
    owner.released += 1
    made, _ = owner.held.pop(at)
    ctypes.memset(at, 0xAA, ctypes.sizeof(made))


_OWNERS: dict[int, Handmade] = {}
_Show = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Tensor))
_Share = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(ctypes.c_void_p))
_RELEASES = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_release)
_SHOWS, _SHARES = _Show(_show), _Share(_share)
# Functions in C that return -1: one calls a method, which may raise anything; ctypes lets no
# function in Python do so.
_RAISES = ctypes.pythonapi.PyObject_AsFileDescriptor
_REFUSES = _Show(lambda self, out: -1)
_RETURNS = _Show(lambda self, out: 0)  # and puts nothing

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_FUNCTIONS = {
    "returns": _RETURNS, "shows": _SHOWS, "shares": _SHARES, "raises": _RAISES, "refuses": _REFUSES,
    "nothing": None,
}  # fmt: skip


def library(
    show: str = "shows",
    share: str = "shares",
    major: int = 1,
    older: type[Handmade] | None = None,
    name: bytes = CAPSULE,
    **methods: Any,
) -> type[Handmade]:
    """A class of tensors.

    Args:
        show: what the function does that lets others look: "shows", "raises", "refuses" (without an
            error), "returns" (with nothing put), or "nothing": there is no such function.
        share: what the other does: the same, but "shares".
        major: the version of the table.
        older: where the table of an older version is; the class itself if it is `Handmade`.
        name: of the capsule.
        methods: that tensors have, such as ``is_neg``.
    """
    functions = {
        key: function and ctypes.cast(function, ctypes.c_void_p)
        for key, function in {"show": _FUNCTIONS[show], "share": _FUNCTIONS[share]}.items()
    }
    table = Table(major=major, minor=3, **functions)
    if older is not None:
        table.older = ctypes.addressof(table if older is Handmade else older._table)
    capsule = new_capsule(ctypes.addressof(table), name, None)
    attributes = {
        "_table": table, "_older": older, "_name": name, "__dlpack_c_exchange_api__": capsule,
    }  # fmt: skip
    return type(f"{show}-{share}", (Handmade,), {**attributes, **methods})
