"""COCO as a multi-label data set: which of the 80 things a picture has an instance of, crowds included."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.coco_instances import read_instances
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, Entry
from clip_surgery_hub.evaluate.datasets.dataset_files import find
from clip_surgery_hub.evaluate.datasets.labeled import LabelledPictures

__all__ = ["open_coco_multilabel"]


def open_coco_multilabel(entry: Entry, path: Path, split: str) -> DataSet:
    """Open ``coco_multilabel`` at the folder that holds images and annotations.

    Raises:
        FileNotFoundError: what is missing is named.
        ValueError: the file of instances is damaged.
    """
    file = find(entry, path, [f"annotations/instances_{split}.json"])
    images = find(entry, path, [f"images/{split}", split])
    found = load_classes(entry.key)
    pictures = read_instances(file, found.ids, outlines=False)
    labels = np.zeros((len(pictures), len(found.classes)), bool)
    for row, picture in enumerate(pictures):
        labels[row, [instance["category_id"] for instance in picture.instances]] = True
    names = [Path(picture.file_name).stem for picture in pictures]
    files = [images / picture.file_name for picture in pictures]
    return LabelledPictures(entry, found.classes, split, names, files, labels)
