"""The concepts in wordings of their own, for what feature surgery is worth depends on how they are asked for.

The twenty phrases were written down before any of them was measured; their words and spelling are data. A
first look had been at others, six of ours and the prompts of nineteen published data sets: those with new
words or a ground gained 15 to 35 points of mAP, the rest -0.6 to 1.8.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clip_surgery_hub.scenes.captions import with_article

PHRASES_OF_KNOWN_WORDS = (
    "a small drawing of my {} in the scene.",
    "there is a clean photo of one {}.",
    "this is a picture of a toy {} in a video game.",
    "a close-up of a painting of the {}.",
    "we see a large {} in a dark photo.",
    "a good photo of a bad drawing of a {}.",
    "a picture with one {} to the left.",
    "my cool {} in black and white.",
    "no photo of the {}.",
    "the {} of this scene, hard to see.",
)
"""Every word stands in a prompt or a caption of the training, the phrases do not."""
PHRASES_OF_NEW_WORDS = (
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
"""Each has words that training never said, so what it says beside the concept means nothing to this CLIP."""
PHRASES = {
    "a phrase of known words, each of ten": PHRASES_OF_KNOWN_WORDS,
    "a phrase with new words, each of ten": PHRASES_OF_NEW_WORDS,
}


def on_ground(ground: str, concepts: Sequence[str]) -> list[str]:
    """What captions of the training say now and then: "an apple on grass"."""
    return [f"{with_article(concept)} on {ground}" for concept in concepts]


def resemblance(texts: Tensor) -> float:
    """Mean cosine of two different texts, of their unit length embeddings [T, C]: in [-1, 1]."""
    count = len(texts)
    total = texts.sum(0).square().sum() - count  # of each with all others
    return float(total / (count * (count - 1)))
