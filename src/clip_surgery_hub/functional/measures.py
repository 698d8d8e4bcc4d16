"""What a map or a segmentation is worth against the truth. Void pixels count nowhere."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_overlaps(
    heatmaps: Tensor, masks: Tensor, valid: Tensor, thresholds: Tensor
) -> tuple[Tensor, Tensor]:
    """Pixels that a map above a threshold shares with its mask, and those in either, at all thresholds.

    At threshold t a pixel is in the map where its heat is at least t; the intersection over union at t is the
    first answer divided by the second.

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
    # How many thresholds each pixel reaches; its place in the histogram of its map.
    reached = torch.bucketize(heatmaps[:, valid], thresholds.to(heatmaps), right=True)  # [K, P] in 0..S
    inside = masks[:, valid]
    place = reached + (steps + 1) * torch.arange(count, device=heatmaps.device)[:, None]
    bins = count * (steps + 1)
    everywhere = torch.bincount(place.flatten(), minlength=bins).reshape(count, steps + 1)
    within = torch.bincount(place[inside], minlength=bins).reshape(count, steps + 1)
    shared, taken = (_at_least(histogram)[:, 1:].double() for histogram in (within, everywhere))
    return shared, taken + inside.sum(1, keepdim=True) - shared


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
    heat, inside = heatmaps[:, valid].double(), masks[:, valid]
    total, within = heat.sum(1), (heat * inside).sum(1)
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
    highest = heatmaps[:, valid].argmax(1, keepdim=True)
    return masks[:, valid].gather(1, highest)[:, 0]


def class_overlaps(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Per class the pixels that are both, those predicted, and those in truth; of one picture or many.

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


def _at_least(histogram: Tensor) -> Tensor:
    """Sums from each bin to the last, ``[K, S+1]``."""
    return histogram.flip(1).cumsum(1).flip(1)
