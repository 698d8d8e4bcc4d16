"""Images that are files: all of a folder, or those that a pattern matches."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from clip_surgery_hub.images.loading import SUFFIXES
from clip_surgery_hub.prediction.sources.source import ListedSource, in_chunks, refuse_duplicates


class FileSource(ListedSource):
    """Files under a folder; their keys are their posix paths relative to it.

    The list is kept as one Arrow column: about the bytes of the paths, for a hundred million files too.

    Args:
        folder: where the paths begin.
        names: the paths relative to it, with "/" between the parts.
        description: see :class:`~clip_surgery_hub.prediction.sources.source.Source`.

    Raises:
        ValueError: for two files of one key, which only names that are not UTF-8 can have.
    """

    def __init__(self, folder: Path, names: Iterable[str], *, description: str) -> None:
        import pyarrow as pa

        self.folder = folder
        self.description = description
        chunks = [pa.array(chunk, pa.binary()) for chunk in in_chunks(map(os.fsencode, names))]
        self._names = pa.chunked_array(chunks, pa.binary())
        refuse_duplicates(self.keys, self.description)

    def count(self) -> int:
        """How many files there are."""
        return len(self._names)

    def keys(self, first: int = 0) -> Iterator[str]:
        """The relative paths, with the numbers of bytes that are not UTF-8."""
        for chunk in self._names.slice(first).chunks:
            for name in chunk.to_pylist():
                yield name.decode("utf-8", "backslashreplace")

    def contents(self) -> Callable[[int], Any]:
        """From rows to paths."""
        return lambda row: self.folder / os.fsdecode(self._names[row].as_py())


def open_folder(folder: Path) -> FileSource:
    """All images in a folder and the folders inside, by their suffixes (`arguments.SUFFIXES`).

    Hidden files and folders are left out. Links are followed, each folder is read once; links that lead
    nowhere are kept if they are named like an image, for they may be images that are lost.

    Raises:
        FileNotFoundError: if there is none.
        PermissionError: for a folder that may not be read.
    """
    folder = folder.absolute()
    source = FileSource(folder, _images_below(folder), description=f"folder {folder}")
    if not source.count():
        raise FileNotFoundError(
            f"The folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}). Name another."
        )
    return source


def open_pattern(pattern: str) -> FileSource:
    """All files that a pattern matches, or the one file that it names; ``**`` is folders of any depth.

    Keys are relative to the last folder of the pattern that has no wildcard. Hidden files are left out unless
    the pattern's last part begins with a dot. ``**`` does not follow links to folders.

    Raises:
        FileNotFoundError: if it matches no file.
    """
    folder, rest = _fixed_folder(pattern)
    hidden = rest.rpartition("/")[2].startswith(".")
    found = (
        match.relative_to(folder).as_posix()
        for match in folder.glob(rest)
        if (hidden or not match.name.startswith(".")) and not match.is_dir()
    )
    whole = folder / rest
    source = FileSource(folder, sorted(set(found)), description=f"files {whole}")
    if not source.count():
        raise FileNotFoundError(f"No file matches the pattern {whole}. Check the pattern.")
    return source


def _fixed_folder(pattern: str) -> tuple[Path, str]:
    """A pattern as the absolute folder before its first wildcard, and the rest."""
    path = Path(pattern).expanduser().absolute()
    folder = path.parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder, path.relative_to(folder).as_posix()


def _images_below(folder: Path) -> Iterator[str]:
    """Relative paths in the order of their parts; folders that only links lead to come last."""
    read: set[tuple[int, int]] = set()
    links = [""]
    while links:
        waiting = sorted(links)
        links = []
        for start in waiting:
            yield from _walk(folder, start, read, links)


def _walk(folder: Path, inside: str, read: set[tuple[int, int]], links: list[str]) -> Iterator[str]:
    here = folder / inside
    try:
        status = here.stat()
        if (status.st_dev, status.st_ino) in read:
            return
        read.add((status.st_dev, status.st_ino))
        names, folders = [], {}
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders[entry.name] = entry.is_symlink()
                elif not is_image(entry.name):
                    continue
                names.append(entry.name)
    except PermissionError as error:
        raise PermissionError(f"The folder {here} may not be read; check its permissions.") from error
    for name in sorted(names):
        path = f"{inside}/{name}" if inside else name
        if name not in folders:
            yield path
        elif folders[name]:
            links.append(path)
        else:
            yield from _walk(folder, path, read, links)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False
