r"""NUS-WIDE, its 81 concepts: a list of images, and for each concept a file of a 0 or 1 per image.

The list has a line ``actor\0001_2124494179.jpg`` per image, with backslashes, below the folder of images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_list
from clip_surgery_hub.evaluate.datasets.labeled import LabeledImages

__all__ = ["open_nus_wide"]


def open_nus_wide(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``nus_wide`` at the folder that holds ImageList, Groundtruth and Flickr.

    The tags of its users are not used. Where Concepts81.txt was kept, the order of its concepts is checked.

    Raises:
        FileNotFoundError: what is missing is named.
        ValueError: a list or a column of labels does not fit.
    """
    part = split.capitalize()
    file = find(entry, path, [f"ImageList/{part}Imagelist.txt", f"{part}Imagelist.txt"])
    places = [line.replace("\\", "/") for line in read_list(file)]
    columns = find(entry, path, ["Groundtruth/TrainTestLabels", "TrainTestLabels"])
    images = find(entry, path, ["Flickr", "images"])
    classes = load_classes(entry.key).classes
    for concepts in ("Concepts81.txt", "ConceptsList/Concepts81.txt"):
        if (path / concepts).exists() and read_list(path / concepts) != classes.names:
            raise ValueError(
                f"The list {path / concepts} is not that of NUS-WIDE's 81 concepts; get it anew."
            )
    labels = np.zeros((len(places), len(classes)), bool)
    for number, concept in enumerate(classes.names):
        column = find(entry, columns, [f"Labels_{concept}_{part}.txt"])
        labels[:, number] = _read_column(column, len(places), file)
    names = [Path(place).with_suffix("").as_posix().replace("/", "_") for place in places]
    return LabeledImages(entry, classes, split, names, [images / place for place in places], labels)


def _read_column(file: Path, expected: int, images: Path) -> np.ndarray:
    """A label per image: bool ``[N]``, from lines "0" and "1"."""
    values = np.array(file.read_bytes().split())
    labels: np.ndarray = values == b"1"
    if len(values) != expected:
        raise ValueError(
            f"The file {file} has {len(values)} labels, but {images} lists {expected} images; get both anew."
        )
    if not (labels | (values == b"0")).all():
        raise ValueError(f"The file {file} holds other than 0 and 1; get it anew.")
    return labels
