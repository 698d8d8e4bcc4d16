"""The best and the worst images of an evaluation: what is there, and what the variant makes of it."""

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
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.functional import highest_text, similarity_map
from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.masks import palette
from clip_surgery_hub.plotting.heatmaps import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Case", "draw_cases", "extreme_cases"]

_MAPS = 3
"""Maps drawn of an image at most."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image of an evaluation.

    Attributes:
        index: its number in the data set.
        value: how well it went, in percent.
    """

    index: int
    value: float


def extreme_cases(evaluation: Evaluation, variant: Variant, count: int) -> tuple[list[Case], list[Case]]:
    """The best and the worst images of a variant, the extreme ones first; none is both."""
    values = evaluation.per_image[variant.name]
    ranked = sorted(
        (Case(index=index, value=value) for index, value in values.items() if math.isfinite(value)),
        key=lambda case: (-case.value, case.index),
    )
    half = min(count, len(ranked) // 2)
    return ranked[:half], ranked[::-1][:half]


def draw_cases(
    cases: list[Case],
    evaluator: SurgeryEvaluator,
    variant: Variant,
    dataset: DataSet,
    image_transform: ImageTransform,
) -> Figure:
    """A row per case: the image, its truth, and what the variant makes of it.

    Args:
        cases: see :func:`extreme_cases`; at least one.
        evaluator: that measured them.
        variant: one of its variants.
        dataset: where they come from.
        image_transform: how images are read.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * (_MAPS + 2), 2.6 * len(cases)))
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.16 / len(cases), wspace=0.05, hspace=0.25)
    grid = figure.subplots(len(cases), _MAPS + 2, squeeze=False)
    for axes, case in zip(grid, cases, strict=True):
        for one in axes:
            one.set_axis_off()
        _draw_case(axes, case, evaluator, variant, dataset, image_transform)
    return figure


def _draw_case(
    axes: np.ndarray,
    case: Case,
    evaluator: SurgeryEvaluator,
    variant: Variant,
    dataset: DataSet,
    image_transform: ImageTransform,
) -> None:
    sample, names = dataset.sample(case.index), dataset.classes.names
    image = np.asarray(sample.image)
    scores, similarity = evaluator.similarity_of(image_transform.read(sample.image)[0], variant)
    _show(axes[0], image, f"{sample.name}\n{case.value:.1f}%")
    size = (image.shape[0], image.shape[1])
    shown = [int(number) for number in np.flatnonzero(sample.labels) if number != dataset.classes.background]
    if sample.segmentation is None:
        best = scores.argsort(descending=True)[: max(5, len(shown))].tolist()
        told = [f"{'+' if number in shown else '-'} {names[number]}" for number in best]
        axes[1].text(0, 0.95, "shown:\n" + "\n".join(names[one] for one in shown), va="top", fontsize=8)
        axes[2].text(0, 0.95, "highest:\n" + "\n".join(told), va="top", fontsize=8)
        return
    truth = torch.from_numpy(sample.segmentation.astype(np.int64))
    colors = palette(len(names))
    _show(axes[1], _colored(image, truth, colors), "truth")
    if evaluator.task.name == "segment":
        own = truth.unique()
        own = own[own >= 0]
        _show(axes[2], _colored(image, highest_text(similarity, size), colors), "all classes")
        if len(own):
            among = own[highest_text(similarity[own], size)]
            _show(axes[3], _colored(image, among, colors), "image's classes")
        return
    if not shown:
        return
    grid = (similarity.shape[1], similarity.shape[2])
    (maps,) = similarity_map(similarity[shown].flatten(1).T[None], grid, size)
    for place, number, heat in zip(axes[2:], shown, maps, strict=False):
        _show(place, overlay(image, heat), names[number])


def _colored(image: np.ndarray, numbers: Tensor, colors: np.ndarray) -> np.ndarray:
    """Classes in color over the gray image; void and no class stay gray."""
    gray = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    known = (numbers >= 0).numpy()
    mixed = np.where(known[..., None], 0.35 * gray + 0.65 * colors[numbers.clamp(min=0).numpy()], gray)
    return np.rint(mixed).astype(np.uint8)


def _show(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=8)
