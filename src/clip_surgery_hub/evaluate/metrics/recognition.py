"""Multi-label recognition: which classes an image shows, ranked over the images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

from clip_surgery_hub.evaluate.metrics.row_metric import MetricValues, RowMetric
from clip_surgery_hub.evaluate.truth import Prediction, Truth

__all__ = ["RecognitionMetric"]


class RecognitionMetric(RowMetric):
    """Mean average precision over the classes that any image shows, in percent (``mAP``).

    Args:
        classes: T.
    """

    def __init__(self, *, classes: int) -> None:
        columns = {"scores": (torch.float32, (classes,)), "labels": (torch.bool, (classes,))}
        super().__init__(columns, classes=classes)

    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Keep the image's scores."""
        self.add_rows(
            {
                "image": torch.tensor([truth.index], device=prediction.scores.device),
                "scores": prediction.scores[None].float(),
                "labels": truth.labels[None].to(prediction.scores.device),
            }
        )

    def resampled(self, rows: Mapping[str, Tensor], counts: Tensor) -> MetricValues:
        """See the class; copies of an image have one score, so they share a threshold.

        A class counts in a resample where it is shown in it.
        """
        total = torch.zeros(len(counts), dtype=torch.float64, device=counts.device)
        shown_classes = torch.zeros_like(total)
        for number in rows["labels"].any(0).nonzero()[:, 0].tolist():
            precision = _average_precision(rows["scores"][:, number], rows["labels"][:, number], counts)
            shown_classes += precision.isfinite()
            total += precision.nan_to_num(0)
        return {"mAP": 100 * total / shown_classes}

    def summary(self, rows: Mapping[str, Tensor], images: int) -> tuple[MetricValues, MetricValues]:
        """The mean of the classes' average precision by torchmetrics; it is NaN for a class never shown."""
        shown = rows["labels"].any(0)
        precisions = torch.full((self.classes,), torch.nan, dtype=torch.float64, device=shown.device)
        if shown.any():
            # In double precision the sigmoid that torchmetrics takes of scores keeps their order.
            precisions[shown] = multilabel_average_precision(
                rows["scores"][:, shown].double().sigmoid(),
                rows["labels"][:, shown].int(),
                num_labels=int(shown.sum()),
                average="none",
            ).double()
        precisions = 100 * precisions
        known = precisions[precisions.isfinite()]
        return {"mAP": known.mean()} if len(known) else {}, {"AP": precisions}

    def per_image(self, rows: Mapping[str, Tensor], images: int) -> Tensor:
        """Average precision of each image's classes by their scores, in percent; NaN for none or all."""
        found = []
        for scores, labels in zip(rows["scores"], rows["labels"], strict=True):
            one = torch.ones(1, len(scores), dtype=torch.float64, device=scores.device)
            found.append(_average_precision(scores, labels, one)[0])
        return 100 * torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def _average_precision(scores: Tensor, shown: Tensor, counts: Tensor) -> Tensor:
    """Mean over the shown copies of the precision at their score; NaN where none is shown.

    Args:
        scores: ``[B]``.
        shown: bool ``[B]``.
        counts: how often each is there, ``[R, B]``.

    Returns:
        ``[R]``.
    """
    levels, level = scores.unique(return_inverse=True)
    down = len(levels) - 1 - level  # 0 for the highest score
    of_level = torch.zeros(len(counts), len(levels), dtype=counts.dtype, device=counts.device)
    right = of_level.index_add(1, down, counts * shown)  # [R, levels]
    taken = of_level.index_add(1, down, counts)
    precision = right.cumsum(1) / taken.cumsum(1).clamp(min=1)
    return (right * precision).sum(1) / right.sum(1)
