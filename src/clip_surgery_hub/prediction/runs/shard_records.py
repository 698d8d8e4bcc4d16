"""The manifests: a line per recorded shard. What no line names is not part of the run."""

from __future__ import annotations

import errno
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import file_digest
from pathlib import Path
from typing import Any

from clip_surgery_hub.files.lock import RunError
from clip_surgery_hub.prediction.runs.run_record import MANIFEST, TABLES

_START = r"\d{8}T\d{6}-[0-9a-f]{8}"
SHARD_NAME = re.compile(rf"{_START}-\d{{5}}-\d{{6}}\.parquet")
MANIFEST_NAME = re.compile(rf"{_START}-\d{{5}}\.jsonl")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Counts:
    """How many images.

    Attributes:
        images: that were explained.
        errors: that could not be.
    """

    images: int = 0
    errors: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.images + other.images, self.errors + other.errors)

    @property
    def all(self) -> int:
        """Explained or not."""
        return self.images + self.errors


@dataclass(frozen=True)
class ShardRecord:
    """One line of a manifest.

    Attributes:
        table: "images" or "errors", the folder that the shard is in.
        file: its name there.
        rows: how many images it holds.
        bytes: its size.
        sha256: digest of the file, hexadecimal.
        seconds: from its first row to the moment it was recorded.
        time: that moment, ISO 8601 in UTC.
    """

    table: str
    file: str
    rows: int
    bytes: int
    sha256: str
    seconds: float
    time: str

    def path(self, run: Path) -> Path:
        """Where the shard is."""
        return run / self.table / self.file

    @property
    def origin(self) -> tuple[str, int]:
        """Session and rank that wrote it."""
        session, rank, _ = self.file.rsplit("-", 2)
        return session, int(rank)

    def to_line(self) -> str:
        """The line of the manifest, without the line break."""
        return json.dumps(asdict(self))


def shard_name(session: str, rank: int, number: int) -> str:
    """The file name of a rank's shard; number counts the shards of this rank and start."""
    return f"{session}-{rank:05d}-{number:06d}.parquet"


def manifest_name(session: str, rank: int) -> str:
    """The file name of the manifest that one rank of one start appends to."""
    return f"{session}-{rank:05d}.jsonl"


def manifest_files(run: Path) -> list[Path]:
    """The manifests of all starts and ranks, the earlier starts first."""
    files = (run / MANIFEST).iterdir() if (run / MANIFEST).is_dir() else ()
    return sorted(path for path in files if MANIFEST_NAME.fullmatch(path.name))


def read_manifest(path: Path) -> list[ShardRecord]:
    """The whole lines of one manifest; a last line that a crash tore is left out.

    Warns:
        UserWarning: for a line in between that cannot be read: its shard counts as not recorded.
    """
    records = []
    *lines, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        record = _read_line(line)
        if record is None:
            warnings.warn(
                f"Line {number} of {path} cannot be read; its shard counts as not recorded.", stacklevel=2
            )
        else:
            records.append(record)
    return records


def read_manifests(run: Path, *, without: str | None = None) -> list[ShardRecord]:
    """All recorded shards of a run, in the order of starts, ranks and lines.

    Args:
        run: its folder.
        without: a session whose own shards are left out.
    """
    files = [path for path in manifest_files(run) if not without or not path.name.startswith(without)]
    return [record for path in files for record in read_manifest(path)]


def count_rows(records: Iterable[ShardRecord]) -> Counts:
    """The images that the records are about."""
    rows = dict.fromkeys(TABLES, 0)
    for record in records:
        rows[record.table] += record.rows
    return Counts(**rows)


def split_damaged(run: Path, records: Iterable[ShardRecord]) -> tuple[list[ShardRecord], list[ShardRecord]]:
    """Records whose shards are there in their size, and records whose shards are not."""
    whole: list[ShardRecord] = []
    damaged: list[ShardRecord] = []
    for record in records:
        try:
            same = record.path(run).stat().st_size == record.bytes
        except FileNotFoundError:
            same = False
        (whole if same else damaged).append(record)
    return whole, damaged


def is_as_recorded(run: Path, record: ShardRecord) -> bool:
    """Whether the shard is there and its digest is the recorded one; reads all of it."""
    try:
        with record.path(run).open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == record.sha256
    except FileNotFoundError:
        return False


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Say what is wrong with the disk in one line, and that nothing recorded is lost.

    Raises:
        RunError: in place of any OSError of the body.
    """
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        full = error.errno in _FULL
        what = f"no space left on the disk of {run}" if full else f"{run} cannot be written to ({error})"
        cure = "free space" if full else "put that right"
        with warnings.catch_warnings(action="ignore"):
            recorded = count_rows(read_manifests(run))
        raise RunError(
            f"{what}: {recorded.all} images are recorded, nothing of them is damaged; "
            f"{cure} and start the same command again"
        ) from error


def _read_line(line: bytes) -> ShardRecord | None:
    try:
        values: dict[str, Any] = json.loads(line)
        record = ShardRecord(**{field.name: values[field.name] for field in fields(ShardRecord)})
        named = record.table in TABLES and SHARD_NAME.fullmatch(record.file)
    except (ValueError, KeyError, TypeError):
        return None
    return record if named else None
