"""What a map or a segmentation is worth against the truth. Void pixels count nowhere."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_overlaps(
    heatmaps: Tensor, masks: Tensor, valid: Tensor, thresholds: Tensor
) -> tuple[Tensor, Tensor]:
    """Pixels that a map above a threshold shares with its mask, and those in either, at all thresholds.

    At threshold t a pixel is in the map where its heat is at least t; the intersection over union at t is the
    first of both results divided by the second.

    Args:
        heatmaps: ``[K, H, W]`` in [0, 1].
        masks: bool ``[K, H, W]``.
        valid: bool ``[H, W]``, False where the truth is void.
        thresholds: ``[S]``, ascending.

    Returns:
        Intersections and unions, float64 ``[K, S]``.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    check_maps(heatmaps, masks, valid)
    count, steps = len(heatmaps), len(thresholds)
    # How many thresholds a pixel reaches is its place in a histogram: one inside, one outside of each mask.
    reached = torch.bucketize(_of_valid(heatmaps, valid), thresholds.to(heatmaps), right=True)  # 0..S
    rows = 2 * torch.arange(count, device=heatmaps.device)[:, None] + _of_valid(masks, valid)
    histograms = torch.bincount(
        (reached + (steps + 1) * rows).flatten(), minlength=2 * count * (steps + 1)
    ).reshape(count, 2, steps + 1)
    above = (
        histograms.flip(2).cumsum(2).flip(2).double()
    )  # [K, outside or inside, pixels at threshold or more]
    outside, shared = above[:, 0, 1:], above[:, 1, 1:]
    return shared, outside + above[:, 1, :1]


def contrasts(heatmaps: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Mean heat inside of the mask minus mean heat outside of it (the paper's mSC before it is averaged).

    Args:
        heatmaps: ``[K, H, W]`` in [0, 1].
        masks: bool ``[K, H, W]``.
        valid: bool ``[H, W]``.

    Returns:
        Float64 ``[K]`` in [-1, 1]; NaN where a mask has no valid pixel inside, or none outside.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    check_maps(heatmaps, masks, valid)
    heat, inside = _of_valid(heatmaps, valid), _of_valid(masks, valid)
    total, within = (values.sum(1, dtype=torch.float64) for values in (heat, heat * inside))
    pixels = inside.sum(1)
    return within / pixels - (total - within) / (inside.shape[1] - pixels)


def peaks_on_mask(heatmaps: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Whether the highest pixel of each map lies on the mask (the pointing game), the first among equals.

    Args:
        heatmaps: ``[K, H, W]``.
        masks: bool ``[K, H, W]``.
        valid: bool ``[H, W]``; other pixels are never the highest.

    Returns:
        Bool ``[K]``.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    check_maps(heatmaps, masks, valid)
    highest = _of_valid(heatmaps, valid).argmax(1, keepdim=True)
    return _of_valid(masks, valid).gather(1, highest)[:, 0]


def class_overlaps(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Per class the pixels that are both, those predicted, and those in truth; of one image or many.

    Summed over a data set, the intersection over union of class c is
    ``both[c] / (predicted[c] + true[c] - both[c])``.

    Args:
        predicted: integers of any shape in [0, classes).
        truth: integers of the same shape, a class or a negative number for void.
        classes: T.

    Returns:
        int64 ``[3, T]``: both, predicted, true.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted and truth must have one shape, got {list(predicted.shape)} and {list(truth.shape)}."
        )
    valid = truth >= 0
    guess, fact = predicted[valid].long(), truth[valid].long()
    counted = (fact[guess == fact], guess, fact)
    return torch.stack([torch.bincount(numbers, minlength=classes) for numbers in counted])


def check_maps(heatmaps: Tensor, masks: Tensor, valid: Tensor) -> None:
    """Raise ValueError unless K maps, K masks and the valid pixels are of one size."""
    if heatmaps.ndim != 3 or masks.shape != heatmaps.shape or valid.shape != heatmaps.shape[1:]:
        raise ValueError(
            "heatmaps and masks must have shape [K, H, W] and valid [H, W], got "
            f"{list(heatmaps.shape)}, {list(masks.shape)} and {list(valid.shape)}."
        )


def _of_valid(maps: Tensor, valid: Tensor) -> Tensor:
    """The valid pixels of maps ``[K, H, W]``, ``[K, P]``; a view where all are, since picking them costs."""
    return maps.flatten(1) if bool(valid.all()) else maps[:, valid]
