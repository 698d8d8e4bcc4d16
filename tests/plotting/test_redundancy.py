"""The figures of a redundancy analysis can be read, and show its numbers."""

import numpy as np
import pytest
from transformers import CLIPModel

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import RedundancyAnalysis, redundancy_analysis
from tests.support.analyses import TEXTS, compared, random_image, surgeon
from tests.support.figures import assert_readable


@pytest.fixture
def clip(tiny_clip: CLIPModel) -> CLIPSurgery:
    """4 blocks of 4 heads, two of them under surgery; 40 x 60 px are read as 4 x 6 patches."""
    return surgeon(tiny_clip, depth=2)


@pytest.fixture
def redundancy(clip: CLIPSurgery) -> RedundancyAnalysis:
    return compared(clip)


@pytest.mark.slow
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
