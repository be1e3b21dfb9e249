"""A file that takes another's place in one stroke: whoever looks finds the old one or the new."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

# Windows has no such locks, renames no open file, and syncs no directory.
if POSIX := sys.platform != "win32":
    import fcntl


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file to write to, which stands at `path` after the block, on the disk, if all went well.

    It is written beside it as ``.{name}.{16 hex digits}.tmp``, under a lock that ends with the
    process. What killed processes have left there under such names is removed first. A symbolic
    link is followed, and the mode of a file that is there stays.

    Args:
        path: where there is a regular file, or none.

    Raises:
        ValueError: something else is there.
        OSError: it cannot be written; `path` is as it was.
    """
    target = os.path.realpath(path)
    directory, name = os.path.split(target)
    mode = permissions(target)
    _clear(directory, name)
    temporary, file = _new(directory, name)
    try:
        # To the rename inside: as soon as it is closed another process may clear it away.
        with file:
            yield file
            if mode is not None:
                os.chmod(temporary, mode)
            file.flush()
            os.fsync(file.fileno())
            if POSIX:
                os.replace(temporary, target)
        if not POSIX:
            os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            what = f"{os.strerror(error.errno)}; nothing was saved, and what is there is as before"
            raise OSError(error.errno, what, path) from error
        raise
    _sync(directory)


def permissions(target: str) -> int | None:
    """Those of the file that is there; None if nothing is.

    Raises:
        ValueError: something else is there.
    """
    try:
        found = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise ValueError(
            f"path: expected a file, got {target!r}, which is a "
            f"{'directory' if stat.S_ISDIR(found) else 'device, a pipe or a socket'}; pass the "
            f"name of a file"
        )
    return stat.S_IMODE(found)


def _new(directory: str, name: str) -> tuple[str, BinaryIO]:
    """A new file that is locked, with its path."""
    while True:
        path = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "wb")
        with contextlib.suppress(OSError):  # not every file system has locks: none is cleared then
            if POSIX:
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(path):
            return path, file
        file.close()  # it was cleared away before it was locked


def _clear(directory: str, name: str) -> None:
    """Remove what no living process has locked."""
    if not POSIX:
        return
    left = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp")
    for path in [entry.path for entry in os.scandir(directory) if left.fullmatch(entry.name)]:
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)


def _sync(directory: str) -> None:
    if not POSIX:
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)
