"""Which of all concepts a picture shows: multi-label recognition before and after feature surgery on CLS.

Feature surgery takes off what the texts of a class set share, so how much it brings depends on how much that
is. The same concepts are therefore asked for in wordings that share little, as training said them, and in
wordings that share much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from evaluate import average_precisions, shown_words
from torch import Tensor

from clip_surgery_hub.functional import multilabel_scores
from tasks.bootstrap import Figure, Statistic, average_precision, checked, interval
from tasks.material import Material, embeddings
from tasks.wordings import ON_GROUNDS, PHRASES, resemblance, worded

LARGER = 2.0
"""Times the native size: where recognition is measured once more, as CLIPs are read so for finer maps."""


def recognition(material: Material) -> Iterator[Figure]:
    """Mean average precision over the concepts; scores are those of CLS, which the method does not touch."""
    clip, concepts = material.clips["clip_surgery"], material.concepts
    common = f"cosine of two texts {resemblance(embeddings(clip, concepts)):.2f}"
    for size, read in (("native size", material), (f"{LARGER:g} times the size", material.read_at(LARGER))):
        explained = read.explained["clip_surgery"]
        scores = {"raw CLIP": explained.plain_scores, **_parts(explained.plain_scores)}
        scores["feature surgery"] = explained.scores
        ways = {way: [one] for way, one in scores.items()}
        yield from _row(material, f"the paper's prompts, {size} ({common})", ways)
    images = torch.stack([tokens[0] for tokens in material.encoded["clip_surgery"].tokens])
    asked = {"a concept on a ground, each of 16": ON_GROUNDS, "a phrase, each of ten": PHRASES}
    asked |= {f"“{phrase.replace('{}', '…')}”": (phrase,) for phrase in PHRASES}
    for reading, wordings in asked.items():
        texts = [worded(clip, concepts, wording) for wording in wordings]
        common = f"{np.mean([resemblance(one) for one in texts]):.2f}"
        embeds = [torch.stack(list(one.values())) for one in texts]
        ways = {"raw CLIP": [images @ one.T for one in embeds]}
        ways["feature surgery"] = [multilabel_scores(images, one) for one in embeds]
        yield from _row(material, f"{reading} ({common})", ways)


def _parts(cosine: Tensor) -> dict[str, Tensor]:
    """The two things that feature surgery of a class set does to one token's scores [B, T], each alone."""
    weighted = torch.softmax(2 * cosine, 1) * cosine.shape[1] * cosine
    return {"its weights alone": weighted, "its mean alone": cosine - cosine.mean(1, keepdim=True)}


def _row(material: Material, reading: str, scores: dict[str, Sequence[Tensor]]) -> Iterator[Figure]:
    """The mAP of each way of scoring, mean over the wordings, and what the last gains over the first."""
    shown = shown_words(material.scenes, material.concepts)
    count = int(shown.any(0).sum())
    statistics: dict[str, Statistic] = {}
    for way, wordings in scores.items():
        exact = [float(average_precisions(one, shown).mean()) for one in wordings]
        statistics[way] = _mean([average_precision(one.double().numpy(), shown.numpy()) for one in wordings])
        yield checked(
            reading, way, statistics[way], float(np.mean(exact)), len(material), count, centred=True
        )
    before, *_, after = statistics.values()
    value, low, high = interval(lambda counts: after(counts) - before(counts), len(material), centred=True)
    yield Figure(reading=reading, name="gain", value=100 * value, low=100 * low, high=100 * high, count=count)


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    return lambda counts: np.mean([one(counts) for one in statistics], 0)
