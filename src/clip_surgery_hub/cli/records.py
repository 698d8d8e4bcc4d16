"""What the command line says of one picture in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from clip_surgery_hub.analysis import AttentionAnalysis, RedundancyAnalysis
    from clip_surgery_hub.results.explanation import Explanation
    from clip_surgery_hub.results.sentence import SentenceExplanation
    from clip_surgery_hub.sam.masks import MaskResult
    from clip_surgery_hub.sam.prompts import Prompt


def record(explanation: Explanation, *, picture: Path) -> dict[str, Any]:
    """What is to be said of one picture in JSON: file, size, grid; per text scores, points and boxes."""
    whole = explanation.to_dict()
    return {"picture": str(picture), **whole["pictures"][0], "settings": whole["settings"]}


def points_record(explanation: Explanation, prompts: Sequence[Prompt], *, picture: Path) -> dict[str, Any]:
    """What is to be said of the points of one picture in JSON: per prompt its texts, points and labels."""
    whole = record(explanation, picture=picture)
    del whole["texts"]
    whole["prompts"] = [
        {
            "text": prompt.name,
            "presence": prompt.presence,
            "points": prompt.points.xy.tolist(),
            "labels": prompt.points.labels.tolist(),
        }
        for prompt in prompts
    ]
    return whole


def segments_record(explanation: Explanation, index_map: Tensor, *, picture: Path) -> dict[str, Any]:
    """What is to be said of a segmentation in JSON: per text its number, share of the picture and mask."""
    from clip_surgery_hub.images.masks import class_masks, mask_to_rle

    names = (*explanation.texts, *explanation.background)
    whole = record(explanation, picture=picture)
    del whole["texts"]
    whole["segments"] = [
        {"text": text, "number": number, "share": float(mask.float().mean()), "mask": mask_to_rle(mask)}
        for number, (text, mask) in enumerate(zip(names, class_masks(index_map, len(names)), strict=True))
    ]
    return whole


def masks_record(
    explanation: Explanation, prompts: Sequence[Prompt], found: MaskResult, *, picture: Path
) -> dict[str, Any]:
    """What is to be said of the masks of one picture in JSON: that of its points, and a mask per prompt.

    ``score`` is how good the segmenter takes its mask to be, ``share`` the mask's share of the picture, and
    ``box`` that of `segmentation.mask_box`.
    """
    from clip_surgery_hub.images.masks import mask_box, mask_to_rle

    whole = points_record(explanation, prompts, picture=picture)
    for prompt, mask, score in zip(whole["prompts"], found.masks[0], found.scores[0].tolist(), strict=True):
        prompt["score"] = score
        prompt["share"] = float(mask.float().mean())
        prompt["box"] = mask_box(mask)
        prompt["mask"] = mask_to_rle(mask)
    return whole


def sentence_record(explanation: SentenceExplanation, *, picture: Path) -> dict[str, Any]:
    """What is to be said of a caption in JSON: words, tokens and scores; ``top`` numbers the best words."""
    return {"picture": str(picture), **explanation.to_dict()}


def analysis_record(
    attention: AttentionAnalysis, redundancy: RedundancyAnalysis, *, picture: Path, chosen: str
) -> dict[str, Any]:
    """What is to be said of both analyses of a picture in JSON.

    Args:
        attention: of one patch.
        redundancy: of the texts.
        picture: the file.
        chosen: where the patch is from, in words.
    """
    return {
        "picture": str(picture),
        "chosen": chosen,
        "attention": attention.to_dict(),
        "redundancy": redundancy.to_dict(),
    }
