"""Where patches attend to in every block, and which way every block moves them (arXiv 2304.05653, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.analysis.attention_results import (
    KINDS,
    PARTS,
    AttentionAnalysis,
    AttentionAverages,
    BlockPart,
    Kind,
    share_on,
)
from clip_surgery_hub.analysis.masks import check_count, checked_mask, patch_coverage
from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.images.loading import load_images
from clip_surgery_hub.model import CLIPSurgery
from clip_surgery_hub.results.settings import Settings
from clip_surgery_hub.towers.activations import (
    BlockActivations,
    attention_weights,
    clip_tower,
    direct_contribution,
    recorded_blocks,
    value_attended,
)
from clip_surgery_hub.towers.families.clip import ClipTower
from clip_surgery_hub.towers.tower import Grid

__all__ = ["attention_analysis", "attention_averages"]

_COMPARED: Mapping[Kind, tuple[str, str]] = {
    "query_key": ("query", "key"),
    "value_value": ("value", "value"),
    "query_query": ("query", "query"),
    "key_key": ("key", "key"),
}


def attention_analysis(
    clip: CLIPSurgery,
    image: Any,
    *,
    patch: tuple[int, int] | None = None,
    point: tuple[float, float] | None = None,
    mask: Any = None,
    size: int | None = None,
    max_side: int | None = None,
) -> AttentionAnalysis:
    """Where a patch attends to by queries and keys, values, queries, or keys, in every block.

    All four are softmax over the tokens of ``scale * a_n . b_m``, made of LN1 of the block's input on the
    original path (section 3.2 of the paper: q-k attention relates a patch to unrelated ones).

    Args:
        clip: the checkpoint, under any method.
        image: one image, whatever `CLIPSurgery.encode` takes.
        patch: row and column of the patch in the image's patch grid, from 0. Give this or ``point``.
        point: x and y in pixels of the image; the patch there is chosen.
        mask: ``[H, W]`` at the image's own size, bool or 0 and 1: the object that the patch lies on. None:
            no share on the same object.
        size: see `CLIPSurgery.encode`.
        max_side: see `CLIPSurgery.encode`.

    Raises:
        ImageError: the image cannot be read.
        ValueError: not one image, no patch or one outside of the image or of the mask, a mask of another
            size or without pixels.
        TypeError: the tower's blocks are not built like CLIP's.
        RuntimeError: the model runs past its hooks, as one does that was compiled.
    """
    images = load_images(image)
    if len(images) != 1:
        raise ValueError(f"attention_analysis looks into one image, got {len(images)}: take one of them.")
    grid = _grid_of(clip, images[0], size=size, max_side=max_side)
    row, column = _chosen_patch(patch, point, grid, images[0])
    inside = coverage = None
    if mask is not None:
        inside = checked_mask(mask, (images[0].height, images[0].width), "mask")
        if not inside.any():
            raise ValueError("mask holds no pixel of the object: leave it out.")
        coverage = patch_coverage(inside, grid)
        if coverage[row, column] == 0:
            best = divmod(int(coverage.argmax()), grid[1])
            raise ValueError(
                f"the patch in row {row}, column {column} lies off the mask: give a patch on the object, "
                f"such as patch={best}."
            )
    tower = clip_tower(clip.tower)
    with recorded_blocks(tower) as record:
        encoded = clip.encode(images[0], size=size, max_side=max_side)
    attention = _attention(tower, record, torch.tensor([1 + row * grid[1] + column]))
    to_cls, to_final = _cosines(tower, record)
    return AttentionAnalysis(
        image=np.asarray(images[0]),
        patch=(row, column),
        weights={kind: weights[:, :, 0] for kind, weights in attention.items()},
        cosines_to_cls={part: cosines.unflatten(1, grid) for part, cosines in to_cls.items()},
        cosines_to_final={part: cosines.unflatten(1, grid) for part, cosines in to_final.items()},
        mask=inside,
        coverage=coverage,
        settings=encoded.settings,
    )


def attention_averages(
    clip: CLIPSurgery,
    images: Any,
    masks: Sequence[Any],
    *,
    least_coverage: float = 0.5,
    size: int | None = None,
    max_side: int | None = None,
) -> AttentionAverages:
    """Shares and cosines of :func:`attention_analysis`, averaged over all patches on objects of many images.

    Args:
        clip: the checkpoint, under any method.
        images: images, whatever `CLIPSurgery.encode` takes.
        masks: for each image ``[K, H, W]`` or K masks ``[H, W]``, one per object.
        least_coverage: share of a patch that an object must cover for the patch to count as one of its own,
            in (0, 1]. Objects without such a patch do not count, nor do images without such an object.
        size: see `CLIPSurgery.encode`.
        max_side: see `CLIPSurgery.encode`.

    Raises:
        ImageError: an image cannot be read.
        ValueError: masks that do not fit, or no object that counts.
        TypeError: as :func:`attention_analysis`.
        RuntimeError: as :func:`attention_analysis`.
    """
    if not 0 < least_coverage <= 1:
        raise ValueError(f"least_coverage must lie in (0, 1], got {least_coverage}.")
    images = load_images(images)
    check_count(masks, images)
    covered = []
    for number, (image, objects) in enumerate(zip(images, masks, strict=True)):
        grid = _grid_of(clip, image, size=size, max_side=max_side)
        coverages = [
            patch_coverage(
                checked_mask(mask, (image.height, image.width), f"mask {index} of image {number}"), grid
            ).flatten()
            for index, mask in enumerate(objects)
        ]
        covered.append([one for one in coverages if (one >= least_coverage).any()])
    counted = [number for number, coverages in enumerate(covered) if coverages]
    if not counted:
        raise ValueError(f"no object covers {least_coverage:.0%} of any patch: lower least_coverage.")
    tower = clip_tower(clip.tower)
    parts = []
    for number in counted:
        with recorded_blocks(tower) as record:
            encoded = clip.encode(images[number], size=size, max_side=max_side)
        own = torch.stack(covered[number])
        parts.append(_averages_of_one(tower, record, own, least_coverage, encoded.settings))
    return _joined_averages(parts)


@torch.no_grad()
def _attention(tower: ClipTower, record: BlockActivations, tokens: Tensor) -> dict[Kind, Tensor]:
    """How some tokens of an image attend to all, by kind ``[L, heads, P, 1+N]``."""
    every = range(len(tower.blocks))
    return {
        kind: torch.cat([attention_weights(tower, record, index, compared, tokens) for index in every])
        for kind, compared in _COMPARED.items()
    }


@torch.no_grad()
def _cosines(
    tower: ClipTower, record: BlockActivations
) -> tuple[dict[BlockPart, Tensor], dict[BlockPart, Tensor]]:
    """Cosines of what each part adds to the patches, to CLS and to the patch in the end, ``[L, N]`` each."""
    final = unit_length(tower.embed(record.final[0])[0].float())  # [1+N, C]
    to_cls: dict[BlockPart, list[Tensor]] = {part: [] for part in PARTS}
    to_final: dict[BlockPart, list[Tensor]] = {part: [] for part in PARTS}
    for index in range(len(tower.blocks)):
        updates: dict[BlockPart, Tensor] = {
            "attention": record.attended[index][:, 1:],
            "value_attention": value_attended(tower, record, index),
            "mlp": record.fed[index][:, 1:],
        }
        for part, update in updates.items():
            contribution = unit_length(direct_contribution(tower, update)[0].float())  # [N, C]
            to_cls[part].append(contribution @ final[0])
            to_final[part].append((contribution * final[1:]).sum(-1))
    return (
        {part: torch.stack(cosines).cpu() for part, cosines in to_cls.items()},
        {part: torch.stack(cosines).cpu() for part, cosines in to_final.items()},
    )


def _averages_of_one(
    tower: ClipTower, record: BlockActivations, coverages: Tensor, least_coverage: float, settings: Settings
) -> AttentionAverages:
    """The averages of one image, whose K objects cover the patches by ``[K, N]``."""
    shares: dict[Kind, list[Tensor]] = {kind: [] for kind in KINDS}
    elsewhere: dict[Kind, list[Tensor]] = {kind: [] for kind in KINDS}
    chance, patches = [], coverages.shape[1]
    for coverage in coverages:
        own = (coverage >= least_coverage).nonzero().flatten()  # [P]
        others = 1 - torch.eye(patches)[own]  # [P, N]
        for kind, weights in _attention(tower, record, 1 + own).items():
            maps = weights.mean(1)[:, :, 1:]  # [L, P, N]
            shares[kind].append(share_on(maps, coverage).mean(1))
            elsewhere[kind].append(share_on(maps * others, coverage).mean(1))
        chance.append(torch.stack([coverage.mean(), share_on(others, coverage).mean()]))
    evenly = torch.stack(chance).mean(0)
    to_cls, to_final = _cosines(tower, record)
    return AttentionAverages(
        same_object={kind: torch.stack(shares[kind]).mean(0)[None] for kind in KINDS},
        same_object_elsewhere={kind: torch.stack(elsewhere[kind]).mean(0)[None] for kind in KINDS},
        chance=evenly[:1],
        chance_elsewhere=evenly[1:],
        cosines_to_cls={part: to_cls[part].mean(1)[None] for part in PARTS},
        cosines_to_final={part: to_final[part].mean(1)[None] for part in PARTS},
        objects=len(coverages),
        settings=settings,
    )


def _joined_averages(parts: Sequence[AttentionAverages]) -> AttentionAverages:
    def joined(name: str) -> dict[Any, Tensor]:
        first: Mapping[Any, Tensor] = getattr(parts[0], name)
        return {key: torch.cat([getattr(part, name)[key] for part in parts]) for key in first}

    return AttentionAverages(
        same_object=joined("same_object"),
        same_object_elsewhere=joined("same_object_elsewhere"),
        chance=torch.cat([part.chance for part in parts]),
        chance_elsewhere=torch.cat([part.chance_elsewhere for part in parts]),
        cosines_to_cls=joined("cosines_to_cls"),
        cosines_to_final=joined("cosines_to_final"),
        objects=sum(part.objects for part in parts),
        settings=parts[0].settings,
    )


def _grid_of(clip: CLIPSurgery, image: Image.Image, *, size: int | None, max_side: int | None) -> Grid:
    """The patch grid at which `clip.encode` reads an image; more than one patch.

    Raises:
        ValueError: for a size that holds no patch, or only one.
    """
    transform = clip.image_transform(size=size, max_side=max_side)
    grid = transform.grid_of(image.height, image.width)
    if grid == (1, 1):
        raise ValueError(
            f"the image is encoded as a single patch: give size={2 * transform.patch_size} or more."
        )
    return grid


def _chosen_patch(
    patch: tuple[int, int] | None, point: tuple[float, float] | None, grid: Grid, image: Image.Image
) -> Grid:
    if (patch is None) == (point is None):
        raise ValueError(
            "give one of patch=(row, column) in the patch grid and point=(x, y) in pixels, "
            f"got {'neither' if patch is None else 'both'}."
        )
    if patch is not None:
        row, column = patch
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise ValueError(
                f"patch={(row, column)} lies outside of the grid of {grid[0]} x {grid[1]} patches: rows are "
                f"0 to {grid[0] - 1}, columns 0 to {grid[1] - 1}."
            )
        return row, column
    assert point is not None
    x, y = point
    if not (0 <= x < image.width and 0 <= y < image.height):
        raise ValueError(
            f"point={(x, y)} lies outside of the image: x is 0 to {image.width - 1}, "
            f"y is 0 to {image.height - 1}."
        )
    return int(y * grid[0] / image.height), int(x * grid[1] / image.width)
