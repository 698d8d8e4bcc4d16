"""PASCAL Context: the scenes of VOC 2010 with every pixel labeled, reduced to its 59 usual classes.

It is distributed as a MATLAB file per image, with numbers of 459 classes, and often converted to PNGs that
number the 59 from 1. Pixels of the other classes are 0 there: of no class where 59 are read, and the
background where 60 are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from clip_surgery_hub.evaluate.datasets.classes import ClassFile, Encoding, load_classes
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry
from clip_surgery_hub.evaluate.datasets.dataset_files import find, read_list
from clip_surgery_hub.evaluate.datasets.masked import MaskedFile, MaskedImages
from clip_surgery_hub.evaluate.datasets.mat import read_mat

__all__ = ["open_context"]


def open_context(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``context59`` or ``context60`` at VOC2010, VOCdevkit or the folder that holds it.

    The masks are ``SegmentationClassContext/*.png`` where that folder is, else ``trainval/*.mat``, in VOC2010
    or at the path. The split is listed in ``ImageSets/SegmentationContext``, else in ``ImageSets/Main``: it
    is that of VOC 2010 as a whole.

    Raises:
        FileNotFoundError: what is missing is named.
        ValueError: a ``labels.txt`` beside the MATLAB files numbers the classes in another way.
    """
    images = find(entry, path, [f"{root}JPEGImages" for root in ("VOCdevkit/VOC2010/", "VOC2010/", "")])
    root = images.parent
    lists = [f"ImageSets/{folder}/{split}.txt" for folder in ("SegmentationContext", "Main")]
    names = read_list(find(entry, root, lists))
    found = load_classes(entry.key)
    if (root / "SegmentationClassContext").is_dir():
        masks, ending = root / "SegmentationClassContext", ".png"
        first = 1 if found.classes.background is None else 0
        encoding = Encoding([(number + first,) for number in range(len(found.ids))], no_class=range(first))
        opened = partial(MaskedImages, encoding=encoding)
    else:
        masks, ending = _matlab_folder(entry, path, root), ".mat"
        _check_labels(masks, found)
        opened = partial(
            MaskedImages, encoding=found.encoding, read_mask=partial(read_mat, variable="LabelMap")
        )
    files = [MaskedFile(name, images / f"{name}.jpg", masks / f"{name}{ending}") for name in names]
    return opened(entry, found.classes, split, files)


def _matlab_folder(entry: DatasetEntry, path: Path, root: Path) -> Path:
    if (root / "trainval").is_dir():
        return root / "trainval"
    return find(entry, path, ["trainval"])


def _check_labels(masks: Path, found: ClassFile) -> None:
    """Hold labels.txt, whose lines are "number: name", where it was kept, to the numbers that are known."""
    file = next(
        (folder / "labels.txt" for folder in (masks, masks.parent) if (folder / "labels.txt").exists()), None
    )
    if file is None:
        return
    listed = dict(line.partition(": ")[::2] for line in read_list(file))
    for number, name in enumerate(found.classes.names):
        own = found.ids[number][0]
        if number != found.classes.background and listed.get(str(own)) != name:
            raise ValueError(
                f"The list {file} does not give the number {own} to {name!r}, as PASCAL Context "
                "does; get it anew."
            )
