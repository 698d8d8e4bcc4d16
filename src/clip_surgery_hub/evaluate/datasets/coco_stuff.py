"""COCO-Stuff, all 164,000 images of COCO 2017: gray PNGs, things 0 to 90, stuff 91 to 181, 255 unlabeled.

Read as its 171 classes, or as the 27 of its upper hierarchy.
"""

from __future__ import annotations

from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, stems_in
from clip_surgery_hub.evaluate.datasets.encoding import Encoding
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages

__all__ = ["open_coco_stuff"]


def open_coco_stuff(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``coco_stuff`` or ``coco_stuff27`` at the folder that holds images and stuffthingmaps.

    Files that converters put beside the masks (``*TrainIds.png``) are left alone.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    masks = find(entry, path, [f"stuffthingmaps/{split}", f"annotations/{split}"])
    images = find(entry, path, [f"images/{split}", split])
    names = [name for name in stems_in(masks, ".png") if not name.endswith("TrainIds")]
    files = [MaskedFile(name, images / f"{name}.jpg", masks / f"{name}.png") for name in names]
    found = load_classes(entry.key)
    return MaskedImages(entry, found.classes, split, files, Encoding(found.ids, void=found.void))
