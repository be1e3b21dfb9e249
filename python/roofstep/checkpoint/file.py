"""Arrays and a text in a safetensors file, each array with a checksum, streamed both ways.

The package safetensors is not used: it would write arrays from contiguous memory alone, and read
them into memory of its own. Its readers read these files, which the tests hold it to.

The header is 8 bytes of length and then JSON, in which ``__metadata__`` has under "roofstep" the
version of all this, under "settings" the text, under "crc32" the checksums by name, and under
"header_crc32" that of the header as it is with eight zeros there. zlib.crc32 is the fastest of the
standard library's sums: 1.2 GB/s where Adler has 0.9, SHA-256 and BLAKE2b 0.6. An error within 32
bits never escapes it, any other once in four billion times. It is no protection from forgery.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from typing import Any, NoReturn

import numpy as np

from roofstep.checkpoint.replace import permissions, replacing

Array = np.ndarray[Any, Any]
Kinds = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]

VERSION = "1"
NAMES = {
    np.dtype(dtype): name
    for name, dtype in {
        "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32",
        "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16",
        "U8": "uint8", "BOOL": "bool",
    }.items()
}  # fmt: skip

_DTYPES = {name: dtype for dtype, name in NAMES.items()}
_LONGEST = 100_000_000  # bytes of a header that other readers take
_BLOCK = 1 << 20  # bytes that stay in a cache from one use to the next
_LARGE = 1 << 30  # bytes that take seconds


class Rows:
    """Vectors, of one size and dtype, that are the rows of one array without lying together."""

    def __init__(self, vectors: Sequence[Array], size: int, dtype: np.dtype[Any]) -> None:
        self.vectors = vectors
        self.shape, self.dtype = (len(vectors), size), dtype

    def copy(self) -> Array:
        """The array."""
        array = np.empty(self.shape, self.dtype)
        for row, vector in zip(array, self.vectors, strict=True):
            row[...] = vector
        return array


def write(path: str, tensors: Mapping[str, Array | Rows], settings: str) -> None:
    """Write a file, or leave what is there as it is.

    Raises:
        ValueError: the names and shapes do not fit into a header, or at `path` is no file.
        OSError: see `replacing`.
    """
    # By alignment, so that who maps the file into memory finds every number aligned.
    row = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in row}
    sums = dict.fromkeys(kinds, 0)
    length = len(_header(kinds, sums, settings))
    if length > _LONGEST:
        raise ValueError(
            f"path: expected a header of at most {_LONGEST} bytes, which readers of safetensors "
            f"take, got {length} for {len(kinds)} arrays; join some, or shorten their names"
        )
    buffer = np.empty(_BLOCK, np.uint8)
    with replacing(path) as file, progress("save", sum(map(_bytes, kinds.values()))) as done:
        file.write(bytes(length))
        for name, tensor in row:
            for array in tensor.vectors if isinstance(tensor, Rows) else [tensor]:
                with _blocks(array, "readonly") as blocks:
                    for block in blocks:
                        # A copy: what is summed is what is written, whoever writes meanwhile.
                        buffer[: block.nbytes] = block.view(np.uint8)
                        copy = buffer.data[: block.nbytes]
                        sums[name] = zlib.crc32(copy, sums[name])
                        file.write(copy)
                        done(copy.nbytes)
        file.seek(0)
        file.write(_header(kinds, sums, settings))


def _bytes(kind: tuple[np.dtype[Any], tuple[int, ...]]) -> int:
    return kind[0].itemsize * math.prod(kind[1])


def _blocks(array: Array, access: str) -> Any:
    """A NumPy iterator over an array in C order, by vectors in the byte order of the file."""
    nditer: Any = np.nditer  # whose types know nothing of "contig"
    return nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[[access, "contig"]],
        op_dtypes=[array.dtype.newbyteorder("<")],
        order="C",
        casting="equiv",
        buffersize=_BLOCK // array.dtype.itemsize,
    )


def _header(kinds: Kinds, sums: Mapping[str, int], settings: str) -> bytes:
    """The file up to the first array."""
    entries: dict[str, Any] = {
        "__metadata__": {
            "header_crc32": _hex(0),  # first, so that its place is known
            "roofstep": VERSION,
            "settings": settings,
            "crc32": json.dumps({name: _hex(one) for name, one in sums.items()}),
        }
    }
    end = 0
    for name, (dtype, shape) in kinds.items():
        begin, end = end, end + _bytes((dtype, shape))
        entries[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = bytearray(len(text).to_bytes(8, "little") + text)
    at = header.index(_hex(0).encode(), 8)
    header[at : at + 8] = _hex(zlib.crc32(header)).encode()
    return bytes(header)


def _hex(checksum: int) -> str:
    return f"{checksum:08x}"


class Stored:
    """An array in a file, which is read when asked for, and refused if it is damaged.

    Args:
        saved: the file.
        name: of the array.
        kind: its dtype and shape.
        begin: where it begins in the file.
        checksum: what it must have.
    """

    def __init__(
        self,
        saved: Saved,
        name: str,
        kind: tuple[np.dtype[Any], tuple[int, ...]],
        begin: int,
        checksum: int,
    ) -> None:
        self._saved, self._name, self._begin, self._checksum = saved, name, begin, checksum
        self.dtype, self.shape = kind
        self.size, self.nbytes = math.prod(self.shape), _bytes(kind)

    def read_into(self, to: Array) -> None:
        """Fill an array of this shape and dtype, in whatever strides.

        Raises:
            ValueError: other bytes were written; those are in the array now.
        """
        checksum, file = 0, self._saved.file
        file.seek(self._begin)
        with _blocks(to, "writeonly") as blocks:
            for block in blocks:
                memory = block.view(np.uint8).data
                if file.readinto(memory) != memory.nbytes:
                    self._saved.refuse(f"one that was cut off meanwhile, within {self._name!r}")
                checksum = zlib.crc32(memory, checksum)
                self._saved.done(memory.nbytes)
        if checksum != self._checksum:
            self._saved.refuse(
                f"one in which {self._name!r} is damaged: its checksum is {_hex(checksum)} and was "
                f"{_hex(self._checksum)}"
            )

    def array(self) -> Array:
        """The array, in memory of its own."""
        array = np.empty(self.shape, self.dtype)
        self.read_into(array)
        return array

    def __repr__(self) -> str:
        return repr(self.array())


class Saved:
    """A file that `write` wrote; its header has been checked, its arrays not yet.

    Args:
        file: open for reading.
        path: of it, for messages.

    Attributes:
        settings: the text.
        tensors: the arrays by name.
        done: is told of all bytes of arrays that were read.

    Raises:
        ValueError: it is another file, or damaged.
    """

    def __init__(self, file: BufferedReader, path: str) -> None:
        self.file, self._path = file, path
        self.done: Callable[[int], object] = lambda read: None
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if size < 8 or length > min(size - 8, _LONGEST):
            self.refuse("another, or one that is cut off within its header")
        start += file.read(length)
        try:
            header = json.loads(start[8:])
        except (ValueError, RecursionError):
            self.refuse("another, or one whose header is damaged")
        metadata = header.get("__metadata__") if isinstance(header, dict) else None
        if not isinstance(metadata, dict) or "roofstep" not in metadata:
            self.refuse("a safetensors file that another program wrote")
        if metadata["roofstep"] != VERSION:
            self.refuse(
                f"one of version {metadata['roofstep']!r}, where this roofstep reads {VERSION!r}"
            )
        try:
            self.settings = _text(metadata["settings"])
            kinds = {k: _kind(entry) for k, entry in header.items() if k != "__metadata__"}
            sums = {k: int(text, 16) for k, text in json.loads(metadata["crc32"]).items()}
            is_whole = kinds.keys() == sums.keys() and _header(kinds, sums, self.settings) == start
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            self.refuse("one whose header is damaged or written anew: its checksum has changed")
        self.tensors: dict[str, Stored] = {}
        end = len(start)
        for name, kind in kinds.items():
            self.tensors[name] = Stored(self, name, kind, end, sums[name])
            end += _bytes(kind)
            if end > size:
                self.refuse(f"one that is cut off within {name!r}, after {size} bytes")
        if end < size:
            self.refuse(f"one with {size - end} bytes too many at its end")

    def refuse(self, what: str) -> NoReturn:
        """Say what is wrong with it."""
        raise ValueError(
            f"path: expected a file that save() wrote, got {what} ({self._path!r}); nothing was "
            f"changed, load another checkpoint"
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _kind(entry: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    shape = entry["shape"]
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise TypeError
    return _DTYPES[entry["dtype"]], tuple(shape)


@contextmanager
def reading(path: str) -> Iterator[Saved]:
    """A file that `write` wrote.

    Raises:
        ValueError: it is another, or damaged.
        OSError: it cannot be read.
    """
    permissions(path)  # refuses what open() might wait for
    with open(path, "rb") as file:
        yield Saved(file, path)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A function to be told of bytes, which a bar shows: on a terminal, above 1 GB, with tqdm."""
    if total <= _LARGE:
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError:  # a checkpoint is not lost for a bar
        yield lambda done: None
        return
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
