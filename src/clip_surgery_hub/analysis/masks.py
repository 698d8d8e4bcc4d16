"""Masks of objects in an image, how much of each patch they cover, and the highest patch on one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.images.loading import ImageError, load_image

__all__ = ["check_count", "checked_mask", "highest_patch", "patch_coverage", "read_mask"]

LEAST_COVERAGE = 0.5
"""The share of a patch that an object covers for the patch to be one of its own, where it has any."""


def read_mask(path: Path) -> np.ndarray:
    """A mask out of an image file: every pixel that is not black belongs to the object.

    Args:
        path: a PNG of black, white and gray, of colors, or of a palette, without transparency.

    Returns:
        ``[H, W]`` bool.

    Raises:
        ImageError: for a file that is missing, damaged, no image, or partly transparent.
    """
    load_image(path)  # says what is wrong with a file; its pixels have 8 bits, which can lose a faint gray
    with Image.open(path.expanduser()) as opened:
        if opened.has_transparency_data:
            raise ImageError(
                f"The mask {path} has transparency, which could mean either; save it in black and white."
            )
        values = np.asarray(opened.convert("RGB") if opened.mode == "P" else opened)
    inside: np.ndarray = np.any(values.reshape(*values.shape[:2], -1), axis=2)
    return inside


def checked_mask(mask: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """A mask as a bool array.

    Args:
        mask: array or tensor ``[H, W]``, bool or 0 and 1.
        size: height and width of the image that it belongs to.
        name: what messages call it.

    Returns:
        ``[H, W]`` bool.

    Raises:
        ValueError: for another shape or other values.
    """
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.shape != size:
        raise ValueError(
            f"{name} must be as large as its image, {list(size)} (height, width), got {list(values.shape)}."
        )
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"{name} must hold True and False or 1 and 0, got values from {values.min()} to {values.max()}: "
            "compare them with a threshold first, as in mask > 0."
        )
    inside: np.ndarray = values.astype(bool)
    return inside


def check_count(masks: Sequence[Any], images: Sequence[Any]) -> None:
    """Check that there is an entry of masks for each image.

    Raises:
        ValueError: there is not.
    """
    if len(masks) != len(images):
        raise ValueError(
            f"masks holds {len(masks)} entries for {len(images)} images: give one for each image."
        )


def patch_coverage(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Share of each patch's area that a mask covers.

    The grid lies over the whole image, so that a patch's border may cut through pixels; these count by the
    part of them that lies in the patch.

    Args:
        mask: ``[H, W]`` bool.
        grid: patch rows and columns ``(h, w)``.

    Returns:
        ``[h, w]`` float32 in [0, 1]; their mean is the share of the image that the mask covers.
    """
    height, width = mask.shape
    area = _overlaps(height, grid[0]) @ torch.from_numpy(mask).double() @ _overlaps(width, grid[1]).T
    return area.float().clamp(0, 1)


def highest_patch(similarity: Tensor, mask: np.ndarray | None = None) -> tuple[int, int]:
    """Row and column of the highest patch of a map, of those on an object if there is a mask.

    Args:
        similarity: ``[h, w]``.
        mask: ``[H, W]`` bool: only patches count of which it covers half or more, or, where there are none,
            those of which it covers most.
    """
    rows, columns = similarity.shape
    if mask is not None:
        coverage = patch_coverage(mask, (rows, columns))
        own = coverage >= min(LEAST_COVERAGE, float(coverage.max()))
        similarity = similarity.masked_fill(~own, -torch.inf)
    return divmod(int(similarity.argmax()), columns)


def _overlaps(pixels: int, parts: int) -> Tensor:
    """How much of each of `parts` equal stretches each pixel of a side makes up, ``[parts, pixels]`` float64.

    Every row sums to 1.
    """
    borders = torch.arange(parts + 1, dtype=torch.float64) * pixels / parts
    starts = torch.arange(pixels, dtype=torch.float64)
    first = torch.maximum(borders[:-1, None], starts)
    last = torch.minimum(borders[1:, None], starts + 1)
    return (last - first).clamp(min=0) * parts / pixels
