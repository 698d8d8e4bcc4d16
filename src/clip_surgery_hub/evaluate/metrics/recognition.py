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
        super().__init__({"scores": (torch.float32, (classes,)), "labels": (torch.bool, (classes,))})
        self.classes = classes

    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Keep the image's scores."""
        self.add_rows(
            {
                "image": torch.tensor([truth.index], device=prediction.scores.device),
                "scores": prediction.scores[None].float(),
                "labels": truth.labels[None].to(prediction.scores.device),
            }
        )

    def values(self) -> MetricValues:
        """See the class; by torchmetrics."""
        precisions = self.per_class(self.classes)["AP"]
        known = precisions[precisions.isfinite()]
        return {"mAP": known.mean()} if len(known) else {}

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

    def per_class(self, classes: int) -> MetricValues:
        """The average precision of each class; NaN for one that no image shows."""
        rows = self.rows()
        shown = rows["labels"].any(0)
        found = torch.full((classes,), torch.nan, dtype=torch.float64, device=shown.device)
        if shown.any():
            # In double precision the sigmoid that torchmetrics takes of scores keeps their order.
            found[shown] = multilabel_average_precision(
                rows["scores"][:, shown].double().sigmoid(),
                rows["labels"][:, shown].int(),
                num_labels=int(shown.sum()),
                average="none",
            ).double()
        return {"AP": 100 * found}

    def per_image(self) -> Tensor:
        """Average precision of each image's classes by their scores, in percent; NaN for none or all."""
        rows = self.rows()
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
