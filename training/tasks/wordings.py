"""The concepts in wordings that share much, for what feature surgery is worth depends on what texts share."""

from __future__ import annotations

from torch import Tensor

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.scenes import TRAINING

ON_GROUNDS = tuple(f"a {{}} on {ground}" for ground in TRAINING)
"""What captions of the training say now and then: a concept on each of the named backgrounds."""
PHRASES = (
    "a photo of a {} that I took in the garden.",
    "somebody is looking at a {}.",
    "the {} of my neighbour.",
    "an advertisement for a {}.",
    "a {} from far away.",
    "it is raining on a {}.",
    "my favourite {}!",
    "a museum's {} behind glass.",
    "page four shows a {}.",
    "do you see the {} here?",
)
"""What somebody may ask and training never said. They were written down before any of them was measured."""


def worded(clip: CLIPSurgery, concepts: tuple[str, ...], wording: str) -> dict[str, Tensor]:
    """Embeddings [C] of the concepts by name, all in one wording."""
    return dict(zip(concepts, clip.encode_text(concepts, templates=[wording]), strict=True))


def resemblance(texts: dict[str, Tensor]) -> float:
    """Mean cosine of two different texts, in [-1, 1]."""
    embeds = list(texts.values())
    total = sum(embeds).square().sum() - len(embeds)  # of unit vectors, each with all others
    return float(total / (len(embeds) * (len(embeds) - 1)))
