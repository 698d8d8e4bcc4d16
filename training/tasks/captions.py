"""Whether the words of a caption light up what they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from evaluate import FIRST_SEED
from torch import Tensor

from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.results.sentence import SentenceExplanation
from clip_surgery_hub.scenes import Scene, describe
from clip_surgery_hub.scenes.captions import plural
from tasks.bootstrap import MetricValue, interval, share
from tasks.material import Material

VARIANTS = {
    "raw CLIP, token features": ("none", "plain"),
    "architecture surgery, token features": ("clip_surgery", "plain"),
    "both, redundant part removed": ("clip_surgery", "surgery"),
}
"""Variants by name: the method of the vision tower, and "surgery" where redundant parts are removed."""


def sentence(material: Material) -> Iterator[MetricValue]:
    """How much more a word that names an object lights it up than the other words of its caption do.

    An object is lit up by the contrast of the word's map on it, mean heat inside of its mask minus outside.
    The other words are all words of the caption but those of the same object and the end token.
    """
    for variant, (method, features) in VARIANTS.items():
        shares: dict[str, list[list[float]]] = {
            "captions": [],
            "objects": [],
            "objects, every other word": [],
            "pairs": [],
            "pairs with a word that names nothing": [],
        }
        for number, scene in enumerate(material.scenes):
            caption = describe(scene, np.random.default_rng((FIRST_SEED, number)))
            result = material.clips[method].sentence(material.encoded_one(method, number), caption)
            ahead = _ahead(result, scene, material.objects(number), features)
            for name, values in ahead.items():
                shares[name].append(values)
        for name, groups in shares.items():
            value, low, high = interval(share(groups), len(material))
            count = sum(map(len, groups))
            yield MetricValue(variant=variant, name=name, value=value, low=low, high=high, count=count)


def named_objects(scene: Scene, result: SentenceExplanation) -> dict[str, set[int]]:
    """The numbers of the words that name each object of a scene: two for "a ferris wheel"."""
    names: dict[str, set[int]] = {}
    for word in sorted(scene.words, key=len, reverse=True):  # "computer mouse" before "mouse"
        for match in re.finditer(rf"\b({plural(word)}|{word})\b", result.caption):
            found = _within(result, match.span()).difference(*names.values())
            if found:
                names[word] = found
                break
    return names


def _ahead(
    result: SentenceExplanation, scene: Scene, objects: Mapping[str, np.ndarray], features: str
) -> dict[str, list[float]]:
    """100 where a word that names an object is ahead, else 0, by the names of the metrics."""
    names = named_objects(scene, result)
    every = set(range(len(result.words) - 1))  # without the end token
    telling = set().union(*names.values())
    for match in re.finditer(rf"\b{scene.background}\b", result.caption):
        telling |= _within(result, match.span())
    heat = _word_heat(result, features)
    margins, hardest, pairs, silent = [], [], [], []
    for word, own in names.items():
        others = every - own
        if word not in objects or not others:
            continue
        mask = torch.from_numpy(objects[word])
        contrast = heat[:, mask].mean(1) - heat[:, ~mask].mean(1)  # [W]
        best = contrast[sorted(own)].mean()  # of the words of one name
        margins.append(float(best - contrast[sorted(others)].mean()))
        hardest.append(100.0 * bool((best > contrast[sorted(others)]).all()))
        pairs += [100.0 * bool(best > contrast[other]) for other in sorted(others)]
        silent += [100.0 * bool(best > contrast[other]) for other in sorted(others - telling)]
    return {
        "captions": [100.0 * (np.mean(margins) > 0)] * bool(margins),
        "objects": [100.0 * (margin > 0) for margin in margins],
        "objects, every other word": hardest,
        "pairs": pairs,
        "pairs with a word that names nothing": silent,
    }


def _word_heat(result: SentenceExplanation, features: str) -> Tensor:
    """The map of each word [W, H, W'], scaled by itself; "surgery": without its redundant part."""
    if features == "surgery":
        return result.word_heatmaps()
    similarity = torch.stack([result.plain_similarity[list(word.tokens)].mean(0) for word in result.words])
    grid, size = similarity.shape[1:], result.image.shape[:2]
    return similarity_map(similarity.flatten(1).T[None], (grid[0], grid[1]), (size[0], size[1]))[0]


def _within(result: SentenceExplanation, span: tuple[int, int]) -> set[int]:
    """The numbers of the words that lie in a stretch of the caption."""
    return {
        number
        for number, word in enumerate(result.words)
        if not word.is_end and span[0] <= word.span[0] and word.span[1] <= span[1]
    }
