"""Data sets of images in files, each with a mask in a file of its own.

Those whose masks hold one number per pixel, in a folder beside that of the images, are here whole: VOC 2012,
COCO-Stuff, ADE20K and Cityscapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.classes import Encoding, load_classes
from clip_surgery_hub.evaluate.datasets.dataset import (
    AnnotatedImage,
    ClassSet,
    DataSet,
    DatasetEntry,
    shown_classes,
)
from clip_surgery_hub.evaluate.datasets.dataset_files import (
    find,
    read_image,
    read_index_mask,
    read_list,
    stems_in,
)

__all__ = [
    "MaskedFile",
    "MaskedImages",
    "checked_size",
    "open_ade20k",
    "open_cityscapes",
    "open_coco_stuff",
    "open_voc2012",
]


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


def open_voc2012(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``voc2012`` or ``voc2012_21`` at VOC2012, VOCdevkit or the folder that holds it.

    The segmentation part: palette PNGs, 0 is background and 255 the outlines of the objects. Read as 20
    classes, whose background pixels are of no class, or as 21 with the background.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    images = find(entry, path, [f"{root}JPEGImages" for root in ("VOCdevkit/VOC2012/", "VOC2012/", "")])
    masks = find(entry, images.parent, ["SegmentationClass"])
    names = read_list(find(entry, images.parent, [f"ImageSets/Segmentation/{split}.txt"]))
    return _side_by_side(entry, split, images, masks, names)


def open_coco_stuff(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``coco_stuff`` or ``coco_stuff27`` at the folder that holds images and stuffthingmaps.

    All 164,000 images of COCO 2017: gray PNGs, things 0 to 90, stuff 91 to 181, 255 unlabeled. Read as its
    171 classes, or as the 27 of its upper hierarchy. Files that converters put beside the masks
    (``*TrainIds.png``) are left alone.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    masks = find(entry, path, [f"stuffthingmaps/{split}", f"annotations/{split}"])
    images = find(entry, path, [f"images/{split}", split])
    names = [name for name in stems_in(masks, ".png") if not name.endswith("TrainIds")]
    return _side_by_side(entry, split, images, masks, names)


def open_ade20k(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``ade20k`` at ADEChallengeData2016 or the folder that holds it.

    As in the scene parsing challenge of 2016: gray PNGs, 1 to 150, and 0 for all other objects.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    places = [f"{root}annotations/{split}" for root in ("ADEChallengeData2016/", "")]
    masks = find(entry, path, places)
    images = find(entry, masks.parent.parent, [f"images/{split}"])
    return _side_by_side(entry, split, images, masks, stems_in(masks, ".png"))


def open_cityscapes(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``cityscapes`` at the folder that holds leftImg8bit and gtFine.

    Fine annotations: gray PNGs of label ids 0 to 33, of which 19 are evaluated.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    masks = find(entry, path, [f"{root}gtFine/{split}" for root in ("", "cityscapes/")])
    images = find(entry, masks.parent.parent, [f"leftImg8bit/{split}"])
    ending = "_gtFine_labelIds.png"
    files = [
        MaskedFile(name, images / city / f"{name}_leftImg8bit.png", masks / city / f"{name}{ending}")
        for city in sorted(item.name for item in os.scandir(masks) if item.is_dir())
        for name in stems_in(masks / city, ending)
    ]
    if not files:
        raise FileNotFoundError(f"{entry.title}: there is no folder of a city in {masks}. {entry.advice}")
    found = load_classes(entry.key)
    return MaskedImages(entry, found.classes, split, files, found.encoding)


def _side_by_side(
    entry: DatasetEntry, split: str, images: Path, masks: Path, names: Sequence[str]
) -> MaskedImages:
    """Images ``name.jpg`` in one folder, masks ``name.png`` in another."""
    files = [MaskedFile(name, images / f"{name}.jpg", masks / f"{name}.png") for name in names]
    found = load_classes(entry.key)
    return MaskedImages(entry, found.classes, split, files, found.encoding)
