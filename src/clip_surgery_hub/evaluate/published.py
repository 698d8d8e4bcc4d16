"""Metrics of publications, to stand beside those that are measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["Published", "published_for"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published metric.

    Attributes:
        dataset: key of the data set.
        task: name of the task.
        metric: its name, as the metric of the task calls it.
        method: name of the method.
        model: the architecture, such as "ViT-B/16".
        value: in percent.
        source: the publication.
        note: what is particular about its protocol, or empty.
    """

    dataset: str
    task: str
    metric: str
    method: str
    model: str
    value: float
    source: str
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def published_for(dataset: str, task: str) -> tuple[Published, ...]:
    """The published metrics for a data set and a task, none for most."""
    return tuple(one for one in _published() if (one.dataset, one.task) == (dataset, task))


@cache
def _published() -> tuple[Published, ...]:
    text = files("clip_surgery_hub").joinpath("assets", "published.json").read_text(encoding="utf-8")
    return tuple(Published(**one) for one in json.loads(text)["metrics"])
