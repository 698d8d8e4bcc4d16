"""How sure figures are: the same figures over pictures drawn anew, with replacement, a thousand times."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_surgery_hub.evaluate.metrics import RowMetric

__all__ = ["bootstrap_counts", "intervals"]

_AT_ONCE = 50
"""Resamples computed together: figures of maps hold resamples x maps numbers."""


def bootstrap_counts(pictures: int, resamples: int, *, seed: int = 0) -> Tensor:
    """How often each picture is in each resample, float64 ``[R, B]``; rows sum to B."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(pictures, (resamples, pictures), generator=generator)
    ones = torch.ones_like(drawn, dtype=torch.float64)
    return torch.zeros(resamples, pictures, dtype=torch.float64).scatter_add_(1, drawn, ones)


def intervals(metric: RowMetric, *, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The middle 95% of each figure over resamples of the pictures.

    The spread of the resamples is put around the figure itself: the copies of a picture, and classes that no
    picture of a resample shows, move the resamples' own mean away from it.

    Args:
        metric: with the rows of all pictures.
        resamples: how many.
        seed: of the draws.

    Returns:
        Lower and upper end by figure; empty where no picture counted.
    """
    figures = metric.figures()
    if not figures:
        return {}
    rows, pictures = metric.renumbered()
    counts = bootstrap_counts(pictures, resamples, seed=seed).to(rows["picture"].device)
    parts = [metric.resampled(rows, some) for some in counts.split(_AT_ONCE)]
    found = {}
    for name, value in figures.items():
        values = torch.cat([part[name] for part in parts])
        ends = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype).to(values.device))
        low, high = (ends + value - values.nanmean()).tolist()
        found[name] = (low, high)
    return found
