"""Panels and overlays: the right pixels, labels that keep apart, and a figure that nobody else can see."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.transforms import Bbox

from clip_surgery_hub.plotting.heatmaps import overlay, plot_explanation
from clip_surgery_hub.results.explanation import Explanation, Settings

LONG = (
    "a photograph of an officer in a dark uniform with medals, standing in front of the flag of some country"
)
WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"


def explanation_of(
    sizes: list[tuple[int, int]], texts: list[str], *, grid: tuple[int, int] = (3, 4)
) -> Explanation:
    generator = torch.Generator().manual_seed(0)
    random = np.random.default_rng(0)
    maps = tuple(torch.randn(len(texts), *grid, generator=generator) for _ in sizes)
    scores = torch.linspace(-0.1, 0.1, len(sizes) * len(texts)).reshape(len(sizes), len(texts))
    return Explanation(
        images=tuple(random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes),
        sizes=tuple(sizes),
        texts=tuple(texts),
        background=(),
        surgery_similarity=maps,
        plain_similarity=maps,
        scores=scores,
        plain_scores=scores,
        settings=Settings(model="m", method="none"),
    )


@pytest.mark.parametrize("level", [0, 51, 128, 255])
@pytest.mark.parametrize("gray", [0, 100, 255])
def test_an_overlay_mixes_gray_and_the_color_of_the_heat(level: int, gray: int) -> None:
    heat = level / 255
    cover = 0.7 * (1 + heat) / 2
    expected = (1 - cover) * gray + cover * 255 * np.array(colormaps["inferno"](level)[:3])
    pixel = overlay(np.full((1, 1, 3), gray, np.uint8), torch.tensor([[heat]]), opacity=0.7)
    np.testing.assert_allclose(pixel[0, 0], expected, atol=0.51)


@given(pixel=st.tuples(*[st.integers(0, 255)] * 3), heat=st.floats(0, 1, width=32))
def test_without_opacity_only_the_gray_image_is_left(pixel: tuple[int, int, int], heat: float) -> None:
    gray = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]  # luma of ITU-R BT.601
    drawn = overlay(np.array([[pixel]], np.uint8), torch.tensor([[heat]]), opacity=0.0)
    np.testing.assert_allclose(drawn, np.full((1, 1, 3), gray), atol=0.51)


def test_an_overlay_refuses_another_size_and_an_opacity_beyond_one() -> None:
    with pytest.raises(ValueError, match=r"as large as the image, \[4, 5\], got \[5, 4\]"):
        overlay(np.zeros((4, 5, 3), np.uint8), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="opacity must lie in"):
        overlay(np.zeros((4, 5, 3), np.uint8), torch.zeros(4, 5), opacity=1.5)


def test_the_panel_shows_the_image_and_an_overlay_per_text() -> None:
    explanation = explanation_of([(40, 60), (30, 30)], ["bench", "person", "grass"])
    axes = explanation.plot(opacity=0.5)
    assert axes.shape == (2, 4)
    for number, image in enumerate(explanation.images):
        assert np.array_equal(axes[number, 0].images[0].get_array(), image)
        for text, heatmap in enumerate(explanation.heatmaps()[number]):
            drawn = axes[number, 1 + text].images[0].get_array()
            assert np.array_equal(drawn, overlay(image, heatmap, opacity=0.5))


def test_text_and_score_stand_over_each_overlay() -> None:
    explanation = explanation_of([(40, 60), (30, 30)], ["costs $5 or $10", "person"])
    axes = explanation.plot()
    assert [axes[1, column].get_title() for column in range(3)] == ["image 2", "costs $5 or $10", "person"]
    assert [axes[1, column].texts[0].get_text() for column in range(3)] == [
        "30 x 30 px",
        f"score {explanation.scores[1, 0]:.3f}",
        f"score {explanation.scores[1, 1]:.3f}",
    ]
    assert explanation[0].plot()[0, 0].get_title() == "image"
    axes[0, 0].figure.canvas.draw()  # a formula made of two dollar signs would be set without its spaces


def test_the_axes_are_in_pixels_of_the_image() -> None:
    axes = explanation_of([(3000, 4000)], ["bench"]).plot()
    for cell in axes[0]:
        assert cell.get_xlim() == (-0.5, 3999.5) and cell.get_ylim() == (2999.5, -0.5)
        assert max(cell.images[0].get_array().shape) < 2500  # large images are reduced before they are drawn


def boxes_of(axes: np.ndarray) -> list[Bbox]:
    """The boxes of all images, labels and scores, and of the color bar, in dots."""
    figure = axes[0, 0].figure
    renderer = figure.canvas.get_renderer()
    found = []
    for cell in figure.axes:
        found.append(cell.get_window_extent(renderer))
        found += [text.get_window_extent(renderer) for text in (cell.title, *cell.texts) if text.get_text()]
    return found


@pytest.mark.parametrize(
    ("sizes", "texts"),
    [
        ([(480, 640)], ["bench"]),
        ([(480, 640)], [f"text {number}" for number in range(20)]),
        ([(480, 640)], [LONG, WORD, "short", f"{LONG} {LONG}"]),
        ([(100, 1500)], [LONG, WORD, "short"]),
        ([(1500, 100)], [LONG, WORD, "short"]),
        ([(20, 4000)], [LONG, "short"]),
        ([(64, 64), (100, 1500), (1500, 100), (1, 1)], [LONG, WORD, *"abcdefgh"]),
    ],
    ids=["one text", "twenty texts", "long labels", "wide", "tall", "very wide", "mixed"],
)
def test_nothing_overlaps_and_nothing_is_cut_off(sizes: list[tuple[int, int]], texts: list[str]) -> None:
    axes = explanation_of(sizes, texts).plot()
    boxes = boxes_of(axes)
    page = axes[0, 0].figure.bbox
    assert len(boxes) == 3 * len(sizes) * (1 + len(texts)) + 3
    for number, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.y0 >= page.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        for other in boxes[:number]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert width <= 1 or height <= 1, (box, other)


def test_images_keep_their_shape_and_stay_readable() -> None:
    for sizes in ([(480, 640)], [(100, 1500)], [(1500, 100)]):
        axes = explanation_of(sizes, ["bench"] * 7).plot()
        width, height = axes[0, 0].figure.get_size_inches()
        assert width <= 14.4
        for cell in axes[0]:
            box = cell.get_position()
            ratio = box.height * height / (box.width * width)
            assert ratio == pytest.approx(sizes[0][0] / sizes[0][1], rel=1e-6)
            assert (box.height * height) * (box.width * width) >= 1.3  # square inches


def test_a_sign_that_no_font_has_is_a_box_and_one_warning() -> None:
    explanation = explanation_of([(20, 20)], ["bench \U00013000\U00013001", "person \U00013000"])
    with pytest.warns(
        UserWarning, match="No font here has \U00013000\U00013001, drawn as empty boxes"
    ) as caught:
        axes = explanation.plot()
        axes[0, 0].figure.canvas.draw()
    assert len(caught) == 1
    assert axes[0, 1].get_title() == "bench □□"


def test_ordinary_labels_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explanation_of([(20, 20)], ["Bänke, Œuvre, скамья, πάγκος", "tab\tand\nline"]).plot()[
            0, 0
        ].figure.canvas.draw()


@pytest.mark.slow
def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    code = """
import sys, numpy, torch
from clip_surgery_hub.results.explanation import Explanation, Settings
one = torch.zeros(1, 1)
explanation = Explanation(images=(numpy.zeros((4, 4, 3), numpy.uint8),), sizes=((4, 4),),
    texts=("a",), background=(),
    surgery_similarity=(torch.rand(1, 2, 2),), plain_similarity=(torch.rand(1, 2, 2),),
    scores=one, plain_scores=one,
    settings=Settings(model="m", method="none"))
explanation.plot()[0, 0].figure.savefig(sys.argv[1])
print("matplotlib.pyplot" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "panel.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "False\n"
    assert (tmp_path / "panel.png").stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused() -> None:
    explanation = explanation_of([(10, 1)] * 120, ["bench"])
    with pytest.raises(ValueError, match="120 images with 1 texts need a figure .* Plot fewer images"):
        explanation.plot()
    with pytest.raises(ValueError, match="holds no image"):
        explanation[:0].plot()
    with pytest.raises(ValueError, match="opacity must lie in"):
        plot_explanation(explanation[:1], opacity=-0.1)
