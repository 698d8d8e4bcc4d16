"""Arrays of numbers out of MATLAB's files, version 5 ("MAT-File Format", level 5, of The MathWorks)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["read_mat"]

_HEADER = 128  # bytes: a text, then the version and two letters that tell the order of bytes
_INT8, _INT32, _MATRIX, _COMPRESSED = 1, 5, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_mat(file: Path, variable: str) -> np.ndarray:
    """The array ``[H, W]`` that a variable holds, in the type in which it is stored.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is no MATLAB file of version 5, damaged, or has no matrix of numbers of that name.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no mask {file}, which the data set names; get the data set anew."
        ) from error
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(data[124:_HEADER])
    if order is None:
        raise ValueError(f"The file {file} is no MATLAB file of version 5; get it anew.")
    try:
        for kind, content in _elements(data[_HEADER:], order):
            if kind == _MATRIX and (found := _matrix(content, order, variable)) is not None:
                return found
    except (struct.error, zlib.error, ValueError, KeyError) as error:
        raise ValueError(f"The MATLAB file {file} is damaged ({error}); get it anew.") from error
    raise ValueError(f"The MATLAB file {file} has no matrix {variable!r}; get it anew.")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Types and contents, one after the other, those that are compressed unpacked."""
    place = 0
    while place < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        small = kind >> 16  # a content of four bytes at most stands in the tag itself
        if small:
            kind, length, start = kind & 0xFFFF, small, place + 4
            place += 8
        else:
            start = place + 8
            place = start + length + (0 if kind == _COMPRESSED else -length % 8)
        content = data[start : start + length]
        if len(content) < length:
            raise ValueError(f"it ends {length - len(content)} bytes early")
        if kind == _COMPRESSED:
            yield from _elements(zlib.decompress(content), order)
        else:
            yield kind, content


def _matrix(content: bytes, order: str, variable: str) -> np.ndarray | None:
    """The numbers of a matrix, if it is the variable: its parts are flags, sizes, name and numbers."""
    parts = _elements(content, order)
    next(parts)
    (_, sizes), (_, name) = next(parts), next(parts)
    if name.decode("ascii", "replace") != variable:
        return None
    kind, numbers = next(parts)
    shape = np.frombuffer(sizes, f"{order}i4")
    return np.frombuffer(numbers, f"{order}{_NUMBERS[kind]}").reshape(shape, order="F")
