"""Synthetic scenes: seeded, exact, and drawn from nothing but the package."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from clip_surgery_hub.scenes import (
    HELD_OUT,
    TRAINING,
    Scene,
    Variation,
    World,
    describe,
    draw_background,
    draw_scene,
    load_sprites,
)
from clip_surgery_hub.scenes.captions import plural, with_article
from clip_surgery_hub.scenes.look import place

PLAIN = Variation(rotation=0, stretch=0, mirror=0, color=0, redraw=0, blur=0)


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def test_the_world_is_as_large_as_promised() -> None:
    sprites = load_sprites()
    assert len(sprites.concepts) == len(set(sprites.concepts)) >= 200
    assert len(sprites.styles) == 3
    assert len(TRAINING) >= 8
    assert not set(TRAINING) & set(HELD_OUT)


def test_every_sprite_can_be_seen_and_fills_its_cell() -> None:
    sprites = load_sprites()
    for name, levels in sprites.pyramid.items():
        alpha = np.asarray(levels[0])[..., 3] > 40
        sides = alpha.any(0).sum(), alpha.any(1).sum()
        assert max(sides) >= 0.9 * sprites.cell, name
        assert alpha.mean() > 0.05, name


def test_a_seed_draws_the_same_image_again_and_another_seed_another() -> None:
    world = World(objects=(1, 5), scale=(0.1, 0.6), plain=0.5, variation=Variation(color=0.6, redraw=0.5))
    first, second = draw_scene((3, 14), world), draw_scene((3, 14), world)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.visible, second.visible)
    assert first.objects == second.objects
    assert not np.array_equal(first.image, draw_scene((3, 15), world).image)


def test_scenes_do_not_depend_on_numpys_global_seed() -> None:
    np.random.seed(0)
    first = digest(draw_scene(5).image)
    np.random.seed(1)
    assert digest(draw_scene(5).image) == first


def test_objects_lie_exactly_where_their_masks_say() -> None:
    """The same seed on two other grounds: what stays is the objects, and it stays where the masks are."""
    concepts = ("apple", "book", "pizza", "egg")  # solid ones
    snow, night = (
        draw_scene(11, World(size=(120, 160), concepts=concepts, backgrounds=(ground,), variation=PLAIN))
        for ground in ("snow", "night sky")
    )
    assert snow.objects == night.objects
    assert np.array_equal(snow.visible, night.visible)
    change = np.abs(snow.image.astype(int) - night.image).max(-1)
    shown = snow.visible.any(0)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(shown, 1), (3, 3))
    assert (change[windows.all((2, 3))] <= 1).mean() > 0.99
    assert (change[~windows.any((2, 3))] > 40).mean() > 0.97  # outside, but for white stars on snow


def test_later_objects_hide_earlier_ones() -> None:
    for seed in range(20):
        scene = draw_scene(seed, World(objects=(4, 5), scale=(0.5, 0.7), overlap=1.0))
        assert scene.visible.sum(0).max() == 1


def test_sizes_follow_the_world() -> None:
    world = World(size=(100, 200), objects=(1, 1), scale=(0.4, 0.4), variation=PLAIN, backgrounds=("sky",))
    for seed in range(10):
        rows, columns = np.nonzero(draw_scene(seed, world).visible[0])
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 37 <= side <= 42  # 40% of the shorter side, give or take soft edges


def test_a_warp_of_next_to_nothing_draws_what_no_warp_draws() -> None:
    """The mesh of the warp is the affine map, cell by cell, where nothing is shifted."""
    sprite = load_sprites().at_least("noto", "dog", 61.5)
    turned = replace(PLAIN, rotation=25, stretch=0.2)
    plain, warped = (
        place(sprite, 61.5, replace(turned, warp=warp), np.random.default_rng(3)) for warp in (0, 1e-9)
    )
    assert np.abs(plain - warped).max() < 0.02  # Pillow takes an affine map in fixed point


@pytest.mark.parametrize("seed", range(8))
def test_a_warped_object_stays_whole(seed: int) -> None:
    """A full square, warped: nothing is cut off at the edge or torn out, and its shape is another."""
    square = Image.new("RGBa", (64, 64))
    square.paste((255, 255, 255, 255), (2, 2, 62, 62))
    variation = replace(PLAIN, rotation=25, stretch=0.2, warp=0.12)
    layer = place(square, 60, variation, np.random.default_rng(seed))
    shown = layer[..., 3] > 0.5
    assert not shown[[0, -1]].any() and not shown[:, [0, -1]].any()
    filled = Image.fromarray(shown.astype(np.uint8)).copy()
    ImageDraw.floodfill(filled, (0, 0), 2)
    ImageDraw.floodfill(filled, (len(shown) // 2, len(shown) // 2), 3)
    hole, torn = ((np.asarray(filled) == left).sum() for left in (0, 1))
    assert hole == 0 and torn <= 2  # all outside is one part, all inside another, but for tips of corners
    straight = place(square, 60, replace(variation, warp=0), np.random.default_rng(seed))[..., 3] > 0.5
    assert 0.8 < shown.sum() / straight.sum() < 1.25
    edge = (len(shown) - len(straight)) // 2
    middle = shown[edge:, edge:][: len(straight), : len(straight)]
    assert (middle != straight).sum() > 0.03 * straight.sum()


def test_the_mask_of_a_word_joins_its_objects() -> None:
    world = World(objects=(3, 3), twins=1.0)
    scene = draw_scene(2, world)
    assert len(scene.words) == 1
    assert np.array_equal(scene.mask(scene.words[0]), scene.visible.any(0))
    with pytest.raises(ValueError, match="no 'zebra' in this scene; it shows"):
        scene.mask("zebra")


@pytest.mark.parametrize("name", [*TRAINING, *HELD_OUT])
def test_backgrounds_vary_with_the_seed_and_fit_any_size(name: str) -> None:
    for height, width in ((64, 64), (30, 90), (96, 40)):
        ground = draw_background(name, np.random.default_rng(0), height, width)
        assert ground.shape == (height, width, 3)
        assert ground.dtype == np.float32
        assert 0 <= ground.min() and ground.max() <= 1
        other = draw_background(name, np.random.default_rng(1), height, width)
        assert np.abs(ground - other).mean() > 0.01


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (World(backgrounds=("moon dust",)), "no background is named 'moon dust'"),
        (World(styles=("oil",)), "no drawing style is named 'oil'"),
        (World(concepts=("dog", "zebra")), "no sprite shows 'zebra'"),
    ],
)
def test_what_cannot_be_drawn_is_named(world: World, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(0, world)


def scene_of(
    objects: tuple[str, ...], centers: list[tuple[float, float]], background: str | None = None
) -> Scene:
    blank = np.zeros((8, 8, 3), np.uint8)
    return Scene(blank, objects, np.array(centers, float), np.zeros((len(objects), 8, 8), bool), background)


def test_captions_tell_the_truth_about_position_and_number() -> None:
    pair = scene_of(("dog", "star"), [(0.2, 0.5), (0.8, 0.5)])
    twins = scene_of(("dog", "dog", "apple"), [(0.1, 0.1), (0.9, 0.1), (0.5, 0.9)], "grass")
    said = {describe(pair, np.random.default_rng(seed)) for seed in range(300)}
    assert any("a dog to the left of a star" in text for text in said)
    assert any("a star to the right of a dog" in text for text in said)
    assert not any("a star to the left" in text or "above" in text or "below" in text for text in said)
    counted = [describe(twins, np.random.default_rng(seed)) for seed in range(300)]
    assert any("two dogs" in text and "an apple" in text for text in counted)
    assert any(text.endswith("grass") for text in counted)
    assert max(Counter(counted).values()) < 60  # several wordings, none of them dominant


@pytest.mark.parametrize(
    ("word", "one", "many"),
    [
        ("dog", "a dog", "dogs"),
        ("apple", "an apple", "apples"),
        ("fox", "a fox", "foxes"),
        ("butterfly", "a butterfly", "butterflies"),
        ("turkey", "a turkey", "turkeys"),
        ("leaf", "a leaf", "leaves"),
        ("computer mouse", "a computer mouse", "computer mice"),
        ("jeans", "jeans", "jeans"),
    ],
)
def test_words_take_their_forms(word: str, one: str, many: str) -> None:
    assert with_article(word) == one
    assert plural(word) == many
