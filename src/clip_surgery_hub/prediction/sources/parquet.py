"""Manifests as Parquet: columns of paths or of whole image files, read row group by row group."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from clip_surgery_hub.images.loading import ImageError
from clip_surgery_hub.prediction.sources.columns import choose_columns, content_of, key_of, with_columns
from clip_surgery_hub.prediction.sources.source import ROWS_AT_ONCE, ListedSource, refuse_duplicates

IMAGES_AT_ONCE = 16


class ParquetSource(ListedSource):
    """Images in a column of Parquet files: paths, bytes, or Hugging Face's pairs of both.

    Nothing is kept but the counts of the row groups. Keys are those of the key column, else the paths, else
    the numbers of the rows, from 0 on through all files.

    Args:
        paths: of one file or more, with the same columns; paths in a file are relative to its folder.
        description: see :class:`~clip_surgery_hub.prediction.sources.source.Source`.
        column: see `columns.choose_columns`.
        key: see `columns.choose_columns`.

    Raises:
        ValueError: for a column that is not there or holds no images, a file that cannot be read, a key
            that is missing or comes twice, or no row at all.
        OSError: if a file cannot be opened.
    """

    def __init__(
        self, paths: Sequence[Path], *, description: str, column: str | None = None, key: str | None = None
    ) -> None:
        import pyarrow as pa

        self.groups: list[tuple[Path, int]] = []
        rows: list[int] = []
        for path in paths:
            try:
                with _opened(path) as file:
                    schema, metadata = file.schema_arrow, file.metadata
            except pa.ArrowException as error:
                raise ValueError(f"The manifest {path} is no Parquet that can be read ({error}).") from error
            for number in range(metadata.num_row_groups):
                self.groups.append((path, number))
                rows.append(metadata.row_group(number).num_rows)
            self.column, self._key = choose_columns(schema.names, column, key, source=f"manifest {path}")
            holds_paths = _holds_paths(schema.field(self.column).type, f"manifest {path}", self.column)
        self._starts = list(accumulate(rows, initial=0))
        if not self.count():
            raise ValueError(f"The {description} has no row. Give one row per image.")
        self.description = with_columns(description, self.column, self._key)
        if self._key is None and holds_paths:
            self._key = self.column
        if self._key is not None:
            refuse_duplicates(self.keys, description)

    def count(self) -> int:
        """How many rows there are."""
        return self._starts[-1]

    def group_of(self, row: int) -> int:
        """The number of the row group that a row is in."""
        return bisect_right(self._starts, row) - 1

    def keys(self, first: int = 0) -> Iterator[str]:
        """The keys in the order of the rows, from a row on."""
        if self._key is None:
            yield from map(str, range(first, self.count()))
            return
        for group in range(self.group_of(first), len(self.groups)):
            path, number = self.groups[group]
            place = f"A row in row group {number} of {path}"
            for _, value in self.values(group, self._key, ROWS_AT_ONCE, first=first):
                yield key_of(value.decode() if isinstance(value, bytes) else value, self._key, place)

    def contents(self) -> Callable[[int], Any]:
        """From rows, in ascending order, to paths or bytes; a few at a time are in memory."""
        return _Reader(self).content

    def values(self, group: int, column: str, at_once: int, *, first: int) -> Iterator[tuple[int, Any]]:
        """The rows of a group and their values in a column, from a row on; so many at once are in memory."""
        path, number = self.groups[group]
        row = self._starts[group]
        with _opened(path) as file:
            for batch in file.iter_batches(at_once, row_groups=[number], columns=[column], use_threads=False):
                skipped = min(max(0, first - row), len(batch))
                yield from enumerate(batch.column(0).slice(skipped).to_pylist(), row + skipped)
                row += len(batch)


class _Reader:
    """Walks forward through the column of the images; a damaged row group is so for all its rows."""

    def __init__(self, source: ParquetSource) -> None:
        self._source = source
        self._group = -1
        self._values: Iterator[tuple[int, Any]] = iter(())
        self._damage: ImageError | None = None

    def content(self, row: int) -> Any:
        import pyarrow as pa

        group = self._source.group_of(row)
        path, number = self._source.groups[group]
        if group != self._group:
            self._group, self._damage = group, None
            self._values = self._source.values(group, self._source.column, IMAGES_AT_ONCE, first=row)
        if self._damage is None:
            try:
                return content_of(next(value for place, value in self._values if place == row), path.parent)
            except (OSError, StopIteration, pa.ArrowException) as error:
                self._damage = ImageError(
                    f"Row group {number} of {path} cannot be read ({error}); write the file again.", "damaged"
                )
        raise self._damage


def _opened(path: Path) -> Any:
    import pyarrow.parquet as pq

    # Through a buffer: a row group of images may be larger than the memory.
    return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _holds_paths(kind: Any, source: str, column: str) -> bool:
    """True for a column of paths, False for one of bytes or of pairs of bytes and path.

    Raises:
        ValueError: for a column that holds neither.
    """
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind):
        return True
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind):
        return False
    raise ValueError(
        f"Column {column!r} of the {source} is of type {kind}; paths (string) or files (binary) were "
        "expected. Name another column."
    )
