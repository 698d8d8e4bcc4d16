"""The folder of a run: begun or resumed, held while it is written, cleaned of what a crash left.

::

    RUN/run.json                    what the run was asked to do
        images/*.parquet          the explained images      errors/*.parquet   the others
        manifest/*.jsonl            a line per recorded shard: what no line names is not part of the run
        unfinished/                 shards while they are written
        ranks/*.json                counters of the ranks that run
        log.jsonl                   a line per minute
        lock, ranks.lock            held by rank 0, and by all ranks
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from clip_surgery_hub.files.durable import replace_whole, sync_folder
from clip_surgery_hub.files.folders import try_to_write
from clip_surgery_hub.files.lock import RunError, hold_rank, hold_run, is_held, read_holder, refuse_if_held
from clip_surgery_hub.prediction.runs.key_set import KeySet
from clip_surgery_hub.prediction.runs.run_record import (
    FILES,
    FOLDERS,
    LOG,
    MANIFEST,
    RANKS,
    RECORD,
    TABLES,
    UNFINISHED,
    RunRecord,
    differences,
    read_record,
    write_record,
)
from clip_surgery_hub.prediction.runs.shard_records import (
    MANIFEST_NAME,
    SHARD_NAME,
    Counts,
    ShardRecord,
    count_rows,
    manifest_files,
    read_manifest,
    read_manifests,
    split_damaged,
    writing,
)


class RunMismatch(RunError):
    """The folder holds a run with other settings; the message names every difference, old and new."""


class RunFolder:
    """A run that this process writes to; made by :meth:`open` on rank 0 and :meth:`join` on the others.

    Attributes:
        path: of the folder.
        session: a name for this start; the other ranks need it to join.
        settings: what the run was asked to do.
        recorded: images recorded by earlier starts.
    """

    def __init__(self, path: Path, session: str, settings: dict[str, Any], held: ExitStack) -> None:
        self.path, self.session, self.settings = path, session, settings
        self._held = held
        # What this start records does not count: all ranks see the same, whenever they join.
        self._earlier = read_manifests(path, without=session)
        self.recorded: Counts = count_rows(self._earlier)

    @classmethod
    def check(cls, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Raise what :meth:`open` would of the same arguments, as far as it is known; change nothing."""
        path, new = Path(path), RunRecord.begin(settings)
        _check_writable(path)
        if not path.exists():
            return
        if (path / RECORD).exists():
            refuse_if_held(path)
            found = differences(read_record(path).settings, new.settings)
            if found and not overwrite:
                raise RunMismatch(
                    f"{path} holds a run with other settings: {'; '.join(found)}. "
                    "Choose another --out, or start anew with --overwrite."
                )
        elif foreign := _foreign_files(path):
            raise RunError(
                f"{path} holds other files ({', '.join(foreign[:3])}) and no run; it was left as it is. "
                "Choose another --out."
            )

    @classmethod
    def open(
        cls, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False, wait: float = 60.0
    ) -> Self:
        """Begin a run, or resume it; on rank 0, before the others :meth:`join`.

        What a killed start left behind is removed: unfinished shards, shards that no manifest names, torn
        lines.

        Args:
            path: of the folder; missing parents are created.
            settings: what a run must have in common with the one that it resumes, in plain values that
                JSON can hold. ``"versions"`` (package name -> version) may differ, with a warning;
                ``"texts"``, ``"background"``, ``"outputs"`` and ``"width"`` name the columns while there is
                no image yet.
            overwrite: begin anew where the folder holds a run with other settings. Only what that run wrote
                is removed. A run with the same settings is resumed: the same command finishes it.
            wait: seconds to wait for processes of a killed run that still live.

        Raises:
            RunMismatch: for a run with other settings, unless ``overwrite``.
            RunError: for a folder that holds other files, is held by another run, or cannot be written to.
            ValueError: for settings that JSON cannot hold.
        """
        path, new = Path(path), RunRecord.begin(settings)
        session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"  # later ones sort behind
        cls.check(path, settings, overwrite=overwrite)
        with writing(path), ExitStack() as stack:
            _make_folders(path)
            stack.enter_context(hold_run(path, session, wait=wait))
            # Again, now that nobody else can change it.
            old = read_record(path) if (path / RECORD).exists() else None
            if old is not None and (found := differences(old.settings, new.settings)):
                if not overwrite:
                    raise RunMismatch(f"{path} was begun by another run just now: {'; '.join(found)}.")
                _remove_run(path)
                old = None
            if old is None:
                write_record(path, new)
            elif changed := differences(old.versions, new.versions):
                warnings.warn(
                    f"{path} was begun with other versions of packages: {'; '.join(changed)}. "
                    "The numbers may differ a little between the images.",
                    stacklevel=2,
                )
            _clean_run(path)
            return cls(path, session, new.settings, stack.pop_all())

    @classmethod
    def join(cls, path: str | Path, session: str, *, wait: float = 60.0) -> Self:
        """Take part in a run that rank 0 has opened.

        Args:
            path: of the folder.
            session: :attr:`session` of rank 0.
            wait: seconds to wait until the start is seen, on a shared disk that shows changes late.

        Raises:
            RunError: if rank 0 does not hold the run, or the folder cannot be read.
        """
        path = Path(path)
        with writing(path), ExitStack() as stack:
            stack.enter_context(hold_rank(path, session, wait=wait))
            return cls(path, session, read_record(path).settings, stack.pop_all())

    def recorded_keys(self) -> KeySet:
        """The keys of the images that earlier starts recorded, explained or not; reads no other column.

        Raises:
            RunError: for a shard that is damaged.
        """
        return KeySet(_keys(self.path, self._earlier))

    @property
    def abandoned(self) -> bool:
        """Whether rank 0 has ended: what another rank still writes is in the way of the next start."""
        return self.released or not is_held(self.path)

    @property
    def released(self) -> bool:
        """Whether rank 0 has let the run go, or another start has it; not so if rank 0 was just killed."""
        holder = read_holder(self.path)
        return holder is None or holder.session != self.session

    def close(self) -> None:
        """Let the run go; rows that a sink has open are lost unless it was flushed. Can be called twice."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _keys(path: Path, records: list[ShardRecord]) -> Iterator[str]:
    from pyarrow import ArrowException, parquet

    for record in records:
        try:
            with parquet.ParquetFile(record.path(path)) as file:
                for batch in file.iter_batches(columns=["key"]):
                    yield from batch.column(0).to_pylist()
        except (ArrowException, OSError) as error:
            raise RunError(
                f"The shard {record.path(path)} is damaged ({error}). Remove this file and start the same "
                f"command again: its {record.rows} images will be done again."
            ) from error


def _check_writable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file where the folder of a run was expected. Choose another --out.")
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        try_to_write(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written to ({error.strerror}). Choose another --out.") from error


def _foreign_files(path: Path) -> list[str]:
    """What is in a folder without ``run.json`` that no run would have left there when it was killed early."""
    top = [one.name for one in path.iterdir() if one.name not in (*FILES, *FOLDERS)]
    inner = [
        f"{name}/{one.name}"
        for name in (*TABLES, MANIFEST)
        if (path / name).is_dir()
        for one in (path / name).iterdir()
    ]
    return sorted(top) + sorted(inner)


def _make_folders(path: Path) -> None:
    """Create what is missing of the folders of a run."""
    path.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (path / name).mkdir(exist_ok=True)
    sync_folder(path)
    sync_folder(path.absolute().parent)


def _shards(path: Path) -> list[Path]:
    """All files in the folders of the tables that a run wrote, recorded or not."""
    return [one for table in TABLES for one in (path / table).iterdir() if SHARD_NAME.fullmatch(one.name)]


def _remove_run(path: Path) -> None:
    """Remove what a run wrote and nothing else; ``run.json`` stays until another takes its place.

    The manifests go first: killed at any place, this leaves a run with fewer images.
    """
    for file in [*manifest_files(path), *_shards(path), *_own_ranks(path), path / LOG]:
        file.unlink(missing_ok=True)
    for folder in (MANIFEST, *TABLES):
        sync_folder(path / folder)


def _own_ranks(path: Path) -> list[Path]:
    return [
        one for one in (path / RANKS).iterdir() if one.stem.isdigit() and one.suffix in (".json", ".part")
    ]


def _clean_run(path: Path) -> None:
    """Remove what a killed writer left, and from the manifests what the disk does not have.

    Warns:
        UserWarning: for a recorded shard that is missing or not of its size.
    """
    recorded: set[Path] = set()
    for file in manifest_files(path):
        content = file.read_bytes()
        whole, damaged = split_damaged(path, read_manifest(file))
        for record in damaged:
            warnings.warn(
                f"The shard {record.table}/{record.file} of {path} is missing or not of its recorded size; "
                f"its {record.rows} images will be done again.",
                stacklevel=3,
            )
        lines = "".join(f"{record.to_line()}\n" for record in whole).encode()
        if not lines:
            file.unlink()
        elif lines != content:
            replace_whole(file, lines, part=path / UNFINISHED / file.name)
        recorded |= {record.path(path) for record in whole}
    for shard in _shards(path):
        if shard not in recorded:
            shard.unlink()
    for folder in (MANIFEST, *TABLES):
        sync_folder(path / folder)
    for left in (path / UNFINISHED).iterdir():
        if left.name == RECORD or SHARD_NAME.fullmatch(left.name) or MANIFEST_NAME.fullmatch(left.name):
            left.unlink()
    for counters in _own_ranks(path):
        counters.unlink()
