"""The files that the commands write for one image.

They are in a folder of `result_folders`::

    panel.png               the image and what the command found, side by side
    overlay-01-bench.png    explain: one per text, at the image's own size
    maps.npz                explain: raw similarity [T, h, w] after feature surgery, plain, scores, texts
                            sentence: similarity [h, w] of the sentence, [W, h, w] of its words, scores, words
    segments.png            segment: the number of the best text at every pixel
    mask-01-dog-ball.png    mask: one per prompt, white on its texts, at the image's own size
    attention.png           analyze: where one patch attends to
    redundancy.png          analyze: what all texts have in common
    result.json             what the command found, in numbers, and the settings
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from clip_surgery_hub.analysis import AttentionAnalysis, RedundancyAnalysis
    from clip_surgery_hub.results.explanation import Explanation, Label
    from clip_surgery_hub.results.sentence import SentenceExplanation
    from clip_surgery_hub.sam.masks import MaskResult
    from clip_surgery_hub.sam.prompts import Prompt

PANEL, MAPS, RESULT, SEGMENTS = "panel.png", "maps.npz", "result.json", "segments.png"
ATTENTION, REDUNDANCY = "attention.png", "redundancy.png"
RESULT_NAMES = re.compile(
    "|".join(map(re.escape, (PANEL, MAPS, RESULT, SEGMENTS, ATTENTION, REDUNDANCY)))
    + r"|(overlay|mask)-\d+[a-z0-9-]*\.png"
)
"""The names of all these files: a folder that holds no others may be replaced."""


def write_explanation(explanation: Explanation, place: Path) -> None:
    """Write the panel, the overlays and the raw maps of one image."""
    import numpy as np
    from PIL import Image

    from clip_surgery_hub.plotting.heatmaps import overlay

    (pixels,), (heatmaps,), texts = explanation.images_to_draw, explanation.heatmaps(), explanation.texts
    explanation.plot()[0, 0].figure.savefig(place / PANEL)
    for number, (text, heatmap) in enumerate(zip(texts, heatmaps, strict=True), start=1):
        # Packed lightly: at 12 megapixels that is 5 times faster, for a quarter more bytes.
        Image.fromarray(overlay(pixels, heatmap)).save(
            place / _name("overlay", number, text), compress_level=1
        )
    np.savez_compressed(
        place / MAPS,
        similarity=explanation.similarity[0].numpy(),
        plain_similarity=explanation.plain_similarity[0][: len(texts)].numpy(),
        scores=explanation.scores[0].numpy(),
        plain_scores=explanation.plain_scores[0].numpy(),
        texts=np.array(texts),
    )


def write_points(explanation: Explanation, prompts: Sequence[Prompt], place: Path) -> None:
    """Write the panel of one image with the points of each prompt drawn on it."""
    from clip_surgery_hub.plotting.masks import plot_prompts

    plot_prompts(explanation, prompts).savefig(place / PANEL)


def write_labels(explanation: Explanation, labels: Sequence[Label], place: Path) -> None:
    """Write the panel of one image with its labels, their scores and their presence."""
    from clip_surgery_hub.plotting.labels import plot_labels

    plot_labels(explanation, labels).savefig(place / PANEL)


def write_segments(explanation: Explanation, index_map: Tensor, place: Path) -> None:
    """Write the numbers of the texts as a palette PNG, and the colors over the image with their names."""
    from clip_surgery_hub.images.masks import palette_image
    from clip_surgery_hub.plotting.masks import plot_segments

    names = (*explanation.texts, *explanation.background)
    palette_image(index_map, names).save(place / SEGMENTS)
    plot_segments(explanation.images_to_draw[0], index_map, names).savefig(place / PANEL)


def write_masks(explanation: Explanation, prompts: Sequence[Prompt], found: MaskResult, place: Path) -> None:
    """Write the panel of one image with the mask and points of each prompt, and each mask by itself."""
    from PIL import Image

    from clip_surgery_hub.plotting.masks import plot_masks

    (masks,), (scores,) = found.masks, found.scores
    plot_masks(explanation.images_to_draw[0], prompts, masks, scores).savefig(place / PANEL)
    for number, (prompt, mask) in enumerate(zip(prompts, masks, strict=True), start=1):
        Image.fromarray(mask.numpy()).save(place / _name("mask", number, prompt.name))  # one bit per pixel


def write_sentence(explanation: SentenceExplanation, place: Path) -> None:
    """Write the panel of a sentence, and the raw maps of the sentence and of each of its words."""
    import numpy as np

    explanation.plot()[0].figure.savefig(place / PANEL)
    np.savez_compressed(
        place / MAPS,
        sentence=explanation.sentence.numpy(),
        similarity=explanation.word_similarity.numpy(),
        sentence_score=explanation.sentence_score,
        scores=explanation.scores.numpy(),
        words=np.array([word.text for word in explanation.words]),
    )


def write_analysis(attention: AttentionAnalysis, redundancy: RedundancyAnalysis, place: Path) -> None:
    """Write the images of both analyses."""
    attention.plot().savefig(place / ATTENTION)
    redundancy.plot().savefig(place / REDUNDANCY)


def write_record(record: dict[str, Any], place: Path) -> None:
    """Write what `records` says of the image."""
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (place / RESULT).write_text(text + "\n", encoding="utf-8")


def _name(kind: str, number: int, text: str) -> str:
    """A file name that every system takes; the number keeps apart what differs in signs left out here."""
    signs = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40]
    return f"{kind}-{number:02d}-{signs}".rstrip("-") + ".png"
