"""How much of the attention lands on the same object, counted patch by patch and pixel by pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import attention_analysis, attention_averages
from clip_surgery_hub.analysis.attention_results import KINDS, PARTS
from clip_surgery_hub.analysis.masks import patch_coverage
from tests.support.analyses import random_image, rectangle


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
