"""How sure metrics are: the same metrics over images drawn anew, with replacement, a thousand times."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_surgery_hub.evaluate.metrics import Measurement, RowMetric

__all__ = ["bootstrap_counts", "intervals"]

_AT_ONCE = 50
"""Resamples computed together: metrics of maps hold resamples x maps numbers."""


def bootstrap_counts(images: int, resamples: int, *, seed: int = 0) -> Tensor:
    """How often each image is in each resample, float64 ``[R, B]``; rows sum to B."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    ones = torch.ones_like(drawn, dtype=torch.float64)
    return torch.zeros(resamples, images, dtype=torch.float64).scatter_add_(1, drawn, ones)


def intervals(
    metric: RowMetric, measurement: Measurement, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The middle 95% of each metric over resamples of the images.

    The spread of the resamples is put around the metric itself: the copies of an image, and classes that no
    image of a resample shows, move the resamples' own mean away from it.

    Args:
        metric: what was measured.
        measurement: its rows of all images, and what they say.
        resamples: how many.
        seed: of the draws.

    Returns:
        Lower and upper end by metric; empty where no image counted.
    """
    if not measurement.values:
        return {}
    rows = measurement.rows
    counts = bootstrap_counts(len(measurement.numbers), resamples, seed=seed).to(rows["image"].device)
    parts = [metric.resampled(rows, some) for some in counts.split(_AT_ONCE)]
    found = {}
    for name, value in measurement.values.items():
        values = torch.cat([part[name] for part in parts])
        ends = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype).to(values.device))
        low, high = (ends + value - values.nanmean()).tolist()
        found[name] = (low, high)
    return found
