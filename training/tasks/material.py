"""What all tasks are measured on: synthetic scenes, and what two variants of one CLIP make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from evaluate import LEAST_PIXELS, draw
from numpy.typing import NDArray
from torch import Tensor

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.images.encoding import EncodedImages
from clip_surgery_hub.results.explanation import Explanation
from clip_surgery_hub.scenes import HELD_OUT, TRAINING, Scene, World, load_sprites

VARIANTS = {
    "raw CLIP": ("none", "plain"),
    "feature surgery alone": ("none", "surgery"),
    "architecture surgery alone": ("clip_surgery", "plain"),
    "both": ("clip_surgery", "surgery"),
}
"""Variants by name: the method of the vision tower, and whether similarity is read after feature surgery."""


@dataclass(frozen=True, eq=False)
class Material:
    """B scenes of the checkpoint's native size, encoded by each method.

    Attributes:
        scenes: B scenes that training never drew.
        concepts: the T words that objects can have.
        grounds: the words that backgrounds of the scenes can have.
        clips: the checkpoint by method, "none" (raw CLIP) and "clip_surgery".
        encoded: the images by method.
        explained: all concepts as the class set, by method.
    """

    scenes: tuple[Scene, ...]
    concepts: tuple[str, ...]
    grounds: tuple[str, ...]
    clips: dict[str, CLIPSurgery]
    encoded: dict[str, EncodedImages]
    explained: dict[str, Explanation]

    def __len__(self) -> int:
        return len(self.scenes)

    def similarity(self, variant: str) -> tuple[Tensor, ...]:
        """Similarity of every patch with every concept, B tensors [T, h, w]."""
        return read_as(variant, self.explained[VARIANTS[variant][0]])

    def encoded_one(self, method: str, number: int) -> EncodedImages:
        """One of the encoded images."""
        every, one = self.encoded[method], slice(number, number + 1)
        return EncodedImages(every.images[one], every.tokens[one], every.grids[one], every.settings)

    def explain(self, method: str, number: int, words: Sequence[str]) -> Explanation:
        """One image with words and the words of the grounds as the class set, without presence."""
        clip = self.clips[method]
        asked, grounds = embeddings(clip, words), embeddings(clip, self.grounds)
        return clip.explain(self.encoded_one(method, number), asked, background=grounds)

    def read_at(self, factor: float) -> Material:
        """The same scenes, read at so many times the native size."""
        side = round(factor * self.clips["none"].tower.native_size)
        return _read(self.scenes, self.concepts, self.grounds, self.clips, side)

    def objects(self, number: int) -> dict[str, NDArray[np.bool_]]:
        """The words of a scene with 30 visible pixels or more, and their masks [H, W]."""
        scene = self.scenes[number]
        masks = {word: scene.mask(word) for word in scene.words}
        return {word: mask for word, mask in masks.items() if mask.sum() >= LEAST_PIXELS}


def read_as(variant: str, explanation: Explanation) -> tuple[Tensor, ...]:
    """Similarity of every patch with every text, B tensors [T, h, w]; explained by the variant's method."""
    return explanation.plain_similarity if VARIANTS[variant][1] == "plain" else explanation.surgery_similarity


def gather(checkpoint: str, scenes: int, backgrounds: str) -> Material:
    """Draw the scenes and encode them; backgrounds "training" or "held-out"."""
    methods = dict.fromkeys(method for method, _ in VARIANTS.values())
    clips = {method: CLIPSurgery.from_pretrained(checkpoint, method=method) for method in methods}
    side = clips["none"].tower.native_size
    grounds = tuple(HELD_OUT if backgrounds == "held-out" else TRAINING)
    drawn = draw(scenes, World(size=(side, side), backgrounds=grounds))
    concepts = load_sprites().concepts
    return _read(tuple(drawn), concepts, grounds, clips, side)


def _read(
    scenes: tuple[Scene, ...],
    concepts: tuple[str, ...],
    grounds: tuple[str, ...],
    clips: dict[str, CLIPSurgery],
    side: int,
) -> Material:
    images = [scene.image for scene in scenes]
    encoded = {method: clip.encode(images, size=side) for method, clip in clips.items()}
    explained = {method: clip.explain(encoded[method], concepts) for method, clip in clips.items()}
    return Material(scenes, concepts, grounds, clips, encoded, explained)


def embeddings(
    clip: CLIPSurgery, words: Sequence[str], templates: str | Sequence[str] = "paper"
) -> dict[str, Tensor]:
    """The words' embeddings [C] by name, in these prompts: explaining them computes no presence."""
    return dict(zip(words, torch.unbind(clip.encode_text(words, templates)), strict=True))
