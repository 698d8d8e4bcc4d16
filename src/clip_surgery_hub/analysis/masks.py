"""Masks of objects in a picture, and how much of each patch they cover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_count", "checked_mask", "patch_coverage"]


def checked_mask(mask: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """A mask as a bool array.

    Args:
        mask: array or tensor ``[H, W]``, bool or 0 and 1.
        size: height and width of the picture that it belongs to.
        name: what messages call it.

    Returns:
        ``[H, W]`` bool.

    Raises:
        ValueError: for another shape or other values.
    """
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.shape != size:
        raise ValueError(
            f"{name} must be as large as its picture, {list(size)} (height, width), got {list(values.shape)}."
        )
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"{name} must hold True and False or 1 and 0, got values from {values.min()} to {values.max()}: "
            "compare them with a threshold first, as in mask > 0."
        )
    inside: np.ndarray = values.astype(bool)
    return inside


def check_count(masks: Sequence[Any], pictures: Sequence[Any]) -> None:
    """Check that there is an entry of masks for each picture.

    Raises:
        ValueError: there is not.
    """
    if len(masks) != len(pictures):
        raise ValueError(
            f"masks holds {len(masks)} entries for {len(pictures)} pictures: give one for each picture."
        )


def patch_coverage(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Share of each patch's area that a mask covers.

    The grid lies over the whole picture, so that a patch's border may cut through pixels; these count by the
    part of them that lies in the patch.

    Args:
        mask: ``[H, W]`` bool.
        grid: patch rows and columns ``(h, w)``.

    Returns:
        ``[h, w]`` float32 in [0, 1]; their mean is the share of the picture that the mask covers.
    """
    height, width = mask.shape
    area = _overlaps(height, grid[0]) @ torch.from_numpy(mask).double() @ _overlaps(width, grid[1]).T
    return area.float().clamp(0, 1)


def _overlaps(pixels: int, parts: int) -> Tensor:
    """How much of each of `parts` equal stretches each pixel of a side makes up, ``[parts, pixels]`` float64.

    Every row sums to 1.
    """
    borders = torch.arange(parts + 1, dtype=torch.float64) * pixels / parts
    starts = torch.arange(pixels, dtype=torch.float64)
    first = torch.maximum(borders[:-1, None], starts)
    last = torch.minimum(borders[1:, None], starts + 1)
    return (last - first).clamp(min=0) * parts / pixels
