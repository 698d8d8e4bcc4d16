"""Every method against golden values and slow transcriptions, on all models of CLIP's blocks."""

import copy
import io
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from transformers import CLIPModel

from clip_surgery_hub import methods
from clip_surgery_hub.methods import METHODS, Method, get_method, register_method
from clip_surgery_hub.methods.mixing import neighbor_window
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import SurgeryState, apply_surgery, remove_surgery, surgery_state
from tests.support import clip_families
from tests.support.clip_families import PATCH, SIDE, random_model
from tests.support.paths import GOLDEN, ROOT
from tests.support.transcription import (
    block_update,
    mean_of_three_groupings,
    method_patches,
    method_weights,
)

#: The methods that the golden file has, besides clip_surgery and raw CLIP.
PUBLISHED_LATER = ("gem", "maskclip", "sclip", "clearclip", "naclip")
SIZES = ((32, 32), (24, 40), (40, 16), (8, 8))


pytestmark = pytest.mark.usefixtures("restored_methods")


@pytest.fixture(scope="module")
def golden_methods() -> dict[str, Tensor]:
    return load_file(GOLDEN / "methods.safetensors")


def pixels(height: int = SIDE, width: int = SIDE, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(23))


def tokens(model: CLIPModel, given: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return find_tower(model).encode(pixels() if given is None else given)


def heads(count: int, before: int = 1, grid: tuple[int, int] = (3, 5), **kind: Any) -> list[Tensor]:
    """`count` tensors [B, heads, tokens, head_dim] of 2 images, 3 heads and 8 channels per head."""
    generator = torch.Generator().manual_seed(29)
    shape = (2, 3, before + grid[0] * grid[1], 8)
    return [torch.randn(shape, generator=generator, **kind) for _ in range(count)]


# The numbers.


@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_published_numbers(
    golden_clip: CLIPModel, golden: dict[str, Tensor], golden_methods: dict[str, Tensor], name: str
) -> None:
    apply_surgery(golden_clip, name)
    assert surgery_state(golden_clip) == SurgeryState(name, 6 if name == "gem" else 1)
    found = tokens(golden_clip, golden["pixel_values_64"])
    torch.testing.assert_close(found[:, 1:], golden_methods[name], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 0], golden["plain_tokens_64"][:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED_LATER)
@torch.no_grad()
def test_transcription_has_the_published_numbers(
    golden_clip: CLIPModel, golden: dict[str, Tensor], golden_methods: dict[str, Tensor], name: str
) -> None:
    """So that what is compared with the transcription below is compared with the publication."""
    tower = find_tower(golden_clip)
    states = tower.vision(golden["pixel_values_64"], output_hidden_states=True).hidden_states
    patches = method_patches(name, tower.blocks, states, 6 if name == "gem" else 1, (8, 8))
    torch.testing.assert_close(tower.embed(patches), golden_methods[name], rtol=0, atol=1e-5)


@torch.no_grad()
def test_none_reads_the_plain_model(
    golden_clip: CLIPModel, golden: dict[str, Tensor], golden_methods: dict[str, Tensor]
) -> None:
    before = golden_clip.vision_model(golden["pixel_values_64"]).last_hidden_state
    apply_surgery(golden_clip, "none")
    assert surgery_state(golden_clip) == SurgeryState("none", 0)
    after = golden_clip.vision_model(golden["pixel_values_64"]).last_hidden_state
    assert torch.equal(after, before)
    found = find_tower(golden_clip).embed(after)
    torch.testing.assert_close(found, golden["plain_tokens_64"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 1:], golden_methods["plain"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_class", clip_families.SUPPORTED)
@torch.no_grad()
def test_every_model_has_the_numbers_of_the_transcription(model_class: str) -> None:
    model = random_model(clip_families.SUPPORTED[model_class])
    tower = find_tower(model)
    plain = tower.vision(pixels(), output_hidden_states=True)
    grid = (SIDE // PATCH, SIDE // PATCH)
    for name in PUBLISHED_LATER:
        apply_surgery(model, name)
        modified = tower.vision(pixels()).last_hidden_state
        depth = surgery_state(model).depth
        remove_surgery(model)
        assert depth == (clip_families.BLOCKS if name == "gem" else 1)
        patches = method_patches(name, tower.blocks, plain.hidden_states, depth, grid)
        torch.testing.assert_close(modified[:, 1:], patches, rtol=0, atol=2e-5, msg=name)
        torch.testing.assert_close(modified[:, 0], plain.last_hidden_state[:, 0], msg=name)
        assert torch.equal(tower.vision(pixels()).last_hidden_state, plain.last_hidden_state), name


@pytest.mark.parametrize("whole", [False, True], ids=["short last block", "whole last block"])
@pytest.mark.parametrize("name", PUBLISHED_LATER)
@torch.no_grad()
def test_any_size_has_the_numbers_of_the_transcription(tiny_clip: CLIPModel, name: str, whole: bool) -> None:
    vision, blocks = tiny_clip.vision_model, tiny_clip.vision_model.encoder.layers
    for size in SIZES:
        given, grid = pixels(*size), (size[0] // 8, size[1] // 8)
        states = vision(given, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        apply_surgery(tiny_clip, name)
        depth = surgery_state(tiny_clip).depth
        found = vision(given, interpolate_pos_encoding=True, output_hidden_states=whole).last_hidden_state
        remove_surgery(tiny_clip)
        expected = method_patches(name, blocks, states, depth, grid)
        torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[:, 0], states[-1][:, 0], rtol=0, atol=1e-5)
    assert not vision._forward_pre_hooks
    assert not vision._forward_pre_hooks_with_kwargs


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].residual and METHODS[name].mix])
@pytest.mark.parametrize("depth", [1, 2, 4])
@torch.no_grad()
def test_any_depth_has_the_numbers_of_the_transcription(tiny_clip: CLIPModel, name: str, depth: int) -> None:
    vision = tiny_clip.vision_model
    states = vision(pixels(), output_hidden_states=True).hidden_states
    apply_surgery(tiny_clip, name, depth)
    found = vision(pixels()).last_hidden_state[:, 1:]
    expected = method_patches(name, vision.encoder.layers, states, depth, (4, 4))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_a_batch_is_its_images(tiny_clip: CLIPModel, name: str) -> None:
    """The temperature of gem is each image's own."""
    given = pixels(24, 40, batch=3) * torch.tensor([0.2, 1.0, 5.0])[:, None, None, None]
    apply_surgery(tiny_clip, name)
    together = tokens(tiny_clip, given)
    alone = torch.cat([tokens(tiny_clip, image[None]) for image in given])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", PUBLISHED_LATER)
@pytest.mark.parametrize("before", [0, 1, 5], ids="{} tokens before the patches".format)
def test_mixing_takes_any_number_of_tokens_before_the_patches(name: str, before: int) -> None:
    """None in SigLIP, CLS in CLIP, CLS and registers in others: the window begins after them."""
    query, key, value = heads(3, before, dtype=torch.float64)
    normed = torch.randn(2, key.shape[2], 24, generator=torch.Generator().manual_seed(1)).double()
    method = METHODS[name]
    offered = {"query": query, "key": key, "value": value, "normed": normed, "scale": 0.3, "grid": (3, 5)}
    found = method.mix(**{argument: offered[argument] for argument in method.arguments})
    weights = method_weights(name, normed, (3, 5))
    for head in range(3):
        q, k, v = query[:, head], key[:, head], value[:, head]
        torch.testing.assert_close(found[:, head], weights(q, k, v, 0.3) @ v, rtol=0, atol=1e-12)


# The window of neighbors.


def test_window_falls_off_with_the_distance_alike_in_both_directions() -> None:
    window = neighbor_window(3, 5, like=torch.zeros((), dtype=torch.float64)).view(3, 5, 3, 5)
    assert torch.equal(window, window.permute(2, 3, 0, 1))
    here = window[1, 2]
    assert here[1, 2] == 1
    assert here.argmax() == 1 * 5 + 2
    torch.testing.assert_close(here[2, 4].item(), 0.9048374180359595)  # exp(-(1 + 4) / 50)
    torch.testing.assert_close(here[1, 4], here[1, 0])
    torch.testing.assert_close(window[0, 0, 2, 1], window[0, 0, 1, 2])


def test_turned_images_have_turned_windows() -> None:
    turned = neighbor_window(5, 3, like=torch.zeros(())).view(5, 3, 5, 3).permute(1, 0, 3, 2)
    torch.testing.assert_close(neighbor_window(3, 5, like=torch.zeros(())).view(3, 5, 3, 5), turned)


def test_grid_of_another_image_is_refused() -> None:
    key, value = heads(2)
    with pytest.raises(ValueError, match=r"4 x 5 patches \(rows x columns\) does not fit 16 tokens: pass"):
        methods.mixing.neighbor_attention(key, value, 0.3, (4, 5))


# Half precision.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_half_precision_model(tiny_clip: CLIPModel, name: str, dtype: torch.dtype) -> None:
    apply_surgery(tiny_clip, name)
    expected = [tokens(tiny_clip, pixels(*size)) for size in SIZES]
    tiny_clip.to(dtype)
    for single, size in zip(expected, SIZES, strict=True):
        half = tokens(tiny_clip, pixels(*size))
        assert half.dtype == torch.float32
        assert cosine_similarity(half.float(), single, dim=-1).min() > 0.999


@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_autocast(tiny_clip: CLIPModel, name: str) -> None:
    apply_surgery(tiny_clip, name)
    expected = tokens(tiny_clip)
    with torch.autocast("cpu", torch.bfloat16):
        found = tokens(tiny_clip)
    assert not torch.equal(found.float(), expected)
    assert cosine_similarity(found.float(), expected, dim=-1).min() > 0.999


def test_temperature_of_gem_does_not_overflow_in_float16() -> None:
    """Norms of LN1 beyond the largest float16, 65504, with a scale that brings them back."""
    query, key, value = (tensor.half() for tensor in heads(3))
    normed = torch.full((2, 16, 64), 3e4).half()
    scale = 1e-5
    found = methods.mixing.self_self_attention(query, key, value, normed, scale)
    assert found.dtype == torch.float16
    weights = mean_of_three_groupings(normed.double())
    for head in range(3):
        q, k, v = (side[:, head].double() for side in (query, key, value))
        torch.testing.assert_close(found[:, head].double(), weights(q, k, v, scale) @ v, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6)]
)
def test_gem_takes_tokens_of_length_zero(dtype: torch.dtype, tolerance: float) -> None:
    """They have no direction, and so agree with all tokens alike, as tokens of one direction do."""
    (value,) = heads(1, dtype=dtype)
    zeros, normed = torch.zeros_like(value), torch.ones(2, 16, 24, dtype=dtype)
    found = methods.mixing.self_self_attention(zeros, zeros, value, normed, 0.3)
    v = value[:, 1].double()
    ones = torch.ones_like(v)
    expected = mean_of_three_groupings(normed.double())(ones, ones, v, 0.3) @ v
    torch.testing.assert_close(found[:, 1].double(), expected, rtol=0, atol=tolerance)


# Nothing is kept between two calls.


@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_nothing_of_a_call_is_in_what_is_pickled_or_copied(tiny_clip: CLIPModel, name: str) -> None:
    before = pickle.dumps(apply_surgery(tiny_clip, name))
    with torch.inference_mode():
        expected = find_tower(tiny_clip).encode(pixels(24, 40))
    assert pickle.dumps(tiny_clip) == before
    file = io.BytesIO()
    torch.save(tiny_clip, file)
    file.seek(0)
    for twin in (pickle.loads(before), torch.load(file, weights_only=False), copy.deepcopy(tiny_clip)):
        assert surgery_state(twin) == surgery_state(tiny_clip)
        assert torch.equal(tokens(twin, pixels(24, 40)), expected)


@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_gradients_after_a_call_in_inference_mode(tiny_clip: CLIPModel, name: str) -> None:
    """Those of the transcription in float64, in the same grid that inference mode has seen before."""
    vision, blocks = tiny_clip.double().vision_model, tiny_clip.vision_model.encoder.layers
    direction = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(2)).double()
    given = [pixels().double().requires_grad_() for _ in range(2)]
    states = vision(given[0], output_hidden_states=True).hidden_states
    depth = METHODS[name].resolve_depth(None, 4)
    (method_patches(name, blocks, states, depth, (4, 4)) * direction).sum().backward()

    apply_surgery(tiny_clip, name)
    with torch.inference_mode():
        vision(pixels().double())
    (vision(given[1]).last_hidden_state[:, 1:] * direction).sum().backward()
    assert given[0].grad.abs().max() > 1e-4
    torch.testing.assert_close(given[1].grad, given[0].grad)


@pytest.mark.parametrize("name", PUBLISHED_LATER)
def test_two_threads_at_once_give_the_same_as_alone(tiny_clip: CLIPModel, name: str) -> None:
    apply_surgery(tiny_clip, name)

    def encode(size: tuple[int, int]) -> Tensor:
        return tokens(tiny_clip, pixels(*size))

    alone = [encode(size) for size in SIZES]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            assert all(map(torch.equal, threads.map(encode, SIZES), alone))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gem", "naclip"])
def test_compile_and_export_between_plain_calls(tiny_clip: CLIPModel, name: str) -> None:
    """Of one piece; and what a compiler calls with stand-ins for tensors disturbs no later call.

    The other methods are what these are made of.
    """
    vision = tiny_clip.vision_model
    vision.encoder.layers = vision.encoder.layers[-1:]  # a compiler takes its time for every block
    tower = find_tower(apply_surgery(tiny_clip, name))
    expected = tokens(tiny_clip)
    torch.compiler.reset()
    compiled = torch.compile(vision, backend="aot_eager", fullgraph=True)
    exported = torch.export.export(vision, (pixels(),), strict=False).module()
    with torch.no_grad():
        for run in (compiled, exported):
            found = tower.embed(run(pixels()).last_hidden_state)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(tokens(tiny_clip), expected)


# A method of one's own.


def mutual_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """A token attends to whom it asks and who asks it: `softmax(scale (Q K' + K Q') / 2) V`."""
    asking, asked = torch.cat([query, key], dim=-1), torch.cat([key, query], dim=-1)
    return scaled_dot_product_attention(asking, asked, value, scale=scale / 2)


@torch.no_grad()
def test_a_sixth_method_is_ten_lines(tiny_clip: CLIPModel) -> None:
    states = tiny_clip.vision_model(pixels(24, 40), True, output_hidden_states=True).hidden_states
    register_method(
        Method("mutual", mutual_attention, default_depth=2, reference="tests/methods/test_methods.py")
    )
    apply_surgery(tiny_clip, "mutual")
    found = tiny_clip.vision_model(pixels(24, 40), True).last_hidden_state

    blocks = tiny_clip.vision_model.encoder.layers
    expected = states[2]
    for block, x in zip(blocks[2:], states[2:4], strict=True):
        expected = expected + block_update(
            block, x, lambda q, k, v, s: torch.softmax((q @ k.mT + k @ q.mT) * s / 2, dim=-1)
        )
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:, 0], states[-1][:, 0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_method_that_contributing_adds(tiny_clip: CLIPModel) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.split("## Add a method")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    exec(compile(snippet, "CONTRIBUTING.md", "exec"), {})
    (name,) = set(METHODS) - {*PUBLISHED_LATER, "clip_surgery", "clip_surgery_normalized", "none"}

    vision = tiny_clip.vision_model
    states = vision(pixels(), output_hidden_states=True).hidden_states
    expected = block_update(
        vision.encoder.layers[-1], states[-2], lambda q, k, v, s: torch.softmax(k @ k.mT * s, dim=-1)
    )
    apply_surgery(tiny_clip, name)
    torch.testing.assert_close(vision(pixels()).last_hidden_state[:, 1:], expected[:, 1:], rtol=0, atol=1e-5)


# The registry.


def test_registry_is_read_only_and_holds_the_published() -> None:
    assert set(METHODS) == {*PUBLISHED_LATER, "clip_surgery", "clip_surgery_normalized", "none"}
    assert METHODS["clip_surgery"].default_depth == 6
    with pytest.raises(TypeError):
        METHODS["mine"] = METHODS["none"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        METHODS["none"].name = "plain"  # type: ignore[misc]


def test_taken_name_is_refused() -> None:
    before = METHODS["clip_surgery"]
    with pytest.raises(ValueError, match=r"'clip_surgery' is registered already.*another name"):
        register_method(Method("clip_surgery", mutual_attention, 1))
    assert METHODS["clip_surgery"] is before


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("clip_sugery", "did you mean 'clip_surgery'"),
        ("nothing_like_it", "known are clip_surgery, clip_surgery_normalized, gem"),
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
        (lambda: Method("m", mutual_attention, 0), "default_depth is 0"),
        (lambda: Method("m", mutual_attention, -1), "default_depth is -1"),
        (lambda: Method("m", mutual_attention, 2, residual=False), "1 for a method without residual"),
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
        (METHODS["clearclip"], 1, 12, 1),
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
        (METHODS["none"], 3, "modifies no block: leave depth out"),
        (METHODS["clearclip"], 2, "from 1 to 1 .* only the last block counts"),
    ],
)
def test_depth_out_of_range_is_refused(method: Method, depth: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method.resolve_depth(depth, 12)
