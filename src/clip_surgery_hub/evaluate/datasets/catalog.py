"""Which data sets there are: a row each. A new one is one more row, its reader and its file of classes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from clip_surgery_hub.evaluate.datasets.coco_object import open_coco_object
from clip_surgery_hub.evaluate.datasets.context import open_context
from clip_surgery_hub.evaluate.datasets.dataset import DataSet, DatasetEntry, TaskName
from clip_surgery_hub.evaluate.datasets.imagenet_s import open_imagenet_s
from clip_surgery_hub.evaluate.datasets.labeled import open_coco_multilabel, open_nus_wide
from clip_surgery_hub.evaluate.datasets.masked import (
    open_ade20k,
    open_cityscapes,
    open_coco_stuff,
    open_voc2012,
)
from clip_surgery_hub.evaluate.datasets.scenes import WORLDS, open_scenes

__all__ = ["DATASETS", "open_dataset"]

_MASKS: tuple[TaskName, ...] = ("explain", "segment", "recognize", "interact")
_LABELS: tuple[TaskName, ...] = ("recognize",)

_VOC2012 = DatasetEntry(
    key="voc2012",
    title="PASCAL VOC 2012",
    tasks=_MASKS,
    classes=20,
    splits=("val", "train", "trainval"),
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    layout="VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation",
    reader=open_voc2012,
)
_CONTEXT59 = DatasetEntry(
    key="context59",
    title="PASCAL Context",
    tasks=_MASKS,
    classes=59,
    splits=("val", "train"),
    page="https://cs.stanford.edu/~roozbeh/pascal-context/ (the images: "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/)",
    layout="VOCdevkit/VOC2010 with JPEGImages, ImageSets, and trainval/*.mat or "
    "SegmentationClassContext/*.png",
    reader=open_context,
)
_COCO_STUFF = DatasetEntry(
    key="coco_stuff",
    title="COCO-Stuff",
    tasks=_MASKS,
    classes=171,
    splits=("val2017", "train2017"),
    page="https://github.com/nightrome/cocostuff#downloads",
    layout="images/val2017 and stuffthingmaps/val2017 (or annotations/val2017)",
    reader=open_coco_stuff,
)
_COCO = "https://cocodataset.org/#download"

_ENTRIES = (
    _VOC2012,
    replace(_VOC2012, key="voc2012_21", title="PASCAL VOC 2012 with background", classes=21),
    _CONTEXT59,
    replace(_CONTEXT59, key="context60", title="PASCAL Context with background", classes=60),
    DatasetEntry(
        key="coco_object",
        title="COCO-Object",
        tasks=_MASKS,
        classes=81,
        splits=("val2017", "train2017"),
        page=_COCO,
        layout="images/val2017 (or val2017), and annotations/instances_val2017.json or "
        "annotations/val2017/*_instanceTrainIds.png",
        reader=open_coco_object,
    ),
    _COCO_STUFF,
    replace(_COCO_STUFF, key="coco_stuff27", title="COCO-Stuff, 27 upper classes", classes=27),
    DatasetEntry(
        key="ade20k",
        title="ADE20K",
        tasks=_MASKS,
        classes=150,
        splits=("validation", "training"),
        page="http://sceneparsing.csail.mit.edu/",
        layout="ADEChallengeData2016 with images and annotations",
        reader=open_ade20k,
    ),
    DatasetEntry(
        key="cityscapes",
        title="Cityscapes",
        tasks=_MASKS,
        classes=19,
        splits=("val", "train"),
        page="https://www.cityscapes-dataset.com/downloads/",
        layout="leftImg8bit and gtFine, a folder per split and city in each",
        reader=open_cityscapes,
    ),
    DatasetEntry(
        key="imagenet_s",
        title="ImageNet-S",
        tasks=_MASKS,
        classes=920,
        splits=("919", "300", "50"),
        page="https://github.com/LUSSeg/ImageNet-S",
        layout="ImageNetS919 (or ImageNetS300, ImageNetS50) with validation and validation-segmentation",
        reader=open_imagenet_s,
    ),
    DatasetEntry(
        key="nus_wide",
        title="NUS-WIDE",
        tasks=_LABELS,
        classes=81,
        splits=("test", "train"),
        page="https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
        layout="ImageList, Groundtruth/TrainTestLabels and Flickr",
        reader=open_nus_wide,
    ),
    DatasetEntry(
        key="coco_multilabel",
        title="COCO, labels of images",
        tasks=_LABELS,
        classes=80,
        splits=("val2014", "train2014", "val2017", "train2017"),
        page=_COCO,
        layout="val2014 (or images/val2014) and annotations/instances_val2014.json",
        reader=open_coco_multilabel,
    ),
    DatasetEntry(
        key="scenes",
        title="Synthetic scenes",
        tasks=_MASKS,
        classes=227,
        splits=tuple(WORLDS),
        page="",
        layout="nothing: they are generated on the spot",
        reader=open_scenes,
    ),
)

DATASETS: Mapping[str, DatasetEntry] = MappingProxyType({entry.key: entry for entry in _ENTRIES})
"""What is registered, by key, read-only."""


def open_dataset(
    key: str, path: str | os.PathLike[str] | None = None, *, split: str | None = None
) -> DataSet:
    """Open a data set: its lists are read, no image yet.

    Args:
        key: one of `DATASETS`.
        path: the folder with its files; None for one that is generated on the spot.
        split: one of the entry's splits; None: its usual one.

    Raises:
        ValueError: unknown key or split, a path that is missing or not needed, or lists that are damaged.
        FileNotFoundError: a folder or list is not at the path; says which, and where to get it.
    """
    if key not in DATASETS:
        near = difflib.get_close_matches(key, DATASETS, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(DATASETS)}."
        raise ValueError(f"No data set is called {key!r}; {advice}")
    entry = DATASETS[key]
    split = entry.splits[0] if split is None else split
    if split not in entry.splits:
        raise ValueError(f"{entry.title} has no split {split!r}; there are {', '.join(entry.splits)}.")
    if not entry.needs_path:
        if path is not None:
            raise ValueError(f"{entry.title} are generated on the spot: leave out the path.")
        return entry.reader(entry, Path(), split)
    if path is None:
        raise ValueError(f"{entry.title} needs a path. {entry.advice}")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{entry.title}: there is no folder {folder}. {entry.advice}")
    return entry.reader(entry, folder, split)
