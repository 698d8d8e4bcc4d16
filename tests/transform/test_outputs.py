"""What transformers offers works under surgery: recorded outputs, attention kinds, sizes, gradients."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPModel, CLIPVisionModel

from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import apply_surgery
from tests.support.transcription import clip_surgery_patches

SIZES = [(32, 32), (24, 40), (8, 8), (8, 64), (48, 48), (37, 51)]


def pixels(height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def both(model: CLIPModel, implementation: str = "sdpa") -> tuple[CLIPVisionModel, CLIPVisionModel]:
    """The vision model as it is, and a copy under surgery of three of its four blocks."""
    model.set_attn_implementation(implementation)
    return model.vision_model, apply_surgery(copy.deepcopy(model), depth=3).vision_model


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_hidden_states_are_the_original_paths(tiny_clip: CLIPModel, implementation: str) -> None:
    plain, modified = both(tiny_clip, implementation)
    expected = plain(pixels(), output_hidden_states=True).hidden_states
    without = modified(pixels())
    out = modified(pixels(), output_hidden_states=True)
    assert len(out.hidden_states) == 5
    for new, old in zip(out.hidden_states, expected, strict=True):
        assert torch.equal(new, old)
    torch.testing.assert_close(out.last_hidden_state, without.last_hidden_state)
    assert without.hidden_states is None
    # The recorder stays on the model, but must not change what the next call computes.
    assert torch.equal(modified(pixels()).last_hidden_state, without.last_hidden_state)


@torch.no_grad()
def test_single_hidden_states_and_a_configured_wish_are_heard(tiny_clip: CLIPModel) -> None:
    plain, modified = both(tiny_clip)
    expected = plain(pixels(), output_hidden_states=[-1]).hidden_states
    chosen = modified(pixels(), output_hidden_states=[-1]).hidden_states
    assert torch.equal(chosen[-1], expected[-1])
    assert [state is None for state in chosen] == [state is None for state in expected]
    modified.config.output_hidden_states = True
    assert torch.equal(modified(pixels()).hidden_states[-1], expected[-1])
    assert modified(pixels(), output_hidden_states=False).hidden_states is None


@torch.no_grad()
def test_eager_attentions_are_the_original_paths(tiny_clip: CLIPModel) -> None:
    plain, modified = both(tiny_clip, "eager")
    expected = plain(pixels(), output_attentions=True).attentions
    attentions = modified(pixels(), output_attentions=True).attentions
    assert len(attentions) == 4
    for new, old in zip(attentions, expected, strict=True):
        assert new.shape == (2, 4, 17, 17)
        assert torch.equal(new, old)


@torch.no_grad()
def test_sdpa_attentions_are_what_transformers_makes_of_them(tiny_clip: CLIPModel) -> None:
    plain, modified = both(tiny_clip, "sdpa")
    expected = plain(pixels(), output_attentions=True)
    out = modified(pixels(), output_attentions=True)
    assert out.attentions == expected.attentions == ()
    assert torch.equal(out.pooler_output, expected.pooler_output)


@torch.no_grad()
def test_eager_and_sdpa_agree(tiny_clip: CLIPModel) -> None:
    _, eager = both(tiny_clip, "eager")
    _, sdpa = both(tiny_clip, "sdpa")
    torch.testing.assert_close(
        eager(pixels()).last_hidden_state, sdpa(pixels()).last_hidden_state, rtol=0, atol=2e-5
    )


@torch.no_grad()
def test_tuples_are_given_where_asked_for(tiny_clip: CLIPModel) -> None:
    _, modified = both(tiny_clip)
    out = modified(pixels())
    last_hidden_state, pooled = modified(pixels(), return_dict=False)
    assert torch.equal(last_hidden_state, out.last_hidden_state)
    assert torch.equal(pooled, out.pooler_output)


@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.no_grad()
def test_any_size_equals_the_transcription(tiny_clip: CLIPModel, height: int, width: int) -> None:
    plain, modified = both(tiny_clip)
    given = pixels(height, width)
    expected = plain(given, interpolate_pos_encoding=True, output_hidden_states=True)
    out = modified(given, interpolate_pos_encoding=True)
    assert out.last_hidden_state.shape == (2, 1 + (height // 8) * (width // 8), 64)
    patches = clip_surgery_patches(plain.encoder.layers, expected.hidden_states, depth=3)
    torch.testing.assert_close(out.last_hidden_state[:, 1:], patches, rtol=0, atol=2e-5)
    torch.testing.assert_close(out.pooler_output, expected.pooler_output, rtol=0, atol=2e-5)


@torch.no_grad()
def test_bicubic_is_transformers_own_and_bilinear_the_published_one(tiny_clip: CLIPModel) -> None:
    plain, modified = both(tiny_clip)
    tower = find_tower(modified)
    given = pixels(24, 40)
    bicubic = modified(given, interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(tower.encode(given, interpolation="bicubic"), tower.embed(bicubic))
    # Bilinear by hand: a plain model of that native grid, whose position embedding is the resized one.
    weight = plain.embeddings.position_embedding.weight
    grid = weight[1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    resized = interpolate(grid, size=(3, 5), mode="bilinear", align_corners=False)
    states = [
        plain.pre_layrnorm(
            torch.cat(
                [
                    (plain.embeddings.class_embedding + weight[0]).expand(2, 1, -1),
                    plain.embeddings.patch_embedding(given).flatten(2).mT
                    + resized.permute(0, 2, 3, 1).reshape(1, 15, 64),
                ],
                dim=1,
            )
        )
    ]
    for block in plain.encoder.layers:
        states.append(block(states[-1], None))
    patches = clip_surgery_patches(plain.encoder.layers, states, depth=3)
    tokens = torch.cat([states[-1][:, :1], patches], dim=1)
    torch.testing.assert_close(
        tower.encode(given, interpolation="bilinear"), tower.embed(tokens), rtol=0, atol=1e-5
    )


@torch.no_grad()
def test_order_of_sizes_and_neighbors_in_the_batch_do_not_matter(tiny_clip: CLIPModel) -> None:
    _, modified = both(tiny_clip)
    tower = find_tower(modified)
    positions = modified.embeddings.position_embedding.weight
    bits = positions.clone()
    alone = {size: find_tower(both(tiny_clip)[1]).encode(pixels(*size)) for size in SIZES}
    for size in (*SIZES, *reversed(SIZES)):
        assert torch.equal(tower.encode(pixels(*size)), alone[size])
    assert torch.equal(positions, bits)
    one_by_one = [tower.encode(image[None]) for image in pixels(batch=5)]
    torch.testing.assert_close(tower.encode(pixels(batch=5)), torch.cat(one_by_one), rtol=0, atol=1e-6)


def test_two_threads_at_once_give_the_same_as_alone(tiny_clip: CLIPModel) -> None:
    _, modified = both(tiny_clip)
    tower = find_tower(modified)

    def encode(size: tuple[int, int]) -> Tensor:
        with torch.no_grad():
            return tower.encode(pixels(*size))

    def states(size: tuple[int, int]) -> Tensor:
        with torch.no_grad():
            out = modified(pixels(*size), interpolate_pos_encoding=True, output_hidden_states=True)
        return torch.stack(out.hidden_states)

    alone = [encode(size) for size in SIZES], [states(size) for size in SIZES]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            encoded = threads.map(encode, SIZES)
            recorded = threads.map(states, SIZES)
            assert all(map(torch.equal, encoded, alone[0]))
            assert all(map(torch.equal, recorded, alone[1]))


@pytest.mark.parametrize("path", ["CLS", "patches"])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_pixels_and_weights(tiny_clip: CLIPModel, path: str, training: bool) -> None:
    """Against automatic differentiation of the transcription, in float64."""
    plain, modified = (model.double().train(training) for model in both(tiny_clip))
    target = torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(tokens: Tensor) -> Tensor:
        return ((tokens * target)[:, :1] if path == "CLS" else (tokens * target)[:, 1:]).sum()

    given = [pixels().double().requires_grad_() for _ in range(2)]
    states = plain(given[0], output_hidden_states=True).hidden_states
    patches = clip_surgery_patches(plain.encoder.layers, states, depth=3)
    loss(torch.cat([states[-1][:, :1], patches], dim=1)).backward()
    loss(modified(given[1]).last_hidden_state).backward()

    assert given[0].grad.abs().max() > 1e-4
    torch.testing.assert_close(given[1].grad, given[0].grad)
    for (name, new), old in zip(modified.named_parameters(), plain.parameters(), strict=True):
        missing: Any = torch.zeros_like(old)
        torch.testing.assert_close(
            missing if new.grad is None else new.grad, missing if old.grad is None else old.grad, msg=name
        )
    assert modified.encoder.layers[0].mlp.fc1.weight.grad.abs().max() > 1e-4
    assert modified.encoder.layers[-1].self_attn.v_proj.weight.grad.abs().max() > 1e-4


def test_attention_dropout_draws_the_same_numbers_as_before(tiny_clip: CLIPModel) -> None:
    """In training with dropout the original path stays random in the same way, call by call."""
    plain, modified = both(tiny_clip)
    for model in (plain, modified):
        model.train()
        for block in model.encoder.layers:
            block.self_attn.dropout = 0.3
    pooled = []
    for model in (plain, modified):
        torch.manual_seed(9)
        pooled.append(model(pixels()).pooler_output)
    assert torch.equal(*pooled)
