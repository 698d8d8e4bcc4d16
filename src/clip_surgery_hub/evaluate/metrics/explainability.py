"""How well maps show where things are: the paper's explainability metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clip_surgery_hub.evaluate.metrics.row_metric import MetricValues, RowMetric, mean_by
from clip_surgery_hub.evaluate.truth import Prediction, Truth
from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.functional.measures import contrasts, peaks_on_mask, threshold_overlaps

__all__ = ["STEPS", "ExplanationMetric"]

STEPS = 100
"""Thresholds of a map lie at 0, 1/100, ... 99/100."""


class ExplanationMetric(RowMetric):
    """Overlap, contrast and peak of the maps of the classes that an image shows.

    Every class that an image shows is a map of its own, the class as foreground, all other valid pixels as
    background. Metrics, in percent:

    - ``mIoU``: mean over the maps of the intersection over union at the one threshold that is best for all of
      them (the paper's grid search);
    - ``threshold``: that threshold;
    - ``mIoU, own threshold``: the same with the best threshold of each map;
    - ``mSC``: heat inside minus heat outside, mean over the maps of an image, then over images;
    - ``pointing``: share of the maps whose highest pixel lies on the class.

    Args:
        classes: T.
        background: number of the background class, which is not looked for; None where there is none.
    """

    def __init__(self, *, classes: int, background: int | None = None) -> None:
        one = (torch.float64, ())
        super().__init__(
            {
                "label": (torch.int64, ()),
                "overlap": (torch.float32, (STEPS,)),
                "contrast": one,
                "peak": one,
            },
            classes=classes,
        )
        self.background = background

    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Make the maps of the classes that the image shows, at its own size, and measure them."""
        numbers, masks, valid = truth.objects(self.background)
        if not len(numbers):
            return
        chosen = prediction.similarity[numbers]
        grid = (chosen.shape[1], chosen.shape[2])
        size = (valid.shape[0], valid.shape[1])
        (maps,) = similarity_map(chosen.flatten(1).T[None], grid, size)
        thresholds = torch.arange(STEPS, device=maps.device) / STEPS
        shared, union = threshold_overlaps(maps, masks, valid, thresholds)
        self.add_rows(
            {
                "image": torch.full_like(numbers, truth.index),
                "label": numbers,
                "overlap": (shared / union.clamp(min=1)).float(),
                "contrast": contrasts(maps, masks, valid),
                "peak": peaks_on_mask(maps, masks, valid).double(),
            }
        )

    def resampled(self, rows: Mapping[str, Tensor], counts: Tensor) -> MetricValues:
        """See the class."""
        image, overlap = rows["image"], rows["overlap"].double()
        weights = counts[:, image]  # [R, M]
        maps = weights.sum(1)
        best, step = (weights @ overlap / maps[:, None]).max(1)
        contrast = rows["contrast"]
        known = contrast.isfinite()  # a class that fills its image has no outside
        means = mean_by(contrast[known], image[known], counts.shape[1])
        measured = counts[:, means.isfinite()]
        return {
            "mIoU": 100 * best,
            "threshold": step.double() / STEPS,
            "mIoU, own threshold": 100 * (weights @ overlap.amax(1)) / maps,
            "mSC": 100 * (measured @ means[means.isfinite()]) / measured.sum(1),
            "pointing": 100 * (weights @ rows["peak"]) / maps,
        }

    def summary(self, rows: Mapping[str, Tensor], images: int) -> tuple[MetricValues, MetricValues]:
        """The metrics, and those of each class over its own maps, at the threshold that is best for all."""
        values = self.over_all(rows, images)
        label, step = rows["label"], round(float(values["threshold"]) * STEPS)
        contrast, known = rows["contrast"], rows["contrast"].isfinite()
        return values, {
            "IoU": 100 * mean_by(rows["overlap"][:, step], label, self.classes),
            "IoU, own threshold": 100 * mean_by(rows["overlap"].amax(1), label, self.classes),
            "SC": 100 * mean_by(contrast[known], label[known], self.classes),
            "pointing": 100 * mean_by(rows["peak"], label, self.classes),
        }

    def per_image(self, rows: Mapping[str, Tensor], images: int) -> Tensor:
        """Mean overlap of an image's maps, each at its best threshold, in percent."""
        return 100 * mean_by(rows["overlap"].amax(1), rows["image"], images)
