"""What a run left in its folder: all of it to be removed, or only what a crash left there."""

from __future__ import annotations

import warnings
from pathlib import Path

from clip_surgery_hub.files.durable import replace_whole, sync_folder
from clip_surgery_hub.prediction.runs.run_files import (
    FILES,
    FOLDERS,
    LOG,
    MANIFEST,
    RANKS,
    RECORD,
    TABLES,
    UNFINISHED,
    manifest_origin,
    shard_origin,
)
from clip_surgery_hub.prediction.runs.shard_records import (
    manifest_files,
    read_manifest,
    split_damaged,
)


def foreign_files(path: Path) -> list[str]:
    """What is in a folder without ``run.json`` that no run would have left there when it was killed early."""
    top = [one.name for one in path.iterdir() if one.name not in (*FILES, *FOLDERS)]
    inner = [
        f"{name}/{one.name}"
        for name in (*TABLES, MANIFEST)
        if (path / name).is_dir()
        for one in (path / name).iterdir()
    ]
    return sorted(top) + sorted(inner)


def make_folders(path: Path) -> None:
    """Create what is missing of the folders of a run."""
    path.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (path / name).mkdir(exist_ok=True)
    sync_folder(path)
    sync_folder(path.absolute().parent)


def _shards(path: Path) -> list[Path]:
    """All files in the folders of the tables that a run wrote, recorded or not."""
    return [one for table in TABLES for one in (path / table).iterdir() if shard_origin(one.name)]


def remove_run(path: Path) -> None:
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


def clean_run(path: Path) -> None:
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
        if left.name == RECORD or shard_origin(left.name) or manifest_origin(left.name):
            left.unlink()
    for counters in _own_ranks(path):
        counters.unlink()
