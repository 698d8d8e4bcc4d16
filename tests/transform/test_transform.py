"""Surgery in place: the published numbers on the patches, the model's own on everything else."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPVisionModelWithProjection

from clip_surgery_hub.functional import (
    feature_surgery,
    similarity_map,
    similarity_to_points,
    unit_length,
)
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import (
    SurgeryState,
    apply_surgery,
    remove_surgery,
    surgery,
    surgery_state,
)
from tests.support.transcription import clip_surgery_patches

IDS = torch.tensor([[98, 5, 6, 99], [98, 7, 99, 99]])


def pixels(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [64, 96])
@torch.no_grad()
def test_tokens_are_the_published_ones(golden_clip: CLIPModel, golden: dict[str, Tensor], size: int) -> None:
    tower = find_tower(apply_surgery(golden_clip))
    tokens = tower.encode(golden[f"pixel_values_{size}"], interpolation="bilinear")
    torch.testing.assert_close(tokens, golden[f"surgery_tokens_{size}"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_from_pixels_to_points_as_published(golden_clip: CLIPModel, golden: dict[str, Tensor]) -> None:
    """The whole way on the model's own tokens and texts: similarity, maps, points and labels."""
    texts = unit_length(golden_clip.get_text_features(golden["input_ids"]).pooler_output)
    torch.testing.assert_close(texts, unit_length(golden["text_embeds"]), rtol=0, atol=1e-5)
    tokens = find_tower(apply_surgery(golden_clip)).encode(golden["pixel_values_64"])
    class_set = feature_surgery(tokens, texts[:4])
    torch.testing.assert_close(class_set, golden["similarity_class_set"], rtol=0, atol=1e-5)
    redundant = feature_surgery(tokens, texts[:4], redundant=texts[4:])
    torch.testing.assert_close(redundant, golden["similarity_redundant"], rtol=0, atol=1e-5)
    maps = similarity_map(class_set[:, 1:], (8, 8), (30, 40))
    torch.testing.assert_close(maps, golden["map_class_set_30x40"].permute(0, 3, 1, 2), rtol=0, atol=1e-5)
    for index in range(4):
        points, labels = similarity_to_points(class_set[0, 1:, index], (8, 8), (480, 640))
        assert torch.equal(points, golden[f"points_{index}"].to(points.dtype))
        assert torch.equal(labels, golden[f"labels_{index}"].to(labels.dtype))


@torch.no_grad()
def test_image_embeddings_and_logits_are_the_plain_ones(
    golden_clip: CLIPModel, golden: dict[str, Tensor]
) -> None:
    inputs = {"input_ids": golden["input_ids"], "pixel_values": golden["pixel_values_64"]}
    before = golden_clip(**inputs)
    features = golden_clip.get_image_features(golden["pixel_values_64"]).pooler_output
    apply_surgery(golden_clip)
    after = golden_clip(**inputs)
    torch.testing.assert_close(after.image_embeds, before.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(after.logits_per_image, before.logits_per_image, rtol=0, atol=1e-4)
    new = golden_clip.get_image_features(golden["pixel_values_64"]).pooler_output
    torch.testing.assert_close(normalize(new), normalize(features), rtol=0, atol=1e-6)
    tokens = find_tower(golden_clip).encode(golden["pixel_values_64"])
    torch.testing.assert_close(tokens[:, 0], before.image_embeds, rtol=0, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@torch.no_grad()
def test_every_depth_equals_the_transcription(tiny_clip: CLIPModel, depth: int) -> None:
    tower = find_tower(tiny_clip)
    states = tower.vision(pixels(), output_hidden_states=True).hidden_states
    apply_surgery(tiny_clip, depth=depth)
    assert surgery_state(tiny_clip) == SurgeryState("clip_surgery", depth)
    tokens = tower.vision(pixels()).last_hidden_state
    expected = clip_surgery_patches(tower.blocks, states, depth)
    torch.testing.assert_close(tokens[:, 1:], expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(tokens[:, 0], states[-1][:, 0], rtol=0, atol=2e-5)


@torch.no_grad()
def test_patches_are_embedded_like_the_image(tiny_clip: CLIPModel) -> None:
    """embed: post-layernorm, projection, unit length; on CLS that is the image embedding of transformers."""
    apply_surgery(tiny_clip)
    tokens = tiny_clip.vision_model(pixels()).last_hidden_state
    embedded = find_tower(tiny_clip).embed(tokens)
    by_hand = tiny_clip.visual_projection(tiny_clip.vision_model.post_layernorm(tokens))
    by_hand = by_hand / by_hand.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(embedded, by_hand)
    out = tiny_clip(input_ids=IDS, pixel_values=pixels())
    torch.testing.assert_close(embedded[:, 0], out.image_embeds, rtol=0, atol=1e-6)


@torch.no_grad()
def test_vision_models_alone_give_what_the_full_model_gives(tiny_clip: CLIPModel) -> None:
    alone = CLIPVisionModelWithProjection(tiny_clip.config.vision_config).eval()
    alone.vision_model.load_state_dict(tiny_clip.vision_model.state_dict())
    alone.visual_projection.load_state_dict(tiny_clip.visual_projection.state_dict())
    apply_surgery(tiny_clip)
    expected = find_tower(tiny_clip).encode(pixels())
    assert torch.equal(find_tower(apply_surgery(alone)).encode(pixels()), expected)
    remove_surgery(alone)
    assert surgery_state(alone.vision_model) is None
    apply_surgery(alone.vision_model)  # the inner vision model is a model of its own
    assert torch.equal(find_tower(alone).encode(pixels()), expected)


@torch.no_grad()
def test_the_way_back_gives_the_same_bits(tiny_clip: CLIPModel) -> None:
    before = tiny_clip(input_ids=IDS, pixel_values=pixels())
    assert remove_surgery(apply_surgery(tiny_clip)) is tiny_clip
    after = tiny_clip(input_ids=IDS, pixel_values=pixels())
    for name in ("logits_per_image", "image_embeds"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(
        after.vision_model_output.last_hidden_state, before.vision_model_output.last_hidden_state
    )


def test_second_surgery_is_refused(tiny_clip: CLIPModel) -> None:
    apply_surgery(tiny_clip, depth=2)
    with pytest.raises(RuntimeError, match=r"under surgery already .*depth=2.*remove_surgery\(model\)"):
        apply_surgery(tiny_clip)
    assert surgery_state(tiny_clip) == SurgeryState("clip_surgery", 2)


def test_nothing_to_remove_is_an_error(tiny_clip: CLIPModel) -> None:
    with pytest.raises(RuntimeError, match="CLIPModel is not under surgery"):
        remove_surgery(tiny_clip)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "clip_surgeon"}, "unknown method 'clip_surgeon': did you mean 'clip_surgery'"),
        ({"depth": 5}, "depth=5 is out of range.* from 1 to 4"),
        ({"depth": 0}, "depth=0 is out of range"),
        ({"method": "none", "depth": 2}, "leave depth out"),
    ],
)
def test_wrong_options_are_refused(tiny_clip: CLIPModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_surgery(tiny_clip, **options)
    assert surgery_state(tiny_clip) is None


def test_context_takes_surgery_back(tiny_clip: CLIPModel) -> None:
    with surgery(tiny_clip, depth=3) as model:
        assert model is tiny_clip
        assert surgery_state(tiny_clip) == SurgeryState("clip_surgery", 3)
    assert surgery_state(tiny_clip) is None


def test_context_takes_surgery_back_when_the_body_raises(tiny_clip: CLIPModel) -> None:
    with pytest.raises(ZeroDivisionError), surgery(tiny_clip):
        raise ZeroDivisionError
    assert surgery_state(tiny_clip) is None


def test_context_leaves_a_model_alone_whose_surgery_the_body_removed(tiny_clip: CLIPModel) -> None:
    with surgery(tiny_clip):
        remove_surgery(tiny_clip)
    assert surgery_state(tiny_clip) is None


def test_context_on_a_model_under_surgery_keeps_that_surgery(tiny_clip: CLIPModel) -> None:
    apply_surgery(tiny_clip, depth=1)
    with pytest.raises(RuntimeError, match="already"), surgery(tiny_clip, depth=3):
        raise AssertionError("the body must not run")
    assert surgery_state(tiny_clip) == SurgeryState("clip_surgery", 1)


def test_model_tells_that_it_is_under_surgery(tiny_clip: CLIPModel) -> None:
    plain = repr(tiny_clip)
    apply_surgery(tiny_clip, depth=2)
    assert repr(tiny_clip).count("CLIPAttentionWithSurgery") == 1  # repr groups the two equal blocks
    assert type(tiny_clip).__name__ == "CLIPModel"
    encoder = tiny_clip.vision_model.encoder
    assert isinstance(encoder, type(tiny_clip.text_model.encoder))
    assert [type(b.self_attn).__name__ for b in encoder.layers] == [
        *["CLIPAttention"] * 2,
        *["CLIPAttentionWithSurgery"] * 2,
    ]
    remove_surgery(tiny_clip)
    assert repr(tiny_clip) == plain
