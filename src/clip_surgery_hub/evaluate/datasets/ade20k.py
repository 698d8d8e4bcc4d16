"""ADE20K as in the scene parsing challenge of 2016: gray PNGs, 1 to 150, and 0 for all other objects."""

from __future__ import annotations

from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, stems_in
from clip_surgery_hub.evaluate.datasets.encoding import Encoding
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages

__all__ = ["open_ade20k"]


def open_ade20k(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``ade20k`` at ADEChallengeData2016 or the folder that holds it.

    Raises:
        FileNotFoundError: what is missing is named.
    """
    places = [f"{root}annotations/{split}" for root in ("ADEChallengeData2016/", "")]
    masks = find(entry, path, places)
    images = find(entry, masks.parent.parent, [f"images/{split}"])
    names = stems_in(masks, ".png")
    files = [MaskedFile(name, images / f"{name}.jpg", masks / f"{name}.png") for name in names]
    found = load_classes(entry.key)
    encoding = Encoding(found.ids, no_class=found.no_class)
    return MaskedImages(entry, found.classes, split, files, encoding)
