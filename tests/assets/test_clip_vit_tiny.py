"""The CLIP that comes with the package: a plain checkpoint of transformers, whose maps lie on the objects.

The metrics are measured on scenes that training never drew, with thresholds a little below what
`training/evaluate.py` measured on 500 of them (see the model card beside the checkpoint).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPVisionModelWithProjection

from clip_surgery_hub import CLIPSurgery, list_models
from clip_surgery_hub.hub import resolve
from clip_surgery_hub.scenes import HELD_OUT, TRAINING, World, draw_scene, load_sprites

NAME = "clip_vit_tiny.scenes"
IMAGES = 40
LEAST_PIXELS = 30


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(resolve(NAME))


@dataclass(frozen=True)
class MapQuality:
    """In percent: contrast of the maps (mSC), share of maps whose peak is on the object."""

    contrast: float
    peak: float


def measure(clip: CLIPSurgery, world: World, redundant: str) -> MapQuality:
    words = load_sprites().concepts
    scenes = [draw_scene((77, index), world) for index in range(IMAGES)]
    result = clip.explain([scene.image for scene in scenes], words, redundant=redundant)
    contrasts, peaks = [], []
    for scene, heatmaps in zip(scenes, result.heatmaps(), strict=True):
        for word in scene.words:
            mask = torch.from_numpy(scene.mask(word))
            heat = heatmaps[words.index(word)]
            if mask.sum() >= LEAST_PIXELS:
                contrasts.append(float(heat[mask].mean() - heat[~mask].mean()))
                peaks.append(bool(mask.flatten()[heat.argmax()]))
    assert len(peaks) > 2 * IMAGES
    return MapQuality(100 * float(np.mean(contrasts)), 100 * float(np.mean(peaks)))


def native_world(folder: Path, **changes: object) -> World:
    side = json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]
    return World(size=(side, side), **changes)  # type: ignore[arg-type]


def test_transformers_alone_loads_every_part(folder: Path) -> None:
    model = CLIPModel.from_pretrained(folder).float().eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    image = draw_scene(3, native_world(folder, concepts=("pizza",), backgrounds=("grass",))).image
    pixels = processor(image, return_tensors="pt")
    side = model.config.vision_config.image_size
    assert pixels.pixel_values.shape == (1, 3, side, side)
    texts = tokenizer(["a photo of a pizza", "a photo of a bus"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**texts, **pixels).logits_per_image[0]
    assert logits[0] > logits[1] + 1
    vision = CLIPVisionModelWithProjection.from_pretrained(folder).float().eval()
    with torch.inference_mode():
        alone = vision(**pixels).image_embeds
        whole = model.get_image_features(**pixels).pooler_output
    torch.testing.assert_close(alone, whole)


def test_it_is_small_and_stored_in_half_precision(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12e6
    with safe_open(folder / "model.safetensors", "pt") as weights:
        dtypes = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    assert dtypes == {"F16"}


def test_it_says_what_it_knows_and_what_it_is(folder: Path) -> None:
    known = json.loads((folder / "concepts.json").read_text())
    assert tuple(known["concepts"]) == load_sprites().concepts
    assert tuple(known["backgrounds"]) == tuple(TRAINING)
    card = (folder / "README.md").read_text()
    for heading in ("## Data", "## Training", "## License", "## Metrics", "## What it cannot do"):
        assert heading in card
    assert NAME in list_models()


def test_it_names_one_object_at_a_time_far_above_chance(folder: Path) -> None:
    clip = CLIPSurgery.from_pretrained(folder)
    words = load_sprites().concepts
    scenes = [
        draw_scene((78, index), native_world(folder, objects=(1, 1), scale=(0.5, 0.6)))
        for index in range(IMAGES)
    ]
    scores = clip.explain([scene.image for scene in scenes], words).plain_scores
    best = scores.topk(5, dim=1).indices
    named = [words.index(scene.words[0]) in row for scene, row in zip(scenes, best.tolist(), strict=True)]
    assert np.mean(named) > 0.5  # chance: 5 / 227


@pytest.mark.slow
def test_raw_clip_points_beside_the_objects_and_surgery_at_them(folder: Path) -> None:
    world = native_world(folder)
    raw = measure(CLIPSurgery.from_pretrained(folder, method="none"), world, "none")
    after = measure(CLIPSurgery.from_pretrained(folder), world, "auto")
    assert raw.contrast < 5
    assert after.contrast > 30
    assert after.peak > 70
    assert after.peak > raw.peak + 30


@pytest.mark.slow
def test_the_maps_also_lie_on_the_objects_on_grounds_that_training_never_saw(folder: Path) -> None:
    world = native_world(folder, backgrounds=tuple(HELD_OUT))
    after = measure(CLIPSurgery.from_pretrained(folder), world, "auto")
    assert after.contrast > 30
    assert after.peak > 70
