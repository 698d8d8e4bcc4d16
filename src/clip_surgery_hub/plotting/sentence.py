"""The image of a sentence: its words shaded by how strongly the image answers, the heatmaps under it.

Built like the panels of `plotting.heatmaps`: every word and every cell is given the room that it needs,
in inches, so that nothing can run into anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_surgery_hub.plotting.heatmaps import heat_images, overlay
from clip_surgery_hub.plotting.layout import (
    DOTS_PER_INCH,
    LABEL_POINTS,
    MARGIN,
    NOTE_LINE,
    NOTE_POINTS,
    annotate,
    draw_cells,
    drawable,
    empty_figure,
    installed_fonts,
    lay_out,
    new_axes,
    ruler,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from clip_surgery_hub.results.sentence import SentenceExplanation

NARROWEST = 7.0  # inches, as are all lengths below: so that the sentence has some room above few cells
WORD_POINTS = 13.0
WORD_HEIGHT, WORD_LINE, WORD_PAD, SPACE = 0.3, 0.5, 0.05, 0.07  # a line has room for the ranks over it
SHADES, DARKEST = "Oranges", 0.7  # black text is readable on all of them up to there
MARK = "#1f4e9c"  # the blue of frames and ranks, far from all shades and from the heat


def plot_sentence(explanation: SentenceExplanation, *, k: int = 3, opacity: float = 0.8) -> np.ndarray:
    """Draw a sentence with its words shaded by their scores, the k strongest marked, its heatmaps under it.

    A word is the darker the higher its score, from white at zero and below to the darkest of the sentence.
    Frames and ranks mark the k strongest, in the sentence and at their heatmaps.

    Args:
        explanation: of an image and a caption of W words, the end token included.
        k: how many words are marked.
        opacity: the most that the heat covers of the image, in [0, 1].

    Returns:
        Matplotlib axes ``[3+W]``: the sentence (in inches), then, in pixels of the image, the image, the
        heatmap of the sentence and that of each word. Their figure is ``axes[0].figure``.

    Raises:
        ValueError: for k below 1, or an opacity outside [0, 1].
    """
    from matplotlib.patches import Rectangle

    ranks = {number: rank for rank, number in enumerate(explanation.top(k), start=1)}
    overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)), opacity=opacity)  # refuses what is out of range
    fonts = installed_fonts()
    texts = drawable([word.text for word in explanation.words], fonts)
    measure = ruler(fonts, DOTS_PER_INCH)
    if explanation.image is None:
        raise ValueError("The explanation keeps only the size of its image: explain the image itself.")
    rows, columns = explanation.size
    notes = ["", f"score {explanation.sentence_score:.3f}"]
    for number, score in enumerate(explanation.scores.tolist()):
        notes.append((f"{ranks[number]} · " if number in ranks else "") + f"score {score:.3f}")
    cells = lay_out((rows, columns), ("image", "sentence", *texts), notes, measure)
    width = max(cells.width, NARROWEST)
    boxes = _word_boxes(explanation, texts, measure, width)
    sentence_height = max(box.line for box in boxes) * WORD_LINE + WORD_LINE
    height = 3 * MARGIN + sentence_height + NOTE_LINE + cells.height
    figure = empty_figure(width + 2 * MARGIN, height)
    axes: np.ndarray = np.empty(3 + len(texts), dtype=object)
    top = height - MARGIN - sentence_height
    axes[0] = new_axes(figure, MARGIN, top, width, sentence_height)
    axes[0].set(xlim=(0, width), ylim=(sentence_height, 0))
    _draw_words(axes[0], boxes, explanation.scores.clamp(min=0).tolist(), ranks, fonts)
    meaning = f"shade: how strongly the image responds to a word; frames: the {len(ranks)} strongest"
    annotate(axes[0], meaning, fonts, at=(0.0, 0.0), shift=(0, -3), ha="left", va="top")
    maps = (explanation.sentence, *explanation.word_similarity)
    axes[1:] = draw_cells(
        figure,
        cells,
        heat_images(cells, explanation.image, maps, opacity=opacity),
        top=top - NOTE_LINE - MARGIN,
        left=(width - cells.width) / 2,
        fonts=fonts,
    )
    for number in ranks:
        cell = axes[3 + number]
        cell.texts[0].set_color(MARK)
        whole = {"transform": cell.transAxes, "fill": False, "clip_on": False}
        cell.add_patch(Rectangle((0, 0), 1, 1, edgecolor=MARK, linewidth=2.5, **whole))
    return axes


@dataclass(frozen=True)
class _WordBox:
    """Where a word of the sentence stands: inches from the left, its line from the top."""

    text: str
    left: float
    width: float
    line: int


def _word_boxes(
    explanation: SentenceExplanation, texts: Sequence[str], measure: Callable[[str], float], width: float
) -> list[_WordBox]:
    """The words set in lines of a width, with spaces where the caption has them."""
    boxes: list[_WordBox] = []
    left, line, behind = 0.0, 0, 0  # where the next word may begin; the caption's place behind the last one
    for word, text in zip(explanation.words, texts, strict=True):
        text = _shortened(text, width - 2 * WORD_PAD, measure)
        wide = _wide(text, measure) + 2 * WORD_PAD
        if word.is_end or word.span[0] > behind:
            left += SPACE
        if boxes and left + wide > width:
            left, line = 0.0, line + 1
        boxes.append(_WordBox(text, 0.0 if left == SPACE else left, wide, line))
        left, behind = boxes[-1].left + wide, word.span[1]
    return boxes


def _wide(text: str, measure: Callable[[str], float]) -> float:
    return measure(text) * WORD_POINTS / LABEL_POINTS


def _shortened(text: str, width: float, measure: Callable[[str], float]) -> str:
    if _wide(text, measure) <= width:
        return text
    while _wide(f"{text}…", measure) > width:
        text = text[:-1]
    return f"{text}…"


def _draw_words(
    axes: Axes, boxes: Sequence[_WordBox], scores: Sequence[float], ranks: dict[int, int], fonts: list[str]
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    highest = max(scores) or 1.0
    for number, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        foot = (box.line + 1) * WORD_LINE
        marked = number in ranks
        rectangle = Rectangle(
            (box.left, foot - WORD_HEIGHT),
            box.width,
            WORD_HEIGHT,
            facecolor=colormaps[SHADES](DARKEST * score / highest),
            edgecolor=MARK if marked else "none",
            linewidth=1.8 if marked else 0.0,
            zorder=2 if marked else 1,  # the frame lies over the shade of a word right beside it
        )
        axes.add_patch(rectangle)
        is_end = number == len(boxes) - 1
        axes.text(
            box.left + box.width / 2,
            foot - 0.3 * WORD_HEIGHT,
            box.text,
            ha="center",
            va="baseline",
            fontsize=WORD_POINTS,
            fontfamily=fonts,
            color="0.35" if is_end else "black",
            parse_math=False,
            zorder=3,
        )
        if marked:
            axes.text(
                box.left + box.width / 2,
                foot - WORD_HEIGHT - 0.03,
                str(ranks[number]),
                ha="center",
                va="bottom",
                fontsize=NOTE_POINTS,
                fontfamily=fonts,
                color=MARK,
                weight="bold",
            )
