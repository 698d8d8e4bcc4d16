"""A window slides over a large image; what is read through it is blended into one grid of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from clip_surgery_hub.functional import unit_length

__all__ = ["encode_in_windows", "window_cells", "window_starts"]


def window_cells(window: int, stride: int | None, *, patch: int) -> tuple[int, int]:
    """Side and step of a window in whole patches, from pixels; both are rounded.

    Args:
        window: side of the window in pixels.
        stride: step between windows in pixels; None: half of the window.
        patch: side of a patch in pixels.

    Raises:
        ValueError: for a window or step below one patch, or a step that leaves gaps.
    """
    step = window // 2 if stride is None else stride
    if window < patch:
        raise ValueError(f"window must be at least one patch, {patch} pixels, got {window}.")
    if stride is not None and not patch <= stride <= window:
        raise ValueError(
            f"stride must lie between one patch, {patch} pixels, and the window, {window}, got {stride}."
        )
    side = max(1, round(window / patch))
    return side, min(side, max(1, round(step / patch)))


def window_starts(cells: int, side: int, step: int) -> list[int]:
    """Where windows begin so that they cover a row of ``cells``; the last one ends with the row."""
    if side >= cells:
        return [0]
    return [*range(0, cells - side, step), cells - side]


def encode_in_windows(
    encode: Callable[[Tensor], Tensor],
    pixel_values: Tensor,
    *,
    patch: int,
    side: int,
    step: int,
    most_tokens: int,
) -> Tensor:
    """Tokens of images that are read window by window.

    A patch token is the mean of what the windows that see it say, each weighted by how far the patch lies
    from the window's edge (a tent along both axes), so that no seams appear; CLS is the mean of the windows'
    CLS. Both are scaled to unit length. An image that one window covers is read as without windows.

    Args:
        encode: pixels ``[B, 3, H, W]`` to unit length tokens ``[B, 1+N, C]``, N in reading order.
        pixel_values: ``[B, 3, H, W]``, H and W whole patches.
        patch: side of a patch in pixels.
        side: side of the window in patches; it is cut to the image where that is smaller.
        step: step between windows in patches.
        most_tokens: how many tokens may go through ``encode`` at once, unless a single window has more.

    Returns:
        ``[B, 1+N, C]``, unit length.
    """
    images, _, *pixels = pixel_values.shape
    rows, columns = (length // patch for length in pixels)
    height, width = min(side, rows), min(side, columns)
    windows = [
        (image, y, x)
        for y in window_starts(rows, side, step)
        for x in window_starts(columns, side, step)
        for image in range(images)
    ]
    if len(windows) == images:
        return encode(pixel_values)
    weight = _tent(height)[:, None] * _tent(width)
    cls: Tensor | None = None
    patches: Tensor | None = None
    for batch in _batches(windows, most_tokens // (1 + height * width)):
        crops = [
            pixel_values[image, :, y * patch : (y + height) * patch, x * patch : (x + width) * patch]
            for image, y, x in batch
        ]
        tokens = encode(torch.stack(crops))
        if cls is None or patches is None:
            cls = tokens.new_zeros(images, tokens.shape[-1])
            patches = tokens.new_zeros(images, rows, columns, tokens.shape[-1])
        seen = tokens[:, 1:].unflatten(1, (height, width)) * weight.to(tokens)[:, :, None]
        for number, (image, y, x) in enumerate(batch):
            cls[image] += tokens[number, 0]
            patches[image, y : y + height, x : x + width] += seen[number]
    assert cls is not None and patches is not None  # there is at least one window
    return unit_length(torch.cat([cls[:, None], patches.flatten(1, 2)], dim=1))


def _tent(cells: int) -> Tensor:
    """1, 2, 3, ... up to the middle and down again: the distance of each cell from the nearer edge."""
    distance = torch.arange(1, cells + 1)
    return torch.minimum(distance, distance.flip(0)).float()


def _batches(items: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    size = max(1, size)
    for start in range(0, len(items), size):
        yield items[start : start + size]
