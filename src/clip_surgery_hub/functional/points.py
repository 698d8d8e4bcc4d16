"""From patches to the points that prompt a segmentation model such as SAM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from clip_surgery_hub.functional.maps import check_grid, check_size, check_threshold
from clip_surgery_hub.functional.scale import at_least_float32, min_max


def similarity_to_points(
    similarity: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.8,
    downsample: int = 2,
) -> tuple[Tensor, Tensor]:
    """Points that prompt a segmentation model for one text of one image (the paper's text to points).

    The map is resized by ``1 / downsample`` (bilinear) and min-max scaled; with
    ``k = min(#(score >= threshold), half of all cells)`` the k highest cells are positive points and the
    k lowest negative ones, at the centers of the cells.

    Args:
        similarity: one score per patch (no CLS), ``[N]``, N = h * w in reading order.
        grid: patch rows and columns ``(h, w)``.
        size: height and width of the image in pixels ``(H, W)``.
        threshold: least score of a positive point on the min-max scale, in [0, 1].
        downsample: how many patches make up the side of a cell, at least 1; a side keeps one cell or more.

    Returns:
        Points ``[2k, 2]`` int64, x then y in pixels of the image, and labels ``[2k]`` uint8: k ones, then k
        zeros, both in order of rising score. A constant map and a single cell give no points (k = 0).

    Raises:
        ValueError: for another shape, a grid that does not hold N patches, or options out of range.
    """
    if similarity.ndim != 1:
        raise ValueError(
            f"similarity must have shape [N], one text of one image, got {list(similarity.shape)}."
        )
    check_grid(similarity.shape[0], grid)
    check_size(size)
    check_threshold(threshold)
    if downsample < 1:
        raise ValueError(f"downsample must be at least 1, got {downsample}.")
    rows, columns = max(1, grid[0] // downsample), max(1, grid[1] // downsample)
    exact = similarity.to(at_least_float32(similarity)).reshape(1, 1, *grid)
    cells = interpolate(exact, size=(rows, columns), mode="bilinear", align_corners=False)
    score = min_max(cells.flatten())  # [rows * columns]
    count = min(int((score >= threshold).sum()), score.numel() // 2)
    order = score.argsort(stable=True)
    chosen = torch.cat([order[score.numel() - count :], order[:count]])
    # Whole numbers throughout: (column + 1/2) * W / columns, truncated.
    x = ((2 * (chosen % columns) + 1) * size[1]).div(2 * columns, rounding_mode="floor")
    y = ((2 * chosen.div(columns, rounding_mode="floor") + 1) * size[0]).div(2 * rows, rounding_mode="floor")
    points = torch.stack([x.clamp(max=size[1] - 1), y.clamp(max=size[0] - 1)], dim=-1)
    labels = torch.zeros(2 * count, dtype=torch.uint8, device=similarity.device)
    labels[:count] = 1
    return points, labels


def combined_points(
    similarity: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.8,
    downsample: int = 2,
) -> tuple[Tensor, Tensor]:
    """Points that prompt a segmentation model for several texts of one image at once ("dog+ball").

    Positive points are those of each text by itself, negative points those of the mean over the texts of
    their min-max maps (the paper's combined text to points). A place that is positive for one text and
    negative for the mean is positive only.

    Args:
        similarity: one score per patch and text (no CLS), ``[N, K]``, K >= 1.
        grid: see :func:`similarity_to_points`, as are the other arguments.
        size: height and width of the image in pixels ``(H, W)``.
        threshold: least score of a positive point on the min-max scale, in [0, 1].
        downsample: how many patches make up the side of a cell, at least 1.

    Returns:
        Points ``[P + Q, 2]`` int64, x then y in pixels of the image, and labels ``[P + Q]`` uint8: P ones,
        each place once and in the order of the texts, then Q zeros.

    Raises:
        ValueError: as :func:`similarity_to_points`.
    """
    if similarity.ndim != 2 or similarity.shape[1] == 0:
        raise ValueError(
            f"similarity must have shape [N, K], K >= 1 texts of one image, got {list(similarity.shape)}."
        )
    exact = similarity.to(at_least_float32(similarity)).T  # [K, N]
    each = [similarity_to_points(one, grid, size, threshold, downsample) for one in exact]
    mean, mean_labels = similarity_to_points(min_max(exact).mean(0), grid, size, threshold, downsample)
    on = list(dict.fromkeys(tuple(xy) for points, labels in each for xy in points[labels == 1].tolist()))
    off = [tuple(xy) for xy in mean[mean_labels == 0].tolist() if tuple(xy) not in on]
    points = torch.tensor(on + off, dtype=torch.int64, device=similarity.device).reshape(-1, 2)
    labels = torch.tensor([1] * len(on) + [0] * len(off), dtype=torch.uint8, device=similarity.device)
    return points, labels
