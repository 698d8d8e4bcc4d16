"""The best and the worst pictures of an evaluation: what is there, and what the reading makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.evaluate.datasets import DataSet
from clip_surgery_hub.evaluate.evaluator import SurgeryEvaluator
from clip_surgery_hub.evaluate.result import Evaluation
from clip_surgery_hub.evaluate.variants import Reading
from clip_surgery_hub.functional import highest_text, similarity_map
from clip_surgery_hub.images.image_transform import PictureReading
from clip_surgery_hub.images.masks import palette
from clip_surgery_hub.plotting.heatmaps import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

__all__ = ["Case", "draw_cases", "extreme_cases"]

_MAPS = 3
"""Maps drawn of a picture at most."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture of an evaluation.

    Attributes:
        index: its number in the data set.
        value: how well it went, in percent.
    """

    index: int
    value: float


def extreme_cases(evaluation: Evaluation, reading: Reading, count: int) -> tuple[list[Case], list[Case]]:
    """The best and the worst pictures of a reading, the extreme ones first; none is both."""
    values = evaluation.per_picture[reading.name]
    ranked = sorted(
        (Case(index=index, value=value) for index, value in values.items() if math.isfinite(value)),
        key=lambda case: (-case.value, case.index),
    )
    half = min(count, len(ranked) // 2)
    return ranked[:half], ranked[::-1][:half]


def draw_cases(
    cases: list[Case],
    evaluator: SurgeryEvaluator,
    reading: Reading,
    dataset: DataSet,
    pictures: PictureReading,
) -> Drawing:
    """A row per case: the picture, its truth, and what the reading makes of it.

    Args:
        cases: see :func:`extreme_cases`; at least one.
        evaluator: that measured them.
        reading: one of its readings.
        dataset: where they come from.
        pictures: how they are read.
    """
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(2.2 * (_MAPS + 2), 2.6 * len(cases)))
    drawing.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.16 / len(cases), wspace=0.05, hspace=0.25)
    grid = drawing.subplots(len(cases), _MAPS + 2, squeeze=False)
    for axes, case in zip(grid, cases, strict=True):
        for one in axes:
            one.set_axis_off()
        _draw_case(axes, case, evaluator, reading, dataset, pictures)
    return drawing


def _draw_case(
    axes: np.ndarray,
    case: Case,
    evaluator: SurgeryEvaluator,
    reading: Reading,
    dataset: DataSet,
    pictures: PictureReading,
) -> None:
    sample, names = dataset.sample(case.index), dataset.classes.names
    picture = np.asarray(sample.picture)
    scores, similarity = evaluator.similarity_of(pictures.read(sample.picture)[0], reading)
    _show(axes[0], picture, f"{sample.name}\n{case.value:.1f}%")
    size = (picture.shape[0], picture.shape[1])
    shown = [int(number) for number in np.flatnonzero(sample.labels) if number != dataset.classes.background]
    if sample.segmentation is None:
        best = scores.argsort(descending=True)[: max(5, len(shown))].tolist()
        told = [f"{'+' if number in shown else '-'} {names[number]}" for number in best]
        axes[1].text(0, 0.95, "shown:\n" + "\n".join(names[one] for one in shown), va="top", fontsize=8)
        axes[2].text(0, 0.95, "highest:\n" + "\n".join(told), va="top", fontsize=8)
        return
    truth = torch.from_numpy(sample.segmentation.astype(np.int64))
    colours = palette(len(names))
    _show(axes[1], _coloured(picture, truth, colours), "truth")
    if evaluator.task.name == "segment":
        own = truth.unique()
        own = own[own >= 0]
        _show(axes[2], _coloured(picture, highest_text(similarity, size), colours), "all classes")
        if len(own):
            among = own[highest_text(similarity[own], size)]
            _show(axes[3], _coloured(picture, among, colours), "picture's classes")
        return
    if not shown:
        return
    grid = (similarity.shape[1], similarity.shape[2])
    (maps,) = similarity_map(similarity[shown].flatten(1).T[None], grid, size)
    for place, number, heat in zip(axes[2:], shown, maps, strict=False):
        _show(place, overlay(picture, heat), names[number])


def _coloured(picture: np.ndarray, numbers: Tensor, colours: np.ndarray) -> np.ndarray:
    """Classes in colour over the grey picture; void and no class stay grey."""
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    known = (numbers >= 0).numpy()
    mixed = np.where(known[..., None], 0.35 * grey + 0.65 * colours[numbers.clamp(min=0).numpy()], grey)
    return np.rint(mixed).astype(np.uint8)


def _show(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title, fontsize=8)
