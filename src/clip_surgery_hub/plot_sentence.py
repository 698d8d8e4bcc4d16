"""The picture of a sentence: its words shaded by how strongly the picture answers, the heatmaps under it.

Built like the panels of `clip_surgery_hub.plot`: without pyplot, every word and every cell given the room
that it needs, in inches, so that nothing can run into anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.labels import LABEL_POINTS, broken, drawable, installed_fonts, ruler
from clip_surgery_hub.plot import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clip_surgery_hub.sentence import SentenceExplanation

PAGE = 14.0  # inches, as are all lengths below: the widest row
NARROWEST = 7.0  # so that the sentence has some room above few or narrow cells
LEAST_SIDE, MOST_SIDE = 1.6, 3.0  # of a square picture; others have about its area
TALLEST, NARROWEST_CELL = 4.0, 1.3
GAP, MARGIN = 0.2, 0.15
LABEL_LINE, NOTE_LINE = 0.19, 0.22
WORD_POINTS = 13.0
WORD_HEIGHT, WORD_LINE, WORD_PAD, SPACE = 0.3, 0.5, 0.05, 0.07  # a line has room for the ranks over it
NOTE_POINTS, NOTE_COLOUR = 8.5, "0.45"
SHADES, DARKEST = "Oranges", 0.7  # black text is readable on all of them up to there
MARK = "#1f4e9c"  # the blue of frames and ranks, far from all shades and from the heat
DOTS_PER_INCH = 150


def plot_sentence(explanation: SentenceExplanation, *, k: int = 3, opacity: float = 0.8) -> np.ndarray:
    """Draw a sentence with its words shaded by their scores, the k strongest marked, its heatmaps under it.

    A word is the darker the higher its score, from white at zero and below to the darkest of the sentence.
    Frames and ranks mark the k strongest, in the sentence and at their heatmaps.

    Args:
        explanation: of a picture and a caption of W words, the end token included.
        k: how many words are marked.
        opacity: the most that the heat covers of the picture, in [0, 1].

    Returns:
        Matplotlib axes ``[3+W]``: the sentence (in inches), then, in pixels of the picture, the picture, the
        heatmap of the sentence and that of each word. Their figure is ``axes[0].figure``.

    Raises:
        ValueError: for k below 1, or an opacity outside [0, 1].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranks = {number: rank for rank, number in enumerate(explanation.top(k), start=1)}
    overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)), opacity=opacity)  # refuses what is out of range
    fonts = installed_fonts()
    texts = drawable([word.text for word in explanation.words], fonts)
    measure = ruler(fonts, DOTS_PER_INCH)
    rows, columns = explanation.picture.shape[:2]
    cells = _cells(rows / columns, texts, measure)
    width = max(cells.width, NARROWEST)
    boxes = _word_boxes(explanation, texts, measure, width)
    sentence_height = max(box.line for box in boxes) * WORD_LINE + WORD_LINE
    height = 3 * MARGIN + sentence_height + NOTE_LINE + cells.height
    figure = Figure(figsize=(width + 2 * MARGIN, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes: np.ndarray = np.empty(3 + len(texts), dtype=object)
    top = height - MARGIN - sentence_height
    axes[0] = _new_axes(figure, MARGIN, top, width, sentence_height)
    axes[0].set(xlim=(0, width), ylim=(sentence_height, 0))
    _draw_words(axes[0], boxes, explanation.scores.clamp(min=0).tolist(), ranks, fonts)
    _annotate(
        axes[0],
        f"shade: how strongly the picture answers to a word; frames: the {len(ranks)} strongest",
        (0.0, 0.0),
        (0, -3),
        fonts,
        va="top",
        ha="left",
    )
    top -= NOTE_LINE + MARGIN
    left = MARGIN + (width - cells.width) / 2
    notes = ["", f"score {explanation.sentence_score:.3f}"]
    notes += [f"score {score:.3f}" for score in explanation.scores.tolist()]
    for index, image in enumerate(_images(explanation, cells, opacity)):
        column, below = cells.corner(index)
        cell = _new_axes(figure, left + column, top - below, cells.picture_width, cells.picture_height)
        cell.imshow(image, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        rank = ranks.get(index - 2)
        _write_label(cell, cells.labels[index], notes[index], rank, fonts)
        axes[1 + index] = cell
    return axes


@dataclass(frozen=True)
class _Cells:
    """The pictures under the sentence: how large they are, what is written over them, how they stand."""

    picture_width: float
    picture_height: float
    columns: int
    labels: tuple[tuple[str, ...], ...]  # lines of each cell

    @property
    def cell_width(self) -> float:
        return max(self.picture_width, NARROWEST_CELL)

    @property
    def width(self) -> float:
        return self.columns * (self.cell_width + GAP) - GAP

    @property
    def row_heights(self) -> list[float]:
        starts = range(0, len(self.labels), self.columns)
        lines = [max(map(len, self.labels[start : start + self.columns])) for start in starts]
        return [count * LABEL_LINE + NOTE_LINE + self.picture_height for count in lines]

    @property
    def height(self) -> float:
        return sum(self.row_heights) + GAP * (len(self.row_heights) - 1)

    def corner(self, index: int) -> tuple[float, float]:
        """Left and foot of a picture, counted from the left and the top of all."""
        row, column = divmod(index, self.columns)
        centred = (self.cell_width - self.picture_width) / 2
        return column * (self.cell_width + GAP) + centred, sum(self.row_heights[: row + 1]) + GAP * row


def _cells(tallness: float, texts: Sequence[str], measure: Callable[[str], float]) -> _Cells:
    count = 2 + len(texts)
    least = max(_drawn_size(tallness, LEAST_SIDE)[0], NARROWEST_CELL)
    in_rows = -(-count // max(1, int((PAGE + GAP) / (least + GAP))))
    in_columns = -(-count // in_rows)  # as few as that many rows need, for rows of about the same length
    side = ((PAGE + GAP) / in_columns - GAP) * tallness**0.5  # with which they fill the page
    width, height = _drawn_size(tallness, min(MOST_SIDE, max(LEAST_SIDE, side)))
    room = max(width, NARROWEST_CELL)
    labels = (("picture",), ("sentence",), *(broken(text, room, measure) for text in texts))
    return _Cells(width, height, in_columns, labels)


def _drawn_size(tallness: float, side: float) -> tuple[float, float]:
    """Width and height of a picture: about the area of a square of that side, no larger than the page."""
    height = min(side * tallness**0.5, TALLEST, PAGE * tallness)
    return height / tallness, height


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


def _images(explanation: SentenceExplanation, cells: _Cells, opacity: float) -> Iterator[np.ndarray]:
    """The picture and its overlays, with no more dots than a print at twice the resolution can show."""
    from PIL import Image

    picture = explanation.picture
    rows = max(1, min(picture.shape[0], round(2 * cells.picture_height * DOTS_PER_INCH)))
    columns = max(1, min(picture.shape[1], round(2 * cells.picture_width * DOTS_PER_INCH)))
    reduced = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX))
    yield reduced
    for similarity in (explanation.sentence, *explanation.word_similarity):
        yield overlay(reduced, _heatmap(similarity, rows, columns), opacity=opacity)


def _heatmap(similarity: Tensor, rows: int, columns: int) -> Tensor:
    grid = (similarity.shape[0], similarity.shape[1])
    return similarity_map(similarity.reshape(1, -1, 1), grid, (rows, columns))[0, 0]


def _new_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    page_width, page_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    axes.set_axis_off()
    return axes


def _write_label(axes: Axes, lines: tuple[str, ...], note: str, rank: int | None, fonts: list[str]) -> None:
    from matplotlib.patches import Rectangle

    # Labels are the user's words: a dollar sign in them starts no formula.
    axes.set_title(
        "\n".join(lines), fontsize=LABEL_POINTS, fontfamily=fonts, pad=72 * NOTE_LINE, parse_math=False
    )
    marked = rank is not None
    _annotate(
        axes,
        f"{rank} · {note}" if marked else note,
        (0.5, 1.0),
        (0, 3),
        fonts,
        va="bottom",
        ha="center",
        colour=MARK if marked else NOTE_COLOUR,
    )
    if marked:
        frame = Rectangle(
            (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=MARK, linewidth=2.5, clip_on=False
        )
        axes.add_patch(frame)


def _annotate(
    axes: Axes,
    note: str,
    at: tuple[float, float],
    shift: tuple[int, int],
    fonts: list[str],
    *,
    va: str,
    ha: str,
    colour: str = NOTE_COLOUR,
) -> None:
    axes.annotate(
        note,
        xy=at,
        xycoords="axes fraction",
        xytext=shift,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=NOTE_POINTS,
        fontfamily=fonts,
        color=colour,
    )
