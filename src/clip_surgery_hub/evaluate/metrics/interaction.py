"""Text to points to masks: whether the points are right, and what SAM makes of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clip_surgery_hub.evaluate.metrics.row_metric import MetricValues, RowMetric, mean_by
from clip_surgery_hub.evaluate.truth import Prediction, Truth
from clip_surgery_hub.functional import similarity_map, similarity_to_points
from clip_surgery_hub.results.explanation import Points
from clip_surgery_hub.sam.backends import Sam
from clip_surgery_hub.sam.masks import masks_at

__all__ = ["InteractionMetric"]

SIDES = ("positive", "negative")
"""Points on a class, and points beside it."""


class InteractionMetric(RowMetric):
    """Accuracy of the points of each class that an image shows, and overlap of SAM's masks at them.

    Metrics, in percent:

    - ``positive points``: share of the positive points that lie on their class, of all of them;
    - ``positive points, mean of the maps``: the share of each map's points first;
    - ``negative points``: share of the negative points that lie off their class;
    - ``mask IoU``: mean over the maps of the overlap of the class with the mask of SAM's highest score;
    - ``mask IoU, by agreement``: with the mask that agrees best with the map.

    Points on pixels that are void are not counted.

    Args:
        classes: T.
        sam: see `sam.masks`; None leaves the masks and their metrics out.
        background: number of the background class, which is not looked for; None where there is none.
    """

    def __init__(self, *, classes: int, sam: Sam | None, background: int | None = None) -> None:
        one = (torch.float64, ())
        counted = ("positive", "positive_right", "negative", "negative_right", "by_score", "by_agreement")
        super().__init__({"label": (torch.int64, ()), **dict.fromkeys(counted, one)}, classes=classes)
        self.sam = sam
        self.background = background

    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Ask SAM for the classes that the image shows, at the points of their maps."""
        numbers, masks, valid = (part.cpu() for part in truth.objects(self.background))
        if not len(numbers):
            return
        chosen = prediction.similarity.cpu()[numbers]
        grid, size = (chosen.shape[1], chosen.shape[2]), (valid.shape[0], valid.shape[1])
        points = [Points(*similarity_to_points(one.flatten(), grid, size)) for one in chosen]
        overlaps = {"by_score": torch.full((len(numbers),), torch.nan).double()}
        overlaps["by_agreement"] = overlaps["by_score"]
        if self.sam is not None:
            (heat,) = similarity_map(chosen.flatten(1).T[None], grid, size)
            by_score, by_agreement = masks_at(truth.image, points, self.sam, heat)
            overlaps = {
                "by_score": _overlaps(by_score, masks, valid),
                "by_agreement": _overlaps(by_agreement, masks, valid),
            }
        counted = torch.tensor([_counted(*pair, valid) for pair in zip(points, masks, strict=True)])
        columns = dict(
            zip(("positive", "positive_right", "negative", "negative_right"), counted.T, strict=True)
        )
        image = torch.full_like(numbers, truth.index)
        self.add_rows({"image": image, "label": numbers, **columns, **overlaps})

    def resampled(self, rows: Mapping[str, Tensor], counts: Tensor) -> MetricValues:
        """See the class."""
        weights = counts[:, rows["image"]]
        found: MetricValues = {}
        for side in SIDES:
            points, right = rows[side], rows[f"{side}_right"]
            found[f"{side} points"] = 100 * (weights @ right) / (weights @ points)
            if side == "positive":
                asked = points > 0
                share = right[asked] / points[asked]
                mean = 100 * (weights[:, asked] @ share) / weights[:, asked].sum(1)
                found["positive points, mean of the maps"] = mean
        if not rows["by_score"].isnan().all():
            maps = weights.sum(1)
            found["mask IoU"] = 100 * (weights @ rows["by_score"]) / maps
            found["mask IoU, by agreement"] = 100 * (weights @ rows["by_agreement"]) / maps
        return found

    def summary(self, rows: Mapping[str, Tensor], images: int) -> tuple[MetricValues, MetricValues]:
        """The metrics, and the same of each class."""
        label = rows["label"]

        def total(column: str) -> Tensor:
            sums = torch.zeros(self.classes, dtype=torch.float64, device=label.device)
            return sums.index_add_(0, label, rows[column])

        per_class = {f"{side} points": 100 * total(f"{side}_right") / total(side) for side in SIDES}
        if not rows["by_score"].isnan().all():
            per_class["mask IoU"] = 100 * mean_by(rows["by_score"], label, self.classes)
        return self.over_all(rows, images), per_class

    def per_image(self, rows: Mapping[str, Tensor], images: int) -> Tensor:
        """Mean overlap of an image's masks, or the share of its right positive points without SAM."""
        if not rows["by_score"].isnan().all():
            return 100 * mean_by(rows["by_score"], rows["image"], images)
        right = mean_by(rows["positive_right"], rows["image"], images)
        return 100 * right / mean_by(rows["positive"], rows["image"], images)


def _counted(points: Points, mask: Tensor, valid: Tensor) -> list[float]:
    """Positive points, those of them on the mask, negative points, those of them off it."""
    x, y = points.xy.unbind(1)
    on, known, positive = mask[y, x], valid[y, x], points.labels == 1
    sides = ((positive & known, on), (~positive & known, ~on))
    return [float(count) for side, right in sides for count in (side.sum(), (side & right).sum())]


def _overlaps(found: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Intersection over union of masks bool ``[K, H, W]``, float64 ``[K]``; 0 for an empty mask."""
    both = (found & masks & valid).flatten(1).sum(1).double()
    either = ((found | masks) & valid).flatten(1).sum(1)
    return both / either
