"""Whether a text is in an image at all, and what thresholds on that do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from evaluate import on_unit_scale
from presence import asked_pairs, candidates
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from clip_surgery_hub.results.explanation import PRESENT
from tasks.bootstrap import MetricValue, area_under_roc, checked, interval, quantile, share
from tasks.material import Material

KEPT = 90
"""Percent of the present texts that the recommended threshold keeps."""


def presence(material: Material) -> Iterator[MetricValue]:
    """How well shown texts are distinguished from as many that are not, and what the threshold does."""
    explained = material.explained["clip_surgery"]
    assert explained.presence is not None
    rows, columns, shown = asked_pairs(material.scenes, material.concepts)
    peak = torch.stack([similarity.amax((1, 2)) for similarity in explained.plain_similarity])
    scale = material.clips["clip_surgery"].logit_scale
    own = explained.presence[rows, columns]
    scores = {"the library's presence": own}
    for reference, way, score in candidates(explained.plain_scores, peak, rows, columns, scale):
        scores[f"{way}, {reference}" if ":" in way and "cosine" not in way else way] = score
    for variant, score in scores.items():
        exact = float(binary_auroc(on_unit_scale(score), shown.int()))
        statistic = area_under_roc(score.double().numpy(), shown.numpy(), rows.numpy())
        yield checked(variant, "AUROC", statistic, exact, len(material), len(shown))
    yield from _operating_points(own, rows, shown, len(material))


def _operating_points(own: Tensor, rows: Tensor, shown: Tensor, images: int) -> Iterator[MetricValue]:
    """What thresholds on the library's presence keep and leave out."""
    sides = [
        [own[(rows == number) & (shown == side)].tolist() for number in range(images)]
        for side in (True, False)
    ]
    present, absent = sides
    levels = own.unique()
    balance = [
        (own[shown] >= level).float().mean() + (own[~shown] < level).float().mean() for level in levels
    ]
    lowest = quantile(present, 1 - KEPT / 100)
    value, low, high = interval(lowest, images)
    keeping = f"threshold that keeps {KEPT}% of the present texts"
    yield MetricValue(
        variant=keeping, name="presence", value=value, low=low, high=high, count=sum(map(len, present))
    )
    thresholds = {
        f"default threshold, {PRESENT}": PRESENT,
        f"{keeping}, {value:.3f}": value,
        f"best balance, {levels[int(np.argmax(balance))]:.3f}": float(levels[int(np.argmax(balance))]),
    }
    for variant, threshold in thresholds.items():
        kept = [[100.0 * (one >= threshold) for one in group] for group in present]
        left_out = [[100.0 * (one < threshold) for one in group] for group in absent]
        for name, groups in (("present texts kept", kept), ("absent texts left out", left_out)):
            value, low, high = interval(share(groups), images)
            count = sum(map(len, groups))
            yield MetricValue(variant=variant, name=name, value=value, low=low, high=high, count=count)
