"""Data sets of images in files, with labels for the image as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.dataset import AnnotatedImage, ClassSet, DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import read_image

__all__ = ["LabeledImages"]


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
