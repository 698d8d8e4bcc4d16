"""The picture of labels: every bar in its place, names that keep apart, and what is not there in grey."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colors
from tiny_sams import explained, picture

from clip_surgery_hub.explanation import PRESENT, Explanation, Label
from clip_surgery_hub.plot_labels import ABSENT, MOST, THERE, plot_labels

NAMES = ("a very long description of nothing at all " * 3, "costs $5 or $10", "x" * 60)


def explanation(texts: tuple[str, ...] = NAMES, pixels: np.ndarray | None = None) -> Explanation:
    found = explained(picture(40, 60) if pixels is None else pixels, texts=len(texts))
    return replace(found, texts=texts, presence=torch.linspace(1, 0, len(texts))[None])


def test_every_label_has_its_bar_name_and_presence() -> None:
    found, labels = explanation(), [Label(NAMES[1], 0.5), Label(NAMES[0], -0.25), Label(NAMES[2], 0.0)]
    shown, bars = plot_labels(found, labels).axes
    assert np.array_equal(shown.images[0].get_array(), found.pictures[0])
    assert shown.get_title() == "3 labels"
    assert [bar.get_width() for bar in bars.patches] == [0.5, -0.25, 0.0]
    tops = [bar.get_window_extent().y1 for bar in bars.patches]
    assert tops == sorted(tops, reverse=True)
    assert [name.get_text().split("\n")[0][:5] for name in bars.get_yticklabels()] == [
        "costs",
        "a ver",
        "xxxxx",
    ]
    presence = dict(zip(found.texts, found.presence[0].tolist(), strict=True))
    assert [note.get_text() for note in bars.texts] == [
        f"presence {presence[label.text]:.2f}" for label in labels
    ]
    expected = [THERE if presence[label.text] >= PRESENT else ABSENT for label in labels]
    assert [colors.to_hex(bar.get_facecolor()) for bar in bars.patches] == [
        colors.to_hex(colour) for colour in expected
    ]
    assert len(set(expected)) == 2


@pytest.mark.parametrize("shape", [(40, 60), (300, 20), (20, 300)])
def test_names_pictures_and_notes_keep_apart(shape: tuple[int, int]) -> None:
    found = explanation(pixels=picture(*shape))
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


def test_more_labels_than_can_be_read_are_counted() -> None:
    words = tuple(f"word {number}" for number in range(MOST + 3))
    shown, bars = plot_labels(explanation(words), [Label(word, 1.0) for word in words]).axes
    assert shown.get_title().replace("\n", " ") == f"the first {MOST} of {MOST + 3} labels"
    assert len(bars.patches) == MOST


def test_several_pictures_are_refused() -> None:
    two = explained(picture(40, 60), picture(60, 40))
    with pytest.raises(ValueError, match=r"draws one picture, got 2; give explanation\[0\]"):
        plot_labels(two, [])
