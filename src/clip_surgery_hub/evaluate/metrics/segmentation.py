"""Open-vocabulary segmentation: overlap of the classes over the whole data set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clip_surgery_hub.evaluate.metrics.row_metric import MetricValues, RowMetric
from clip_surgery_hub.evaluate.truth import Prediction, Truth
from clip_surgery_hub.functional import highest_text
from clip_surgery_hub.functional.measures import class_overlaps

__all__ = ["SegmentationMetric"]

CANDIDATES = {"mIoU": "all_classes", "mIoU, image's classes": "own_classes"}
"""Which classes compete for a pixel, in two ways, as the paper has it: metrics and their columns."""


class SegmentationMetric(RowMetric):
    """Mean intersection over union of the classes; overlap and union are summed over all images first.

    Metrics, in percent:

    - ``mIoU``: all classes compete for each pixel;
    - ``mIoU, image's classes``: only those that the image shows;
    - ``pixels right``: share of the valid pixels, all classes competing.

    A class counts where it occurs in truth or prediction, as in torchmetrics' Jaccard index.

    Args:
        classes: T.
    """

    def __init__(self, *, classes: int) -> None:
        shape = (torch.int32, (3, classes))
        super().__init__({"all_classes": shape, "own_classes": shape}, classes=classes)

    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Segment the image at its own size, twice."""
        assert truth.segmentation is not None
        fact, similarity = truth.segmentation, prediction.similarity
        size = (fact.shape[0], fact.shape[1])
        own = fact.unique()
        own = own[own >= 0]
        everything = highest_text(similarity, size)
        among_own = own[highest_text(similarity[own], size)] if len(own) else everything
        self.add_rows(
            {
                "image": torch.tensor([truth.index], device=fact.device),
                "all_classes": class_overlaps(everything, fact, self.classes)[None].int(),
                "own_classes": class_overlaps(among_own, fact, self.classes)[None].int(),
            }
        )

    def resampled(self, rows: Mapping[str, Tensor], counts: Tensor) -> MetricValues:
        """See the class."""
        # An image has one row, so the rows are the images.
        found: MetricValues = {}
        for name, column in CANDIDATES.items():
            both, predicted, true = (counts @ part.double() for part in rows[column].unbind(1))  # [R, T]
            found[name] = 100 * _jaccard(both, predicted, true).nanmean(1)
            if column == "all_classes":
                right = 100 * both.sum(1) / true.sum(1)
        return {**found, "pixels right": right}

    def summary(self, rows: Mapping[str, Tensor], images: int) -> tuple[MetricValues, MetricValues]:
        """The metrics, and the overlap of each class over the data set, in both ways."""
        return self.over_all(rows, images), {
            name.replace("mIoU", "IoU"): 100 * _jaccard(*rows[column].double().sum(0).unbind(0))
            for name, column in CANDIDATES.items()
        }

    def per_image(self, rows: Mapping[str, Tensor], images: int) -> Tensor:
        """Share of each image's valid pixels that are right, all classes competing, in percent."""
        both, _, true = rows["all_classes"].double().sum(2).unbind(1)
        return 100 * both / true


def _jaccard(both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """Intersection over union; NaN where a class does not occur."""
    union: Tensor = predicted + true - both
    return torch.where(union > 0, both / union.clamp(min=1), torch.nan)
