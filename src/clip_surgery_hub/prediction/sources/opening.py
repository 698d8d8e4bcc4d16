"""From what was given as data to the source that it is."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clip_surgery_hub.prediction.sources.hugging_face import is_dataset, is_saved_dataset, open_dataset
from clip_surgery_hub.prediction.sources.image_files import is_image, open_folder, open_pattern
from clip_surgery_hub.prediction.sources.manifest import ManifestSource
from clip_surgery_hub.prediction.sources.parquet import ParquetSource
from clip_surgery_hub.prediction.sources.source import ListedSource, Source, refuse_duplicates
from clip_surgery_hub.prediction.sources.tars import TAR_SUFFIXES, TarSource, expand_braces, is_address


def open_source(data: Any, *, column: str | None = None, key: str | None = None) -> Source:
    """Open images of any origin.

    ================================================  ==============================================
    data                                              key of an image
    ================================================  ==============================================
    folder, searched with the folders inside          path relative to the folder
    pattern (``photos/*/*.jpg``), or one file         path relative to the part without wildcards
    ``.csv``, ``.jsonl`` with a column of paths       key column, else the path as written
    ``.parquet`` (or a pattern of them) with paths,   key column, else the path as written, else the
    bytes, or Hugging Face's pairs of both            number of the row
    ``.tar``, ``shard-{000..123}.tar``, a pattern     tar's name, "/", WebDataset's ``__key__``
    of tars or a folder of them
    folder of ``datasets.save_to_disk``, or a         key column, else the number of the row (with
    ``Dataset`` or ``IterableDataset``                the shard's before it in a stream of several)
    sequence of ``(key, image)``                    the one given
    ================================================  ==============================================

    Args:
        data: one of these, or a :class:`Source`, which is taken as it is.
        column: which column holds the images; None: the first of `columns.IMAGE_COLUMNS`, or of type
            ``Image``. In tars: what follows the first dot of the images' names.
        key: which column holds the keys; None: ``key``, where there is one.

    Raises:
        ValueError: for data of which the images or keys cannot be told; the message says what to do.
        OSError: for data that is not there or cannot be read.
        ImportError: for a package that the data needs.
    """
    if isinstance(data, Source):
        return data
    if is_dataset(data):
        return open_dataset(data, column=column, key=key)
    if not isinstance(data, str | os.PathLike):
        if isinstance(data, Sequence):
            return _without_columns(PairSource(data), column, key)
        raise ValueError(
            "Data can be a folder, a pattern, a manifest, tars, a data set or a sequence of pairs "
            f"(key, image), not {type(data).__name__}."
        )
    text = os.fspath(data)
    if is_address(text):
        return _without_key(TarSource(expand_braces(text), description=f"tars {text}", column=column), key)
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return _open_folder(path, column, key)
    if path.name.endswith(TAR_SUFFIXES):
        return _without_key(TarSource(_tars(path), description=f"tars {path}", column=column), key)
    if path.suffix.lower() == ".parquet":
        files = [path] if path.exists() else [Path(match) for match in _matches(str(path))]
        return ParquetSource(files, description=f"manifest {path}", column=column, key=key)
    if path.suffix.lower() in (".csv", ".jsonl"):
        if not path.is_file():
            raise FileNotFoundError(f"There is no manifest {path}. Check the path.")
        return ManifestSource(path, column=column, key=key)
    return _without_columns(open_pattern(text), column, key)


class PairSource(ListedSource):
    """A sequence of ``(key, image)``, where an image is whatever `ImageTransform.read` takes.

    Raises:
        ValueError: for an item that is no pair with a string before it, or a key that comes twice.
    """

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        for number, pair in enumerate(pairs):
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise ValueError(
                    f"Item {number} of the data is {type(pair).__name__} where a pair (key, image) was "
                    "expected, with a string as key."
                )
        self._pairs = pairs
        self.description = f"sequence of {len(pairs)} images"
        refuse_duplicates(self.keys, self.description)

    def count(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    def keys(self, first: int = 0) -> Iterator[str]:
        """The keys in their order, from a row on."""
        return (key for key, _ in islice(self._pairs, first, None))

    def contents(self) -> Callable[[int], Any]:
        """From rows to images."""
        return lambda row: self._pairs[row][1]


def _open_folder(folder: Path, column: str | None, key: str | None) -> Source:
    if is_saved_dataset(folder):
        return open_dataset(folder, column=column, key=key)
    names = sorted(entry.name for entry in os.scandir(folder))
    tars = [name for name in names if name.endswith(TAR_SUFFIXES) and not name.startswith(".")]
    if not tars:
        return _without_columns(open_folder(folder), column, key)
    if any(map(is_image, names)):
        raise ValueError(
            f"The folder {folder} holds both images and tars; give a pattern of either, such as "
            f"{folder / ('*' + Path(tars[0]).suffix)}."
        )
    paths = [str(folder / name) for name in tars]
    return _without_key(TarSource(paths, description=f"tars {folder}", column=column), key)


def _tars(pattern: Path) -> list[str]:
    """The tars that a path with or without braces and wildcards names, in order."""
    if pattern.is_file():
        return [str(pattern)]
    expanded = expand_braces(str(pattern))
    return [tar for one in expanded for tar in (_matches(one) if glob.has_magic(one) else [one])]


def _matches(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise FileNotFoundError(f"No file matches the pattern {pattern}. Check the pattern.")
    return matches


def _without_columns(source: Source, column: str | None, key: str | None) -> Source:
    if column is not None:
        raise ValueError(f"The {source.description} has no columns: leave out column={column!r}.")
    return _without_key(source, key)


def _without_key(source: Source, key: str | None) -> Source:
    if key is not None:
        raise ValueError(f"The {source.description} has no column of keys: leave out key={key!r}.")
    return source
