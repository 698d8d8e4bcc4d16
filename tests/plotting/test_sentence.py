"""Images of sentences: the right shades, marks and heatmaps, and nothing that runs into anything else."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from clip_surgery_hub.plotting.heatmaps import overlay
from clip_surgery_hub.results.explanation import Settings
from clip_surgery_hub.results.sentence import SentenceExplanation
from clip_surgery_hub.text.words import Token, words_of

SHORT = "a dog and a ball"
LONG = (
    "a photograph of an officer in a dark uniform with medals, standing in front of the flag of some country"
)
WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"


def explanation_of(caption: str, size: tuple[int, int] = (40, 60)) -> SentenceExplanation:
    """Of random maps, with a token per letter."""
    places = [place for place, sign in enumerate(caption) if not sign.isspace()]
    spans = [(0, 0), *((place, place + 1) for place in places), (len(caption), len(caption))]
    tokens = tuple(Token(caption[slice(*span)], 7, span) for span in spans)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(len(tokens), 3, 4, generator=generator)
    return SentenceExplanation(
        image=np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8),
        size=size,
        caption=caption,
        tokens=tokens,
        words=words_of(caption, tokens),
        pooled=len(tokens) - 1,
        plain_similarity=maps,
        plain_scores=maps[:, 0, 0],
        surgery_similarity=maps,
        sentence=maps[0],
        sentence_score=0.25,
        settings=Settings(model="m", method="none"),
    )


def test_the_image_the_sentence_and_every_word_are_shown() -> None:
    result = explanation_of(SHORT)
    axes = result.plot(opacity=0.5)
    assert axes.shape == (3 + 6,)
    assert np.array_equal(axes[1].images[0].get_array(), result.image)
    for cell, heatmap in zip(axes[2:], [result.heatmap(), *result.word_heatmaps()], strict=True):
        assert np.array_equal(cell.images[0].get_array(), overlay(result.image, heatmap, opacity=0.5))
        assert cell.get_xlim() == (-0.5, 59.5) and cell.get_ylim() == (39.5, -0.5)
    titles = [cell.get_title() for cell in axes[1:]]
    assert titles == ["image", "sentence", "a", "dog", "and", "a", "ball", "[end]"]
    assert axes[2].texts[0].get_text() == "score 0.250"


def test_words_are_shaded_by_their_scores_and_the_strongest_are_marked() -> None:
    result = explanation_of(SHORT)
    axes = result.plot(k=2)
    scores, ranks = result.scores.tolist(), {number: rank for rank, number in enumerate(result.top(2), 1)}
    boxes = [patch for patch in axes[0].patches if isinstance(patch, Rectangle)]
    assert len(boxes) == 6
    for number, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        shade = colormaps["Oranges"](0.7 * max(score, 0) / max(scores))
        np.testing.assert_allclose(box.get_facecolor(), shade, atol=1e-6)
        assert (box.get_linewidth() > 0) == (number in ranks)
        note = axes[3 + number].texts[0].get_text()
        own = f"score {score:.3f}"
        assert note == (f"{ranks[number]} · {own}" if number in ranks else own)
        assert len(axes[3 + number].patches) == (number in ranks)
    drawn = [text.get_text() for text in axes[0].texts]
    assert sorted(drawn) == sorted(["a", "dog", "and", "a", "ball", "[end]", "1", "2", note_of(drawn)])
    assert note_of(drawn).endswith("frames: the 2 strongest")


def note_of(texts: list[str]) -> str:
    (note,) = [text for text in texts if text.startswith("shade:")]
    return note


def test_a_sentence_without_answer_is_white() -> None:
    result = explanation_of(SHORT)
    fields = {name: getattr(result, name) for name in SentenceExplanation.__dataclass_fields__}
    silent = SentenceExplanation(
        **fields | {"surgery_similarity": -torch.ones_like(result.surgery_similarity)}
    )
    for box in silent.plot()[0].patches:
        np.testing.assert_allclose(box.get_facecolor(), colormaps["Oranges"](0.0))


def texts_and_images(axes: np.ndarray) -> list[Bbox]:
    """The boxes of all words, ranks, labels and notes, and of all images, in dots."""
    renderer = axes[0].figure.canvas.get_renderer()
    found = [text.get_window_extent(renderer) for text in axes[0].texts]
    for cell in axes[1:]:
        found.append(cell.get_window_extent(renderer))
        found += [text.get_window_extent(renderer) for text in (cell.title, *cell.texts) if text.get_text()]
    return found


@pytest.mark.parametrize(
    ("caption", "size"),
    [
        ("dog", (480, 640)),
        (LONG, (480, 640)),
        (f"{LONG}, {LONG}, {LONG}", (640, 480)),
        (SHORT, (100, 1500)),
        (SHORT, (1500, 100)),
        (f"{WORD} {WORD * 4} a", (64, 64)),
        ("costs $5 or $10, (a_b), Bänke: пёс", (64, 64)),
        (SHORT, (1, 1)),
    ],
    ids=["a word", "long", "longest", "wide", "tall", "long words", "signs", "tiny"],
)
def test_nothing_overlaps_and_nothing_is_cut_off(caption: str, size: tuple[int, int]) -> None:
    result = explanation_of(caption, size)
    axes = result.plot()
    boxes, page = texts_and_images(axes), axes[0].figure.bbox
    words = len(result.words)
    assert len(boxes) == (words + min(3, words) + 1) + 2 + (3 * (words + 1))
    for number, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.y0 >= page.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        for other in boxes[:number]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert width <= 1 or height <= 1, (box, other)


def test_every_word_stands_inside_its_shade() -> None:
    axes = explanation_of(f"{LONG} {WORD * 4}").plot()
    renderer = axes[0].figure.canvas.get_renderer()
    words = [text for text in axes[0].texts if not text.get_text()[:1].isdigit()][:-1]
    shades = axes[0].patches
    assert len(words) == len(shades)
    for word, shade in zip(words, shades, strict=True):
        inner, outer = word.get_window_extent(renderer), shade.get_window_extent(renderer)
        assert outer.x0 - 1 <= inner.x0 and inner.x1 <= outer.x1 + 1
        assert outer.y0 - 1 <= inner.y0 and inner.y1 <= outer.y1 + 1


def test_images_keep_their_shape_and_pyplot_its_own() -> None:
    import matplotlib.pyplot as plt

    for size in ((480, 640), (100, 1500), (1500, 100)):
        axes = explanation_of(SHORT, size).plot()
        width, height = axes[0].figure.get_size_inches()
        assert width <= 14.4
        for cell in axes[1:]:
            box = cell.get_position()
            assert box.height * height / (box.width * width) == pytest.approx(size[0] / size[1], rel=1e-6)
    assert plt.get_fignums() == []


def test_signs_that_no_font_has_are_boxes_and_one_warning() -> None:
    with pytest.warns(UserWarning, match="No font here has \U00013000, drawn as empty boxes") as caught:
        axes = explanation_of("dog \U00013000").plot()
        axes[0].figure.canvas.draw()
    assert len(caught) == 1 and axes[4].get_title() == "□"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        explanation_of(SHORT).plot(k=0)
    with pytest.raises(ValueError, match="opacity must lie in"):
        explanation_of(SHORT).plot(opacity=1.5)
