"""Data sets of pictures in files, with labels for the picture as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.dataset import ClassSet, DataSet, Entry, Sample
from clip_surgery_hub.evaluate.datasets.dataset_files import read_picture

__all__ = ["LabelledPictures"]


class LabelledPictures(DataSet):
    """Pictures in files and their labels.

    Args:
        entry: what is registered about the data set.
        classes: its T classes.
        split: the part that is opened.
        names: of the N samples.
        files: where the pictures are.
        labels: bool ``[N, T]``.
    """

    def __init__(
        self,
        entry: Entry,
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

    def sample(self, index: int) -> Sample:
        """One picture and its labels."""
        picture = read_picture(self._files[index])
        return Sample(
            name=self._names[index], picture=picture, segmentation=None, labels=self._labels[index].copy()
        )
