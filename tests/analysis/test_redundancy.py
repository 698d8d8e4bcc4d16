"""Redundant features against the products that they are made of."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import redundancy_analysis
from clip_surgery_hub.analysis.redundancy_result import COMPARISONS
from tests.support.analyses import TEXTS, random_image, surgeon


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
    for comparison in COMPARISONS:
        for found, wanted in zip(analysis.similarity(comparison), expected[comparison], strict=True):
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
    for number, comparison in ((0, "raw"), (0, "feature_surgery"), (1, "architecture_surgery"), (1, "both")):
        unrelated = (others.original_unrelated, others.modified_unrelated)[number]
        for index in range(3):
            for text in range(4):
                one = others.similarity(comparison)[index][text].flatten()  # type: ignore[arg-type]
                expected = np.corrcoef(one.numpy(), unrelated[index].flatten().numpy())[0, 1]
                found = others.resemblance(comparison)[index, text]  # type: ignore[arg-type]
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
