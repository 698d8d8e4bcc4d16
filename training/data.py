"""Training batches of synthetic scenes: images, captions and which words each image shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import CLIPTokenizer

from clip_surgery_hub.scenes import (
    TRAINING,
    Scene,
    Variation,
    World,
    describe,
    draw_scene,
    load_sprites,
)
from clip_surgery_hub.text.embedding import resolve_templates

TEMPLATES = resolve_templates("paper")
LEAST_VISIBLE = 0.01
"""Share of the image from which on an object counts as shown."""
WORDED = 64
"""Words that a step says in a wording: all 243 would cost as much as small images do."""
EMPTY = 0.03
"""Share of captions that say nothing, so that the empty text comes to mean "any image"."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the training.

    Attributes:
        until: the share of all steps that ends it.
        world: what is drawn.
        keep: the share of patches that an image keeps, in (0, 1].
        batch: images in a step.
    """

    until: float
    world: World
    keep: float
    batch: int


def words_of_the_world() -> tuple[str, ...]:
    """All words that the concept loss distinguishes: the objects', then the backgrounds'."""
    return (*load_sprites().concepts, *TRAINING)


def prompts(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Each word in a wording of its own: one of the 85 templates of the paper, or the bare word."""
    picks = rng.integers(-8, len(TEMPLATES), len(words))
    return [
        word if pick < 0 else TEMPLATES[pick].format(word) for word, pick in zip(words, picks, strict=True)
    ]


def training_look(look: float = 1.0, *, color: float, redraw: float, warp: float = 0.0) -> Variation:
    """How far objects depart from their icons; `look` 1 is all the way, 0 draws them as they are."""
    return Variation(
        rotation=25 * look,
        stretch=0.2 * look,
        warp=warp * look,
        color=color * look,
        redraw=redraw * look,
        blur=0.02 * look,
    )


def training_world(
    size: int,
    objects: tuple[int, int],
    scale: tuple[float, float],
    styles: tuple[str, ...] | None,
    variation: Variation,
) -> World:
    """The world as training draws it: twins, overlaps, and backgrounds of turned colors among the named."""
    return World(
        size=(size, size),
        objects=objects,
        scale=scale,
        styles=styles,
        twins=0.12,
        overlap=0.4,
        plain=0.35,
        variation=variation,
    )


class SceneBatches(IterableDataset[dict[str, Tensor]]):
    """Batches drawn from `(seed, number of the batch)`, so a resumed run continues where it was.

    Yields dicts of `pixels` uint8 [B, 3, H, W], `captions` int64 [B / 4, L] of the first quarter of the
    images (texts cost as much as images this small), `words` int64 [W, L'] (one prompt each of `WORDED`
    words), `meant` int64 [W] (which words those are) and `shown` float32 [B, C]: 1 where the image shows
    the word, 0 where not, -1 where hardly.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        stages: Sequence[Stage],
        *,
        seed: int,
        first: int,
        steps: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.stages = tuple(stages)
        self.seed, self.first, self.steps = seed, first, steps
        self.words = words_of_the_world()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first + number, self.steps, workers):
            stage = stage_at(self.stages, step / self.steps)
            scenes = [draw_scene((self.seed, step, index), stage.world) for index in range(stage.batch)]
            yield self._collate(scenes, np.random.default_rng((self.seed, step)))

    def _collate(self, scenes: list[Scene], rng: np.random.Generator) -> dict[str, Tensor]:
        captions = [self._caption(scene, rng) for scene in scenes[: len(scenes) // 4]]
        pixels = (
            torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).contiguous()
        )
        shown = objects_shown(scenes, self.words)
        for row, scene in enumerate(scenes):
            if scene.background:
                shown[row, self.words.index(scene.background)] = 1.0
        meant = rng.choice(len(self.words), WORDED, replace=False)
        return {
            "pixels": pixels,
            "captions": self._encode(captions),
            "words": self._encode(prompts([self.words[index] for index in meant], rng)),
            "meant": torch.from_numpy(meant),
            "shown": shown,
        }

    def _caption(self, scene: Scene, rng: np.random.Generator) -> str:
        if rng.random() < EMPTY:
            return prompts([""], rng)[0]
        if rng.random() < 0.3:
            return prompts([scene.words[int(rng.integers(len(scene.words)))]], rng)[0]
        return describe(scene, rng)

    def _encode(self, texts: list[str]) -> Tensor:
        return self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids


def objects_shown(scenes: Sequence[Scene], words: Sequence[str]) -> Tensor:
    """Which of the words each scene shows as an object, float32 [B, C]: 1, 0 where not, -1 where hardly."""
    shown = torch.zeros(len(scenes), len(words))
    for row, scene in enumerate(scenes):
        for word in scene.words:
            shown[row, words.index(word)] = 1.0 if scene.mask(word).mean() >= LEAST_VISIBLE else -1.0
    return shown


def stage_at(stages: Sequence[Stage], share: float) -> Stage:
    """The stage that holds after this share of the steps."""
    return next(stage for stage in stages if share < stage.until or stage is stages[-1])
