"""Which models surgery takes, with the right numbers on each, and which it refuses by name."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import CLIPModel

from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.towers.clip_families import REFUSED, SUPPORTED
from clip_surgery_hub.transform import apply_surgery, remove_surgery, surgery_state
from tests.support import clip_families
from tests.support.clip_families import PATCH, SIDE, random_model
from tests.support.transcription import clip_surgery_patches


def pixels(batch: int = 2, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(11))


def test_the_tables_and_the_cases_agree() -> None:
    assert set(clip_families.SUPPORTED) == set(SUPPORTED)
    assert set(clip_families.REFUSED) == set(REFUSED)


@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_supported_tower_has_the_numbers_of_the_transcription(name: str) -> None:
    model = random_model(clip_families.SUPPORTED[name])
    assert type(model).__name__ == name
    plain = find_tower(model).vision(pixels(), output_hidden_states=True)
    apply_surgery(model, depth=2)
    tower = find_tower(model)
    assert surgery_state(model) is not None
    modified = tower.vision(pixels())
    patches = clip_surgery_patches(tower.blocks, plain.hidden_states, depth=2)
    torch.testing.assert_close(modified.last_hidden_state[:, 1:], patches, rtol=0, atol=2e-5)
    torch.testing.assert_close(modified.last_hidden_state[:, 0], plain.last_hidden_state[:, 0])
    torch.testing.assert_close(modified.pooler_output, plain.pooler_output)
    assert (modified.last_hidden_state[:, 1:] - plain.last_hidden_state[:, 1:]).abs().max() > 0.1
    remove_surgery(model)
    assert torch.equal(tower.vision(pixels()).last_hidden_state, plain.last_hidden_state)


@pytest.mark.parametrize(
    "name", [name for name in SUPPORTED if hasattr(getattr(transformers, name, None), "get_image_features")]
)
@torch.no_grad()
def test_image_features_are_those_of_the_plain_model(name: str) -> None:
    model = random_model(clip_families.SUPPORTED[name])
    tiles = {}
    given = pixels()
    if name.startswith(("LlavaNext", "LlavaOnevision")):  # every image is a stack of tiles there
        given = torch.stack([pixels(), pixels(2)])
        tiles = {"image_sizes": torch.tensor([[SIDE, SIDE], [SIDE, SIDE]])}

    def features() -> list[Tensor]:
        pooled = model.get_image_features(given, **tiles).pooler_output
        return list(pooled)

    before = features()
    apply_surgery(model)
    after = features()
    exact = "lava" in name  # hidden states are recorded, so every block runs in full
    for new, old in zip(after, before, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0 if exact else 1e-5)


@torch.no_grad()
def test_llava_answers_as_before() -> None:
    model = random_model(clip_families.SUPPORTED["LlavaForConditionalGeneration"])
    image = [clip_families.IMAGE_TOKEN] * (SIDE // PATCH) ** 2
    question = {"input_ids": torch.tensor([[1, *image, 7, 8, 9]]), "pixel_values": pixels(1)}
    before = model(**question).logits
    written = model.generate(**question, max_new_tokens=4, do_sample=False)
    apply_surgery(model)
    assert torch.equal(model(**question).logits, before)
    assert torch.equal(model.generate(**question, max_new_tokens=4, do_sample=False), written)


@torch.no_grad()
def test_clipseg_segments_as_before() -> None:
    model = random_model(clip_families.SUPPORTED["CLIPSegForImageSegmentation"])
    question = {"input_ids": torch.tensor([[1, 7, 2], [1, 9, 2]]), "pixel_values": pixels()}
    before = model(**question)
    apply_surgery(model)
    after = model(**question)
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.conditional_embeddings, before.conditional_embeddings)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_model_is_named_and_left_alone(name: str) -> None:
    model = random_model(clip_families.REFUSED[name])
    classes = [type(module) for module in model.modules()]
    with pytest.raises(TypeError, match=rf"applied to {name}: .*Supported are CLIPModel, MetaClip2Model"):
        apply_surgery(model)
    assert [type(module) for module in model.modules()] == classes


def test_unknown_family_is_refused_with_what_is_supported() -> None:
    config = transformers.Dinov2Config(**clip_families.BLOCKS_OF_ANY, image_size=SIDE, patch_size=PATCH)
    with pytest.raises(
        TypeError, match="no known vision tower in Dinov2Model. Supported are CLIPModel.*; SiglipModel"
    ):
        apply_surgery(transformers.Dinov2Model(config))


def test_text_tower_alone_is_refused(tiny_clip: CLIPModel) -> None:
    with pytest.raises(TypeError, match="no known vision tower in CLIPTextModel"):
        apply_surgery(tiny_clip.text_model)


def test_something_else_than_a_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got str"):
        apply_surgery("openai/clip-vit-base-patch16")  # type: ignore[type-var]


def test_unknown_model_of_transformers_around_a_clip_tower_is_refused(tiny_clip: CLIPModel) -> None:
    """A model that is not in the table may read the patch tokens, so only its tower is taken."""

    class CLIPHeatmapModel(transformers.CLIPPreTrainedModel):
        def __init__(self) -> None:
            super().__init__(tiny_clip.config)
            self.tower = tiny_clip.vision_model

    CLIPHeatmapModel.__module__ = "transformers.models.clip.modeling_clip"
    model = CLIPHeatmapModel()
    with pytest.raises(TypeError, match="CLIPHeatmapModel holds a CLIPVisionModel, .* model.tower"):
        apply_surgery(model)
    assert surgery_state(apply_surgery(model.tower)) is not None


def test_model_of_the_user_around_a_clip_is_taken(tiny_clip: CLIPModel) -> None:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = tiny_clip

    class FineTuned(CLIPModel):
        pass

    assert find_tower(Probe()).vision is tiny_clip.vision_model
    assert find_tower(FineTuned(tiny_clip.config)).name == "CLIPVisionModel"


def test_two_towers_are_ambiguous(tiny_clip: CLIPModel) -> None:
    both = nn.ModuleDict({"first": tiny_clip, "second": CLIPModel(tiny_clip.config)})
    with pytest.raises(TypeError, match="holds 2 vision towers: pass one .* model.first.vision_model or"):
        apply_surgery(both)


@pytest.mark.parametrize("part", ["encoder", "encoder.layers.2.self_attn"])
def test_replaced_part_is_refused(tiny_clip: CLIPModel, part: str) -> None:
    class Mine(nn.Identity):
        layers: Any = ()

    vision = tiny_clip.vision_model
    parent, _, child = part.rpartition(".")
    replacement = Mine()
    if part == "encoder":
        replacement.layers = vision.encoder.layers
    setattr(vision.get_submodule(parent), child, replacement)
    with pytest.raises(TypeError, match=f"the {part} of CLIPVisionModel is a Mine, but"):
        apply_surgery(tiny_clip)


def test_tower_tells_its_parts(tiny_clip: CLIPModel) -> None:
    tower = find_tower(tiny_clip)
    assert tower.vision is tiny_clip.vision_model
    assert tower.projection is tiny_clip.visual_projection
    assert tower.blocks is tiny_clip.vision_model.encoder.layers
    assert (tower.patch_size, tower.native_size) == (8, 32)
    assert tower.grid(40, 71) == (5, 8)
    assert find_tower(tiny_clip.vision_model).projection is None


def test_image_without_a_patch_is_refused(tiny_clip: CLIPModel) -> None:
    tower = find_tower(tiny_clip)
    with pytest.raises(ValueError, match=r"7 x 40 pixels \(height x width\) holds no patch: .* 8 pixels"):
        tower.encode(torch.zeros(1, 3, 7, 40))
    with pytest.raises(ValueError, match="interpolation='nearest'"):
        tower.encode(torch.zeros(1, 3, 32, 32), interpolation="nearest")  # type: ignore[arg-type]
