"""Synthetic scenes as a data set."""

import ast
import importlib.util
import json
from types import ModuleType

import numpy as np
import pytest

from clip_surgery_hub.evaluate.datasets import NO_CLASS, open_dataset
from clip_surgery_hub.evaluate.datasets.scenes import FIRST_SEED, LEAST_PIXELS, SCENES, WORLDS
from clip_surgery_hub.scenes import HELD_OUT, draw_scene, load_sprites
from tests.support.paths import ASSETS, ROOT


@pytest.fixture(scope="module")
def training_evaluate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_evaluate", ROOT / "training" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_scenes_are_those_of_the_published_metrics(training_evaluate: ModuleType) -> None:
    assert (FIRST_SEED, LEAST_PIXELS) == (training_evaluate.FIRST_SEED, training_evaluate.LEAST_PIXELS)
    dataset = open_dataset("scenes")
    assert (dataset.split, len(dataset), len(dataset.names())) == ("plain", SCENES, SCENES)
    for index, scene in enumerate(training_evaluate.draw(4, WORLDS["plain"])):
        sample = dataset.sample(index)
        assert np.array_equal(np.asarray(sample.image), scene.image)
        assert sample.segmentation.shape == (80, 80)
        counted = {word: scene.mask(word) for word in scene.words if scene.mask(word).sum() >= 30}
        assert {dataset.classes.names[place] for place in np.flatnonzero(sample.labels)} == set(counted)
        for word, mask in counted.items():
            place = dataset.classes.names.index(word)
            assert np.array_equal(sample.segmentation == place, mask)
        outside = ~np.any([*counted.values()], axis=0)
        assert (sample.segmentation[outside] == NO_CLASS).all()


def test_scenes_of_the_metrics_are_generated_alike() -> None:
    """training/evaluate.py asks for World(size=(native, native), styles=None, backgrounds=TRAINING)."""
    tree = ast.parse((ROOT / "training" / "evaluate.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "World"
    ]
    assert [sorted(keyword.arg for keyword in call.keywords) for call in calls] == [
        ["backgrounds", "size", "styles"]
    ]
    config = ASSETS / "clip_vit_tiny.scenes" / "config.json"
    assert WORLDS["plain"].size == (json.loads(config.read_text())["vision_config"]["image_size"],) * 2


def test_objects_that_are_hardly_seen_do_not_count() -> None:
    dataset = open_dataset("scenes", split="crowded")
    hidden = 0
    for index in range(30):
        sample = dataset.sample(index)
        scene = draw_scene((FIRST_SEED, index), WORLDS["crowded"])
        for word in scene.words:
            place = dataset.classes.names.index(word)
            pixels = int(scene.mask(word).sum())
            assert sample.labels[place] == (pixels >= 30)
            assert (sample.segmentation == place).sum() == (pixels if pixels >= 30 else 0)
            hidden += pixels < 30
    assert hidden > 0


def test_difficulties_are_what_they_are_called() -> None:
    plain, crowded, held_out = (open_dataset("scenes", split=split) for split in WORLDS)
    shown = [
        np.mean([dataset.sample(index).labels.sum() for index in range(20)]) for dataset in (plain, crowded)
    ]
    assert shown[0] <= 3 and shown[1] >= 7
    for index in range(5):  # the same objects at the same places on other grounds
        first, second = plain.sample(index), held_out.sample(index)
        assert np.array_equal(first.segmentation, second.segmentation)
        assert not np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert {draw_scene((FIRST_SEED, index), WORLDS["held_out"]).background for index in range(30)} == set(
        HELD_OUT
    )
    assert plain.classes.names == load_sprites().concepts
    assert len({*plain.names(), *crowded.names(), *held_out.names()}) == 3 * SCENES
    with pytest.raises(IndexError):
        plain.sample(SCENES)
