"""The paper's claims, measured on scenes with exact masks and the bundled CLIP."""

from typing import Any

import pytest

from clip_surgery_hub import CLIPSurgery, create_model
from clip_surgery_hub.analysis import attention_averages, redundancy_analysis
from clip_surgery_hub.scenes import World, draw_scene, load_sprites


@pytest.fixture(scope="module")
def bundled() -> CLIPSurgery:
    return create_model("clip_vit_tiny.scenes", device="cpu")


def scenes_of(clip: CLIPSurgery, count: int) -> list[Any]:
    side = clip.tower.native_size
    return [draw_scene((50, index), World(size=(side, side))) for index in range(count)]


def test_patches_attend_to_their_own_object_by_values_rather_than_by_queries_and_keys(
    bundled: CLIPSurgery,
) -> None:
    scenes = scenes_of(bundled, 12)
    averages = attention_averages(
        bundled, [scene.image for scene in scenes], [scene.visible for scene in scenes]
    )
    for shares, chance in (
        (averages.same_object, averages.chance),
        (averages.same_object_elsewhere, averages.chance_elsewhere),
    ):
        # The deeper half, as in the paper: the first blocks distinguish colors and places, not objects.
        by_keys, by_values = (
            float(shares[kind][:, len(bundled.tower.blocks) // 2 :].mean())
            for kind in ("query_key", "value_value")
        )
        assert by_values > by_keys + 0.1
        assert by_values > 3 * float(chance.mean())
    last = {part: float(values[:, -1].mean()) for part, values in averages.cosines_to_cls.items()}
    assert last["mlp"] < last["value_attention"]


@pytest.mark.slow
def test_maps_lie_beside_the_objects_before_and_on_them_after(bundled: CLIPSurgery) -> None:
    scenes = scenes_of(bundled, 12)
    masks = [
        {word: scene.mask(word) for word in scene.words if scene.mask(word).sum() >= 30} for scene in scenes
    ]
    analysis = redundancy_analysis(
        bundled, [scene.image for scene in scenes], load_sprites().concepts, masks=masks
    )
    assert analysis.msc("raw") < 12
    assert analysis.msc("both") > 25
    assert analysis.redundancy > 0.02  # these texts have little in common; docs/analysis.md
    # The empty text means the ground to this CLIP, so that the words' maps are its opposite.
    before = float(analysis.resemblance("architecture_surgery").mean())
    assert before < -0.1 and abs(float(analysis.resemblance("both").mean())) < 0.1
