"""Where in an image a text is: heatmaps, positive and negative points, and SAM's masks at these points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from evaluate import measure_scene
from evaluate_sam import overlap
from numpy.typing import NDArray

from clip_surgery_hub.functional import similarity_map, similarity_to_points
from clip_surgery_hub.results.explanation import Points
from clip_surgery_hub.sam.loading import load_sam
from clip_surgery_hub.sam.masks import masks
from tasks.bootstrap import MetricValue, interval, ratio, share
from tasks.material import VARIANTS, Material, embeddings, read_as
from tasks.wordings import PHRASES

FINER = 1.4
"""Times the native size: where points are measured once more. A cell of points is two patches wide, so that a
native grid of few patches has hardly a cell that lies on one object alone."""


def explanation(material: Material) -> Iterator[MetricValue]:
    """Contrast, best overlap and peak of the maps, as `evaluate.py` defines them, for prompts and phrases."""
    for variant in VARIANTS:
        yield from _quality(variant, _measured(material, material.similarity(variant)))
    for asked, phrases in PHRASES.items():
        for variant, (method, _) in VARIANTS.items():
            clip, encoded = material.clips[method], material.encoded[method]
            texts = [embeddings(clip, material.concepts, [phrase]) for phrase in phrases]
            found = [_measured(material, read_as(variant, clip.explain(encoded, one))) for one in texts]
            of_images = [np.concatenate(one) for one in zip(*found, strict=True)]
            yield from _quality(f"{variant}, {asked}", of_images)


def _measured(material: Material, similarity: Sequence[torch.Tensor]) -> list[NDArray[np.float64]]:
    """Contrast, overlap and peak [K, 3] of the K words of each scene that count, in percent."""
    pairs = zip(similarity, material.scenes, strict=True)
    return [100 * measure_scene(one, scene, material.concepts) for one, scene in pairs]


def _quality(variant: str, found: Sequence[NDArray[np.float64]]) -> Iterator[MetricValue]:
    """The three metrics of a variant from those of the maps of each image, [K, 3]."""
    count = sum(map(len, found))
    means = [metrics[:, 0].mean() if len(metrics) else 0.0 for metrics in found]
    statistics = {
        "mSC": ratio(means, [len(metrics) > 0 for metrics in found]),
        "mIoU": share([metrics[:, 1].tolist() for metrics in found]),
        "peak": share([metrics[:, 2].tolist() for metrics in found]),
    }
    for name, statistic in statistics.items():
        value, low, high = interval(statistic, len(found))
        yield MetricValue(variant=variant, name=name, value=value, low=low, high=high, count=count)


def points(material: Material) -> Iterator[MetricValue]:
    """Share of a text's positive points that lie on its object, and of its negative points that do not.

    All concepts are the class set; where the variant says so, the image's own words and the grounds' are.
    """
    prompts = {
        variant: [_prompts(material, variant, number) for number in range(len(material))]
        for variant in VARIANTS
    }
    prompts["both, the image's words and the grounds"] = _prompts_of_own_words(material)
    finer = material.read_at(FINER)
    prompts[f"both, {FINER} times the size"] = [
        _prompts(finer, "both", number) for number in range(len(finer))
    ]
    prompts[f"both, the image's words and the grounds, {FINER} times the size"] = _prompts_of_own_words(finer)
    for variant, asked in prompts.items():
        on, off = (
            [_hits(material, number, asked[number], label) for number in range(len(asked))]
            for label in (1, 0)
        )
        metrics = {
            "positive on the object": [sum(found, []) for found in on],
            "the same, mean over the texts": [[float(np.mean(one)) for one in found if one] for found in on],
            "negative off the object": [sum(found, []) for found in off],
        }
        for name, groups in metrics.items():
            value, low, high = interval(share(groups), len(material))
            count = sum(map(len, groups))
            yield MetricValue(variant=variant, name=name, value=value, low=low, high=high, count=count)


def sam_masks(material: Material, source: str) -> Iterator[MetricValue]:
    """Overlap of SAM's mask at the points of a text with the text's object, for both ways of choosing it.

    Raises:
        FileNotFoundError: if there is no such SAM.
    """
    sam = load_sam(source)  # before anything else, so that one that is not there is told at once
    variants = {
        "raw CLIP": ("raw CLIP", material),
        "both": ("both", material),
        f"both, {FINER} times the size": ("both", material.read_at(FINER)),
    }
    for name, (variant, read) in variants.items():
        method, _ = VARIANTS[variant]
        prompts = [_prompts(read, variant, number) for number in range(len(read))]
        heat = [_heatmaps(read, variant, number) for number in range(len(read))]
        for choose in ("score", "agreement"):
            result = masks(
                read.explained[method],
                sam,
                choose=choose,  # type: ignore[arg-type]
                points=prompts,
                heatmaps=heat,
            )
            overlaps = []
            for number, found in enumerate(result.masks):
                objects = material.objects(number).values()
                actual = torch.tensor(np.array([*objects]), dtype=torch.bool).reshape(found.shape)
                overlaps.append((100 * overlap(found, actual).double()).tolist())
            value, low, high = interval(share(overlaps), len(material))
            yield MetricValue(
                variant=f"points of {name}",
                name=f'choose="{choose}"',
                value=value,
                low=low,
                high=high,
                count=sum(map(len, overlaps)),
            )


def _hits(material: Material, number: int, asked: Sequence[Points], label: int) -> list[list[float]]:
    """For each text of a scene, 100 where a point of that label is right, else 0."""
    masks_of = material.objects(number).values()
    return [
        [100.0 * (mask[y, x] == bool(label)) for x, y in prompt.xy[prompt.labels == label].tolist()]
        for prompt, mask in zip(asked, masks_of, strict=True)
    ]


def _own_similarity(material: Material, variant: str, number: int) -> torch.Tensor:
    """Of the words of a scene that count, [K, h, w]."""
    chosen = [material.concepts.index(word) for word in material.objects(number)]
    return material.similarity(variant)[number][chosen]


def _prompts(material: Material, variant: str, number: int) -> list[Points]:
    """The points of each word of a scene that counts, all concepts as the class set."""
    size = material.scenes[number].image.shape[:2]
    return [
        Points(*similarity_to_points(one.flatten(), (one.shape[0], one.shape[1]), (size[0], size[1])))
        for one in _own_similarity(material, variant, number)
    ]


def _prompts_of_own_words(material: Material) -> list[list[Points]]:
    """The points of each word of each scene that counts, these words and the grounds' as the class set."""
    return [
        list(material.explain("clip_surgery", number, tuple(material.objects(number))).points()[0])
        for number in range(len(material))
    ]


def _heatmaps(material: Material, variant: str, number: int) -> torch.Tensor:
    """The heatmap of each word of a scene that counts, [K, H, W]."""
    similarity, size = _own_similarity(material, variant, number), material.scenes[number].image.shape[:2]
    grid = (similarity.shape[1], similarity.shape[2])
    return similarity_map(similarity.flatten(1).T[None], grid, (size[0], size[1]))[0]
