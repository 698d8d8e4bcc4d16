"""The registry of methods, and that a method of another shape is one entry."""

from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention
from transcription import block_update, query_query
from transformers import CLIPModel

from clip_surgery_hub import methods
from clip_surgery_hub.methods import METHODS, Method, get_method, register_method
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import SurgeryState, apply_surgery, remove_surgery, surgery_state


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    known = dict(METHODS)
    yield
    methods.registry._METHODS.clear()
    methods.registry._METHODS.update(known)


# The methods of five publications, each in its formula.


def identity(value: Tensor) -> Tensor:
    return value


def query_query_attention(query: Tensor, value: Tensor, scale: float) -> Tensor:
    return scaled_dot_product_attention(query, query, value, scale=scale)


def correlative_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return sum(scaled_dot_product_attention(side, side, value, scale=scale) for side in (query, key))


def neighbour_attention(key: Tensor, value: Tensor, scale: float, grid: tuple[int, int]) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=-1).float()
    nearness = torch.exp(-(torch.cdist(places, places) ** 2) / (2 * 5.0**2))
    nearness = torch.nn.functional.pad(nearness, (1, 0, 1, 0))  # nothing is near CLS
    return scaled_dot_product_attention(key, key, value, attn_mask=nearness, scale=scale)


def self_self_attention(query: Tensor, key: Tensor, value: Tensor, normed: Tensor, scale: float) -> Tensor:
    temperature = scale * normed.norm(dim=-1).mean(dim=-1)[:, None, None, None]
    mixed = []
    for side in (query, key, value):
        unit = normalize(side, dim=-1)
        unit = normalize(torch.softmax(temperature * unit @ unit.mT, dim=-1) @ unit, dim=-1)
        mixed.append(torch.softmax(temperature * unit @ unit.mT, dim=-1) @ value)
    return sum(mixed) / 3


OTHER_METHODS = {
    "maskclip": Method("maskclip", identity, 1, residual=False),
    "clearclip": Method("clearclip", query_query_attention, 1, residual=False),
    "sclip": Method("sclip", correlative_attention, 1, mlp=True),
    "naclip": Method("naclip", neighbour_attention, 1, residual=False),
    "gem": Method("gem", self_self_attention, 6),
}


@pytest.fixture(scope="module")
def golden_methods() -> dict[str, Tensor]:
    from conftest import GOLDEN

    return load_file(GOLDEN / "methods.safetensors")


@pytest.mark.parametrize("name", OTHER_METHODS)
@torch.no_grad()
def test_method_of_another_shape_is_one_entry(
    golden_clip: CLIPModel, golden: dict[str, Tensor], golden_methods: dict[str, Tensor], name: str
) -> None:
    apply_surgery(golden_clip, name)
    assert surgery_state(golden_clip) == SurgeryState(name, OTHER_METHODS[name].default_depth)
    tokens = find_tower(golden_clip).encode(golden["pixel_values_64"])
    torch.testing.assert_close(tokens[:, 1:], golden_methods[name], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens[:, 0], golden["plain_tokens_64"][:, 0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_last_block_method_equals_its_transcription(
    golden_clip: CLIPModel, golden: dict[str, Tensor], golden_methods: dict[str, Tensor]
) -> None:
    """W_o softmax(q q' s) v of the last block, written head by head, against golden and against the entry."""
    tower = find_tower(golden_clip)
    states = tower.vision(golden["pixel_values_64"], output_hidden_states=True).hidden_states
    update = block_update(tower.blocks[-1], states[-2], query_query)
    patches = tower.embed(update)[:, 1:]
    torch.testing.assert_close(patches, golden_methods["clearclip"], rtol=0, atol=1e-5)
    apply_surgery(golden_clip, "clearclip")
    operated = tower.encode(golden["pixel_values_64"])[:, 1:]
    torch.testing.assert_close(operated, patches, rtol=0, atol=1e-6)


@torch.no_grad()
def test_none_reads_the_plain_model(
    golden_clip: CLIPModel, golden: dict[str, Tensor], golden_methods: dict[str, Tensor]
) -> None:
    before = golden_clip.vision_model(golden["pixel_values_64"]).last_hidden_state
    apply_surgery(golden_clip, "none")
    assert surgery_state(golden_clip) == SurgeryState("none", 0)
    after = golden_clip.vision_model(golden["pixel_values_64"]).last_hidden_state
    assert torch.equal(after, before)
    tokens = find_tower(golden_clip).embed(after)
    torch.testing.assert_close(tokens, golden["plain_tokens_64"], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens[:, 1:], golden_methods["plain"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True], ids=["short last block", "whole last block"])
@torch.no_grad()
def test_method_that_asks_for_the_grid_works_on_rectangles(tiny_clip: CLIPModel, whole: bool) -> None:
    """naclip's weights follow rows and columns: turning the picture's grid must turn the result's."""
    pixels = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    tower = find_tower(apply_surgery(tiny_clip, "naclip"))
    vision = tower.vision
    plain_block = tower.blocks[-1]
    new = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=whole).last_hidden_state
    remove_surgery(tiny_clip)
    assert not vision._forward_pre_hooks
    assert not vision._forward_pre_hooks_with_kwargs
    states = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    near = torch.zeros(16, 16)
    for i in range(15):
        for j in range(15):
            squared = (i // 5 - j // 5) ** 2 + (i % 5 - j % 5) ** 2
            near[i + 1, j + 1] = torch.exp(torch.tensor(-squared / 50.0))
    expected = block_update(
        plain_block, states[-2], lambda q, k, v, s: torch.softmax(k @ k.mT * s + near, dim=-1)
    )
    torch.testing.assert_close(new[:, 1:], expected[:, 1:], rtol=0, atol=1e-5)


def test_registry_is_read_only_and_holds_the_two() -> None:
    assert list(METHODS) == ["clip_surgery", "gem", "maskclip", "sclip", "clearclip", "naclip", "none"]
    assert METHODS["clip_surgery"].default_depth == 6
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["none"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        METHODS["none"].name = "plain"  # type: ignore[misc]


def test_taken_name_is_refused() -> None:
    before = METHODS["clip_surgery"]
    with pytest.raises(ValueError, match=r"'clip_surgery' is registered already.*another name"):
        register_method(Method("clip_surgery", identity, 1))
    assert METHODS["clip_surgery"] is before


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("clip_sugery", "did you mean 'clip_surgery'"),
        ("nothing_like_it", "known are clip_surgery, gem,"),
        (None, "unknown method None"),
    ],
)
def test_unknown_method_is_named_with_what_was_probably_meant(typed: str, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        get_method(typed)


def wants_too_much(value: Tensor, mask: Tensor) -> Tensor:
    return value * mask


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Method("m", wants_too_much, 1), "mix asks for mask; it can be given query, key, value"),
        (lambda: Method("m", None, 2), "default_depth is 2"),
        (lambda: Method("m", identity, 0), "default_depth is 0"),
        (lambda: Method("m", identity, -1), "default_depth is -1"),
        (lambda: Method("m", identity, 2, residual=False), "1 for a method without residual"),
    ],
)
def test_entry_that_contradicts_itself_is_refused(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("method", "depth", "blocks", "resolved"),
    [
        (METHODS["clip_surgery"], None, 12, 6),
        (METHODS["clip_surgery"], None, 4, 4),
        (METHODS["clip_surgery"], 12, 12, 12),
        (METHODS["clip_surgery"], 1, 12, 1),
        (METHODS["none"], None, 12, 0),
        (OTHER_METHODS["clearclip"], 1, 12, 1),
    ],
)
def test_depth_is_resolved(method: Method, depth: int | None, blocks: int, resolved: int) -> None:
    assert method.resolve_depth(depth, blocks) == resolved


@pytest.mark.parametrize(
    ("method", "depth", "message"),
    [
        (METHODS["clip_surgery"], 0, "depth=0 is out of range.* from 1 to 12 on this tower of 12 blocks"),
        (METHODS["clip_surgery"], 13, "depth=13 is out of range"),
        (METHODS["clip_surgery"], -1, "depth=-1 is out of range"),
        (METHODS["clip_surgery"], 6.0, "depth=6.0 is out of range"),
        (METHODS["clip_surgery"], True, "depth=True is out of range"),
        (METHODS["none"], 3, "operates on no block: leave depth out"),
        (OTHER_METHODS["clearclip"], 2, "from 1 to 1 .* only the last block counts"),
    ],
)
def test_depth_out_of_range_is_refused(method: Method, depth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method.resolve_depth(depth, 12)
