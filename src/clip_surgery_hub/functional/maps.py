"""From patches to pixels: heatmaps, segmentation, boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from clip_surgery_hub.functional.scale import at_least_float32, min_max

_CELLS_AT_ONCE = 2**20
"""Numbers that are resized together where the result is read once: 4 MB."""


def similarity_map(similarity: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Patch similarity as maps of the image: min-max over the patches per image and text, then bilinear.

    Args:
        similarity: patch rows only (no CLS), ``[B, N, T]``, N = h * w in reading order.
        grid: patch rows and columns ``(h, w)``.
        size: height and width of the maps in pixels ``(H, W)``.

    Returns:
        ``[B, T, H, W]`` in [0, 1]. Where all patches are alike there is nothing to show: zeros.

    Raises:
        ValueError: for other shapes, or a grid that does not hold N patches.
    """
    if similarity.ndim != 3:
        raise ValueError(f"similarity must have shape [B, N, T], got {list(similarity.shape)}.")
    check_grid(similarity.shape[1], grid)
    check_size(size)
    exact = similarity.to(at_least_float32(similarity)).transpose(1, 2)  # [B, T, N]
    scaled = min_max(exact).reshape(*exact.shape[:2], *grid)  # [B, T, h, w]
    maps = interpolate(scaled, size=size, mode="bilinear", align_corners=False)
    return maps.clamp(0, 1).to(similarity.dtype)


def highest_text(similarity: Tensor, size: tuple[int, int]) -> Tensor:
    """The text of the highest similarity at every pixel of one image: segmentation by argmax.

    The similarity is resized bilinearly first, some texts at a time, since all at once would take T times the
    memory of the image.

    Args:
        similarity: of one image on its patch grid, ``[T, h, w]``.
        size: height and width in pixels ``(H, W)``.

    Returns:
        ``[H, W]`` int64, numbers of the texts; the first among equals.
    """
    best = torch.full(size, -torch.inf, device=similarity.device)
    winner = torch.zeros(size, dtype=torch.int64, device=similarity.device)
    at_once = max(1, _CELLS_AT_ONCE // (size[0] * size[1]))
    for start in range(0, len(similarity), at_once):
        some = similarity[None, start : start + at_once]
        resized = interpolate(some, size=size, mode="bilinear", align_corners=False)[0]
        highest, number = resized.max(0)
        higher = highest > best
        best, winner = torch.where(higher, highest, best), torch.where(higher, number + start, winner)
    return winner


def map_to_boxes(heatmap: Tensor, threshold: float) -> Tensor:
    """Bounding boxes of the connected parts of a map; pixels that touch at a corner are connected.

    Args:
        heatmap: ``[H, W]`` in [0, 1].
        threshold: a pixel belongs to a part where the map is at least this, in [0, 1].

    Returns:
        ``[K, 4]`` int64 ``x0, y0, x1, y1`` in pixels, half open (``x1 - x0`` is the width), in reading order
        of their first pixels; K is 0 where nothing reaches the threshold.

    Raises:
        ValueError: for another shape or a threshold out of range.
    """
    if heatmap.ndim != 2:
        raise ValueError(f"heatmap must have shape [H, W], got {list(heatmap.shape)}.")
    check_threshold(threshold)
    runs = _row_runs(heatmap >= threshold)
    parent = list(range(len(runs)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0  # the first run of the row above that may still touch the current one
    for current, (y, start, stop) in enumerate(runs):
        while runs[above][0] < y - 1 or (runs[above][0] == y - 1 and runs[above][2] < start):
            above += 1
        touching = above
        while runs[touching][0] == y - 1 and runs[touching][1] <= stop:
            first, second = sorted((root(touching), root(current)))
            parent[second] = first
            touching += 1
    boxes: dict[int, list[int]] = {}
    for current, (y, start, stop) in enumerate(runs):
        box = boxes.setdefault(root(current), [start, y, stop, y + 1])
        box[0], box[2], box[3] = min(box[0], start), max(box[2], stop), y + 1
    return torch.tensor(list(boxes.values()), dtype=torch.int64, device=heatmap.device).reshape(-1, 4)


def _row_runs(mask: Tensor) -> list[tuple[int, int, int]]:
    """Maximal horizontal runs of True in ``[H, W]`` as (y, start, stop), stop excluded, in reading order."""
    change = pad(mask.to(torch.int8), (1, 1)).diff(dim=1)  # [H, W+1]: 1 where a run starts, -1 where it stops
    starts, stops = (change == 1).nonzero().tolist(), (change == -1).nonzero()[:, 1].tolist()
    return [(y, start, stop) for (y, start), stop in zip(starts, stops, strict=True)]


def check_grid(patches: int, grid: tuple[int, int]) -> None:
    """Raise ValueError unless the grid holds that many patches."""
    if grid[0] * grid[1] != patches:
        raise ValueError(
            f"A grid of {grid[0]} x {grid[1]} holds {grid[0] * grid[1]} patches, got {patches}. "
            "Leave CLS out (similarity[:, 1:]) and give the grid as (rows, columns)."
        )


def check_size(size: tuple[int, int]) -> None:
    """Raise ValueError unless the size in pixels is positive."""
    if size[0] < 1 or size[1] < 1:
        raise ValueError(f"size must be (height, width) in pixels, at least 1 each, got {tuple(size)}.")


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless the threshold lies on a map's scale."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], the scale of the map, got {threshold}.")
