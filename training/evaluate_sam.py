"""Measure a trained SAM on fresh scenes: true points, and the points of a CLIP.

    python training/evaluate_sam.py src/clip_surgery_hub/assets/sam_tiny.scenes

The scenes are those of `evaluate.py`: three objects of 30 to 50% of the side (`--side`), objects with at
least 30 visible pixels. One line of JSON per kind of prompt, mean intersection over union in percent:

- picked: of the mask with the highest score, out of three.
- best: of the best of the three.
- agreement: of the mask that agrees best with the CLIP's heatmap, for the points of a CLIP.

True points are drawn inside the visible mask of each object, each object with a generator of its own. The
CLIP is asked for the words of the scene, with all other concepts in the class set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from evaluate import FIRST_SEED, LEAST_PIXELS, draw
from torch import Tensor

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.results.explanation import Points
from clip_surgery_hub.sam.backends import Ask, Sam, encode_image
from clip_surgery_hub.sam.loading import load_sam
from clip_surgery_hub.sam.masks import mask_agreement
from clip_surgery_hub.scenes import HELD_OUT, TRAINING, Scene, World, load_sprites

Row = dict[str, float]


def overlap(found: Tensor, meant: Tensor) -> Tensor:
    """Intersection over union of masks [M, H, W] with one [H, W]: [M]."""
    return (found & meant).sum((1, 2)) / (found | meant).sum((1, 2)).clamp(min=1)


def true_points(mask: Tensor, count: int, seed: tuple[int, ...]) -> Points:
    """Pixels inside of a mask [H, W], drawn with a generator of their own."""
    rng = np.random.default_rng(seed)
    places = mask.nonzero().flip(1)  # x, then y
    chosen = torch.from_numpy(rng.integers(len(places), size=count))
    return Points(places[chosen], torch.ones(count, dtype=torch.uint8))


def measure(ask: Ask, points: Points, mask: Tensor, heat: Tensor | None = None) -> Row:
    """Overlaps of the masks that are proposed at points with the true one [H, W]."""
    if not len(points.labels):  # the map is alike everywhere: an empty mask
        return {"picked": 0.0, "best": 0.0, "agreement": 0.0}
    candidates, scores = ask(points)
    actual = overlap(candidates, mask)
    row = {"picked": float(actual[scores.argmax()]), "best": float(actual.max())}
    if heat is not None:
        row["agreement"] = float(actual[mask_agreement(candidates, heat).argmax()])
    return row


def with_true_points(sam: Sam, scenes: list[Scene], count: int) -> list[Row]:
    rows = []
    for number, scene in enumerate(scenes):
        ask = encode_image(sam, scene.image)
        for index, mask in enumerate(torch.from_numpy(scene.visible)):
            if int(mask.sum()) >= LEAST_PIXELS:
                points = true_points(mask, count, (FIRST_SEED, number, index, count))
                rows.append(measure(ask, points, mask))
    return rows


def with_clip(sam: Sam, clip: CLIPSurgery, scenes: list[Scene]) -> list[Row]:
    words = load_sprites().concepts
    embedded = dict(zip(words, clip.encode_text(words), strict=True))
    rows = []
    for scene in scenes:
        masks = {word: torch.from_numpy(scene.mask(word)) for word in scene.words}
        asked = [word for word, mask in masks.items() if int(mask.sum()) >= LEAST_PIXELS]
        if not asked:
            continue
        explanation = clip.explain(
            scene.image,
            {word: embedded[word] for word in asked},
            background={word: embedded[word] for word in words if word not in asked},
        )
        ask = encode_image(sam, scene.image)
        for word, points, heat in zip(asked, explanation.points()[0], explanation.heatmaps()[0], strict=True):
            rows.append(measure(ask, points, masks[word], heat))
    return rows


def mean(rows: Iterable[Row]) -> Row:
    """Each column's mean in percent."""
    found = list(rows)
    return {name: round(100 * float(np.mean([row[name] for row in found])), 2) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="a folder in the format of transformers, or the name of one")
    parser.add_argument("--clip", default="clip_vit_tiny.scenes")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--side", type=int, default=112, help="of the images; the bundled SAM's own is 112")
    parser.add_argument("--backgrounds", choices=["training", "held-out"], default="training")
    options = parser.parse_args()

    source = Path(options.checkpoint)
    sam = load_sam(source if source.is_dir() else options.checkpoint)
    grounds = tuple(HELD_OUT if options.backgrounds == "held-out" else TRAINING)
    scenes = draw(options.scenes, World(size=(options.side, options.side), backgrounds=grounds))
    for count, name in ((1, "one true point"), (3, "three true points")):
        rows = with_true_points(sam, scenes, count)
        print(json.dumps({"points": name, "masks": len(rows), **mean(rows)}), flush=True)
    rows = with_clip(sam, CLIPSurgery.from_pretrained(options.clip), scenes)
    print(json.dumps({"points": "of the CLIP", "masks": len(rows), **mean(rows)}), flush=True)


if __name__ == "__main__":
    main()
