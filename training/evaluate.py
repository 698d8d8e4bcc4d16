"""Measure a trained CLIP on fresh scenes, before and after surgery.

    python training/evaluate.py src/clip_surgery_hub/assets/clip_vit_tiny.scenes
    python training/evaluate.py runs/without-noto --styles noto --backgrounds held-out

Three objects of 30 to 50% of the side per image, native size, all concepts as the class set, the paper's
prompt ensemble. Every object with at least 30 visible pixels counts:

- mSC: mean of the min-max map inside the object's mask minus outside of it, in percent, averaged over the
  words of an image, then over images.
- mIoU: intersection over union of the map with the mask at the map's best threshold, in percent.
- peak: share of maps whose highest pixel lies on the object, in percent.
- mAP: mean over the words of the average precision of the image-level scores, in percent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from clip_surgery_hub.evaluate.datasets.scenes import FIRST_SEED, LEAST_PIXELS
from clip_surgery_hub.functional import feature_surgery, similarity_map, unit_length
from clip_surgery_hub.results.explanation import Features
from clip_surgery_hub.scenes import HELD_OUT, TRAINING, Scene, World, draw_scene, load_sprites
from clip_surgery_hub.text.embedding import embed_texts
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import surgery

THRESHOLDS = torch.arange(0.0, 1.0, 0.02)


def draw(count: int, world: World) -> list[Scene]:
    return [draw_scene((FIRST_SEED, index), world) for index in range(count)]


def pixels_of(scenes: list[Scene], processor: CLIPImageProcessor) -> Tensor:
    """Normalized pixels [B, 3, H, W]; the scenes have native size already."""
    pixels = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std)
    )
    return (pixels - mean) / std


def measure_maps(maps: Tensor, scene: Scene, words: tuple[str, ...]) -> list[tuple[float, float, float]]:
    """(contrast, best intersection over union, peak on the object) of each word that counts, in [.., 1].

    `maps` is [T, H, W] in [0, 1] over `words`.
    """
    metrics = []
    for word in scene.words:
        mask = torch.from_numpy(scene.mask(word))
        if int(mask.sum()) < LEAST_PIXELS:
            continue
        heat = maps[words.index(word)]
        contrast = float(heat[mask].mean() - heat[~mask].mean())
        above = heat[None] >= THRESHOLDS[:, None, None]
        union = (above | mask).flatten(1).sum(1)
        overlap = float(((above & mask).flatten(1).sum(1) / union).max())
        peak = float(mask.flatten()[heat.argmax()])
        metrics.append((contrast, overlap, peak))
    return metrics


def measure_scene(similarity: Tensor, scene: Scene, words: tuple[str, ...]) -> np.ndarray:
    """The metrics of `measure_maps` [K, 3] for the K words of a scene that count.

    `similarity` is [T, h, w], patches over `words`; only the maps of the scene's own words are made.
    """
    own = similarity[[words.index(word) for word in scene.words]]
    height, width = scene.image.shape[:2]
    (maps,) = similarity_map(own.flatten(1).T[None], (own.shape[1], own.shape[2]), (height, width))
    return np.array(measure_maps(maps, scene, scene.words)).reshape(-1, 3)


def shown_words(scenes: Sequence[Scene], words: tuple[str, ...]) -> Tensor:
    """Whether each scene shows each word, bool [B, T]."""
    return torch.tensor([[word in scene.words for word in words] for scene in scenes])


def on_unit_scale(scores: Tensor) -> Tensor:
    """Ranks in [0, 1]: of other scores torchmetrics takes the sigmoid, which rounds some together."""
    levels, level = scores.unique(return_inverse=True)
    return level.double() / max(1, len(levels) - 1)


def average_precisions(scores: Tensor, shown: Tensor) -> Tensor:
    """Average precision in [0, 1] of each word that any image shows; scores and truth are [B, T]."""
    columns = shown.any(0)
    precisions: Tensor = multilabel_average_precision(
        on_unit_scale(scores[:, columns]),
        shown[:, columns].int(),
        num_labels=int(columns.sum()),
        average=None,
    )
    return precisions


@torch.inference_mode()
def evaluate(
    model: CLIPModel,
    processor: CLIPImageProcessor,
    texts: Tensor,
    scenes: list[Scene],
    *,
    method: str,
    depth: int | None,
    features: Features,
) -> dict[str, float]:
    """The four metrics in percent, of plain cosine similarity or of that after feature surgery."""
    words = load_sprites().concepts
    contrasts, overlaps, peaks, scores = [], [], [], []
    with surgery(model, method, depth):
        tower = find_tower(model)
        for first in range(0, len(scenes), 50):
            batch = scenes[first : first + 50]
            pixels = pixels_of(batch, processor)
            tokens = tower.encode(pixels)
            similarity = feature_surgery(tokens, texts) if features == "surgery" else tokens @ texts.T
            grid = tower.grid(*pixels.shape[2:])
            scores.append(similarity[:, 0])
            for scene, patches in zip(batch, similarity[:, 1:], strict=True):
                metrics = measure_scene(patches.T.unflatten(1, grid), scene, words)
                if len(metrics):
                    contrasts.append(metrics[:, 0].mean())
                    overlaps += metrics[:, 1].tolist()
                    peaks += metrics[:, 2].tolist()
    precision = average_precisions(torch.cat(scores), shown_words(scenes, words))
    return {
        name: round(100 * float(np.mean(values)), 2)
        for name, values in (
            ("mSC", contrasts),
            ("mIoU", overlaps),
            ("peak", peaks),
            ("mAP", precision.numpy()),
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a folder in the format of transformers")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--styles", nargs="*", default=None)
    parser.add_argument("--backgrounds", choices=["training", "held-out"], default="training")
    parser.add_argument("--depths", nargs="*", type=int, default=[6])
    options = parser.parse_args()

    model = CLIPModel.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(options.checkpoint)
    processor = CLIPImageProcessor.from_pretrained(options.checkpoint)
    texts = unit_length(embed_texts(model, tokenizer, load_sprites().concepts))
    native = model.config.vision_config.image_size
    grounds = tuple(HELD_OUT if options.backgrounds == "held-out" else TRAINING)
    styles = tuple(options.styles) if options.styles else None
    scenes = draw(options.scenes, World(size=(native, native), styles=styles, backgrounds=grounds))
    variants: dict[str, tuple[str, int | None, Features]] = {
        "raw CLIP": ("none", None, "plain"),
        "feature surgery alone": ("none", None, "surgery"),
    }
    variants |= {f"surgery, depth {depth}": ("clip_surgery", depth, "surgery") for depth in options.depths}
    for name, (method, depth, features) in variants.items():
        metrics = evaluate(model, processor, texts, scenes, method=method, depth=depth, features=features)
        print(json.dumps({"variant": name, **metrics}), flush=True)


if __name__ == "__main__":
    main()
