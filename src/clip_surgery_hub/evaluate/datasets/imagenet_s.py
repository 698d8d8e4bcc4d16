"""ImageNet-S, validation: RGB PNGs whose number is red + 256 green; 0 is all else, 1000 is ignored.

The three sets of 919, 300 and 50 classes number their classes from 1, each in its own way.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_rgb_mask, stems_in
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages

__all__ = ["open_imagenet_s"]

_CLASS_FILES = {"919": "imagenet_s", "300": "imagenet_s300", "50": "imagenet_s50"}


def open_imagenet_s(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``imagenet_s``, split "919", "300" or "50", at ImageNetS919 (300, 50) or the folder that holds it.

    That folder has to have its own name, for the numbers of one set mean other classes in another.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    own = f"ImageNetS{split}"
    root = path if path.resolve().name == own else find(entry, path, [own])
    masks = find(entry, root, ["validation-segmentation"])
    images = find(entry, root, ["validation"])
    folders = sorted(item.name for item in os.scandir(masks) if item.is_dir())
    files = [
        MaskedFile(name, images / folder / f"{name}.JPEG", masks / folder / f"{name}.png")
        for folder in folders
        for name in stems_in(masks / folder, ".png")
    ]
    found = load_classes(_CLASS_FILES[split])
    return MaskedImages(entry, found.classes, split, files, found.encoding, read_mask=_read_numbers)


def _read_numbers(file: Path) -> np.ndarray:
    colors = read_rgb_mask(file).astype(np.int32)
    return colors[..., 0] + 256 * colors[..., 1]
