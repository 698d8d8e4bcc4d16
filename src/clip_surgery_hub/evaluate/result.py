"""What an evaluation found, in one frozen object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_surgery_hub.evaluate.datasets import DataSet
from clip_surgery_hub.evaluate.intervals import intervals
from clip_surgery_hub.evaluate.metrics import Measurement
from clip_surgery_hub.evaluate.published import Published, published_for
from clip_surgery_hub.evaluate.tasks import Task, TaskOptions
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.files.durable import replace_whole
from clip_surgery_hub.results.settings import installed_versions

__all__ = ["Evaluation", "MetricValue", "evaluation_of"]


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """One metric of one variant.

    Attributes:
        variant: of the checkpoint.
        name: of the metric, as `metrics` calls it.
        value: in percent, thresholds as they are.
        low: lower end of the middle 95% over resamples of the images.
        high: upper end.
    """

    variant: Variant
    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        task: what.
        settings: what the metrics depend on, in plain values.
        images: how many were measured.
        class_names: T names.
        metrics: every metric of every variant.
        per_class: metric to T values by variant; NaN where a class does not occur.
        per_image: number of an image to how well it went, by variant; NaN where that is not known.
        published: metrics of publications for the same data and task.
    """

    task: Task
    settings: Mapping[str, Any]
    images: int
    class_names: tuple[str, ...]
    metrics: tuple[MetricValue, ...]
    per_class: Mapping[str, Mapping[str, Tensor]]
    per_image: Mapping[str, Mapping[int, float]]
    published: tuple[Published, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants that were measured, in order."""
        return tuple(dict.fromkeys(metric.variant for metric in self.metrics))

    def of(self, variant: Variant) -> dict[str, MetricValue]:
        """The metrics of one variant by name."""
        return {metric.name: metric for metric in self.metrics if metric.variant == variant}

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain values that JSON can hold; None stands for NaN."""
        return {
            "settings": dict(self.settings),
            "versions": installed_versions(),
            "images": self.images,
            "variants": {
                variant.name: {
                    "metrics": {
                        name: {
                            "value": _plain(metric.value),
                            "low": _plain(metric.low),
                            "high": _plain(metric.high),
                        }
                        for name, metric in self.of(variant).items()
                    },
                    "per_class": {
                        name: dict(zip(self.class_names, map(_plain, values.tolist()), strict=True))
                        for name, values in self.per_class[variant.name].items()
                    },
                }
                for variant in self.variants
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


def evaluation_of(
    measurements: Mapping[Variant, Measurement],
    task: Task,
    task_options: TaskOptions,
    dataset: DataSet,
    *,
    settings: Mapping[str, Any],
    images: int,
) -> Evaluation:
    """What was measured, with intervals and how well each image went.

    Args:
        measurements: by variant, in order.
        task: what was measured.
        task_options: what its metric had to know.
        dataset: where.
        settings: what the metrics depend on, in plain values.
        images: how many were measured, those without a row too.

    Raises:
        ValueError: no image counted.
    """
    metric = task.metric(task_options)
    metrics: list[MetricValue] = []
    for variant, found in measurements.items():
        ends = intervals(metric, found)
        metrics += [
            MetricValue(variant=variant, name=name, value=float(value), low=ends[name][0], high=ends[name][1])
            for name, value in found.values.items()
        ]
    if not metrics:
        raise ValueError(f"None of the {images} images of {dataset.title} shows a class to measure.")
    return Evaluation(
        task=task,
        settings=settings,
        images=images,
        class_names=dataset.classes.names,
        metrics=tuple(metrics),
        per_class={variant.name: found.per_class for variant, found in measurements.items()},
        per_image={
            variant.name: dict(
                zip(
                    found.numbers.tolist(),
                    metric.per_image(found.rows, len(found.numbers)).tolist(),
                    strict=True,
                )
            )
            for variant, found in measurements.items()
        },
        published=published_for(dataset.key, task.name),
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
