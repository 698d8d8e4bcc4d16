"""SigLIP: the new path head by head, each patch alone through the pooling head, and all else as it was."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from clip_surgery_hub.methods import Method
from clip_surgery_hub.towers import Surgery, find_tower
from clip_surgery_hub.towers.families.siglip import REFUSED, SUPPORTED
from clip_surgery_hub.transform import apply_surgery, remove_surgery, surgery, surgery_state
from tests.support import siglip_models
from tests.support.clip_families import BLOCKS, IMAGE_TOKEN, PATCH, SIDE, WIDTH, random_model
from tests.support.transcription import block_update, layer_norm, value_value


def pixels(batch: int = 2, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(11))


@pytest.fixture
def model() -> Any:
    return random_model(siglip_models.SUPPORTED["SiglipModel"])


@pytest.fixture
def vision() -> Any:
    return random_model(siglip_models.SUPPORTED["SiglipVisionModel"])


def new_patches(vision: Any, states: tuple[Tensor, ...], depth: int, weights: Any = value_value) -> Tensor:
    """Post-normed patches of the new path, `[B, N, width]`: all tokens are patches."""
    blocks = vision.encoder.layers
    y = states[len(blocks) - depth]
    for index in range(len(blocks) - depth, len(blocks)):
        y = y + block_update(blocks[index], states[index], weights)
    return layer_norm(vision.post_layernorm, y)


def each_alone(head: nn.Module, patches: Tensor) -> Tensor:
    """The pooling head, as transformers runs it, on a sequence of one patch after the other."""
    return torch.stack([head(patches[:, [number]]) for number in range(patches.shape[1])], dim=1)


def test_the_tables_and_the_cases_agree() -> None:
    assert set(siglip_models.SUPPORTED) == set(SUPPORTED)
    assert set(siglip_models.REFUSED) == set(REFUSED)


@pytest.mark.parametrize("name", SUPPORTED)
@torch.no_grad()
def test_supported_tower_has_the_numbers_of_the_transcription(name: str) -> None:
    model = random_model(siglip_models.SUPPORTED[name])
    assert type(model).__name__ == name
    tower = find_tower(model)
    plain = tower.vision(pixels(), output_hidden_states=True)
    apply_surgery(model, depth=2)
    assert surgery_state(model) is not None
    modified = tower.vision(pixels())
    expected = new_patches(tower.vision, plain.hidden_states, depth=2)
    torch.testing.assert_close(modified.last_hidden_state, expected, rtol=0, atol=2e-5)
    assert torch.equal(modified.pooler_output, plain.pooler_output)
    assert (modified.last_hidden_state - plain.last_hidden_state).abs().max() > 0.1
    remove_surgery(model)
    assert torch.equal(tower.vision(pixels()).last_hidden_state, plain.last_hidden_state)


@pytest.mark.parametrize("height,width", [(SIDE, SIDE), (8, 8), (24, 56), (45, 33)])
@pytest.mark.parametrize("method", ["clip_surgery", "none"])
@torch.no_grad()
def test_tokens_are_the_pooled_embedding_and_each_patch_alone_through_the_head(
    model: Any, method: str, height: int, width: int
) -> None:
    tower, given = find_tower(apply_surgery(model, method)), pixels(2, height, width)
    out = model.vision_model(given, interpolate_pos_encoding=True)
    slow = torch.cat(
        [out.pooler_output[:, None], each_alone(model.vision_model.head, out.last_hidden_state)], 1
    )
    tokens = tower.encode(given, interpolation="bicubic")
    torch.testing.assert_close(tokens, normalize(slow, dim=-1), rtol=0, atol=1e-6)
    torch.testing.assert_close(tower.embed_patches(out.last_hidden_state), tokens[:, 1:], rtol=0, atol=1e-6)
    assert tower.embedding_width == tokens.shape[-1] == WIDTH


@torch.no_grad()
def test_positions_are_resized_bilinearly_beside_the_weight(model: Any) -> None:
    """Another SigLIP, made for the small grid with the resized positions, gives the same."""
    given = pixels(2, 24, 24)
    small = random_model(siglip_models.siglip(image_size=24))
    state = model.state_dict()
    grid = state["vision_model.embeddings.position_embedding.weight"].view(1, 4, 4, WIDTH).permute(0, 3, 1, 2)
    resized = interpolate(grid, size=(3, 3), mode="bilinear", align_corners=False)
    state["vision_model.embeddings.position_embedding.weight"] = resized.flatten(2)[0].T
    small.load_state_dict(state)
    for one in (model, small):
        apply_surgery(one)
    expected = find_tower(small).encode(given)
    torch.testing.assert_close(find_tower(model).encode(given), expected, rtol=0, atol=1e-6)
    bicubic = find_tower(model).encode(given, interpolation="bicubic")
    assert (bicubic - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_projection_around_the_tower_is_taken_along() -> None:
    dual = random_model(siglip_models.dual_encoder)
    tower = find_tower(apply_surgery(dual))
    out = dual.vision_model(pixels())
    slow = torch.cat(
        [out.pooler_output[:, None], each_alone(dual.vision_model.head, out.last_hidden_state)], 1
    )
    expected = normalize(slow @ dual.visual_projection.weight.T, dim=-1)
    torch.testing.assert_close(tower.encode(pixels()), expected, rtol=0, atol=1e-6)
    image = normalize(dual.get_image_features(pixels()).pooler_output, dim=-1)
    torch.testing.assert_close(tower.encode(pixels())[:, 0], image, rtol=0, atol=1e-6)
    assert tower.embedding_width == 24


@torch.no_grad()
def test_the_model_answers_as_before_to_the_bit(model: Any) -> None:
    question = {"input_ids": torch.randint(3, 50, (3, 24)), "pixel_values": pixels()}
    before, features = model(**question), model.get_image_features(pixels()).pooler_output
    apply_surgery(model)
    after = model(**question)
    for name in ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(model.get_image_features(pixels()).pooler_output, features)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_hidden_states_and_attentions_are_the_original_paths(vision: Any, implementation: str) -> None:
    vision.set_attn_implementation(implementation)
    asked = {"output_hidden_states": True, "output_attentions": implementation == "eager"}
    before = vision(pixels(), **asked)
    apply_surgery(vision)
    after = vision(pixels(), **asked)
    assert len(after.hidden_states) == BLOCKS + 1 and all(
        map(torch.equal, after.hidden_states, before.hidden_states)
    )
    if implementation == "eager":
        assert len(after.attentions) == BLOCKS and all(map(torch.equal, after.attentions, before.attentions))
    expected = new_patches(vision, before.hidden_states, depth=BLOCKS)
    torch.testing.assert_close(after.last_hidden_state, expected, rtol=0, atol=2e-5)
    last_hidden_state, pooled = vision(pixels(), return_dict=False)
    torch.testing.assert_close(last_hidden_state, expected, rtol=0, atol=2e-5)
    assert torch.equal(pooled, before.pooler_output)


def query_and_distance(query: Tensor, value: Tensor, normed: Tensor, scale: float, grid: Any) -> Tensor:
    """Attends by queries and by rows: asks for everything that a method can be given but the keys."""
    rows, columns = grid
    row = torch.arange(rows).repeat_interleave(columns)
    assert query.shape[2] == value.shape[2] == normed.shape[1] == rows * columns
    near = -(row[:, None] - row).abs().to(query.dtype)
    return (query @ query.mT * scale + near).softmax(-1) @ value


@torch.no_grad()
def test_methods_are_given_patches_only_and_their_grid(vision: Any) -> None:
    tower, given = find_tower(vision), pixels(1, 16, 40)
    states = vision(given, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    method = Method("query_and_distance", query_and_distance, default_depth=1, residual=False, mlp=True)
    tower.apply(Surgery(method, 1), ExitStack())

    def weights(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
        row = torch.tensor([0] * 5 + [1] * 5)
        return torch.softmax(q @ q.mT * s - (row[:, None] - row).abs(), dim=-1)

    block = vision.encoder.layers[-1]
    y = block_update(block, states[-2], weights)
    y = y + block.mlp(layer_norm(block.layer_norm2, y))
    found = vision(given, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(found, layer_norm(vision.post_layernorm, y), rtol=0, atol=2e-5)


@torch.no_grad()
def test_hooks_of_others_find_what_the_tower_gives(vision: Any) -> None:
    """One that was there before surgery, and one that came after it; both are there when it is gone."""
    seen: list[Tensor] = []

    def record_call(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output.last_hidden_state)

    vision.register_forward_hook(record_call)
    apply_surgery(vision)
    vision.register_forward_hook(record_call)
    found = vision(pixels()).last_hidden_state
    assert len(seen) == 2 and all(one is found for one in seen)
    remove_surgery(vision)
    vision(pixels())
    assert len(seen) == 4 and len(vision._forward_hooks) == 2
    assert not vision._forward_hooks_with_kwargs and not vision._forward_pre_hooks


def test_gradients_are_those_of_the_transcription_and_survive_checkpointing(vision: Any) -> None:
    vision.train()

    def gradients() -> list[Tensor]:
        vision.zero_grad()
        out = vision(pixels())
        (out.last_hidden_state.square().mean() + out.pooler_output.sum()).backward()
        return [parameter.grad.clone() for parameter in vision.parameters()]

    plain = vision(pixels(), output_hidden_states=True)
    patches = new_patches(vision, plain.hidden_states, depth=2)
    (patches.square().mean() + plain.pooler_output.sum()).backward()
    expected = [parameter.grad.clone() for parameter in vision.parameters()]
    apply_surgery(vision, depth=2)
    torch.testing.assert_close(gradients(), expected, rtol=1e-3, atol=1e-4)
    vision.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradients(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_tower_gives_what_it_gives_eagerly(vision: Any) -> None:
    plain = vision(pixels()).last_hidden_state
    apply_surgery(vision)
    expected = vision(pixels())
    compiled = torch.compile(vision, backend="aot_eager", fullgraph=True)
    found = compiled(pixels())
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)
    remove_surgery(vision)
    torch.testing.assert_close(compiled(pixels()).last_hidden_state, plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_saved_under_surgery_it_is_a_plain_checkpoint(vision: Any, tmp_path: Any) -> None:
    expected = vision(pixels()).last_hidden_state
    apply_surgery(vision).save_pretrained(tmp_path)
    assert vision.config.architectures == ["SiglipVisionModel"]
    again = type(vision).from_pretrained(tmp_path)
    assert torch.equal(again(pixels()).last_hidden_state, expected)


@torch.no_grad()
def test_llava_answers_as_before() -> None:
    model = random_model(siglip_models.SUPPORTED["LlavaForConditionalGeneration"])
    image = [IMAGE_TOKEN] * (SIDE // PATCH) ** 2
    question = {"input_ids": torch.tensor([[2, *image, 7, 8, 9]]), "pixel_values": pixels(1)}
    before = model(**question).logits
    apply_surgery(model)
    assert torch.equal(model(**question).logits, before)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_model_is_named_and_left_alone(name: str) -> None:
    model = siglip_models.REFUSED[name]()
    classes = [type(module) for module in model.modules()]
    with pytest.raises(TypeError, match=rf"applied to {name}: .*Supported are .*SiglipModel"):
        apply_surgery(model)
    assert [type(module) for module in model.modules()] == classes


def test_naflex_is_told_what_to_take_instead() -> None:
    with pytest.raises(
        TypeError, match="NaFlex .* take a checkpoint of fixed resolution, such as google/siglip2"
    ):
        find_tower(siglip_models.REFUSED["Siglip2Model"]())


def test_a_tower_without_pooling_head_is_refused() -> None:
    with pytest.raises(TypeError, match="no pooling head .*vision_use_head=False.* load the tower from"):
        apply_surgery(siglip_models.siglip_vision(vision_use_head=False)())


def test_a_model_that_reads_the_patches_is_refused() -> None:
    """PaliGemma reads `last_hidden_state` of its SigLIP."""
    text = {**siglip_models.TEXT, "model_type": "gemma", "head_dim": 8, "num_key_value_heads": 2}
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **siglip_models.VISION}, text_config=text
    )
    with pytest.raises(TypeError, match="PaliGemmaModel holds a SiglipVisionModel, but it is not known"):
        apply_surgery(transformers.PaliGemmaModel(config))


@pytest.mark.parametrize("part", ["head.attention", "encoder.layers.1.self_attn"])
def test_replaced_part_is_refused(vision: Any, part: str) -> None:
    parent, _, child = part.rpartition(".")
    setattr(vision.get_submodule(parent), child, nn.Identity())
    with pytest.raises(TypeError, match=f"the {part} of SiglipVisionModel is a Identity, but"):
        apply_surgery(vision)


@torch.no_grad()
def test_the_context_manager_takes_it_back_when_its_body_raises(vision: Any) -> None:
    before = vision(pixels()).last_hidden_state
    with pytest.raises(KeyError), surgery(vision):
        assert not torch.equal(vision(pixels()).last_hidden_state, before)
        raise KeyError
    assert torch.equal(vision(pixels()).last_hidden_state, before)
