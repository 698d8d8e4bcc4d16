"""One rank's rows become shards: written aside, synced, renamed into their table's folder, then recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from clip_surgery_hub.files.durable import append_line, sync_folder, write_new
from clip_surgery_hub.files.lock import stamp
from clip_surgery_hub.prediction.runs.folder import RunFolder
from clip_surgery_hub.prediction.runs.run_record import MANIFEST, TABLES, UNFINISHED
from clip_surgery_hub.prediction.runs.schema import errors_schema, to_batch
from clip_surgery_hub.prediction.runs.shard_records import (
    Counts,
    ShardRecord,
    manifest_name,
    shard_name,
    writing,
)

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 128 * 2**20
"""A shard is closed when its rows take that much memory, before there are ``shard_rows`` of them."""


@dataclass
class _OpenShard:
    """Rows that are not written yet; ``since`` is when the first one came."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    since: float = 0.0


class ShardSink:
    """Takes the rows of one rank and writes them as shards; one per rank and start, for one thread.

    A row is safe once its shard is recorded. Rows that wait for more are in :attr:`rows_open`, and no older
    than ``seconds`` after any :meth:`add` or :meth:`tick`.

    Attributes:
        recorded: rows that this sink has recorded.

    Args:
        run: that the rank writes to.
        rank: of the process, counted over all nodes.
        schema: of the table of images, see :func:`images_schema`.
        shard_rows: the most rows of a shard.
        seconds: the longest that a row waits to be recorded.
        clock: gives seconds; for tests.

    Raises:
        ValueError: for ``shard_rows`` below 1 or negative ``seconds``.
    """

    def __init__(
        self,
        run: RunFolder,
        rank: int,
        schema: pa.Schema,
        *,
        shard_rows: int = 10_000,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if shard_rows < 1:
            raise ValueError(f"shard_rows must be at least 1, got {shard_rows}.")
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, got {seconds}.")
        self._path, self._session, self._rank = run.path, run.session, rank
        self._schemas = {"images": schema, "errors": errors_schema()}
        self._shard_rows, self._seconds, self._clock = shard_rows, seconds, clock
        self._open = {table: _OpenShard() for table in TABLES}
        self._written = 0
        self.recorded = Counts()

    @property
    def rows_open(self) -> int:
        """Rows of both tables that are not recorded yet."""
        return sum(shard.rows for shard in self._open.values())

    @property
    def added(self) -> Counts:
        """Rows that this sink holds, recorded or open."""
        return self.recorded + Counts(**{table: shard.rows for table, shard in self._open.items()})

    def add(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows, and write every shard that is full or too old.

        Args:
            table: "images" or "errors".
            rows: a value per column of the table's schema.

        Raises:
            ValueError: for rows that do not fit the schema, before any of them is taken.
            RunError: if a shard cannot be written. What was recorded stays so; start the run again.
        """
        if table not in self._open:
            raise ValueError(f"There is no table {table!r}. Choose from {', '.join(TABLES)}.")
        shard, start, pieces = self._open[table], 0, []
        room = self._shard_rows - shard.rows % self._shard_rows
        while start < len(rows):
            pieces.append(to_batch(rows[start : start + room], self._schemas[table]))
            start, room = start + room, self._shard_rows
        for piece in pieces:
            if not shard.rows:
                shard.since = self._clock()
            shard.batches.append(piece)
            shard.rows += piece.num_rows
            shard.bytes += piece.nbytes
            if shard.rows >= self._shard_rows or shard.bytes >= MOST_BYTES:
                self._write(table)
                shard = self._open[table]
        self.tick()

    def tick(self) -> None:
        """Write the shards whose first row has waited for ``seconds``.

        Raises:
            RunError: as :meth:`add`.
        """
        for table, shard in self._open.items():
            if shard.rows and self._clock() - shard.since >= self._seconds:
                self._write(table)

    def flush(self) -> None:
        """Write all rows that are open.

        Raises:
            RunError: as :meth:`add`; the rows stay open, so that it can be tried again.
        """
        for table in TABLES:
            if self._open[table].rows:
                self._write(table)

    def _write(self, table: str) -> None:
        shard = self._open[table]
        content = _parquet(shard.batches, self._schemas[table])
        name = shard_name(self._session, self._rank, self._written)
        self._written += 1  # a name is used once, also if this fails
        part, final = self._path / UNFINISHED / name, self._path / table / name
        manifest = self._path / MANIFEST / manifest_name(self._session, self._rank)
        with writing(self._path):
            try:
                write_new(part, content)
                os.rename(part, final)
                sync_folder(final.parent)
                record = ShardRecord(
                    table=table,
                    file=name,
                    rows=shard.rows,
                    bytes=len(content),
                    sha256=sha256(content).hexdigest(),
                    seconds=round(self._clock() - shard.since, 3),
                    time=stamp(datetime.now(UTC)),
                )
                append_line(manifest, record.to_line())
            except BaseException:
                # Not recorded: it would be a second copy of rows that are still open.
                for path in (part, final):
                    with suppress(OSError):
                        path.unlink()
                raise
        self._open[table] = _OpenShard()
        self.recorded += Counts(**{table: shard.rows})


def _parquet(batches: list[pa.RecordBatch], schema: pa.Schema) -> memoryview:
    """The shard as it will be on the disk; small enough for memory, see :data:`MOST_BYTES`."""
    import pyarrow as pa
    from pyarrow import parquet

    stream = pa.BufferOutputStream()
    # Keys and numbers hardly repeat: dictionaries of them would only make the file larger.
    table = pa.Table.from_batches(batches, schema=schema)
    parquet.write_table(table, stream, compression="zstd", use_dictionary=False)
    return memoryview(stream.getvalue())
