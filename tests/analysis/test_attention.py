"""Attention and contributions against slow transcriptions of their equations."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import attention_analysis
from clip_surgery_hub.analysis.attention_results import KINDS, PARTS
from clip_surgery_hub.methods import Method, register_method
from clip_surgery_hub.methods.mixing import value_value_attention
from clip_surgery_hub.towers.activations import recorded_blocks
from tests.support.analyses import pixels_of, random_image, rectangle, surgeon
from tests.support.clip_families import SUPPORTED, random_model
from tests.support.model_state import walk
from tests.support.transcription import block_update, layer_norm, linear, value_value

PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


@pytest.fixture
def plain(tiny_clip: CLIPModel) -> CLIPModel:
    """The same model as transformers has it, with attention that gives its weights."""
    model = copy.deepcopy(tiny_clip)
    model.set_attn_implementation("eager")
    return model


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give one of patch=\(row, column\).* and point=\(x, y\).*, got neither"),
        ({"patch": (0, 0), "point": (1, 1)}, "got both"),
        ({"patch": (4, 0)}, r"patch=\(4, 0\) lies outside of the grid of 4 x 6 patches: rows are 0 to 3"),
        ({"patch": (0, -1)}, "columns 0 to 5"),
        ({"point": (60, 0)}, r"point=\(60, 0\) lies outside of the image: x is 0 to 59, y is 0 to 39"),
        ({"patch": (0, 0), "mask": np.ones((60, 40))}, r"as large as its image, \[40, 60\].*got \[60, 40\]"),
        ({"patch": (0, 0), "mask": np.full((40, 60), 255)}, "from 255 to 255: compare .* as in mask > 0"),
        ({"patch": (0, 0), "mask": np.zeros((40, 60))}, "mask holds no pixel of the object"),
        (
            {"patch": (0, 0), "mask": rectangle(40, 60, slice(20, 30), slice(40, 60))},
            r"row 0, column 0 lies off the mask: .* such as patch=\(2, 4\)",
        ),
        ({"patch": (0, 0), "size": 8, "max_side": 8}, "is encoded as a single patch: give size=16 or more"),
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
