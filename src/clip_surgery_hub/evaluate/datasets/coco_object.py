"""COCO-Object: the 80 things of COCO 2017 and the background, as the open-vocabulary literature has it.

Painted from the instances of COCO itself, or read from the ``*_instanceTrainIds.png`` that converters make.
"""

from __future__ import annotations

from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.coco_instances import (
    CocoPicture,
    paint_instances,
    read_instances,
)
from clip_surgery_hub.evaluate.datasets.dataset import ClassSet, DataSet, Entry, Sample, shown_classes
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_picture, stems_in
from clip_surgery_hub.evaluate.datasets.encoding import Encoding
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedPictures, checked_size

__all__ = ["open_coco_object"]

_CONVERTED = "_instanceTrainIds.png"


def open_coco_object(entry: Entry, path: Path, split: str) -> DataSet:
    """Open ``coco_object`` at the folder that holds images and annotations.

    Converted masks, in ``annotations/val2017``, go before the instances in ``annotations``.

    Raises:
        FileNotFoundError: what is missing is named.
        ValueError: the file of instances is damaged.
    """
    images = find(entry, path, [f"images/{split}", split])
    found = load_classes(entry.key)
    masks = path / "annotations" / split
    if masks.is_dir() and any(masks.glob(f"*{_CONVERTED}")):
        names = stems_in(masks, _CONVERTED)
        files = [MaskedFile(name, images / f"{name}.jpg", masks / f"{name}{_CONVERTED}") for name in names]
        encoding = Encoding([(number,) for number in range(len(found.ids))])
        return MaskedPictures(entry, found.classes, split, files, encoding)
    file = find(entry, path, [f"annotations/instances_{split}.json"])
    # The background has the number 0 in the masks, which is no category of the instances.
    pictures = read_instances(file, [(), *found.ids[1:]], outlines=True)
    return _PaintedPictures(entry, found.classes, split, images, file, pictures)


class _PaintedPictures(DataSet):
    def __init__(
        self,
        entry: Entry,
        classes: ClassSet,
        split: str,
        images: Path,
        file: Path,
        pictures: tuple[CocoPicture, ...],
    ) -> None:
        super().__init__(entry, classes, split)
        self._images, self._file, self._pictures = images, file, pictures

    def names(self) -> tuple[str, ...]:
        return tuple(Path(picture.file_name).stem for picture in self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    def sample(self, index: int) -> Sample:
        told = self._pictures[index]
        file = self._images / told.file_name
        picture = read_picture(file)
        assert self.classes.background is not None
        segmentation = paint_instances(told, self.classes.background, self._file)
        segmentation = checked_size(segmentation, self._file, picture.size, file)
        labels = shown_classes(segmentation, self.classes)
        return Sample(
            name=Path(told.file_name).stem, picture=picture, segmentation=segmentation, labels=labels
        )
