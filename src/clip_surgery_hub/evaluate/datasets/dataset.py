"""What a data set of the evaluation is: images in a fixed order, and the truth about each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

__all__ = [
    "NO_CLASS",
    "VOID",
    "AnnotatedImage",
    "ClassSet",
    "DataSet",
    "DatasetEntry",
    "TaskName",
    "shown_classes",
]

VOID = -1
"""Number of pixels whose class is not known, such as the outlines of VOC: they count nowhere."""
NO_CLASS = -2
"""Number of pixels of none of the classes: outside of every object, and not scored in segmentation."""

TaskName = Literal["explain", "segment", "recognize", "interact"]


@dataclass(frozen=True, kw_only=True)
class ClassSet:
    """The T classes of a data set, in the data set's own order.

    Attributes:
        names: T names to be read, each once.
        synonyms: what CLIP is asked for each class: T tuples of one text at least. The synonyms of the
            background class are things that backgrounds are made of.
        background: number of the background class, where it is one of the T.
        source: where names, order and synonyms come from.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    background: int | None
    source: str

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotatedImage:
    """One image and the truth about it.

    Attributes:
        name: unique within the data set, and fit for the name of a file.
        image: RGB, its pixels as they are stored: an orientation tag is neither followed nor kept, since
            masks and boxes are drawn on the stored pixels.
        segmentation: int16 ``[H, W]``, the number of the class of each pixel, `VOID` or `NO_CLASS`; None
            where the data set tells labels only.
        labels: bool ``[T]``, the classes that the image shows: those that the data set lists, where it
            lists any, else those that have a pixel. The background class is never counted as shown.
    """

    name: str
    image: Image.Image
    segmentation: np.ndarray | None
    labels: np.ndarray


class DataSet(ABC):
    """Images in a fixed order, opened by `open_dataset`: opening reads lists, `sample` reads one image.

    Attributes:
        entry: what is registered about the data set.
        classes: its classes.
        split: the part of it that was opened.
    """

    def __init__(self, entry: DatasetEntry, classes: ClassSet, split: str) -> None:
        self.entry, self.classes, self.split = entry, classes, split

    @property
    def key(self) -> str:
        """The name that it is opened by."""
        return self.entry.key

    @property
    def title(self) -> str:
        """Its name to be read."""
        return self.entry.title

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """The tasks that its truth is good for."""
        return self.entry.tasks

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of all samples, in order, without reading an image."""

    @abstractmethod
    def sample(self, index: int) -> AnnotatedImage:
        """One image and its truth, read now.

        Raises:
            OSError: for an image or mask that is not there or cannot be read.
            ValueError: for an image or mask whose content is wrong; the file is named.
        """

    def __len__(self) -> int:
        return len(self.names())


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """What is registered about a data set.

    Attributes:
        key: what it is opened by.
        title: its name to be read.
        tasks: what its truth is good for.
        classes: T, the number of its classes, a background class included.
        splits: the parts that can be opened, the usual one first.
        page: where to get it; "" where it is generated on the spot and needs no path.
        layout: what the path has to hold, in words.
        reader: from the entry, a path and a split to the data set.
    """

    key: str
    title: str
    tasks: tuple[TaskName, ...]
    classes: int
    splits: tuple[str, ...]
    page: str
    layout: str
    reader: Callable[[DatasetEntry, Path, str], DataSet]

    @property
    def needs_path(self) -> bool:
        """Whether its files have to be there."""
        return bool(self.page)

    @property
    def advice(self) -> str:
        """What to do where a part of it is missing: a sentence for error messages."""
        return f"The path has to hold {self.layout}; get it from {self.page}."


def shown_classes(segmentation: np.ndarray, classes: ClassSet) -> np.ndarray:
    """The classes with a pixel, without the background class: bool ``[T]``."""
    shown = np.zeros(len(classes), bool)
    shown[segmentation[segmentation >= 0]] = True
    if classes.background is not None:
        shown[classes.background] = False
    return shown
