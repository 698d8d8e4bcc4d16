"""Data sets of images in files, with labels for the image as a whole: NUS-WIDE, and COCO's instances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.coco_instances import read_instances
from clip_surgery_hub.evaluate.datasets.dataset import AnnotatedImage, ClassSet, DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_image, read_list

__all__ = ["LabeledImages", "open_coco_multilabel", "open_nus_wide"]


class LabeledImages(DataSet):
    """Images in files and their labels.

    Args:
        entry: what is registered about the data set.
        classes: its T classes.
        split: the part that is opened.
        names: of the N samples.
        files: where the images are.
        labels: bool ``[N, T]``.
    """

    def __init__(
        self,
        entry: DatasetEntry,
        classes: ClassSet,
        split: str,
        names: Sequence[str],
        files: Sequence[Path],
        labels: np.ndarray,
    ) -> None:
        super().__init__(entry, classes, split)
        self._names, self._files, self._labels = tuple(names), tuple(files), labels

    def names(self) -> tuple[str, ...]:
        """The names of all samples."""
        return self._names

    def sample(self, index: int) -> AnnotatedImage:
        """One image and its labels."""
        image = read_image(self._files[index])
        return AnnotatedImage(
            name=self._names[index], image=image, segmentation=None, labels=self._labels[index].copy()
        )


def open_nus_wide(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    r"""Open ``nus_wide`` at the folder that holds ImageList, Groundtruth and Flickr.

    A list has a line ``actor\0001_2124494179.jpg`` per image, with backslashes, below the folder of images,
    and for each of the 81 concepts a file has a 0 or 1 per image. The tags of its users are not used. Where
    Concepts81.txt was kept, the order of its concepts is checked.

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


def open_coco_multilabel(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``coco_multilabel`` at the folder that holds images and annotations.

    The labels are which of the 80 things an image has an instance of, crowds included.

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
