"""What an evaluation found, computed from the rows that are on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_surgery_hub.evaluate.datasets import DataSet
from clip_surgery_hub.evaluate.intervals import intervals
from clip_surgery_hub.evaluate.metrics import RowMetric
from clip_surgery_hub.evaluate.parts import EvaluationFolder
from clip_surgery_hub.evaluate.published import Published, published_for
from clip_surgery_hub.evaluate.recorder import add_rows_of
from clip_surgery_hub.evaluate.tasks import Setting, Task
from clip_surgery_hub.evaluate.variants import Reading
from clip_surgery_hub.files.durable import replace_whole
from clip_surgery_hub.results.settings import installed_versions

__all__ = ["Evaluation", "Figure", "measured"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of one reading.

    Attributes:
        reading: what was read.
        name: of the figure, see the metrics.
        value: in percent, thresholds as they are.
        low: lower end of the middle 95% over resamples of the pictures.
        high: upper end.
    """

    reading: Reading
    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        task: what.
        settings: what the figures depend on, in plain values.
        pictures: how many were measured.
        class_names: T names.
        figures: every figure of every reading.
        per_class: figure to T values by reading; NaN where a class does not occur.
        per_picture: number of a picture to how well it went, by reading; NaN where that is not known.
        published: figures of publications for the same data and task.
    """

    task: Task
    settings: Mapping[str, Any]
    pictures: int
    class_names: tuple[str, ...]
    figures: tuple[Figure, ...]
    per_class: Mapping[str, Mapping[str, Tensor]]
    per_picture: Mapping[str, Mapping[int, float]]
    published: tuple[Published, ...]

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What was read, in order."""
        return tuple(dict.fromkeys(figure.reading for figure in self.figures))

    def of(self, reading: Reading) -> dict[str, Figure]:
        """The figures of one reading by name."""
        return {figure.name: figure for figure in self.figures if figure.reading == reading}

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain values that JSON can hold; None stands for NaN."""
        return {
            "settings": dict(self.settings),
            "versions": installed_versions(),
            "pictures": self.pictures,
            "readings": {
                reading.name: {
                    "figures": {
                        name: {
                            "value": _plain(figure.value),
                            "low": _plain(figure.low),
                            "high": _plain(figure.high),
                        }
                        for name, figure in self.of(reading).items()
                    },
                    "per_class": {
                        name: dict(zip(self.class_names, map(_plain, values.tolist()), strict=True))
                        for name, values in self.per_class[reading.name].items()
                    },
                }
                for reading in self.readings
            },
            "published": [one.to_dict() for one in self.published],
        }

    def save(self, folder: Path) -> Path:
        """Write `results.json` into a folder, whole or not at all; its path.

        Raises:
            OSError: it cannot be written.
        """
        path = folder / "results.json"
        content = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        replace_whole(path, content.encode(), part=folder / ".results.json")
        return path


def measured(
    folder: EvaluationFolder,
    task: Task,
    setting: Setting,
    readings: Sequence[Reading],
    dataset: DataSet,
    *,
    pictures: range,
) -> Evaluation:
    """The figures of everything that a folder has recorded of these pictures.

    Raises:
        ValueError: a part is damaged, or no picture counted.
    """
    done, parts = folder.read()
    metrics = {reading: task.metric(setting) for reading in readings}
    for rows in parts:
        for reading, metric in metrics.items():
            add_rows_of(metric, rows[reading.name], pictures)
    figures: list[Figure] = []
    for reading, metric in metrics.items():
        figures += _figures(reading, metric)
    if not figures:
        raise ValueError(f"None of the {len(pictures)} pictures of {dataset.title} shows a class to measure.")
    return Evaluation(
        task=task,
        settings=folder.settings,
        pictures=len(done.intersection(pictures)),
        class_names=dataset.classes.names,
        figures=tuple(figures),
        per_class={reading.name: metric.per_class(setting.classes) for reading, metric in metrics.items()},
        per_picture={
            reading.name: dict(zip(metric.pictures().tolist(), metric.per_picture().tolist(), strict=True))
            for reading, metric in metrics.items()
        },
        published=published_for(dataset.key, task.name),
    )


def _figures(reading: Reading, metric: RowMetric) -> list[Figure]:
    ends = intervals(metric)
    return [
        Figure(reading=reading, name=name, value=float(value), low=ends[name][0], high=ends[name][1])
        for name, value in metric.figures().items()
    ]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
