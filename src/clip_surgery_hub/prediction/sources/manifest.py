"""Manifests: tables of paths as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from clip_surgery_hub.prediction.sources.columns import choose_columns, content_of, key_of, with_columns
from clip_surgery_hub.prediction.sources.source import ListedSource, in_chunks, refuse_duplicates

Rows = Iterator[tuple[int, dict[str, Any]]]  # number of the line, column -> value


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
        rows_of = _rows_of_csv if path.suffix.lower() == ".csv" else _rows_of_json
        paths, keys = [], []
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                names, rows = rows_of(file)
                column, key = choose_columns(names, column, key, source=self.description)
                for chunk in in_chunks(_paths_and_keys(rows, column, key, self.description)):
                    paths.append(pa.array([path for path, _ in chunk], pa.string()))
                    keys.append(pa.array([key for _, key in chunk], pa.string()))
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
        for chunk in self._keys.slice(first).chunks:
            yield from chunk.to_pylist()

    def contents(self) -> Callable[[int], Any]:
        """From rows to paths."""
        return lambda row: content_of(self._paths[row].as_py(), self.folder)


def _rows_of_csv(file: Iterable[str]) -> tuple[list[str], Rows]:
    """The names of the columns, and the rows."""
    reader = csv.DictReader(file)

    def rows() -> Rows:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(
                f"Line {reader.line_num} of the manifest is no CSV ({error}). Correct it."
            ) from error

    return list(reader.fieldnames or []), rows()


def _rows_of_json(file: Iterable[str]) -> tuple[list[str], Rows]:
    """The names of the columns, which are those of the first row, and the rows."""

    def rows() -> Rows:
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

    others = rows()
    first = list(islice(others, 1))
    return [name for _, row in first for name in row], chain(first, others)


def _paths_and_keys(
    rows: Rows, column: str, key: str | None, source: str
) -> Iterator[tuple[str | None, str]]:
    for number, row in rows:
        path = row.get(column)
        if path is not None and not isinstance(path, str):
            raise ValueError(
                f"Line {number} of the {source} has {type(path).__name__} in column {column!r} where a path "
                "was expected. Correct it, or name another column."
            )
        own = path if key is None else row.get(key)
        yield path, key_of(own, key or column, f"Line {number} of the {source}")
