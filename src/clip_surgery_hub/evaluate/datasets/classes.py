"""The classes of the data sets, from assets/classes: names, synonyms, and their numbers in the files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from clip_surgery_hub.evaluate.datasets.dataset import ClassSet

__all__ = ["ClassFile", "load_classes"]


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
