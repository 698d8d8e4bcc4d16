"""What all texts have in common, and what both surgeries make of it (arXiv 2304.05653, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.analysis.masks import check_count, checked_mask
from clip_surgery_hub.analysis.redundancy_result import RedundancyAnalysis
from clip_surgery_hub.functional import feature_surgery, unit_length
from clip_surgery_hub.images.loading import load_images
from clip_surgery_hub.model import CLIPSurgery, Texts
from clip_surgery_hub.results.encoded import EncodedImages
from clip_surgery_hub.towers.activations import clip_tower, recorded_output
from clip_surgery_hub.towers.tower import Grid

__all__ = ["redundancy_analysis"]


def redundancy_analysis(
    clip: CLIPSurgery,
    images: Any,
    texts: Texts,
    *,
    unrelated: Texts = "",
    masks: Sequence[Mapping[str, Any]] | None = None,
    size: int | None = None,
    max_side: int | None = None,
) -> RedundancyAnalysis:
    """What the class set's texts have in common, and what both surgeries make of their maps.

    The channels are compared as the paper does for its feature surgery (section 3.3): the products
    ``F_nc T_tc`` of every patch n, text t and channel c, whose sum over the channels is the similarity.

    Args:
        clip: the checkpoint, under the method whose maps are asked for; CLIP's own are read beside them.
        images: images, whatever `CLIPSurgery.encode` takes.
        texts: the class set, two texts or more, or embeddings by name, see `CLIPSurgery.explain`.
        unrelated: texts (or embeddings by name) that name nothing in the images; the empty one by default.
        masks: for each image the masks ``[H, W]`` of texts that are in it, bool or 0 and 1; a text that is
            not in it has none.
        size: see `CLIPSurgery.encode`.
        max_side: see `CLIPSurgery.encode`.

    Raises:
        ImageError: an image cannot be read.
        ValueError: fewer than two texts, or masks that do not fit.
        RuntimeError: the model runs past its hooks, as one does that was compiled.
    """
    images = load_images(images)
    names, embeds = _embedded(clip, texts)
    if len(names) < 2:
        raise ValueError(f"what texts share needs two texts or more, got {len(names)}: add others to texts.")
    checked = None if masks is None else _checked_masks(masks, images, names)
    others, other_embeds = _embedded(clip, unrelated)
    encoded, original = _encoded_twice(clip, images, size=size, max_side=max_side)
    modified = clip.explain(encoded, texts)
    channels = [_channels(tokens[1:], embeds) for tokens in encoded.tokens]
    mean, spread, common, energy = torch.stack(channels).mean(0)
    return RedundancyAnalysis(
        original=replace(
            modified,
            plain_similarity=_on_grids([tokens @ embeds.T for tokens in original], encoded.grids),
            surgery_similarity=_on_grids(
                [feature_surgery(tokens[None], embeds)[0] for tokens in original], encoded.grids
            ),
            settings=replace(modified.settings, method="none", depth=None),
        ),
        modified=modified,
        unrelated=others,
        original_unrelated=_mean_maps(original, other_embeds, encoded.grids),
        modified_unrelated=_mean_maps(encoded.tokens, other_embeds, encoded.grids),
        mean=mean,
        spread=spread,
        common=common,
        energy=energy,
        masks=checked,
    )


def _checked_masks(
    masks: Sequence[Mapping[str, Any]], images: Sequence[Image.Image], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], ...]:
    check_count(masks, images)
    checked = []
    for number, (by_text, image) in enumerate(zip(masks, images, strict=True)):
        if unknown := [text for text in by_text if text not in names]:
            raise ValueError(f"image {number} has a mask of {unknown[0]!r}, which is none of the texts.")
        size = (image.height, image.width)
        found = {
            text: checked_mask(mask, size, f"the mask of {text!r} in image {number}")
            for text, mask in by_text.items()
        }
        for text, mask in found.items():
            if mask.all() or not mask.any():
                raise ValueError(
                    f"the mask of {text!r} in image {number} covers "
                    f"{'the whole image' if mask.all() else 'nothing'}: leave it out, since there is "
                    "nothing to compare with."
                )
        checked.append(found)
    if not any(checked):
        raise ValueError("masks holds no mask at all: leave it out.")
    return tuple(checked)


def _embedded(clip: CLIPSurgery, texts: Texts) -> tuple[tuple[str, ...], Tensor]:
    """Names and unit length embeddings ``[T, C]`` of texts, or of embeddings by name."""
    if isinstance(texts, Mapping):
        return tuple(texts), unit_length(torch.stack([one.detach().float().cpu() for one in texts.values()]))
    names = (texts,) if isinstance(texts, str) else tuple(texts)
    return names, clip.encode_text(names)


def _encoded_twice(
    clip: CLIPSurgery, images: Sequence[Image.Image], *, size: int | None, max_side: int | None
) -> tuple[EncodedImages, list[Tensor]]:
    """Images encoded as the method reads them, and the original path's tokens ``[1+N, C]`` of each."""
    tower = clip_tower(clip.tower)
    each, original = [], []
    for image in images:
        with recorded_output(tower) as record:
            each.append(clip.encode(image, size=size, max_side=max_side))
        with torch.no_grad():
            original.append(unit_length(tower.embed(record.final[0])[0].float()).cpu())
    together = EncodedImages(
        images=tuple(np.asarray(image) for image in images),
        sizes=tuple(one.sizes[0] for one in each),
        tokens=tuple(one.tokens[0] for one in each),
        grids=tuple(one.grids[0] for one in each),
        settings=each[0].settings,
    )
    return together, original


def _channels(patches: Tensor, texts: Tensor) -> Tensor:
    """How channels react to texts, ``[4, C]`` from patches ``[N, C]`` and texts ``[T, C]``.

    The rows are mean, spread, common and energy of `RedundancyAnalysis`. A product's mean and deviation over
    the texts are those of the texts alone, times the patch's channel.
    """
    shared, deviation = texts.mean(0), texts.std(0, correction=0)
    square = patches.square().mean(0)
    return torch.stack(
        [
            patches.mean(0) * shared,
            patches.abs().mean(0) * deviation,
            square * shared.square(),
            square * (shared.square() + deviation.square()),
        ]
    )


def _mean_maps(tokens: Sequence[Tensor], embeds: Tensor, grids: Sequence[Grid]) -> tuple[Tensor, ...]:
    """Mean cosine similarity of the patches with some texts, a map ``[h, w]`` for each image."""
    return tuple(
        (one[1:] @ embeds.T).mean(-1).unflatten(0, grid) for one, grid in zip(tokens, grids, strict=True)
    )


def _on_grids(similarities: Sequence[Tensor], grids: Sequence[Grid]) -> tuple[Tensor, ...]:
    """``[1+N, T]`` with CLS -> ``[T, h, w]`` without, for each image."""
    return tuple(
        one[1:].T.unflatten(1, grid).contiguous() for one, grid in zip(similarities, grids, strict=True)
    )
