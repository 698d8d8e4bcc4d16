"""The image of labels: every bar in its place, names that keep apart, and what is not there in gray."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colors
from torch import Tensor

from clip_surgery_hub.plotting.labels import ABSENT, BAR, MOST, THERE, plot_labels
from clip_surgery_hub.results.explanation import PRESENT, Explanation, Label
from tests.support.tiny_sams import explained, random_image

NAMES = (
    "a very long description of nothing at all " * 3,
    "costs $5 or $10",
    "x" * 60,
    "\N{CYPRIOT SYLLABLE A}",
)


def explanation(
    texts: tuple[str, ...] = NAMES, pixels: np.ndarray | None = None, presence: Tensor | None = None
) -> Explanation:
    found = explained(random_image(40, 60) if pixels is None else pixels, texts=len(texts))
    known = torch.linspace(1, 0, len(texts)) if presence is None else presence
    return replace(found, texts=texts, presence=known[None])


@pytest.mark.filterwarnings("ignore:No font here has")
def test_every_label_has_its_bar_name_and_presence() -> None:
    found = explanation(presence=torch.tensor([PRESENT, 0.8496, 0.0, 1.0]))  # the first exactly the least
    labels = [Label(NAMES[1], 0.5), Label(NAMES[0], -0.25), Label(NAMES[3], 0.125), Label(NAMES[2], 0.0)]
    shown, bars = plot_labels(found, labels).axes
    assert np.array_equal(shown.images[0].get_array(), found.images[0])
    assert shown.get_title() == "4 labels" and bars.get_xlabel().startswith(
        "score after feature surgery; gray: presence below 0.85"
    )
    assert [bar.get_width() for bar in bars.patches] == [0.5, -0.25, 0.125, 0.0]
    assert [bar.get_height() for bar in bars.patches] == [BAR] * 4
    tops = [bar.get_window_extent().y1 for bar in bars.patches]
    assert tops == sorted(tops, reverse=True)
    names = bars.get_yticklabels()
    assert [name.get_text()[:5] for name in names] == ["costs", "a ver", "\N{WHITE SQUARE}", "xxxxx"]
    assert not any(name.get_parse_math() for name in names)
    middles = [bar.get_y() + bar.get_height() / 2 for bar in bars.patches]
    assert [name.get_position()[1] for name in names] == pytest.approx(middles)
    assert [note.xy[1] for note in bars.texts] == pytest.approx(middles)
    assert [note.get_text() for note in bars.texts] == [
        "presence 0.850",
        "presence 0.850",
        "presence 1.000",
        "presence 0.000",
    ]
    assert [colors.to_hex(bar.get_facecolor()) for bar in bars.patches] == [
        colors.to_hex(color) for color in (ABSENT, THERE, THERE, ABSENT)
    ]


@pytest.mark.filterwarnings("ignore:No font here has")
@pytest.mark.parametrize("shape", [(40, 60), (300, 20), (20, 300)])
def test_names_images_and_notes_keep_apart(shape: tuple[int, int]) -> None:
    found = explanation(pixels=random_image(*shape))
    figure = plot_labels(found, [Label(name, 0.1) for name in NAMES])
    shown, bars = figure.axes
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    names, notes = bars.get_yticklabels(), bars.texts
    boxes = [one.get_window_extent(renderer) for one in (*names, *notes, shown.title, bars.xaxis.label)]
    boxes.append(shown.get_window_extent(renderer))
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not box.overlaps(bars.get_window_extent(renderer).shrunk(0.99, 0.99))
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_embeddings_have_no_presence_and_no_label_no_bars() -> None:
    found = replace(explanation(), presence=None)
    _, bars = plot_labels(found, [Label(NAMES[0], 1.0)]).axes
    assert not bars.texts
    (shown,) = plot_labels(found, []).axes
    assert shown.get_title() == "no labels"


def test_the_empty_text_has_a_name() -> None:
    _, bars = plot_labels(explanation(("",)), [Label("", 0.3)]).axes
    assert [name.get_text() for name in bars.get_yticklabels()] == ["(empty text)"]


@pytest.mark.parametrize(
    ("count", "title"), [(MOST, f"{MOST} labels"), (MOST + 3, f"first {MOST} of {MOST + 3}")]
)
def test_more_labels_than_can_be_read_are_counted(count: int, title: str) -> None:
    words = tuple(f"word {number}" for number in range(count))
    labels = [Label(word, 1.0 - number / 100) for number, word in enumerate(words)]
    shown, bars = plot_labels(explanation(words), labels).axes
    assert title in shown.get_title().replace("\n", " ")
    assert [name.get_text() for name in bars.get_yticklabels()] == list(words[:MOST])
    assert [bar.get_width() for bar in bars.patches] == [label.score for label in labels[:MOST]]


def test_what_cannot_be_drawn_is_refused() -> None:
    two = explained(random_image(40, 60), random_image(60, 40))
    with pytest.raises(ValueError, match=r"draws one image, got 2; give explanation\[0\]"):
        plot_labels(two, [])
    with pytest.raises(ValueError, match="'bird' was not explained"):
        plot_labels(replace(explanation(), presence=None), [Label(NAMES[0], 1.0), Label("bird", 1.0)])
