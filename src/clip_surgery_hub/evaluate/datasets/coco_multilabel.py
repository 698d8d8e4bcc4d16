"""COCO as a multi-label data set: which of the 80 things an image has an instance of, crowds included."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.coco_instances import read_instances
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find
from clip_surgery_hub.evaluate.datasets.labeled import LabeledImages

__all__ = ["open_coco_multilabel"]


def open_coco_multilabel(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``coco_multilabel`` at the folder that holds images and annotations.

    Raises:
        FileNotFoundError: what is missing is named.
        ValueError: the file of instances is damaged.
    """
    file = find(entry, path, [f"annotations/instances_{split}.json"])
    folder = find(entry, path, [f"images/{split}", split])
    found = load_classes(entry.key)
    images = read_instances(file, found.ids, outlines=False)
    labels = np.zeros((len(images), len(found.classes)), bool)
    for row, image in enumerate(images):
        labels[row, [instance["category_id"] for instance in image.instances]] = True
    names = [Path(image.file_name).stem for image in images]
    files = [folder / image.file_name for image in images]
    return LabeledImages(entry, found.classes, split, names, files, labels)
