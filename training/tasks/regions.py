"""Which text each pixel belongs to: segmentation by the highest similarity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_jaccard_index

from clip_surgery_hub.results.explanation import Features
from tasks.bootstrap import MetricValue, interval, mean_intersection_over_union
from tasks.material import VARIANTS, Material


def segmentation(material: Material) -> Iterator[MetricValue]:
    """Intersection over union per class over the pixels of all images, then the mean over the classes.

    The ground is one class, whichever of its words a pixel gets.
    """
    truth = torch.stack([_truth(material, number) for number in range(len(material))])
    for class_set in ("words of the image", "all concepts"):
        for variant, (method, features) in VARIANTS.items():
            found = _segments(material, method, features, narrow=class_set == "words of the image")  # type: ignore[arg-type]
            value, low, high = _interval(found, truth, len(material.concepts) + 1)
            yield MetricValue(
                variant=variant,
                name=class_set,
                value=100 * value,
                low=100 * low,
                high=100 * high,
                count=int(truth.unique().numel()),
            )


def _truth(material: Material, number: int) -> Tensor:
    """Number of the concept that each pixel shows, [H, W]; one more than the last for the ground."""
    scene, ground = material.scenes[number], len(material.concepts)
    truth = torch.full(scene.image.shape[:2], ground)
    for word in scene.words:
        truth[torch.from_numpy(scene.mask(word))] = material.concepts.index(word)
    return truth


def _segments(material: Material, method: str, features: Features, *, narrow: bool) -> Tensor:
    """What `Explanation.segment` says, in the numbers of `_truth`, [B, H, W].

    `narrow`: the class set is the image's own words and the backgrounds, else all concepts and those.
    """
    concepts, found = material.concepts, []
    for number, scene in enumerate(material.scenes):
        texts = scene.words if narrow else concepts
        explanation = material.explain(method, number, texts)
        numbers = [concepts.index(word) for word in texts] + [len(concepts)] * len(material.grounds)
        found.append(torch.tensor(numbers)[explanation.segment(features)[0]])
    return torch.stack(found)


def _interval(found: Tensor, truth: Tensor, classes: int) -> tuple[float, float, float]:
    """Mean over the classes, of one confusion matrix over all pixels: not a mean over images."""

    def pixels(labels: Tensor) -> np.ndarray:
        return np.stack([torch.bincount(one, minlength=classes).numpy() for one in labels])

    overlap = np.stack(
        [
            torch.bincount(one[one == other], minlength=classes).numpy()
            for one, other in zip(found.flatten(1), truth.flatten(1), strict=True)
        ]
    )
    statistic = mean_intersection_over_union(overlap, pixels(found.flatten(1)), pixels(truth.flatten(1)))
    value, low, high = interval(statistic, len(found), centered=True)
    exact = float(multiclass_jaccard_index(found, truth, num_classes=classes, average="macro"))
    if abs(value - exact) > 1e-4:
        raise ArithmeticError(f"the bootstrap's form gives {value}, torchmetrics {exact}.")
    return value, low, high
