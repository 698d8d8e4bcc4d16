"""Which of all concepts an image shows: multi-label recognition before and after feature surgery on CLS.

Feature surgery takes an image's mean over the texts off its scores, so what it is worth depends on how much
that mean differs between images, and on whether that difference was asked for. The same concepts are
therefore asked for in several wordings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from evaluate import average_precisions, shown_words
from torch import Tensor

from clip_surgery_hub.functional import multilabel_scores
from clip_surgery_hub.images.encoding import EncodedImages
from tasks.bootstrap import MetricValue, Statistic, average_precision, checked, interval
from tasks.material import Material
from tasks.wordings import PHRASES, on_ground, resemblance

LARGER = (1.4, 2.0, 3.0)
"""Times the native size, at which CLIPs are read for finer maps. This one never saw them in training."""
ALL = ("raw CLIP", "its weights alone", "its mean alone", "feature surgery")


@dataclass(frozen=True, eq=False)
class Asked:
    """The T concepts in one wording, asked of B images.

    Attributes:
        texts: unit length embeddings of the concepts, [T, C].
        cls: CLS of the images, [B, C].
        shown: whether each image shows what each text says, bool [B, T].
    """

    texts: Tensor
    cls: Tensor
    shown: Tensor

    def scores(self) -> dict[str, Tensor]:
        """Raw cosine, each of the two things that feature surgery of a class set does, and both: [B, T]."""
        cosine = self.cls @ self.texts.T
        return {
            "raw CLIP": cosine,
            "its weights alone": torch.softmax(2 * cosine, 1) * len(self.texts) * cosine,
            "its mean alone": cosine - cosine.mean(1, keepdim=True),
            "feature surgery": multilabel_scores(self.cls, self.texts),
        }

    def spread(self) -> float:
        """Standard deviation over the images of the mean cosine with all texts."""
        return float((self.cls @ self.texts.T).mean(1).std())


def recognition(material: Material) -> Iterator[MetricValue]:
    """Mean average precision over the concepts; scores are those of CLS, which the method does not touch."""
    clip, concepts = material.clips["clip_surgery"], material.concepts
    cls, shown = _cls(material.encoded["clip_surgery"]), shown_words(material.scenes, concepts)
    prompts = clip.encode_text(concepts)
    yield from _row("the paper's prompts", [Asked(prompts, cls, shown)])
    images = [scene.image for scene in material.scenes]
    for factor in LARGER:
        larger = _cls(clip.encode(images, size=round(factor * clip.tower.native_size)))
        yield from _row(f"the paper's prompts, {factor} times the size", [Asked(prompts, larger, shown)])
    phrased = {
        phrase: Asked(clip.encode_text(concepts, [phrase]), cls, shown)
        for phrases in PHRASES.values()
        for phrase in phrases
    }
    for variant, phrases in PHRASES.items():
        yield from _row(variant, [phrased[phrase] for phrase in phrases])
    yield from _on_grounds(material, cls, shown)
    for phrase, asked in phrased.items():
        yield from _row(f"“{phrase.replace('{}', '…')}”", [asked], ways=(ALL[0], ALL[-1]))


def _on_grounds(material: Material, cls: Tensor, shown: Tensor) -> Iterator[MetricValue]:
    """A concept on a ground: right wherever the concept is shown, then only where it lies on that ground."""
    clip, concepts = material.clips["clip_surgery"], material.concepts
    anywhere, there = [], []
    for ground in material.grounds:
        lies = torch.tensor([scene.background == ground for scene in material.scenes])
        if lies.any():
            texts = clip.encode_text(on_ground(ground, concepts), None)
            anywhere.append(Asked(texts, cls, shown))
            there.append(Asked(texts, cls, shown & lies[:, None]))
    asked = f"a concept on a ground, each of {len(there)}"
    yield from _row(f"{asked}, whatever it lies on", anywhere)
    yield from _row(f"{asked}, only where it lies on it", there)


def _cls(encoded: EncodedImages) -> Tensor:
    """CLS of the images, [B, C]."""
    return torch.stack([tokens[0] for tokens in encoded.tokens])


def _row(variant: str, wordings: Sequence[Asked], ways: Sequence[str] = ALL) -> Iterator[MetricValue]:
    """The mAP of ways of scoring, mean over the wordings, and what the last gains over the first."""
    images = len(wordings[0].shown)
    count = sum(int(asked.shown.any(0).sum()) for asked in wordings)
    common = np.mean([resemblance(asked.texts) for asked in wordings])
    spread = np.mean([asked.spread() for asked in wordings])
    variant = f"{variant} ({common:.2f}, {spread:.3f})"
    scores = [asked.scores() for asked in wordings]
    statistics: dict[str, Statistic] = {}
    for way in ways:
        pairs = [(one[way], asked.shown) for one, asked in zip(scores, wordings, strict=True)]
        exact = float(np.mean([float(average_precisions(*pair).mean()) for pair in pairs]))
        each = [average_precision(ranked.double().numpy(), shown.numpy()) for ranked, shown in pairs]
        statistics[way] = _mean(each)
        yield checked(variant, way, statistics[way], exact, images, count, centered=True)
    before, *_, after = statistics.values()
    value, low, high = interval(lambda counts: after(counts) - before(counts), images, centered=True)
    yield MetricValue(
        variant=variant, name="gain", value=100 * value, low=100 * low, high=100 * high, count=count
    )


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    return lambda counts: np.nanmean([one(counts) for one in statistics], 0)
