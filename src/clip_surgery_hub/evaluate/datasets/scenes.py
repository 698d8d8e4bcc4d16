"""Synthetic scenes, generated on the spot: 500 of each of three difficulties, none seen in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from clip_surgery_hub.evaluate.datasets.dataset import (
    NO_CLASS,
    AnnotatedImage,
    ClassSet,
    DataSet,
    DatasetEntry,
)
from clip_surgery_hub.scenes import HELD_OUT, World, draw_scene, load_sprites

__all__ = ["FIRST_SEED", "LEAST_PIXELS", "SCENES", "WORLDS", "open_scenes"]

SCENES = 500
FIRST_SEED = 900_000_000
"""Scenes are drawn from `(FIRST_SEED, index)`; training draws from triples, so it never saw one of them."""
LEAST_PIXELS = 30
"""So many pixels of an object have to be visible for it to count."""
SIDE = 80
"""Of a scene in pixels: what the bundled CLIP was trained for."""

WORLDS: Mapping[str, World] = MappingProxyType(
    {
        "plain": World(size=(SIDE, SIDE)),
        "crowded": World(size=(SIDE, SIDE), objects=(8, 12), scale=(0.15, 0.3), overlap=0.7),
        "held_out": World(size=(SIDE, SIDE), backgrounds=tuple(HELD_OUT)),
    }
)
"""What each split draws: three objects of 30 to 50% of the side; many small ones that overlap; and the
objects of the first again, on the backgrounds that training never used."""


def open_scenes(entry: DatasetEntry, path: Path, split: str) -> DataSet:
    """Open ``scenes``; nothing is read, and the path is of no account."""
    return _Scenes(entry, split, WORLDS[split])


class _Scenes(DataSet):
    def __init__(self, entry: DatasetEntry, split: str, world: World) -> None:
        concepts = load_sprites().concepts
        classes = ClassSet(
            names=concepts,
            synonyms=tuple((concept,) for concept in concepts),
            background=None,
            source="the concepts of the package's own sprites, asked for by the words of its training",
        )
        super().__init__(entry, classes, split)
        self._world = world

    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.split}_{index:03d}" for index in range(SCENES))

    def __len__(self) -> int:
        return SCENES

    def sample(self, index: int) -> AnnotatedImage:
        number = range(SCENES)[index]
        scene = draw_scene((FIRST_SEED, number), self._world)
        segmentation = np.full(self._world.size, NO_CLASS, np.int16)
        labels = np.zeros(len(self.classes), bool)
        for word in scene.words:
            mask = scene.mask(word)
            if mask.sum() >= LEAST_PIXELS:
                place = self.classes.names.index(word)
                segmentation[mask], labels[place] = place, True
        return AnnotatedImage(
            name=f"{self.split}_{number:03d}",
            image=Image.fromarray(scene.image),
            segmentation=segmentation,
            labels=labels,
        )
