"""Cityscapes, fine annotations: gray PNGs of label ids 0 to 33, of which 19 are evaluated."""

from __future__ import annotations

import os
from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, stems_in
from clip_surgery_hub.evaluate.datasets.encoding import Encoding
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages

__all__ = ["open_cityscapes"]


def open_cityscapes(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``cityscapes`` at the folder that holds leftImg8bit and gtFine.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    masks = find(entry, path, [f"{root}gtFine/{split}" for root in ("", "cityscapes/")])
    images = find(entry, masks.parent.parent, [f"leftImg8bit/{split}"])
    cities = sorted(item.name for item in os.scandir(masks) if item.is_dir())
    files = [
        MaskedFile(
            name,
            images / city / f"{name}_leftImg8bit.png",
            masks / city / f"{name}_gtFine_labelIds.png",
        )
        for city in cities
        for name in stems_in(masks / city, "_gtFine_labelIds.png")
    ]
    if not files:
        raise FileNotFoundError(f"{entry.title}: there is no folder of a city in {masks}. {entry.advice}")
    found = load_classes(entry.key)
    encoding = Encoding(found.ids, void=found.void, no_class=found.no_class)
    return MaskedImages(entry, found.classes, split, files, encoding)
