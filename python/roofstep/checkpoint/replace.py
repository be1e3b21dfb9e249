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

    It is written beside it as ``.{name}.{16 hex digits}.tmp``, with a long name cut, under a lock
    that ends with the process. What killed processes have left there under such names is removed
    first. A symbolic link is followed, and the mode of a file that is there stays.

    Args:
        path: where there is a regular file, or none.

    Raises:
        ValueError: something else is there.
        OSError: it cannot be written; `path` is as it was, unless it says otherwise.
    """
    temporary = ""
    try:
        target = os.path.realpath(path)
        directory, name = os.path.split(target)
        name = _cut(name)
        mode = permissions(target)
        _clear(directory, name)
        file = None
        while file is None:
            # Known before it is there, as Ctrl-C may come between.
            temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
            file = _new(temporary)
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
        with contextlib.suppress(OSError):  # what failed first is what is told
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            what = "nothing was saved, and what is there is as before"
            raise _told(error, what, path) from error
        raise
    try:
        _sync(directory)
    except OSError as error:
        what = "the new file is in place, but perhaps not on the disk"
        raise _told(error, what, path) from error


def _told(error: OSError, what: str, path: str) -> OSError:
    """The same error, with what has become of the file at the path that the user gave."""
    return OSError(error.errno, f"{os.strerror(error.errno or 0)}; {what}", path)


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


def _cut(name: str) -> str:
    """So much of a name that it leaves room for what is put around it: names have 255 bytes."""
    while len(os.fsencode(name)) > 255 - len("..0123456789abcdef.tmp"):
        name = name[:-1]
    return name


def _new(path: str) -> BinaryIO | None:
    """A new file that is locked; None if it was cleared away before it was."""
    file = open(path, "x+b")  # noqa: SIM115
    with contextlib.suppress(OSError):  # not every file system has locks: none is cleared then
        if POSIX:
            fcntl.flock(file, fcntl.LOCK_EX)
    if os.path.exists(path):
        return file
    file.close()
    return None


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
