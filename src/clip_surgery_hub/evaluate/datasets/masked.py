"""Data sets of images in files, each with a mask in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.dataset import (
    AnnotatedImage,
    ClassSet,
    DataSet,
    DatasetEntry,
    shown_classes,
)
from clip_surgery_hub.evaluate.datasets.dataset_files import read_image, read_index_mask
from clip_surgery_hub.evaluate.datasets.encoding import Encoding

__all__ = ["MaskedFile", "MaskedImages", "checked_size"]


@dataclass(frozen=True)
class MaskedFile:
    """Where an image and its mask are.

    Attributes:
        name: of the sample.
        image: file of the image.
        mask: file of the mask.
    """

    name: str
    image: Path
    mask: Path


class MaskedImages(DataSet):
    """Images and masks in files.

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
        entry: DatasetEntry,
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

    def sample(self, index: int) -> AnnotatedImage:
        """One image and its mask."""
        file = self._files[index]
        image = read_image(file.image)
        values = checked_size(self._read_mask(file.mask), file.mask, image.size, file.image)
        segmentation = self._encoding.decode(values, file.mask)
        labels = shown_classes(segmentation, self.classes)
        return AnnotatedImage(name=file.name, image=image, segmentation=segmentation, labels=labels)


def checked_size(values: np.ndarray, mask: Path, size: tuple[int, int], image: Path) -> np.ndarray:
    """The mask ``[H, W]`` itself, where it is as large as its image, whose size is (width, height).

    Raises:
        ValueError: it is not.
    """
    height, width = values.shape
    if (width, height) != size:
        raise ValueError(
            f"The mask {mask} is {width} x {height} pixels, but its image {image} is "
            f"{size[0]} x {size[1]}; get both anew."
        )
    return values
