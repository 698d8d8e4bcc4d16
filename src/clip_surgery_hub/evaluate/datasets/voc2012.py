"""PASCAL VOC 2012, the segmentation part: palette PNGs, 0 is background and 255 the outlines of the objects.

Read as 20 classes, whose background pixels are of no class, or as 21 with the background.
"""

from __future__ import annotations

from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_list
from clip_surgery_hub.evaluate.datasets.encoding import Encoding
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages

__all__ = ["open_voc2012"]


def open_voc2012(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``voc2012`` or ``voc2012_21`` at VOC2012, VOCdevkit or the folder that holds it.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    images = find(entry, path, [f"{root}JPEGImages" for root in ("VOCdevkit/VOC2012/", "VOC2012/", "")])
    root = images.parent
    masks = find(entry, root, ["SegmentationClass"])
    names = read_list(find(entry, root, [f"ImageSets/Segmentation/{split}.txt"]))
    files = [MaskedFile(name, images / f"{name}.jpg", masks / f"{name}.png") for name in names]
    found = load_classes(entry.key)
    encoding = Encoding(found.ids, void=found.void, no_class=found.no_class)
    return MaskedImages(entry, found.classes, split, files, encoding)
