"""Datasets of the package ``datasets``: in memory or on disk, and streamed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from clip_surgery_hub.prediction.sources.columns import (
    choose_columns,
    content_of,
    key_of,
    needed,
    with_columns,
)
from clip_surgery_hub.prediction.sources.source import (
    ROWS_AT_ONCE,
    ListedSource,
    Part,
    Source,
    StreamedSource,
    UniqueKeys,
    refuse_duplicates,
)


def is_dataset(data: Any) -> bool:
    """Whether it is an object of the package ``datasets``, found out without loading that."""
    return any(kind.__module__.partition(".")[0] == "datasets" for kind in type(data).__mro__)


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def open_dataset(data: Any, *, column: str | None = None, key: str | None = None) -> Source:
    """A source of a ``Dataset``, an ``IterableDataset``, or the folder of a saved ``Dataset``.

    Raises:
        ImportError: if ``datasets`` is not installed.
        ValueError: for several splits at once, or a column that is not there.
    """
    datasets = needed("datasets", "Hugging Face's data sets")
    description = "data set"
    if isinstance(data, Path):
        description = f"data set {data.absolute()}"
        data = datasets.load_from_disk(str(data))
    elif isinstance(data, datasets.Dataset | datasets.IterableDataset):
        parts = (data.info.dataset_name, data.info.config_name, data.split)
        description = " ".join(["data set", *(str(part) for part in parts if part)])
    if isinstance(data, dict) and len(data) == 1:
        (data,) = data.values()  # a single split
    if isinstance(data, datasets.Dataset):
        return DatasetSource(data, description=description, column=column, key=key)
    if isinstance(data, datasets.IterableDataset):
        return IterableDatasetSource(data, description=description, column=column, key=key)
    splits = ", ".join(map(repr, data)) if isinstance(data, dict) else type(data).__name__
    raise ValueError(f"The {description} has several splits ({splits}); give one of them.")


class DatasetSource(ListedSource):
    """The rows of a ``datasets.Dataset``; images are not decoded by it.

    Keys are those of the key column, else the numbers of the rows.

    Raises:
        ValueError: for a column that is not there, a key that is missing or comes twice, or no row at all.
    """

    def __init__(
        self, dataset: Any, *, description: str, column: str | None = None, key: str | None = None
    ) -> None:
        description = f"{description}, {len(dataset)} rows"
        self._column, self._key = _columns(dataset, column, key, description)
        self._images = _undecoded(dataset, self._column, [self._column])
        if not len(dataset):
            raise ValueError(f"The {description} has no row. Give one row per image.")
        if self._key is not None:
            self._keys = dataset.select_columns([self._key]).with_format("arrow")
            refuse_duplicates(self.keys, description)
        self.description = with_columns(description, self._column, self._key)

    def count(self) -> int:
        """How many rows there are."""
        return len(self._images)

    def keys(self, first: int = 0) -> Iterator[str]:
        """The keys in the order of the rows, from a row on."""
        if self._key is None:
            yield from map(str, range(first, self.count()))
            return
        row = first
        for table in self._keys.skip(first).iter(ROWS_AT_ONCE):
            for value in table.column(0).to_pylist():
                yield key_of(value, self._key, f"Row {row} of the data set")
                row += 1

    def contents(self) -> Callable[[int], Any]:
        """From rows to paths or bytes; relative paths begin in the working folder."""
        return lambda row: content_of(self._images[row][self._column], Path())


class IterableDatasetSource(StreamedSource):
    """The rows of a ``datasets.IterableDataset``; its own shards are the parts that are dealt out.

    Keys are those of the key column, else the numbers of the rows in their shard; with several shards, the
    number of the shard and "/" come before them. What ``take`` and ``skip`` leave is dealt out by `datasets`
    among the shards, as it does for the workers of a data loader.

    Raises:
        ValueError: for a column that is not there, or no row at all.
    """

    def __init__(
        self, dataset: Any, *, description: str, column: str | None = None, key: str | None = None
    ) -> None:
        self._column, self._key = _columns(dataset, column, key, description)
        chosen = [self._column, *([] if self._key in (None, self._column) else [self._key])]
        self._rows = _undecoded(dataset, self._column, chosen)
        self.description = with_columns(f"streamed {description}", self._column, self._key)

    def parts(self) -> int:
        """How many shards the dataset has."""
        return int(self._rows.num_shards)

    def part(self, number: int) -> Part:
        """The rows of a shard."""
        shards = self.parts()
        shard = self._rows.shard(num_shards=shards, index=number) if shards > 1 else self._rows
        before = f"{number}/" if shards > 1 else ""
        unique = UniqueKeys()
        # Not the dataset's plain iteration: that splits itself once more among the workers of a data loader.
        for row, batch in enumerate(shard.iter(batch_size=1)):
            if self._key is None:
                key = f"{before}{row}"
            else:
                value = batch[self._key][0]
                key = unique(before + key_of(value, self._key, f"Row {row} of the data set"))
            yield key, partial(content_of, batch[self._column][0], Path())


def _columns(dataset: Any, column: str | None, key: str | None, source: str) -> tuple[str, str | None]:
    """The columns chosen, the first one of images by its type where there is one."""
    datasets = needed("datasets", "Hugging Face's data sets")
    features = dataset.features
    if features is None:
        first = next(iter(dataset.with_format(None).iter(batch_size=1)), None)
        if first is None:
            raise ValueError(f"The {source} has no row. Give one row per image.")
        return choose_columns(list(first), column, key, source=source)
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return choose_columns(list(features), column or next(iter(typed), None), key, source=source)


def _undecoded(dataset: Any, column: str, chosen: list[str]) -> Any:
    """The dataset with the chosen columns only, as plain values, with images as they are stored."""
    datasets = needed("datasets", "Hugging Face's data sets")
    plain = dataset.with_format(None).select_columns(chosen)
    if dataset.features is not None and isinstance(dataset.features[column], datasets.Image):
        plain = plain.cast_column(column, datasets.Image(decode=False))
    return plain
