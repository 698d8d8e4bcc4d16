"""The classes of a data set, from assets/classes: their names, what CLIP is asked, their numbers in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.dataset import NO_CLASS, VOID, ClassSet

__all__ = ["ClassFile", "Encoding", "load_classes"]

_UNKNOWN = -3


@dataclass(frozen=True, kw_only=True)
class ClassFile:
    """The classes of a data set, and the numbers that its files have for them.

    Attributes:
        classes: the T classes.
        ids: T tuples, the numbers that stand for each class in the files of the data set.
        void: the numbers of pixels that count nowhere.
        no_class: the numbers of pixels of none of the classes.
    """

    classes: ClassSet
    ids: tuple[tuple[int, ...], ...]
    void: tuple[int, ...]
    no_class: tuple[int, ...]

    @property
    def encoding(self) -> Encoding:
        """What the numbers mean in masks as the data set distributes them."""
        return Encoding(self.ids, void=self.void, no_class=self.no_class)


def load_classes(name: str) -> ClassFile:
    """Read ``assets/classes/<name>.json``."""
    text = files("clip_surgery_hub").joinpath("assets", "classes", f"{name}.json").read_text(encoding="utf-8")
    read = json.loads(text)
    rows = read["classes"]
    classes = ClassSet(
        names=tuple(row["name"] for row in rows),
        synonyms=tuple(tuple(row["synonyms"]) for row in rows),
        background=read["background"],
        source=read["source"],
    )
    ids = tuple(tuple(row["ids"]) for row in rows)
    return ClassFile(classes=classes, ids=ids, void=tuple(read["void"]), no_class=tuple(read["no_class"]))


class Encoding:
    """Which number in a file means which class.

    Args:
        ids: T tuples, the numbers in the files of each class.
        void: the numbers of `VOID` pixels.
        no_class: the numbers of `NO_CLASS` pixels.
    """

    def __init__(
        self, ids: Sequence[Sequence[int]], *, void: Sequence[int] = (), no_class: Sequence[int] = ()
    ) -> None:
        pairs = [(raw, number) for number, numbers in enumerate(ids) for raw in numbers]
        pairs += [(raw, VOID) for raw in void] + [(raw, NO_CLASS) for raw in no_class]
        self._table = np.full(max(raw for raw, _ in pairs) + 2, _UNKNOWN, np.int16)  # its last is unknown
        for raw, number in pairs:
            self._table[raw] = number

    def decode(self, values: np.ndarray, file: Path) -> np.ndarray:
        """The numbers of the classes, int16 ``[H, W]``, of a mask ``[H, W]`` of whole numbers.

        Args:
            values: as the file holds them.
            file: named by the error.

        Raises:
            ValueError: for numbers that mean nothing here.
        """
        segmentation: np.ndarray = self._table[np.clip(values, 0, len(self._table) - 1)]
        unknown = (segmentation == _UNKNOWN) | (values < 0)
        if unknown.any():
            found = ", ".join(str(value) for value in np.unique(values[unknown])[:5])
            known = len(self._table) - 2
            raise ValueError(
                f"The mask {file} holds numbers of no class of this data set: {found} (the largest known is "
                f"{known}). It belongs to another data set, or was saved in another way: get it anew."
            )
        return segmentation
