"""Position embeddings on a patch grid they were not trained on."""

from torch import Tensor, cat
from torch.nn.functional import interpolate

from clip_surgery_hub.towers.new_path import Grid
from clip_surgery_hub.towers.tower import Interpolation


def resized_positions(
    positions: Tensor, native: Grid, grid: Grid, interpolation: Interpolation, *, prefix: int
) -> Tensor:
    """Position embeddings of timm resized from the grid `native` to `grid`; the weight stays as it is.

    Args:
        positions: `[prefix + rows * columns, width]` of the grid `native`.
        native: the grid (rows, columns) they were trained on.
        grid: the grid (rows, columns) they are wanted on.
        interpolation: "bicubic" as timm resizes them, with antialiasing where the grid shrinks; "bilinear"
            as published with CLIP Surgery, without.
        prefix: how many of them belong to tokens before the patches, and stay.

    Returns:
        `[prefix + rows * columns, width]` of the grid `grid`; `positions` itself where it is the native one.
    """
    if grid == native:
        return positions
    on_grid = positions[prefix:].T.unflatten(1, native)[None].float()
    resized = interpolate(
        on_grid, size=grid, mode=interpolation, align_corners=False, antialias=interpolation == "bicubic"
    )
    return cat([positions[:prefix], resized[0].flatten(1).T.to(positions.dtype)])
