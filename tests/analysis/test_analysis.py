"""Both analyses against slow transcriptions of their equations, and a model on which nothing is left.

The last tests measure what the paper claims, on scenes with exact masks and the bundled CLIP.
"""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery, create_model
from clip_surgery_hub.analysis import (
    AttentionAnalysis,
    RedundancyAnalysis,
    attention_analysis,
    attention_averages,
    redundancy_analysis,
)
from clip_surgery_hub.analysis.attention_results import KINDS, PARTS
from clip_surgery_hub.analysis.masks import patch_coverage
from clip_surgery_hub.analysis.redundancy_result import VARIANTS
from clip_surgery_hub.images.image_transform import Normalization, resized
from clip_surgery_hub.images.loading import load_image
from clip_surgery_hub.methods import Method, register_method
from clip_surgery_hub.methods.mixing import value_value_attention
from clip_surgery_hub.scenes import World, draw_scene, load_sprites
from clip_surgery_hub.towers.activations import recorded_blocks
from clip_surgery_hub.towers.tower import Tower
from tests.support.clip_families import SUPPORTED, random_model
from tests.support.model_state import walk
from tests.support.tokenizers import letters_tokenizer
from tests.support.transcription import block_update, layer_norm, linear, value_value

MEASURE = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
TEXTS = ["bench", "person", "ground", "sky"]
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def random_image(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return np.array(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def rectangle(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def surgeon(model: Any, **options: Any) -> CLIPSurgery:
    return CLIPSurgery(
        model, tokenizer=letters_tokenizer(), processor=MEASURE, name="tiny", device="cpu", **options
    )


@pytest.fixture
def clip(tiny_clip: CLIPModel) -> CLIPSurgery:
    """4 blocks of 4 heads, two of them under surgery; 40 x 60 px are read as 4 x 6 patches."""
    return surgeon(tiny_clip, depth=2)


@pytest.fixture
def plain(tiny_clip: CLIPModel) -> CLIPModel:
    """The same model as transformers has it, with attention that gives its weights."""
    model = copy.deepcopy(tiny_clip)
    model.set_attn_implementation("eager")
    return model


def pixels_of(image: np.ndarray, size: tuple[int, int] = (32, 48)) -> Tensor:
    return MEASURE(resized(load_image(image), size, MEASURE.resample))[None]


def hidden_states(plain: CLIPModel, clip: CLIPSurgery, image: np.ndarray) -> list[Tensor]:
    """The input of every block and the output of the last, `[1, 1+N, width]`, of plain transformers.

    Position embeddings are those that `clip` resizes bilinearly: they are caught before the first block.
    """
    caught: list[Tensor] = []
    handle = clip.tower.blocks[0].register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    clip.encode(image)
    handle.remove()
    states = [caught[0]]
    with torch.no_grad():
        for block in plain.vision_model.encoder.layers:
            states.append(block(states[-1], None))
    return states


# Attention.


@pytest.mark.parametrize("method", ["clip_surgery", "none"])
def test_query_key_attention_is_what_transformers_itself_attends_with(
    tiny_clip: CLIPModel, plain: CLIPModel, method: str
) -> None:
    image = random_image(32, 32)
    analysis = attention_analysis(surgeon(tiny_clip, method=method), image, patch=(2, 1))
    with torch.no_grad():
        attentions = plain.vision_model(pixels_of(image, (32, 32)), output_attentions=True).attentions
    expected = torch.stack(attentions)[:, 0, :, 1 + 2 * 4 + 1]
    assert analysis.weights["query_key"].shape == (4, 4, 17)
    torch.testing.assert_close(analysis.weights["query_key"], expected, atol=1e-6, rtol=0)


def test_every_kind_of_attention_is_its_formula_taken_number_by_number(
    clip: CLIPSurgery, plain: CLIPModel
) -> None:
    image, patch = random_image(), (1, 4)
    analysis = attention_analysis(clip, image, patch=patch)
    states = hidden_states(plain, clip, image)
    token, size = 1 + patch[0] * 6 + patch[1], 16
    names = {"query_key": ("query", "key"), "value_value": ("value",) * 2}
    names |= {"query_query": ("query",) * 2, "key_key": ("key",) * 2}
    with torch.no_grad():
        for index, block in enumerate(plain.vision_model.encoder.layers):
            normed = layer_norm(block.layer_norm1, states[index])[0]
            for kind, (of, to) in names.items():
                a = linear(getattr(block.self_attn, PROJECTIONS[of]), normed)
                b = linear(getattr(block.self_attn, PROJECTIONS[to]), normed)
                for head in range(4):
                    part = slice(head * size, (head + 1) * size)
                    raised = [
                        float((a[token, part] @ b[other, part] / size**0.5).exp()) for other in range(25)
                    ]
                    expected = torch.tensor([one / sum(raised) for one in raised])
                    found = analysis.weights[kind][index, head]  # type: ignore[index]
                    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_maps_are_the_patches_part_of_the_mean_over_the_heads(clip: CLIPSurgery) -> None:
    analysis = attention_analysis(clip, random_image(), patch=(3, 5))
    for kind in KINDS:
        weights = analysis.weights[kind]
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4))
        assert analysis.maps(kind)[2, 1, 3] == weights[2, :, 1 + 1 * 6 + 3].mean()
        assert analysis.head_maps(kind)[2, 1, 0, 5] == weights[2, 1, 1 + 5]
        whole = analysis.maps(kind).sum((1, 2)) + analysis.attention_to_cls(kind)
        torch.testing.assert_close(whole, torch.ones(4))


def test_a_point_stands_for_the_patch_it_lies_on(clip: CLIPSurgery) -> None:
    """Patches of a 40 x 60 image are 10 x 10 pixels."""
    for point, patch in (((0, 0), (0, 0)), ((59.9, 39.9), (3, 5)), ((10, 9.9), (0, 1)), ((25, 35), (3, 2))):
        assert attention_analysis(clip, random_image(), point=point).patch == patch


def test_cosines_are_those_of_each_contribution_taken_by_hand(clip: CLIPSurgery, plain: CLIPModel) -> None:
    image = random_image()
    analysis = attention_analysis(clip, image, patch=(0, 0))
    states = hidden_states(plain, clip, image)
    norm, project = plain.vision_model.post_layernorm, plain.visual_projection.weight
    with torch.no_grad():
        final = layer_norm(norm, states[-1])[0] @ project.T
        for index, block in enumerate(plain.vision_model.encoder.layers):
            attended = block.self_attn(block.layer_norm1(states[index]), None)[0]
            updates = {
                "attention": attended,
                "value_attention": block_update(block, states[index], value_value),
                "mlp": states[index + 1] - states[index] - attended,
            }
            for part, update in updates.items():
                centered = update[0] - update[0].mean(-1, keepdim=True)
                contribution = (centered * norm.weight) @ project.T
                for number, (row, column) in enumerate(np.ndindex(4, 6), start=1):
                    found = (
                        analysis.cosines_to_cls[part][index, row, column],  # type: ignore[index]
                        analysis.cosines_to_final[part][index, row, column],  # type: ignore[index]
                    )
                    expected = tuple(
                        torch.cosine_similarity(contribution[number], final[target], dim=0)
                        for target in (0, number)
                    )
                    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", SUPPORTED)
def test_on_every_checkpoint_that_surgery_takes_the_parts_add_up(name: str) -> None:
    """What attention and MLP add in all blocks is what the last block gives, on the untouched path."""
    model = random_model(SUPPORTED[name])
    clip = surgeon(model)
    first: list[Tensor] = []
    handle = clip.tower.blocks[0].register_forward_pre_hook(lambda _, args: first.append(args[0]))
    with recorded_blocks(clip.tower) as record:
        clip.encode(random_image())
    handle.remove()
    total = first[0] + sum(record.attended) + sum(record.fed)
    torch.testing.assert_close(total, record.final[0], atol=1e-4, rtol=1e-4)
    before = walk(model)
    analysis = attention_analysis(clip, random_image(), patch=(1, 2), mask=np.ones((40, 60), bool))
    assert walk(model) == before
    for kind in KINDS:
        torch.testing.assert_close(analysis.weights[kind].sum(-1), torch.ones(3, 2))
        torch.testing.assert_close(analysis.same_object(kind), torch.ones(3))


def test_a_method_that_takes_the_mlp_too_hides_nothing_of_the_original_path(
    tiny_clip: CLIPModel, restored_methods: None
) -> None:
    before = attention_analysis(surgeon(copy.deepcopy(tiny_clip)), random_image(), patch=(0, 0))
    register_method(Method("with_mlp", value_value_attention, 4, mlp=True))
    after = attention_analysis(surgeon(tiny_clip, method="with_mlp"), random_image(), patch=(0, 0))
    for part in PARTS:
        torch.testing.assert_close(before.cosines_to_cls[part], after.cosines_to_cls[part])


def test_half_precision_is_compared_in_single(clip: CLIPSurgery) -> None:
    exact = attention_analysis(clip, random_image(), patch=(1, 1))
    clip.model.to(torch.bfloat16)
    rounded = attention_analysis(clip, random_image(), patch=(1, 1))
    for kind in KINDS:
        assert rounded.weights[kind].dtype == torch.float32
        torch.testing.assert_close(rounded.weights[kind].sum(-1), torch.ones(4, 4))
        torch.testing.assert_close(rounded.weights[kind], exact.weights[kind], atol=0.05, rtol=0)


# The share on the same object.


def test_the_share_is_what_lands_under_the_mask_of_what_lands_on_patches(clip: CLIPSurgery) -> None:
    mask = rectangle(40, 60, slice(10, 30), slice(20, 45))  # rows 1, 2; columns 2, 3 and half of 4
    analysis = attention_analysis(clip, random_image(), patch=(1, 3), mask=mask)
    assert analysis.coverage is not None
    assert analysis.coverage[1].tolist() == [0, 0, 1, 1, 0.5, 0]
    for kind in KINDS:
        attention = analysis.maps(kind)
        for block in range(4):
            inside = itself = total = 0.0
            for row, column in np.ndindex(4, 6):
                weight = float(attention[block, row, column])
                share = weight * float(analysis.coverage[row, column])
                inside, total = inside + share, total + weight
                itself += weight * ((row, column) == (1, 3))
            assert analysis.same_object(kind)[block] == pytest.approx(inside / total, abs=1e-6)
            expected = (inside - itself) / (total - itself)
            assert analysis.same_object_elsewhere(kind)[block] == pytest.approx(expected, abs=1e-6)
    assert analysis.chance == pytest.approx((5 / 24, 4 / 23))


def test_shares_of_a_mask_and_of_the_rest_add_up_to_one(clip: CLIPSurgery) -> None:
    mask = rectangle(40, 60, slice(3, 29), slice(7, 45))
    of_it, of_the_rest = (
        attention_analysis(clip, random_image(), patch=(0, 4), mask=one) for one in (mask, ~mask)
    )
    for kind in KINDS:
        whole = of_it.same_object(kind) + of_the_rest.same_object(kind)
        torch.testing.assert_close(whole, torch.ones(4))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_coverage_counts_a_pixel_by_its_part_in_the_patch(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    """Every pixel taken apart into rows x columns pieces, of which each lies in one patch."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    fine = mask.repeat(rows, axis=0).repeat(columns, axis=1).astype(float)
    expected = fine.reshape(rows, height, columns, width).mean((1, 3))
    np.testing.assert_allclose(patch_coverage(mask, (rows, columns)).numpy(), expected, atol=1e-6)


def test_masks_may_be_tensors_and_whole_numbers(clip: CLIPSurgery) -> None:
    mask = rectangle(40, 60, slice(10, 30), slice(20, 45))
    shares = [
        attention_analysis(clip, random_image(), patch=(1, 3), mask=one).same_object("value_value")
        for one in (mask, torch.from_numpy(mask), mask.astype(np.uint8), mask.astype(np.float32))
    ]
    for share in shares[1:]:
        assert torch.equal(share, shares[0])


def test_averages_are_those_of_every_patch_on_its_object(clip: CLIPSurgery) -> None:
    images = [random_image(40, 60, 0), random_image(48, 32, 1), random_image(40, 60, 2)]
    masks: list[Any] = [
        [rectangle(40, 60, slice(0, 12), slice(0, 27)), rectangle(40, 60, slice(30, 40), slice(33, 60))],
        [rectangle(48, 32, slice(3, 4), slice(3, 4))],  # covers no patch by half: not counted
        [rectangle(40, 60, slice(10, 30), slice(10, 30)), np.zeros((40, 60), bool)],
    ]
    averages = attention_averages(clip, images, masks)
    assert averages.objects == 3 and averages.chance.shape == (2,)
    for place, number in enumerate((0, 2)):
        found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        elsewhere: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        chances = []
        for mask in masks[number]:
            coverage = patch_coverage(mask, (4, 6))
            patches = (coverage >= 0.5).nonzero().tolist()
            each = [
                attention_analysis(clip, images[number], patch=(row, column), mask=mask)
                for row, column in patches
            ]
            if not each:
                continue
            whole = each[0]
            chances.append(torch.tensor([one.chance for one in each]).mean(0))
            for kind in KINDS:
                found[kind].append(torch.stack([one.same_object(kind) for one in each]).mean(0))
                elsewhere[kind].append(torch.stack([one.same_object_elsewhere(kind) for one in each]).mean(0))
        for kind in KINDS:
            for values, expected in (
                (averages.same_object, found),
                (averages.same_object_elsewhere, elsewhere),
            ):
                torch.testing.assert_close(values[kind][place], torch.stack(expected[kind]).mean(0))
        evenly = torch.stack(chances).mean(0)
        torch.testing.assert_close(averages.chance[place], evenly[0])
        torch.testing.assert_close(averages.chance_elsewhere[place], evenly[1])
        for part in PARTS:
            torch.testing.assert_close(
                averages.cosines_to_cls[part][place], whole.cosines_to_cls[part].mean((1, 2))
            )


# What is left on the model: nothing.


def attend(clip: CLIPSurgery) -> object:
    return attention_analysis(clip, random_image(), patch=(1, 1))


def compare(clip: CLIPSurgery) -> object:
    return redundancy_analysis(clip, random_image(), TEXTS)


@pytest.mark.parametrize("analyze", [attend, compare])
@pytest.mark.parametrize("method", ["clip_surgery", "none"])
def test_nothing_is_left_on_the_model(
    tiny_clip: CLIPModel, method: str, analyze: Callable[[CLIPSurgery], object]
) -> None:
    clip = surgeon(tiny_clip, method=method)
    tiny_clip.vision_model.encoder.layers[3].register_forward_hook(lambda *_: None)
    before = walk(tiny_clip)
    analyze(clip)
    assert walk(tiny_clip) == before


@pytest.mark.parametrize("analyze", [attend, compare])
def test_nothing_is_left_when_the_call_fails_half_way(
    clip: CLIPSurgery, monkeypatch: pytest.MonkeyPatch, analyze: Callable[[CLIPSurgery], object]
) -> None:
    block: Any = clip.tower.blocks[2]
    monkeypatch.setattr(type(block.mlp), "forward", _out_of_memory)
    before = walk(clip.model)
    with pytest.raises(MemoryError, match="half way"):
        analyze(clip)
    assert walk(clip.model) == before


def _out_of_memory(module: Any, hidden_states: Tensor) -> Tensor:
    raise MemoryError("half way")


def test_a_model_that_passes_hooks_by_is_refused_and_left_as_it_was(
    clip: CLIPSurgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = clip.encode_image(pixels_of(random_image()))
    monkeypatch.setattr(clip, "encode_image", lambda pixels: tokens)
    before = walk(clip.model)
    for analyze in (attend, compare):
        with pytest.raises(RuntimeError, match="one call of CLIPVisionModel was to be recorded.* told of 0"):
            analyze(clip)
    assert walk(clip.model) == before


def test_blocks_of_another_kind_are_refused(clip: CLIPSurgery) -> None:
    """The towers of other families have no q_proj, k_proj and v_proj to look at."""
    parts = {field.name: getattr(clip.tower, field.name) for field in fields(Tower)}
    clip.tower = type("OtherTower", (Tower,), dict.fromkeys(Tower.__abstractmethods__))(**parts)
    with pytest.raises(TypeError, match="CLIPVisionModel cannot be looked into: only towers built of CLIP's"):
        attend(clip)


def test_calls_from_other_threads_are_neither_heard_nor_disturbed(clip: CLIPSurgery) -> None:
    patches = [(0, 0), (1, 3), (3, 5)]
    alone = [attention_analysis(clip, random_image(seed=seed), patch=one) for seed, one in enumerate(patches)]
    failures: list[str] = []

    def work(number: int) -> None:
        for _ in range(5):
            found = attention_analysis(clip, random_image(seed=number), patch=patches[number])
            for kind in KINDS:
                if not torch.allclose(found.weights[kind], alone[number].weights[kind], atol=1e-6):
                    failures.append(f"{number} {kind}")
            if not torch.allclose(
                found.cosines_to_cls["mlp"], alone[number].cosines_to_cls["mlp"], atol=1e-4
            ):
                failures.append(f"{number} cosines")

    before = walk(clip.model)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert walk(clip.model) == before


# Redundant features.


@pytest.fixture
def masks() -> list[dict[str, np.ndarray]]:
    return [
        {
            "bench": rectangle(40, 60, slice(0, 20), slice(0, 30)),
            "sky": rectangle(40, 60, slice(5, 33), slice(31, 52)),
        },
        {"person": rectangle(48, 32, slice(20, 48), slice(3, 18))},
        {},
    ]


@pytest.fixture
def images() -> list[np.ndarray]:
    return [random_image(40, 60, 0), random_image(48, 32, 1), random_image(32, 32, 2)]


def test_channels_are_the_products_of_every_patch_text_and_channel(
    clip: CLIPSurgery, images: list[np.ndarray]
) -> None:
    analysis = redundancy_analysis(clip, images, TEXTS)
    texts = clip.encode_text(TEXTS)
    means, spreads, commons, energies, similarities = [], [], [], [], []
    for tokens in clip.encode(images).tokens:
        products = tokens[1:, None] * texts[None]  # [N, T, C]
        means.append(products.mean((0, 1)))
        spreads.append(products.std(1, correction=0).mean(0))
        commons.append(products.mean(1).square().mean(0))
        energies.append(products.square().mean((0, 1)))
        similarities.append((tokens[1:] @ texts.T).mean())
    for found, expected in (
        (analysis.mean, means),
        (analysis.spread, spreads),
        (analysis.common, commons),
        (analysis.energy, energies),
    ):
        torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-7, rtol=1e-4)
    assert float(analysis.mean.sum()) == pytest.approx(float(torch.stack(similarities).mean()), abs=1e-6)
    assert analysis.redundancy == pytest.approx(
        float(torch.stack(commons).sum() / torch.stack(energies).sum()), rel=1e-5
    )
    ranked = analysis.common[analysis.order]
    assert (ranked[1:] <= ranked[:-1]).all() and sorted(analysis.order.tolist()) == list(range(32))


def test_a_channel_that_all_texts_share_and_one_that_tells_them_apart(clip: CLIPSurgery) -> None:
    """Two texts that agree in the first channel, differ in the sign of the second, and have no third."""
    first, second = torch.zeros(32), torch.zeros(32)
    first[0] = second[0] = first[1] = 0.6
    second[1] = -0.6
    analysis = redundancy_analysis(clip, random_image(), {"a": first, "b": second}, unrelated={"c": first})
    assert analysis.shared[:3].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    assert analysis.mean[1:].abs().max() < 1e-7 and analysis.spread[0] < 1e-7
    assert analysis.order[0] == 0


def test_maps_are_those_of_raw_clip_and_of_this_one(
    clip: CLIPSurgery, tiny_clip: CLIPModel, images: list[np.ndarray]
) -> None:
    analysis = redundancy_analysis(clip, images, TEXTS)
    raw = surgeon(CLIPModel(tiny_clip.config), method="none")
    raw.model.load_state_dict(tiny_clip.state_dict())
    original, read = raw.explain(images, TEXTS), clip.explain(images, TEXTS)
    expected = {
        "raw": original.plain_similarity,
        "feature_surgery": original.surgery_similarity,
        "architecture_surgery": read.plain_similarity,
        "both": read.surgery_similarity,
    }
    for variant in VARIANTS:
        for found, wanted in zip(analysis.similarity(variant), expected[variant], strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (analysis.original.settings.method, analysis.original.settings.depth) == ("none", None)
    assert (analysis.modified.settings.method, analysis.modified.settings.depth) == ("clip_surgery", 2)


def test_unrelated_texts_have_the_mean_of_their_maps(clip: CLIPSurgery, images: list[np.ndarray]) -> None:
    empty = redundancy_analysis(clip, images, TEXTS)
    assert empty.unrelated == ("",)
    others = redundancy_analysis(clip, images, TEXTS, unrelated=["boat", "lamp"])
    blank, named = clip.encode_text([""]), clip.encode_text(["boat", "lamp"])
    for number, (tokens, grid) in enumerate(
        zip(clip.encode(images).tokens, ((4, 6), (6, 4), (4, 4)), strict=True)
    ):
        torch.testing.assert_close(empty.modified_unrelated[number], (tokens[1:] @ blank[0]).reshape(grid))
        mean = torch.stack([(tokens[1:] @ one).reshape(grid) for one in named]).mean(0)
        torch.testing.assert_close(others.modified_unrelated[number], mean)
    for number, variant in ((0, "raw"), (0, "feature_surgery"), (1, "architecture_surgery"), (1, "both")):
        unrelated = (others.original_unrelated, others.modified_unrelated)[number]
        for index in range(3):
            for text in range(4):
                one = others.similarity(variant)[index][text].flatten()  # type: ignore[arg-type]
                expected = np.corrcoef(one.numpy(), unrelated[index].flatten().numpy())[0, 1]
                found = others.resemblance(variant)[index, text]  # type: ignore[arg-type]
                assert found == pytest.approx(expected, abs=1e-4)


def test_contrast_is_the_mean_on_the_object_minus_the_mean_off_it(
    clip: CLIPSurgery, images: list[np.ndarray], masks: list[dict[str, np.ndarray]]
) -> None:
    analysis = redundancy_analysis(clip, images, TEXTS, masks=masks)
    explanation = clip.explain(images, TEXTS)
    expected = []
    for heatmaps, by_text in zip(explanation.heatmaps(), masks, strict=True):
        values = {}
        for text, mask in by_text.items():
            heat = heatmaps[TEXTS.index(text)].numpy()
            values[text] = 100 * (heat[mask].mean() - heat[~mask].mean())
        expected.append(values)
    found = analysis.contrasts("both")
    assert [list(one) for one in found] == [["bench", "sky"], ["person"], []]
    for one, wanted in zip(found, expected, strict=True):
        assert one == pytest.approx(wanted, abs=1e-3)
    means = [np.mean(list(one.values())) for one in expected if one]
    assert analysis.msc("both") == pytest.approx(float(np.mean(means)), abs=1e-3)


def test_without_surgery_both_paths_are_one(tiny_clip: CLIPModel) -> None:
    analysis = redundancy_analysis(surgeon(tiny_clip, method="none"), random_image(), TEXTS)
    for original, read in (("raw", "architecture_surgery"), ("feature_surgery", "both")):
        torch.testing.assert_close(
            analysis.similarity(original)[0],  # type: ignore[arg-type]
            analysis.similarity(read)[0],  # type: ignore[arg-type]
            atol=1e-5,
            rtol=0,
        )


# Results as dictionaries and images.


@pytest.fixture
def attention(clip: CLIPSurgery) -> AttentionAnalysis:
    mask = rectangle(40, 60, slice(10, 30), slice(20, 45))
    return attention_analysis(clip, random_image(), patch=(1, 3), mask=mask)


@pytest.fixture
def redundancy(
    clip: CLIPSurgery, images: list[np.ndarray], masks: list[dict[str, np.ndarray]]
) -> RedundancyAnalysis:
    return redundancy_analysis(clip, images, TEXTS, masks=masks)


def test_dictionaries_hold_the_numbers_and_become_json(
    clip: CLIPSurgery, attention: AttentionAnalysis, redundancy: RedundancyAnalysis
) -> None:
    values = json.loads(json.dumps(attention.to_dict()))
    assert values["patch"] == {"row": 1, "column": 3} and values["grid"] == [4, 6]
    share = values["attention"]["value_value"]["same_object"]
    assert share == pytest.approx(attention.same_object("value_value").tolist())
    assert values["cosine_to_cls"]["mlp"][2] == pytest.approx(
        float(attention.cosines_to_cls["mlp"][2].mean())
    )
    bare = attention_analysis(clip, random_image(), patch=(0, 0)).to_dict()
    assert bare["chance"] is None and bare["attention"]["key_key"]["same_object"] is None
    values = json.loads(json.dumps(redundancy.to_dict()))
    assert values["msc"]["raw"] == pytest.approx(redundancy.msc("raw"))
    assert values["channels"][0]["channel"] == int(redundancy.order[0]) and len(values["channels"]) == 20
    assert values["contrasts"]["both"][2] == {}


def words_of(figure: Any) -> list[Any]:
    """Everything that is written on a figure, and the legends."""
    found = [*figure.texts]
    for axes in figure.axes:
        found += [axes.title, *axes.texts]
        if axes.axison:
            found += [axes.get_legend(), axes.xaxis.label, axes.yaxis.label]
            found += [label for axis in (axes.xaxis, axes.yaxis) for label in tick_labels(axis)]
    return [one for one in found if one is not None and getattr(one, "get_text", lambda: True)()]


def tick_labels(axis: Any) -> list[Any]:
    """Those that are drawn: axes keep others beyond their ends."""
    low, high = sorted(axis.get_view_interval())
    pairs = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label for place, label in pairs if low <= place <= high]


def assert_readable(figure: Any) -> None:
    """No words over other words or over a cell, nothing beyond the page, nobody's window."""
    import matplotlib.pyplot

    assert matplotlib.pyplot.get_fignums() == []
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [one.get_window_extent(renderer) for one in words_of(figure)]
    cells = [axes.get_window_extent(renderer) for axes in figure.axes if not axes.axison]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        for other in (*boxes[number + 1 :], *(one.padded(-1) for one in cells)):
            assert not box.padded(-0.5).overlaps(other)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [(40, 60), (200, 24), (24, 200)])
def test_the_attention_is_drawn_readably(clip: CLIPSurgery, size: tuple[int, int], masked: bool) -> None:
    mask = rectangle(*size, slice(0, 9), slice(0, 9))
    mask[0, -1] = True
    analysis = attention_analysis(clip, random_image(*size), point=(3, 3), mask=mask if masked else None)
    figure = analysis.plot(blocks=[3, 0])
    assert_readable(figure)
    cells = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in cells[1:3]] == ["block 3", "block 0"]
    assert len(cells) == 1 + 4 * 2 + 1  # the image, four kinds in two blocks, the bar of colors


def test_the_heat_of_attention_is_scaled_to_the_most_that_another_patch_gets(clip: CLIPSurgery) -> None:
    """The chosen patch, where it gets more than any other, and that other are drawn alike."""
    from matplotlib import colormaps

    analysis = attention_analysis(clip, np.full((320, 480, 3), 128, np.uint8), patch=(1, 3), size=32)
    weights = {kind: one.clone() for kind, one in analysis.weights.items()}
    weights["query_key"][0] = 0.01
    weights["query_key"][0, :, 1 + 1 * 6 + 3] = 0.7
    weights["query_key"][0, :, 1 + 3 * 6 + 0] = 0.05
    figure = replace(analysis, weights=weights).plot(blocks=[0], opacity=1.0)
    drawn = figure.axes[3].images[0].get_array()  # after the image and two charts
    rows, columns = drawn.shape[0] / 4, drawn.shape[1] / 6

    def center(row: int, column: int) -> np.ndarray:
        return np.asarray(drawn[int((row + 0.5) * rows), int((column + 0.5) * columns)], dtype=int)

    highest = 255 * np.array(colormaps["inferno"](255)[:3])
    for place in ((1, 3), (3, 0)):
        assert np.abs(center(*place) - highest).max() < 25
    assert np.abs(center(0, 0) - highest).max() > 100


def test_charts_show_the_figures(attention: AttentionAnalysis, clip: CLIPSurgery) -> None:
    charts = {axes.get_title(): axes for axes in attention.plot().figure.axes if axes.axison}
    lines = {line.get_label(): line for line in charts["attention on the same object"].lines}
    assert list(lines) == ["q-k", "v-v", "q-q", "k-k", "evenly"]
    np.testing.assert_allclose(lines["v-v"].get_ydata(), attention.same_object("value_value"))
    np.testing.assert_allclose(lines["evenly"].get_ydata(), attention.chance[0])
    cosines = {line.get_label(): line for line in charts["what a block adds to the patches"].lines}
    np.testing.assert_allclose(cosines["MLP"].get_ydata(), attention.cosines_to_cls["mlp"].mean((1, 2)))
    averages = attention_averages(clip, [random_image()], [[attention.mask]])
    figure = averages.plot()
    assert_readable(figure)
    np.testing.assert_allclose(
        figure.axes[1].lines[0].get_ydata(), averages.same_object_elsewhere["query_key"][0]
    )


def test_blocks_are_spread_evenly_up_to_the_last() -> None:
    from clip_surgery_hub.plotting.attention import _spread_evenly

    assert _spread_evenly(4) == [0, 1, 2, 3]
    assert _spread_evenly(8) == list(range(8))
    assert _spread_evenly(24) == [2, 5, 8, 11, 14, 17, 20, 23]
    assert len(set(_spread_evenly(12))) == 8 and _spread_evenly(12)[-1] == 11


def test_redundancy_is_drawn_readably(redundancy: RedundancyAnalysis, clip: CLIPSurgery) -> None:
    assert_readable(redundancy.plot(number=1))
    figure = redundancy.plot(texts=["sky", "ground"])
    assert_readable(figure)
    lines = {line.get_label(): line.get_ydata() for axes in figure.axes for line in axes.lines}
    total = np.square(lines["common to all texts"]) + np.square(lines["differs between texts"])
    np.testing.assert_allclose(total, redundancy.energy[redundancy.order], rtol=1e-4)
    assert (np.diff(lines["common to all texts"]) <= 0).all()
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes if axes.get_title()]
    assert titles[-3:] == ["mean of the unrelated texts", "sky", "ground"]
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    contrast = redundancy.contrasts("both")[0]["sky"]
    assert f"contrast {contrast:+.0f}" in words and "no mask" in words
    long = "an officer with medals in front of a flag"
    many = redundancy_analysis(clip, random_image(24, 200), [long, *TEXTS, "a b c"])
    assert_readable(many.plot())


def test_texts_with_a_mask_are_drawn_first(redundancy: RedundancyAnalysis) -> None:
    figure = redundancy.plot(number=1)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[-4] == "person" and len(titles[-4:]) == 4


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give one of patch=\(row, column\).* and point=\(x, y\).*, got neither"),
        ({"patch": (0, 0), "point": (1, 1)}, "got both"),
        ({"patch": (4, 0)}, r"patch=\(4, 0\) lies outside of the grid of 4 x 6 patches: rows are 0 to 3"),
        ({"patch": (0, -1)}, "columns 0 to 5"),
        ({"point": (60, 0)}, r"point=\(60, 0\) lies outside of the image: x is 0 to 59, y is 0 to 39"),
        (
            {"patch": (0, 0), "mask": np.ones((60, 40))},
            r"as large as its image, \[40, 60\].*got \[60, 40\]",
        ),
        ({"patch": (0, 0), "mask": np.full((40, 60), 255)}, "from 255 to 255: compare .* as in mask > 0"),
        ({"patch": (0, 0), "mask": np.zeros((40, 60))}, "mask holds no pixel of the object"),
        (
            {"patch": (0, 0), "mask": rectangle(40, 60, slice(20, 30), slice(40, 60))},
            r"row 0, column 0 lies off the mask: .* such as patch=\(2, 4\)",
        ),
        ({"patch": (0, 0), "size": 8, "max_side": 8}, "read as a single patch: give size=16 or more"),
    ],
)
def test_the_attention_of_no_patch_is_refused(clip: CLIPSurgery, options: Any, message: str) -> None:
    before = walk(clip.model)
    with pytest.raises(ValueError, match=message):
        attention_analysis(clip, random_image(), **options)
    assert walk(clip.model) == before


def test_the_attention_in_several_images_is_refused(clip: CLIPSurgery) -> None:
    with pytest.raises(ValueError, match="one image, got 2: take one of them"):
        attention_analysis(clip, [random_image(), random_image()], patch=(0, 0))


def test_shares_without_a_mask_are_refused(clip: CLIPSurgery) -> None:
    analysis = attention_analysis(clip, random_image(), patch=(0, 0))
    for share in (analysis.same_object, analysis.same_object_elsewhere):
        with pytest.raises(ValueError, match="needs the object's mask: give mask="):
            share("query_key")
    with pytest.raises(ValueError, match="give mask="):
        analysis.chance  # noqa: B018


def test_averages_of_nothing_are_refused(clip: CLIPSurgery) -> None:
    dot = rectangle(40, 60, slice(0, 1), slice(0, 1))
    with pytest.raises(ValueError, match="no object covers 50% of any patch: lower least_coverage"):
        attention_averages(clip, [random_image()], [[dot]])
    with pytest.raises(ValueError, match="masks holds 2 entries for 1 images"):
        attention_averages(clip, [random_image()], [[dot], [dot]])
    with pytest.raises(ValueError, match=r"least_coverage must lie in \(0, 1\], got 0"):
        attention_averages(clip, [random_image()], [[dot]], least_coverage=0)
    with pytest.raises(ValueError, match="mask 1 of image 0 must be as large"):
        attention_averages(clip, [random_image()], [[dot, dot.T]])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "masks holds 0 entries for 1 images: give one for each image"),
        ([{}], "masks holds no mask at all: leave it out"),
        ([{"cow": np.ones((40, 60))}], "image 0 has a mask of 'cow', which is none of the texts"),
        ([{"sky": np.ones((40, 60))}], "mask of 'sky' in image 0 covers the whole image: leave it out"),
        ([{"sky": np.zeros((40, 60))}], "mask of 'sky' in image 0 covers nothing: leave it out"),
        ([{"sky": np.ones((4, 6))}], r"the mask of 'sky' in image 0 must be as large as its image"),
    ],
)
def test_masks_that_do_not_fit_are_refused(clip: CLIPSurgery, masks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        redundancy_analysis(clip, random_image(), TEXTS, masks=masks)


def test_one_text_shares_nothing(clip: CLIPSurgery) -> None:
    with pytest.raises(ValueError, match="what texts share needs two texts or more, got 1"):
        redundancy_analysis(clip, random_image(), "bench")


def test_what_was_not_asked_for_is_refused(
    clip: CLIPSurgery, attention: AttentionAnalysis, redundancy: RedundancyAnalysis
) -> None:
    with pytest.raises(ValueError, match="variant must be one of 'raw', .*, got 'before'"):
        redundancy.similarity("before")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the objects' masks: give masks="):
        redundancy_analysis(clip, random_image(), TEXTS).msc("raw")
    with pytest.raises(ValueError, match="number must be one of the images 0 to 2, got 3"):
        redundancy.plot(number=3)
    with pytest.raises(ValueError, match="'cow' is none of the class set's texts"):
        redundancy.plot(texts=["cow"])
    for blocks in ([4], [-1], []):
        with pytest.raises(ValueError, match="blocks must name some of the blocks 0 to 3"):
            attention.plot(blocks=blocks)
    with pytest.raises(ValueError, match="opacity must lie in"):
        attention.plot(opacity=2.0)


# The paper's claims on scenes, with the bundled CLIP.


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
