"""What the commands say of one image in JSON."""

from __future__ import annotations

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


def explanation_record(explanation: Explanation, *, image: Path) -> dict[str, Any]:
    """What is to be said of one image in JSON: file, size, grid; per text scores, points and boxes."""
    whole = explanation.to_dict()
    return {"image": str(image), **whole["images"][0], "settings": whole["settings"]}


def points_record(explanation: Explanation, prompts: Sequence[Prompt], *, image: Path) -> dict[str, Any]:
    """What is to be said of the points of one image in JSON: per prompt its texts, points and labels."""
    whole = explanation_record(explanation, image=image)
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


def labels_record(explanation: Explanation, labels: Sequence[Label], *, image: Path) -> dict[str, Any]:
    """What is to be said of the labels of one image in JSON: their texts, scores and presence."""
    whole = explanation_record(explanation, image=image)
    presence = {one["text"]: one["presence"] for one in whole.pop("texts")}
    whole["labels"] = [
        {"text": one.text, "score": one.score, "presence": presence[one.text]} for one in labels
    ]
    return whole


def segments_record(explanation: Explanation, index_map: Tensor, *, image: Path) -> dict[str, Any]:
    """What is to be said of a segmentation in JSON: per text its number, share of the image and mask."""
    from clip_surgery_hub.images.masks import class_masks, mask_to_rle

    names = (*explanation.texts, *explanation.background)
    whole = explanation_record(explanation, image=image)
    del whole["texts"]
    whole["segments"] = [
        {"text": text, "number": number, "share": float(mask.float().mean()), "mask": mask_to_rle(mask)}
        for number, (text, mask) in enumerate(zip(names, class_masks(index_map, len(names)), strict=True))
    ]
    return whole


def masks_record(
    explanation: Explanation, prompts: Sequence[Prompt], found: MaskResult, *, image: Path
) -> dict[str, Any]:
    """What is to be said of the masks of one image in JSON: that of its points, and a mask per prompt.

    ``score`` is the segmentation model's estimate of its mask's quality, ``share`` the mask's share of the
    image, and ``box`` that of `images.masks.mask_box`.
    """
    from clip_surgery_hub.images.masks import mask_box, mask_to_rle

    whole = points_record(explanation, prompts, image=image)
    for prompt, mask, score in zip(whole["prompts"], found.masks[0], found.scores[0].tolist(), strict=True):
        prompt["score"] = score
        prompt["share"] = float(mask.float().mean())
        prompt["box"] = mask_box(mask)
        prompt["mask"] = mask_to_rle(mask)
    return whole


def sentence_record(explanation: SentenceExplanation, *, image: Path) -> dict[str, Any]:
    """What is to be said of a caption in JSON: words, tokens and scores; ``top`` numbers the best words."""
    return {"image": str(image), **explanation.to_dict()}


def analysis_record(
    attention: AttentionAnalysis, redundancy: RedundancyAnalysis, *, image: Path, chosen: str
) -> dict[str, Any]:
    """What is to be said of both analyses of an image in JSON.

    Args:
        attention: of one patch.
        redundancy: of the texts.
        image: the file.
        chosen: where the patch is from, in words.
    """
    return {
        "image": str(image),
        "chosen": chosen,
        "attention": attention.to_dict(),
        "redundancy": redundancy.to_dict(),
    }
