"""Files that survive a crash whole or are not there: written, synced, renamed, their folder synced."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_BLOCK = 4096


def write_new(path: Path, content: bytes | memoryview) -> None:
    """Write a file that does not exist yet and wait until the disk has it; on an error it is removed.

    Raises:
        OSError: if the file exists, or cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            _write_at(handle, content, 0)
            os.fsync(handle)
        finally:
            os.close(handle)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def replace_whole(path: Path, content: bytes, *, part: Path) -> None:
    """Put a file in place of what is at ``path``, whole or not at all.

    Args:
        path: where the file is to be.
        content: of the file.
        part: where it is written first, on the same file system; what an earlier crash left there is removed.

    Raises:
        OSError: if it cannot be written; ``path`` is then as it was.
    """
    part.unlink(missing_ok=True)
    write_new(part, content)
    os.replace(part, path)
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file that only the caller writes, and wait until the disk has it.

    A torn line at the end of the file, which a crash left there, is cut off first. On an error nothing of the
    new line is left.

    Raises:
        OSError: if it cannot be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        end = _end_of_whole_lines(handle)
        try:
            os.ftruncate(handle, end)
            _write_at(handle, f"{line}\n".encode(), end)
            os.fsync(handle)
            if not end:
                sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: files that were created in it, renamed or removed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_at(handle: int, content: bytes | memoryview, start: int) -> None:
    os.lseek(handle, start, os.SEEK_SET)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _end_of_whole_lines(handle: int) -> int:
    """How many bytes of a file are lines that end with a line break."""
    start = os.fstat(handle).st_size
    while start:
        stop, start = start, max(0, start - _BLOCK)
        found = os.pread(handle, stop - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
