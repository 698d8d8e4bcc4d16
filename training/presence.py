"""Measure ways to tell whether a text is in an image at all, with nothing learnt from the user's data.

    python training/presence.py src/clip_surgery_hub/assets/clip_vit_tiny.scenes

Scenes of three objects at native size; for each scene its own words and as many words that it does not show.
Printed is the area under the ROC curve over all pairs of scene and text, for every way that is defined in
`ways`, once per choice of the reference: the words a text is compared with, without the text itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from evaluate import draw, pixels_of
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.scenes import HELD_OUT, TRAINING, Scene, World, load_sprites
from clip_surgery_hub.text.embedding import embed_texts
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import surgery


def standing(score: Tensor, reference: Tensor) -> Tensor:
    """How many deviations the score lies above the middle of the reference: [P], [P, R] -> [P]."""
    middle = reference.median(1).values
    spread = (reference - middle[:, None]).abs().median(1).values
    return (score - middle) / spread.clamp(min=1e-6)


def ways(
    cls: Tensor, peak: Tensor, cls_others: Tensor, peak_others: Tensor, scale: float
) -> dict[str, Tensor]:
    """Candidates for the P pairs; the arguments are cosine similarities [P] and, of the reference, [P, R]."""
    above = {"CLS": (cls, cls_others), "peak": (peak, peak_others)}
    found = {f"{name}: cosine": score for name, (score, _) in above.items()}
    for name, (score, others) in above.items():
        found[f"{name}: rank"] = (score[:, None] > others).float().mean(1)
        found[f"{name}: deviations"] = standing(score, others)
        found[f"{name}: over the mean"] = score - others.mean(1)
        found[f"{name}: softmax"] = scale * score - torch.cat([score[:, None], others], 1).mul(
            scale
        ).logsumexp(1)
    for way in ("rank", "deviations", "over the mean", "softmax"):
        found[f"CLS + peak: {way}"] = found[f"CLS: {way}"] + found[f"peak: {way}"]
    return found


def asked_pairs(scenes: Sequence[Scene], words: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Each scene's own words, and as many that it does not show: P pairs of scene and word.

    Number of the scene, number of the word, and whether it is shown, [P] each.
    """
    rng = np.random.default_rng(0)
    rows, columns, shown = [], [], []
    for row, scene in enumerate(scenes):
        absent = [word for word in words if word not in scene.words]
        chosen = [str(word) for word in rng.choice(absent, len(scene.words), replace=False)]
        for word in (*scene.words, *chosen):
            rows.append(row)
            columns.append(words.index(word))
            shown.append(word in scene.words)
    return torch.tensor(rows), torch.tensor(columns), torch.tensor(shown)


def candidates(
    cls: Tensor, peak: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Iterator[tuple[str, str, Tensor]]:
    """Reference, way and score [P] of the pairs; cosine similarity of CLS and of the highest patch [B, T]."""
    words = cls.shape[1]
    for name, members in ((f"all {words} words", range(words)), ("every fifth word", range(0, words, 5))):
        others = torch.tensor(list(members))
        itself = others[None] == columns[:, None]
        without = [values[rows][:, others].masked_fill(itself, torch.nan) for values in (cls, peak)]
        middles = [values.nanmedian(1, keepdim=True).values for values in without]
        without = [
            torch.where(itself, middle, values) for values, middle in zip(without, middles, strict=True)
        ]
        found = ways(cls[rows, columns], peak[rows, columns], *without, scale=scale)
        for way, score in found.items():
            yield name, way, score


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--backgrounds", choices=["training", "held-out"], default="training")
    options = parser.parse_args()

    model = CLIPModel.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(options.checkpoint)
    processor = CLIPImageProcessor.from_pretrained(options.checkpoint)
    words = load_sprites().concepts
    texts = unit_length(embed_texts(model, tokenizer, words))
    native = model.config.vision_config.image_size
    grounds = tuple(HELD_OUT if options.backgrounds == "held-out" else TRAINING)
    scenes = draw(options.scenes, World(size=(native, native), backgrounds=grounds))
    rows, columns, shown = asked_pairs(scenes, words)
    with surgery(model):
        tokens = torch.cat(
            [
                find_tower(model).encode(pixels_of(scenes[i : i + 50], processor))
                for i in range(0, len(scenes), 50)
            ]
        )
    similarity = tokens @ texts.T  # [B, 1+N, T]
    cls, peak = similarity[:, 0], similarity[:, 1:].amax(1)
    for reference, way, score in candidates(cls, peak, rows, columns, float(model.logit_scale.exp())):
        auroc = binary_auroc(torch.sigmoid(score.double()), shown.int())
        record = {"reference": reference, "way": way, "AUROC": round(float(auroc), 4)}
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
