"""Tars in WebDataset's layout: the files of a sample follow on each other, with one name up to its dot."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from clip_surgery_hub.images.loading import SUFFIXES, ImageError
from clip_surgery_hub.prediction.sources.columns import needed, with_columns
from clip_surgery_hub.prediction.sources.source import Part, StreamedSource, UniqueKeys

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
Member = tuple[str, tarfile.TarInfo]  # what follows the first dot of its name, and where it is


class TarSource(StreamedSource):
    """The samples of tars, each of which is read from its beginning.

    Keys are the name of the tar (from the folder on that all of them have in common), "/", and WebDataset's
    ``__key__``: what is before the first dot of a file's name. A tar that is cut off or damaged gives the
    samples before the place, then one error of which the key is the tar's name.

    Args:
        tars: paths, or addresses that ``webdataset`` opens; these, and compressed tars, are copied to a
            temporary file while they are read.
        description: see :class:`~clip_surgery_hub.prediction.sources.source.Source`.
        column: what follows the first dot of the images' names, such as "jpg"; None: the one suffix in
            each sample that images have.

    Raises:
        ImportError: if ``webdataset`` is not installed.
        FileNotFoundError: for a tar that is not there.
        ValueError: for a tar given twice.
    """

    def __init__(self, tars: Sequence[str], *, description: str, column: str | None = None) -> None:
        needed("webdataset", "WebDataset tars")
        for tar in tars:
            if not is_address(tar) and not Path(tar).is_file():
                raise FileNotFoundError(f"There is no tar {tar}. Check the path.")
        if len(set(tars)) < len(tars):
            twice = min(tar for tar in tars if tars.count(tar) > 1)
            raise ValueError(f"The tar {twice} is given twice. Give each tar once.")
        self._tars = list(tars)
        self._names = _without_common_folder(self._tars)
        self._column = column
        self.description = with_columns(description, column, None)

    def parts(self) -> int:
        """How many tars there are."""
        return len(self._tars)

    def part(self, number: int) -> Part:
        """The samples of a tar; only contents that are called for are read."""
        tar, name = self._tars[number], self._names[number]
        unique = UniqueKeys()
        try:
            with _seekable(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for base, members in self._samples(archive, file):
                    yield unique(f"{name}/{base}"), partial(self._image, archive, members)
        # tarfile, gzip and the commands behind addresses raise errors of every kind
        except Exception as error:
            message = f"The tar {tar} is damaged or cut off ({error}); write it again."
            yield name, partial(ImageError, message, "damaged")

    def _image(self, archive: tarfile.TarFile, members: list[Member]) -> bytes:
        suffixes = ", ".join(suffix for suffix, _ in members)
        found = self._images(members)
        if not found:
            wanted = "image" if self._column is None else f"file .{self._column}"
            raise ImageError(f"The sample has no {wanted}, only {suffixes}.", "missing")
        if len(found) > 1:
            raise ImageError(
                f"The sample has several images ({suffixes}); say which: column=... (--column).", "missing"
            )
        try:
            opened = archive.extractfile(found[0])
            assert opened is not None  # all members are files
            with opened:
                return opened.read()
        except (OSError, tarfile.TarError) as error:
            raise ImageError(f"The image cannot be read from its tar ({error}).", "unreadable") from error

    def _images(self, members: list[Member]) -> list[tarfile.TarInfo]:
        if self._column is not None:
            return [member for suffix, member in members if suffix == self._column]
        return [member for suffix, member in members if f".{suffix.rpartition('.')[2]}" in SUFFIXES]

    def _samples(self, archive: tarfile.TarFile, file: IO[bytes]) -> Iterator[tuple[str, list[Member]]]:
        """What is before the first dot of the names, and the files that follow on each other under it."""
        split = needed("webdataset.tariterators", "WebDataset tars").base_plus_ext
        current, members = "", list[Member]()
        try:
            for member in _files(archive, file):
                base, suffix = split(member.name)
                if base is None or member.name.startswith("__"):
                    continue  # no sample's, by the rules of WebDataset
                if base != current and members:
                    yield current, members
                    members = []
                current = base
                members.append((suffix.lower(), member))
        except tarfile.TarError:
            if self._images(members):
                yield current, members
            raise
        if members:
            yield current, members


def is_address(tar: str) -> bool:
    """Whether ``webdataset`` has to open it."""
    return "://" in tar or tar.startswith("pipe:")


def expand_braces(pattern: str) -> list[str]:
    """``a-{000..002}.tar`` -> ``["a-000.tar", "a-001.tar", "a-002.tar"]``.

    Raises:
        ImportError: if ``webdataset`` is not installed.
    """
    return list(needed("webdataset.shardlists", "WebDataset tars").expand_urls(pattern))


def _files(archive: tarfile.TarFile, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files of a tar, each known to be whole.

    Iterating over a `TarFile` would keep the headers of all of them in memory, and would take a broken
    header, or a tar cut off between two files, for the end.

    Raises:
        tarfile.TarError: where it is damaged or cut off.
    """
    size = file.seek(0, os.SEEK_END)
    member = archive.next()
    while member is not None:
        if archive.offset > size:
            raise tarfile.ReadError(f"{member.name} is not all there")
        if member.isreg():
            yield member
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
            return  # a tar ends with blocks of zeros
        file.seek(archive.offset)
        member = tarfile.TarInfo.fromtarfile(archive)


@contextmanager
def _seekable(tar: str) -> Iterator[IO[bytes]]:
    """The uncompressed tar as a file."""
    if not is_address(tar) and not tar.endswith((".gz", ".tgz")):
        with open(tar, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        opened = (
            needed("webdataset.gopen", "WebDataset tars").gopen(tar) if is_address(tar) else open(tar, "rb")
        )
        with opened as raw, gzip.open(raw) if tar.endswith((".gz", ".tgz")) else raw as stream:
            try:
                shutil.copyfileobj(stream, copy)
            except (EOFError, OSError, zlib.error):
                pass  # the tar ends where it came to, which its reader finds out
        copy.seek(0)
        yield copy


def _without_common_folder(tars: Sequence[str]) -> list[str]:
    folders = [tar.split("/")[:-1] for tar in tars]
    common = 0
    while all(len(folder) > common and folder[common] == folders[0][common] for folder in folders):
        common += 1
    return ["/".join(tar.split("/")[common:]) for tar in tars]
