"""COCO's files of instances: which images there are, and what lies in each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CocoImage", "paint_instances", "read_instances"]


@dataclass(frozen=True)
class CocoImage:
    """An image in a file of instances.

    Attributes:
        file_name: of the image, such as ``000000000139.jpg``.
        height: in pixels.
        width: in pixels.
        instances: what was annotated in it, in the file's order, with ``category_id`` numbered as classes.
    """

    file_name: str
    height: int
    width: int
    instances: tuple[dict[str, Any], ...]


def read_instances(file: Path, ids: Sequence[Sequence[int]], *, outlines: bool) -> tuple[CocoImage, ...]:
    """All images of a file of instances, in the order of their numbers.

    Args:
        file: such as ``instances_val2017.json``.
        ids: T tuples, the category ids of each class.
        outlines: whether polygons and run lengths are kept.

    Raises:
        ValueError: it is no file of instances, or of other categories.
    """
    numbers = {category: number for number, categories in enumerate(ids) for category in categories}
    fields = ("category_id", "iscrowd", "segmentation") if outlines else ("category_id",)
    try:
        content = json.loads(file.read_bytes())
        instances: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for row in content["annotations"]:
            kept = {field: row[field] for field in fields}
            kept["category_id"] = numbers[row["category_id"]]
            instances[row["image_id"]].append(kept)
        return tuple(
            CocoImage(image["file_name"], image["height"], image["width"], tuple(instances[image["id"]]))
            for image in sorted(content["images"], key=lambda image: image["id"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"The file {file} is no file of COCO's instances ({type(error).__name__}: {error}); get it anew."
        ) from error


def paint_instances(image: CocoImage, background: int, file: Path) -> np.ndarray:
    """The class of each pixel, int16 ``[H, W]``; crowds first, then each instance over those before it.

    Args:
        image: with outlines.
        background: the number of pixels without instance.
        file: named by the error.

    Raises:
        ValueError: for outlines that are neither polygons nor run lengths, or those of another size.
    """
    segmentation = np.full((image.height, image.width), background, np.int16)
    for instance in sorted(image.instances, key=lambda instance: not instance["iscrowd"]):
        try:
            mask = _instance_mask(instance["segmentation"], image.height, image.width)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The file {file} has an instance in {image.file_name} whose outline is damaged ({error}); "
                "get it anew."
            ) from error
        segmentation[mask] = instance["category_id"]
    return segmentation


def _instance_mask(outline: Any, height: int, width: int) -> np.ndarray:
    """Bool ``[H, W]`` of polygons (lists x, y, x, y, ...) or run lengths, as a list or compressed."""
    from pycocotools import mask as coco

    from clip_surgery_hub.images.masks import rle_to_mask

    if isinstance(outline, list):
        if not outline or any(len(polygon) < 6 or len(polygon) % 2 for polygon in outline):
            raise ValueError("a polygon has three corners at least")
        decoded: np.ndarray = coco.decode(coco.merge(coco.frPyObjects(outline, height, width))).astype(bool)
        return decoded
    counts = outline["counts"]
    if isinstance(counts, str):
        mask: np.ndarray = rle_to_mask(outline).numpy()
    else:  # down the columns, zeros first
        flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        mask = flat.reshape(outline["size"][::-1]).T
    if mask.shape != (height, width):
        raise ValueError(f"a mask of {mask.shape} in an image of {(height, width)}")
    return mask
