"""Data sets of pictures in files, each with a mask in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.dataset import ClassSet, DataSet, Entry, Sample, shown_classes
from clip_surgery_hub.evaluate.datasets.dataset_files import read_index_mask, read_picture
from clip_surgery_hub.evaluate.datasets.encoding import Encoding

__all__ = ["MaskedFile", "MaskedPictures", "checked_size"]


@dataclass(frozen=True)
class MaskedFile:
    """Where a picture and its mask are.

    Attributes:
        name: of the sample.
        picture: file of the picture.
        mask: file of the mask.
    """

    name: str
    picture: Path
    mask: Path


class MaskedPictures(DataSet):
    """Pictures and masks in files.

    Args:
        entry: what is registered about the data set.
        classes: its T classes.
        split: the part that is opened.
        files: where they are, in order.
        encoding: what the numbers in the masks mean.
        read_mask: from a file to numbers ``[H, W]``.
    """

    def __init__(
        self,
        entry: Entry,
        classes: ClassSet,
        split: str,
        files: Sequence[MaskedFile],
        encoding: Encoding,
        *,
        read_mask: Callable[[Path], np.ndarray] = read_index_mask,
    ) -> None:
        super().__init__(entry, classes, split)
        self._files, self._encoding, self._read_mask = tuple(files), encoding, read_mask

    def names(self) -> tuple[str, ...]:
        """The names of all samples."""
        return tuple(file.name for file in self._files)

    def __len__(self) -> int:
        return len(self._files)

    def sample(self, index: int) -> Sample:
        """One picture and its mask."""
        file = self._files[index]
        picture = read_picture(file.picture)
        values = checked_size(self._read_mask(file.mask), file.mask, picture.size, file.picture)
        segmentation = self._encoding.decode(values, file.mask)
        labels = shown_classes(segmentation, self.classes)
        return Sample(name=file.name, picture=picture, segmentation=segmentation, labels=labels)


def checked_size(values: np.ndarray, mask: Path, size: tuple[int, int], picture: Path) -> np.ndarray:
    """The mask ``[H, W]`` itself, where it is as large as its picture, whose size is (width, height).

    Raises:
        ValueError: it is not.
    """
    height, width = values.shape
    if (width, height) != size:
        raise ValueError(
            f"The mask {mask} is {width} x {height} pixels, but its picture {picture} is "
            f"{size[0]} x {size[1]}; get both anew."
        )
    return values
