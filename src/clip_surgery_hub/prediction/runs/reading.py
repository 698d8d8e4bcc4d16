"""Tables of a run: what its manifests name, also while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_surgery_hub.files.lock import RunError
from clip_surgery_hub.prediction.runs.run_record import read_record
from clip_surgery_hub.prediction.runs.schema import errors_schema, images_schema
from clip_surgery_hub.prediction.runs.shard_records import is_as_recorded, read_manifests, split_damaged

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset


def read_run(run: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The explained images of a run as one table, a row each, in memory.

    Args:
        run: its folder. The run may still be running: rows that are recorded later are not in the table.
        columns: the names of those wanted, in this order; None for all. ``read_run(run).schema`` tells what
            they hold.

    Raises:
        RunError: for a folder that is no run, or a run in which a key is not unique.
        ValueError: for a column that there is not.

    Warns:
        UserWarning: for recorded shards that are missing or not of their size: their images are left out.
    """
    dataset = run_dataset(run)
    unknown = [name for name in columns or () if name not in dataset.schema.names]
    if unknown:
        raise ValueError(
            f"{run} has no column {unknown[0]!r}. Choose from {', '.join(dataset.schema.names)}."
        )
    chosen = dataset.schema.names if columns is None else list(columns)
    table = dataset.to_table(columns=[*chosen, *(["key"] if "key" not in chosen else [])])
    _check_unique(Path(run), table["key"])
    return table.select(chosen)


def run_dataset(run: str | Path) -> Dataset:
    """The explained images of a run as a dataset: nothing is read before it is asked for.

    Args:
        run: its folder. The run may still be running: shards that are recorded later are not in the dataset.

    Raises:
        RunError: for a folder that is no run.

    Warns:
        UserWarning: as :func:`read_run`.
    """
    return _dataset(Path(run), "images")


def read_errors(run: str | Path) -> pa.Table:
    """The images of a run that could not be explained: key, kind and message of each.

    Args:
        run: its folder; the run may still be running.

    Raises:
        RunError: for a folder that is no run.

    Warns:
        UserWarning: as :func:`read_run`.
    """
    return _dataset(Path(run), "errors").to_table()


def read_settings(run: str | Path) -> dict[str, Any]:
    """What a run was asked to do: the settings that it was opened with, ``"versions"`` among them.

    Raises:
        RunError: for a folder that is no run.
    """
    record = read_record(Path(run))
    return {**record.settings, "versions": record.versions}


def verify_run(run: str | Path) -> int:
    """Read every recorded shard again and compare its digest with the recorded one.

    Returns:
        The number of shards, all of which are what was written.

    Raises:
        RunError: for a folder that is no run, or shards that are missing or changed; names them.
    """
    run = Path(run)
    read_record(run)
    records = read_manifests(run)
    changed = [f"{one.table}/{one.file}" for one in records if not is_as_recorded(run, one)]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RunError(
            f"{len(changed)} of {len(records)} shards of {run} are not what was written: "
            f"{', '.join(changed[:5])}{more}. Remove these files and start the run's command again."
        )
    return len(records)


def _dataset(run: Path, table: str) -> Dataset:
    """The recorded shards of a table; the schema of a table without shards comes from the settings."""
    from pyarrow import dataset, parquet

    settings = read_record(run).settings
    whole, damaged = split_damaged(run, (one for one in read_manifests(run) if one.table == table))
    if damaged:
        warnings.warn(
            f"{len(damaged)} recorded shards of {run} are missing or not of their size, {table}/"
            f"{damaged[0].file} first; they are left out. Start the run's command again: their images will "
            "be done again.",
            stacklevel=3,
        )
    if whole:
        paths = [str(one.path(run)) for one in whole]
        return dataset.dataset(paths, schema=parquet.read_schema(paths[0]), format="parquet")
    if table == "errors":
        return dataset.dataset(errors_schema().empty_table())
    if not settings.get("texts"):
        raise RunError(f"{run} has no image yet, and its settings name no texts. Wait for the first shard.")
    schema = images_schema(
        settings.get("outputs", ()),
        texts=settings["texts"],
        background=settings.get("background", ()),
        width=settings.get("width"),
    )
    return dataset.dataset(schema.empty_table())


def _check_unique(run: Path, keys: pa.ChunkedArray) -> None:
    from pyarrow import compute

    if len(compute.unique(keys)) == len(keys):
        return
    counted = keys.value_counts()
    several = counted.filter(compute.greater(counted.field("counts"), 1)).field("values")
    raise RunError(
        f"{len(several)} keys are in {run} more than once, {several[0].as_py()!r} first. Name every image "
        "once, and begin anew in another folder."
    )
