"""What a run keeps of an explanation: one entry per output, values that a table takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.images.masks import class_masks, mask_to_rle
from clip_surgery_hub.results.explanation import Explanation, Points

__all__ = ["COLUMNS", "ImageResult", "explained_rows"]


@dataclass(frozen=True)
class ImageResult:
    """What the model says of one image, and how it is to be read.

    Attributes:
        explanation: of the image.
        embedding: the unit length image embedding ``[C]``.
        labels: how many labels are kept.
    """

    explanation: Explanation
    embedding: Tensor
    labels: int


def _points(result: ImageResult) -> list[list[dict[str, int]]]:
    def listed(points: Points) -> list[dict[str, int]]:
        pairs = zip(points.xy.tolist(), points.labels.tolist(), strict=True)
        return [{"x": x, "y": y, "label": label} for (x, y), label in pairs]

    return [listed(points) for points in result.explanation.points()[0]]


def _boxes(result: ImageResult) -> list[list[dict[str, int]]]:
    names = ("x0", "y0", "x1", "y1")
    return [
        [dict(zip(names, box, strict=True)) for box in boxes.tolist()]
        for boxes in result.explanation.boxes()[0]
    ]


def _labels(result: ImageResult) -> list[dict[str, Any]]:
    return [label._asdict() for label in result.explanation.labels(top_k=result.labels)[0]]


def _segments(result: ImageResult) -> list[dict[str, Any]]:
    names = (*result.explanation.texts, *result.explanation.background)
    masks = class_masks(result.explanation.segment()[0], len(names))
    height, width = masks.shape[1:]
    return [
        {"text": name, "height": height, "width": width, "counts": mask_to_rle(mask)["counts"]}
        for name, mask in zip(names, masks, strict=True)
    ]


def _presence(result: ImageResult) -> np.ndarray:
    presence = result.explanation.presence
    assert presence is not None  # a run asks texts, never embeddings
    return presence[0].numpy()


COLUMNS: Mapping[str, Callable[[ImageResult], Any]] = {
    "scores": lambda result: result.explanation.scores[0].numpy(),
    "presence": _presence,
    "points": _points,
    "boxes": _boxes,
    "labels": _labels,
    "segments": _segments,
    "maps": lambda result: result.explanation.similarity[0].to(torch.float16).numpy(),
    "embeddings": lambda result: result.embedding.float().cpu().numpy(),
}
"""Output -> its value in the row of one image, as `runs.images_schema` describes it."""


def explained_rows(
    keys: Sequence[str], explanation: Explanation, embeddings: Tensor, *, outputs: Sequence[str], labels: int
) -> list[dict[str, Any]]:
    """The rows of B explained images.

    Args:
        keys: B names.
        explanation: of the B images.
        embeddings: unit length image embeddings ``[B, C]``.
        outputs: which of :data:`COLUMNS`.
        labels: how many labels each image gets.
    """
    rows = []
    for key, one, embedding in zip(keys, explanation, embeddings, strict=True):
        height, width = one.sizes[0]
        grid_height, grid_width = one.surgery_similarity[0].shape[1:]
        result = ImageResult(one, embedding, labels)
        rows.append(
            {"key": key, "height": height, "width": width, "grid_height": grid_height}
            | {"grid_width": grid_width}
            | {name: COLUMNS[name](result) for name in outputs}
        )
    return rows
