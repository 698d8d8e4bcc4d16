"""COCO-Object: the 80 things of COCO 2017 and the background, as the open-vocabulary literature has it.

Painted from the instances of COCO itself, or read from the ``*_instanceTrainIds.png`` that converters make.
"""

from __future__ import annotations

from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import Encoding, load_classes
from clip_surgery_hub.evaluate.datasets.coco_instances import (
    CocoImage,
    paint_instances,
    read_instances,
)
from clip_surgery_hub.evaluate.datasets.dataset import (
    AnnotatedImage,
    ClassSet,
    DataSet,
    DatasetEntry,
    shown_classes,
)
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_image, stems_in
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages, checked_size

__all__ = ["open_coco_object"]

_CONVERTED = "_instanceTrainIds.png"


def open_coco_object(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``coco_object`` at the folder that holds images and annotations.

    Converted masks, in ``annotations/val2017``, go before the instances in ``annotations``.

    Raises:
        FileNotFoundError: what is missing is named.
        ValueError: the file of instances is damaged.
    """
    folder = find(entry, path, [f"images/{split}", split])
    found = load_classes(entry.key)
    masks = path / "annotations" / split
    if masks.is_dir() and any(masks.glob(f"*{_CONVERTED}")):
        names = stems_in(masks, _CONVERTED)
        files = [MaskedFile(name, folder / f"{name}.jpg", masks / f"{name}{_CONVERTED}") for name in names]
        encoding = Encoding([(number,) for number in range(len(found.ids))])
        return MaskedImages(entry, found.classes, split, files, encoding)
    file = find(entry, path, [f"annotations/instances_{split}.json"])
    # The background has the number 0 in the masks, which is no category of the instances.
    images = read_instances(file, [(), *found.ids[1:]], outlines=True)
    return _PaintedImages(entry, found.classes, split, folder, file, images)


class _PaintedImages(DataSet):
    def __init__(
        self,
        entry: DatasetEntry,
        classes: ClassSet,
        split: str,
        folder: Path,
        file: Path,
        images: tuple[CocoImage, ...],
    ) -> None:
        super().__init__(entry, classes, split)
        self._folder, self._file, self._images = folder, file, images

    def names(self) -> tuple[str, ...]:
        return tuple(Path(image.file_name).stem for image in self._images)

    def __len__(self) -> int:
        return len(self._images)

    def sample(self, index: int) -> AnnotatedImage:
        told = self._images[index]
        file = self._folder / told.file_name
        image = read_image(file)
        assert self.classes.background is not None
        segmentation = paint_instances(told, self.classes.background, self._file)
        segmentation = checked_size(segmentation, self._file, image.size, file)
        labels = shown_classes(segmentation, self.classes)
        return AnnotatedImage(
            name=Path(told.file_name).stem, image=image, segmentation=segmentation, labels=labels
        )
