"""The mathematics of CLIP Surgery as pure functions: tensors in, tensors out, on any device and dtype.

Notation of the paper (arXiv 2304.05653): ``F`` image tokens, ``T`` text embeddings, both of unit length, so
that ``s_nt = F_n . T_t`` is their cosine similarity. Token 0 is CLS, the others are the patches in reading
order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

__all__ = [
    "classification_scores",
    "feature_surgery",
    "map_to_boxes",
    "multilabel_scores",
    "similarity_map",
    "similarity_to_points",
    "unit_length",
]


def unit_length(x: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors to Euclidean length 1; a zero vector stays zero.

    The length is taken in float32 at least, since squares of float16 components overflow or vanish early.

    Args:
        x: floating point tensor of any shape.
        dim: the dimension along which a vector lies.

    Returns:
        A tensor of the shape and dtype of ``x``.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=_at_least_float32(x))
    return (x / torch.where(length > 0, length, torch.ones_like(length))).to(x.dtype)


def feature_surgery(
    image_tokens: Tensor, text_embeds: Tensor, redundant: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """Image-text similarity without the feature that all texts share (the paper's feature surgery).

    Class set (``redundant`` is None), every image on its own, with ``p = softmax_t(temperature * s_cls,t)``
    and ``w_t = p_t / mean_t(p)``::

        S_nt = w_t s_nt - mean_t'(w_t' s_nt')

    Given redundant feature ``r``, for example the embedding of the empty text::

        S_nt = F_n . (T_t - r)

    Args:
        image_tokens: unit length image tokens, CLS first, ``[B, 1+N, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        redundant: the feature to take away from every text, ``[1, C]``, or None for the class set's own.
        temperature: factor on the CLS similarity in the softmax; the paper's is 2.

    Returns:
        ``[B, 1+N, T]``; row 0 holds the scores of the image as a whole.

    Raises:
        ValueError: for other shapes, or for a class set of a single text (its redundant feature is itself).
    """
    _check_pair(image_tokens, text_embeds, dimensions=3, shape="[B, 1+N, C]")
    texts = text_embeds.shape[0]
    if redundant is not None:
        if redundant.shape != (1, text_embeds.shape[1]):
            raise ValueError(
                f"redundant must have shape [1, C] = [1, {text_embeds.shape[1]}], "
                f"got {list(redundant.shape)}."
            )
        return image_tokens @ (text_embeds - redundant).T
    if texts == 1:
        raise ValueError(
            "Feature surgery over a class set needs two texts or more, got 1. "
            'Give `redundant`, the embedding of the empty text "", or add background texts.'
        )
    similarity = image_tokens @ text_embeds.T  # [B, 1+N, T]
    probability = torch.softmax(temperature * similarity[:, :1], dim=-1, dtype=_at_least_float32(similarity))
    weighted = (probability * texts).to(similarity.dtype) * similarity  # mean_t(p) is 1/T
    return weighted - weighted.mean(dim=-1, keepdim=True)


def multilabel_scores(
    image_embeds: Tensor, text_embeds: Tensor, redundant: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """Scores for multi-label recognition: feature surgery of CLS in place of the patches.

    Args:
        image_embeds: unit length CLS tokens, ``[B, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        redundant: see :func:`feature_surgery`, ``[1, C]`` or None.
        temperature: see :func:`feature_surgery`.

    Returns:
        ``[B, T]``, to be ranked over the images for each text (mean average precision).

    Raises:
        ValueError: as :func:`feature_surgery`.
    """
    _check_pair(image_embeds, text_embeds, dimensions=2, shape="[B, C]")
    return feature_surgery(image_embeds[:, None], text_embeds, redundant, temperature)[:, 0]


def classification_scores(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: float | Tensor = 100.0
) -> Tensor:
    """Zero-shot classification as CLIP does it: ``softmax_t(logit_scale * s_cls,t)``.

    CLS is that of the original path, so that surgery changes nothing here.

    Args:
        image_embeds: unit length CLS tokens, ``[B, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        logit_scale: the factor itself (a checkpoint stores its logarithm); 100 in OpenAI's checkpoints.

    Returns:
        Probabilities ``[B, T]`` in [0, 1]; every row sums to 1.

    Raises:
        ValueError: for other shapes.
    """
    _check_pair(image_embeds, text_embeds, dimensions=2, shape="[B, C]")
    return torch.softmax(logit_scale * (image_embeds @ text_embeds.T), dim=-1)


def similarity_map(similarity: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Patch similarity as maps of the picture: min-max over the patches per image and text, then bilinear.

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
    _check_grid(similarity.shape[1], grid)
    _check_size(size)
    exact = similarity.to(_at_least_float32(similarity)).transpose(1, 2)  # [B, T, N]
    scaled = _min_max(exact).reshape(*exact.shape[:2], *grid)  # [B, T, h, w]
    maps = interpolate(scaled, size=size, mode="bilinear", align_corners=False)
    return maps.clamp(0, 1).to(similarity.dtype)


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
    k lowest negative ones, at the centres of the cells.

    Args:
        similarity: one score per patch (no CLS), ``[N]``, N = h * w in reading order.
        grid: patch rows and columns ``(h, w)``.
        size: height and width of the picture in pixels ``(H, W)``.
        threshold: least score of a positive point on the min-max scale, in [0, 1].
        downsample: how many patches make up the side of a cell, at least 1; a side keeps one cell or more.

    Returns:
        Points ``[2k, 2]`` int64, x then y in pixels of the picture, and labels ``[2k]`` uint8: k ones, then k
        zeros, both in order of rising score. A constant map and a single cell give no points (k = 0).

    Raises:
        ValueError: for another shape, a grid that does not hold N patches, or options out of range.
    """
    if similarity.ndim != 1:
        raise ValueError(
            f"similarity must have shape [N], one text of one image, got {list(similarity.shape)}."
        )
    _check_grid(similarity.shape[0], grid)
    _check_size(size)
    _check_threshold(threshold)
    if downsample < 1:
        raise ValueError(f"downsample must be at least 1, got {downsample}.")
    rows, columns = max(1, grid[0] // downsample), max(1, grid[1] // downsample)
    exact = similarity.to(_at_least_float32(similarity)).reshape(1, 1, *grid)
    cells = interpolate(exact, size=(rows, columns), mode="bilinear", align_corners=False)
    score = _min_max(cells.flatten())  # [rows * columns]
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
    _check_threshold(threshold)
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


def _min_max(x: Tensor) -> Tensor:
    """Scale the last dimension to [0, 1]; a constant one becomes zeros."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    spread = high - low
    return (x - low) / torch.where(spread > 0, spread, torch.ones_like(spread))


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check_pair(image: Tensor, text_embeds: Tensor, *, dimensions: int, shape: str) -> None:
    if text_embeds.ndim != 2 or text_embeds.shape[0] == 0:
        raise ValueError(f"text_embeds must have shape [T, C] with T >= 1, got {list(text_embeds.shape)}.")
    if image.ndim != dimensions or image.shape[-1] != text_embeds.shape[1]:
        raise ValueError(
            f"The image side must have shape {shape} with C = {text_embeds.shape[1]}, as text_embeds have; "
            f"got {list(image.shape)}."
        )


def _check_grid(patches: int, grid: tuple[int, int]) -> None:
    if grid[0] * grid[1] != patches:
        raise ValueError(
            f"A grid of {grid[0]} x {grid[1]} holds {grid[0] * grid[1]} patches, got {patches}. "
            "Leave CLS out (similarity[:, 1:]) and give the grid as (rows, columns)."
        )


def _check_size(size: tuple[int, int]) -> None:
    if size[0] < 1 or size[1] < 1:
        raise ValueError(f"size must be (height, width) in pixels, at least 1 each, got {tuple(size)}.")


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], the scale of the map, got {threshold}.")
