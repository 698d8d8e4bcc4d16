"""Manifests: tables of paths as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from clip_surgery_hub.prediction.sources.columns import choose_columns, content_of, with_columns
from clip_surgery_hub.prediction.sources.duplicate_keys import refuse_duplicates
from clip_surgery_hub.prediction.sources.source import ListedSource

__all__ = ["ManifestSource"]

ROWS_AT_ONCE = 65536
Row = tuple[int, str | None, str]  # line, path, key


class ManifestSource(ListedSource):
    """Images whose paths are in a column of a ``.csv`` with a header, or a ``.jsonl`` of objects.

    Keys are those of the key column, else the paths as they are written. They are kept as Arrow columns; for
    many millions of rows Parquet is read much quicker.

    Args:
        path: of the manifest, UTF-8; the paths in it are relative to its folder.
        column: see `columns.choose_columns`.
        key: see `columns.choose_columns`.

    Raises:
        ValueError: for a column that is not there, a line that cannot be read, a key that is missing or comes
            twice, or no row at all.
        OSError: if the file cannot be read.
    """

    def __init__(self, path: Path, *, column: str | None = None, key: str | None = None) -> None:
        import pyarrow as pa

        path = path.absolute()
        self.folder = path.parent
        self.description = f"manifest {path}"
        rows = _lines_of_csv if path.suffix.lower() == ".csv" else _lines_of_json
        paths, keys = [], []
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                names, lines = rows(file)
                column, key = choose_columns(names, column, key, source=self.description)
                for chunk in _chunks(_checked(lines, column, key, self.description)):
                    paths.append(pa.array([row[1] for row in chunk], pa.string()))
                    keys.append(pa.array([row[2] for row in chunk], pa.string()))
        except UnicodeDecodeError as error:
            raise ValueError(f"The {self.description} is not UTF-8. Save it as UTF-8.") from error
        if not keys:
            raise ValueError(f"The {self.description} has no row. Give one row per image.")
        self._keys = pa.chunked_array(keys)
        self._paths = self._keys if key is None else pa.chunked_array(paths)
        refuse_duplicates(self.keys, self.description)
        self.description = with_columns(self.description, column, key)

    def count(self) -> int:
        """How many rows there are."""
        return len(self._keys)

    def keys(self, first: int = 0) -> Iterator[str]:
        """The keys in the order of the rows, from a row on."""
        for begin in range(first, len(self._keys), ROWS_AT_ONCE):
            yield from self._keys.slice(begin, ROWS_AT_ONCE).to_pylist()

    def contents(self) -> Callable[[int], Any]:
        """From rows to paths."""
        return lambda row: content_of(self._paths[row].as_py(), self.folder)


def _lines_of_csv(file: Iterable[str]) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    reader = csv.DictReader(file)
    names = list(reader.fieldnames or [])
    return names, ((reader.line_num, row) for row in _csv_errors_named(reader))


def _csv_errors_named(reader: csv.DictReader[str]) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(
            f"Line {reader.line_num} of the manifest is no CSV ({error}). Correct it."
        ) from error


def _lines_of_json(file: Iterable[str]) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    objects = _objects(file)
    first = next(objects, None)
    if first is None:
        return [], iter(())
    return list(first[1]), _then(first, objects)


def _objects(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Line {number} of the manifest is no JSON ({error}). Write one object per line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"Line {number} of the manifest is {type(row).__name__} where an object was expected. "
                "Write one object per line."
            )
        yield number, row


def _then(first: tuple[int, dict[str, Any]], others: Iterator[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    yield first
    yield from others


def _checked(
    lines: Iterable[tuple[int, dict[str, Any]]], column: str, key: str | None, source: str
) -> Iterator[Row]:
    for number, row in lines:
        path = row.get(column)
        if path is not None and not isinstance(path, str):
            raise ValueError(
                f"Line {number} of the {source} has {type(path).__name__} in column {column!r} where a path "
                "was expected. Correct it, or name another column."
            )
        own = path if key is None else row.get(key)
        if own is None or own == "":
            raise ValueError(
                f"Line {number} of the {source} has nothing in column {key or column!r}, which the image "
                "is known by. Give every image a key of its own."
            )
        yield number, path, str(own)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    return iter(lambda: list(islice(remaining, ROWS_AT_ONCE)), [])
