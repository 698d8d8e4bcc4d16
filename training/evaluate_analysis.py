"""Measure why raw CLIP fails on fresh scenes, and print the table of `docs/analysis.md`.

    python training/evaluate_analysis.py
    python training/evaluate_analysis.py runs/scenes --scenes 200

Three objects of 30 to 50% of the side per image, native size. Attention and cosines are averaged over
the deeper half of the blocks, then told block by block; the class set of the maps is all concepts, and
objects of 30 visible pixels count. Each row has the mean over the images and the middle 95% of 2,000
bootstrap samples of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from evaluate import LEAST_PIXELS, draw
from tasks.bootstrap import interval, ratio

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import attention_analysis, attention_averages, redundancy_analysis
from clip_surgery_hub.analysis.attention_results import PARTS, AttentionAverages
from clip_surgery_hub.analysis.redundancy_result import COMPARISONS, RedundancyAnalysis
from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.scenes import Scene, World, load_sprites

RESAMPLES = 2000

KINDS = {"query_key": "q-k", "value_value": "v-v", "query_query": "q-q", "key_key": "k-k"}
BLOCK_PARTS = {"attention": "q-k attention", "value_attention": "v-v attention", "mlp": "MLP"}
NAMES = {
    "raw": "raw CLIP",
    "feature_surgery": "feature surgery alone",
    "architecture_surgery": "architecture surgery alone",
    "both": "both",
}


def print_heading(name: str) -> None:
    print(f"| **{name}** | | |")


def print_row(name: str, values: Sequence[float] | torch.Tensor | np.ndarray, digits: int) -> None:
    """Mean of one value per image, and the middle 95% of its bootstrap samples."""
    exact = np.asarray(values, dtype=float)
    mean, low, high = interval(ratio(exact, np.ones_like(exact)), len(exact), RESAMPLES)
    print(f"| {name} | {mean:.{digits}f} | {low:.{digits}f} to {high:.{digits}f} |", flush=True)


def deeper_half(values: torch.Tensor) -> torch.Tensor:
    """Mean over the deeper half of the blocks, the share that the paper modifies: [P, L] -> [P]."""
    return values[:, values.shape[1] // 2 :].mean(1)


def attention_shares(averages: AttentionAverages) -> dict[str, dict[str, torch.Tensor]]:
    """Percent of the attention that lands on the same object, mean over the deeper half of the blocks.

    With the patch itself and without, for each kind of attention: a value per image, [P].
    """
    found = {}
    for heading, shares, evenly in (
        ("attention on the same object", averages.same_object, averages.chance),
        ("the same without the patch itself", averages.same_object_elsewhere, averages.chance_elsewhere),
    ):
        found[heading] = {
            name: 100 * deeper_half(shares[kind])  # type: ignore[index]
            for kind, name in KINDS.items()
        }
        found[heading]["spread evenly"] = 100 * evenly
    return found


def print_attention(clip: CLIPSurgery, scenes: Sequence[Scene], averages: AttentionAverages) -> None:
    for heading, shares in attention_shares(averages).items():
        print_heading(f"{heading}, percent")
        for name, values in shares.items():
            print_row(name, values, 1)
    print_heading("cosine to the final CLS")
    for part in PARTS:
        print_row(BLOCK_PARTS[part], deeper_half(averages.cosines_to_cls[part]), 2)
    print_heading("the same on objects minus off them")
    differences = [_on_minus_off(clip, scene) for scene in scenes if scene.visible.any()]
    for part in PARTS:
        print_row(BLOCK_PARTS[part], deeper_half(torch.stack([one[part] for one in differences])), 2)
    print_heading("cosine to the patch's own final embedding")
    for part in PARTS:
        print_row(BLOCK_PARTS[part], deeper_half(averages.cosines_to_final[part]), 2)


def _on_minus_off(clip: CLIPSurgery, scene: Scene) -> dict[str, torch.Tensor]:
    """Mean cosine to CLS of patches on any object minus that of the others, by part and block `[L]`."""
    shown = scene.visible.any(0)
    row, column = np.argwhere(shown)[0]
    found = attention_analysis(clip, scene.image, point=(int(column), int(row)), mask=shown)
    assert found.coverage is not None
    on, off = found.coverage / found.coverage.sum(), (1 - found.coverage) / (1 - found.coverage).sum()
    return {part: (cosines * (on - off)).sum((1, 2)) for part, cosines in found.cosines_to_cls.items()}


def print_blocks(averages: AttentionAverages) -> None:
    """Attention on the same object and cosines to CLS, block by block, means over the images."""
    rows = {}
    for heading, shares in (
        ("{}, percent", averages.same_object),
        ("{} without the patch itself, percent", averages.same_object_elsewhere),
    ):
        for kind, name in KINDS.items():
            rows[heading.format(name)] = [f"{100 * share:.0f}" for share in shares[kind].mean(0)]  # type: ignore[index]
    for part in PARTS:
        cosines = averages.cosines_to_cls[part].mean(0)
        rows[f"{BLOCK_PARTS[part]}, cosine to the final CLS"] = [f"{cosine:.2f}" for cosine in cosines]
    numbers = range(averages.same_object["query_key"].shape[1])
    print(f"\n| block | {' | '.join(map(str, numbers))} |\n|---|{'---|' * len(numbers)}")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(values)} |")


def print_redundancy(clip: CLIPSurgery, scenes: Sequence[Scene]) -> None:
    images = [scene.image for scene in scenes]
    masks = [
        {word: scene.mask(word) for word in scene.words if scene.mask(word).sum() >= LEAST_PIXELS}
        for scene in scenes
    ]
    analysis = redundancy_analysis(clip, images, load_sprites().concepts, masks=masks)
    print_heading("mSC, percent")
    for comparison in COMPARISONS:
        contrasts = [list(found.values()) for found in analysis.contrasts(comparison) if found]
        print_row(NAMES[comparison], [np.mean(found) for found in contrasts], 1)
    for heading, against in (("other objects", True), ("the ground", False)):
        print_heading(f"heat on the text's object minus that on {heading}, percent")
        for comparison in COMPARISONS:
            values = _heat_on_own(analysis, comparison, scenes, against_objects=against)
            print_row(NAMES[comparison], values, 1)
    means = {
        comparison: [maps.mean(0) for maps in analysis.similarity(comparison)]
        for comparison in ("raw", "architecture_surgery")
    }
    for heading, raw, read in (
        ("the empty text's heat", analysis.original_unrelated, analysis.modified_unrelated),
        ("the heat of all words' mean map", means["raw"], means["architecture_surgery"]),
    ):
        print_heading(f"{heading} on objects minus that on the ground, percent")
        for name, maps in (("raw CLIP", raw), ("architecture surgery alone", read)):
            values = []
            for one, scene in zip(maps, scenes, strict=True):
                heat, shown = _heat(one, scene), scene.visible.any(0)
                values.append(100 * float(heat[shown].mean() - heat[~shown].mean()))
            print_row(name, values, 1)
    print_heading("resemblance to the empty text's map")
    for comparison in COMPARISONS:
        print_row(NAMES[comparison], analysis.resemblance(comparison).mean(1), 2)
    print(f"| **energy common to all texts**, percent | {100 * analysis.redundancy:.0f} | |")


def _heat(similarity: torch.Tensor, scene: Scene) -> np.ndarray:
    rows, columns = similarity.shape
    height, width = scene.image.shape[:2]
    return similarity_map(similarity.reshape(1, -1, 1), (rows, columns), (height, width))[0, 0].numpy()


def _heat_on_own(
    analysis: RedundancyAnalysis, comparison: str, scenes: Sequence[Scene], *, against_objects: bool
) -> list[float]:
    """Mean over the texts of each image that has something to compare with."""
    assert analysis.masks is not None
    images = []
    similarities = analysis.similarity(comparison)  # type: ignore[arg-type]
    for maps, masks, scene in zip(similarities, analysis.masks, scenes, strict=True):
        shown, values = scene.visible.any(0), []
        for text, mask in masks.items():
            heat = _heat(maps[analysis.modified.texts.index(text)], scene)
            rest = shown & ~mask if against_objects else ~shown
            if rest.any():
                values.append(100 * float(heat[mask].mean() - heat[rest].mean()))
        if values:
            images.append(float(np.mean(values)))
    return images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="?", default="clip_vit_tiny.scenes", help="a name, or a folder of transformers"
    )
    parser.add_argument("--scenes", type=int, default=60)
    options = parser.parse_args()
    clip = CLIPSurgery.from_pretrained(options.checkpoint)
    side = clip.tower.native_size
    scenes = draw(options.scenes, World(size=(side, side)))
    print("| metric | mean | 95% interval |\n|---|---|---|")
    images = [scene.image for scene in scenes]
    averages = attention_averages(clip, images, [scene.visible for scene in scenes])
    print_attention(clip, scenes, averages)
    print_redundancy(clip, scenes)
    print_blocks(averages)


if __name__ == "__main__":
    main()
