"""The figures of an attention analysis can be read, and show its numbers."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import AttentionAnalysis, attention_analysis, attention_averages
from tests.support.analyses import attended, random_image, rectangle, surgeon
from tests.support.figures import assert_readable


@pytest.fixture
def clip(tiny_clip: CLIPModel) -> CLIPSurgery:
    """4 blocks of 4 heads, two of them under surgery; 40 x 60 px are read as 4 x 6 patches."""
    return surgeon(tiny_clip, depth=2)


@pytest.fixture
def attention(clip: CLIPSurgery) -> AttentionAnalysis:
    return attended(clip)


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
