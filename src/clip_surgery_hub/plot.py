"""Pictures of an explanation: the heat over the grey picture, one overlay per text, nothing shown by itself.

The figure is built without pyplot, so it belongs to nobody's window or notebook state. Every cell is given
the room that its picture and its label need, in inches, so that no label can run into another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.labels import LABEL_POINTS, broken, drawable, installed_fonts, ruler

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clip_surgery_hub.explanation import Explanation

COLOURS = "inferno"  # perceptually uniform: equal steps of heat look like equal steps, also in grey
PAGE = 14.0  # inches, as are all lengths below: the widest row of cells
LEAST_SIDE, MOST_SIDE = 1.8, 3.6  # of a square picture; others have about its area
TALLEST, NARROWEST_CELL = 4.5, 1.5
GAP, MARGIN, BAR_ROOM = 0.2, 0.15, 0.3
LABEL_LINE, NOTE_LINE = 0.19, 0.22
NOTE_POINTS, NOTE_COLOUR = 8.5, "0.45"
DOTS_PER_INCH = 150
LONGEST_FIGURE = 2**16 / DOTS_PER_INCH - 1  # matplotlib draws at most 2^16 dots


def overlay(picture: np.ndarray, heatmap: Tensor | np.ndarray, *, opacity: float = 0.8) -> np.ndarray:
    """Lay the colours of a heatmap over the grey picture, so that every colour seen is heat.

    The colours cover the picture by ``opacity`` where the heat is 1 and by half as much where it is 0, so
    that the picture stays readable where nothing was found.

    Args:
        picture: uint8 ``[H, W, 3]``.
        heatmap: ``[H, W]`` in [0, 1]; dark is 0, bright yellow is 1.
        opacity: the most that the colours cover, in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: if the sizes differ, or for an opacity outside [0, 1].
    """
    from matplotlib import colormaps

    heat = np.asarray(heatmap, dtype=np.float32)
    if heat.shape != picture.shape[:2]:
        raise ValueError(
            f"The heatmap must be as large as the picture, {list(picture.shape[:2])}, got {list(heat.shape)}."
        )
    _check_opacity(opacity)
    steps = np.arange(256, dtype=np.float32)
    cover = opacity * (1 + steps / 255) / 2  # [256]
    colours = cover[:, None] * colormaps[COLOURS](np.arange(256))[:, :3].astype(np.float32) * 255  # [256, 3]
    levels = np.rint(heat.clip(0, 1) * 255).astype(np.uint8)
    luminance = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # [H, W]
    mixed = ((1 - cover)[levels] * luminance)[..., None] + colours[levels]
    covered: np.ndarray = np.rint(mixed).astype(np.uint8)
    return covered


def plot_explanation(explanation: Explanation, *, opacity: float = 0.8) -> np.ndarray:
    """Draw every picture with its overlays side by side, the text and its score over each.

    Args:
        explanation: B pictures and T texts.
        opacity: the most that the heat covers of the picture, in [0, 1].

    Returns:
        Matplotlib axes ``[B, 1+T]``: the picture, then one overlay per text, in pixels of the picture, so
        that its points and boxes can be drawn on them. Their figure is ``axes[0, 0].figure``.

    Raises:
        ValueError: for no pictures, more than one figure can hold, or an opacity outside [0, 1].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check_opacity(opacity)
    if len(explanation) == 0:
        raise ValueError("There is nothing to plot: the explanation holds no picture.")
    fonts = installed_fonts()
    labels, measure = drawable(explanation.texts, fonts), ruler(fonts, DOTS_PER_INCH)
    blocks = [_layout(explanation, number, labels, measure) for number in range(len(explanation))]
    width = 2 * MARGIN + max(block.width for block in blocks)
    height = 2 * MARGIN + BAR_ROOM + sum(block.height + GAP for block in blocks)
    if height > LONGEST_FIGURE:
        raise ValueError(
            f"{len(blocks)} pictures with {len(labels)} texts need a figure {height:.0f} inches high; "
            f"{LONGEST_FIGURE:.0f} is the most. Plot fewer pictures at once, as in explanation[:5].plot()."
        )
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes: np.ndarray = np.empty((len(blocks), 1 + len(labels)), dtype=object)
    top = height - MARGIN
    for number, block in enumerate(blocks):
        rows, columns = explanation.pictures[number].shape[:2]
        for index, image in enumerate(_images(explanation, number, block, opacity)):
            left, below = block.corner(index)
            cell = _new_axes(figure, MARGIN + left, top - below, block.picture_width, block.picture_height)
            cell.imshow(image, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
            _write_label(cell, block.labels[index], block.notes[index], fonts)
            axes[number, index] = cell
        top -= block.height + GAP
    _draw_bar(figure, opacity, fonts)
    return axes


@dataclass(frozen=True)
class _Block:
    """The cells of one picture: how large they are, what is written over them, how they stand in rows."""

    picture_width: float
    picture_height: float
    columns: int
    labels: tuple[tuple[str, ...], ...]  # lines of each cell
    notes: tuple[str, ...]

    @property
    def cell_width(self) -> float:
        return max(self.picture_width, NARROWEST_CELL)

    @property
    def width(self) -> float:
        return self.columns * (self.cell_width + GAP) - GAP

    @property
    def row_heights(self) -> list[float]:
        rows = [
            self.labels[start : start + self.columns] for start in range(0, len(self.labels), self.columns)
        ]
        return [max(map(len, row)) * LABEL_LINE + NOTE_LINE + self.picture_height for row in rows]

    @property
    def height(self) -> float:
        return sum(self.row_heights) + GAP * (len(self.row_heights) - 1)

    def corner(self, index: int) -> tuple[float, float]:
        """Where the picture of a cell starts: from the block's left, and its foot from the block's top."""
        row, column = divmod(index, self.columns)
        centred = (self.cell_width - self.picture_width) / 2
        return column * (self.cell_width + GAP) + centred, sum(self.row_heights[: row + 1]) + GAP * row


def _layout(
    explanation: Explanation, number: int, labels: list[str], measure: Callable[[str], float]
) -> _Block:
    rows, columns = explanation.pictures[number].shape[:2]
    tallness, cells = rows / columns, 1 + len(labels)
    least_width = max(_drawn_size(tallness, LEAST_SIDE)[0], NARROWEST_CELL)
    in_rows = -(-cells // max(1, int((PAGE + GAP) / (least_width + GAP))))
    in_columns = -(-cells // in_rows)  # as few as that many rows need, for rows of about the same length
    side = ((PAGE + GAP) / in_columns - GAP) * tallness**0.5  # with which they fill the page
    width, height = _drawn_size(tallness, min(MOST_SIDE, max(LEAST_SIDE, side)))
    cell_width = max(width, NARROWEST_CELL)
    name = "picture" if len(explanation) == 1 else f"picture {number + 1}"
    return _Block(
        picture_width=width,
        picture_height=height,
        columns=in_columns,
        labels=((name,), *(broken(label, cell_width, measure) for label in labels)),
        notes=(
            f"{columns} x {rows} px",
            *(f"score {score:.3f}" for score in explanation.scores[number].tolist()),
        ),
    )


def _drawn_size(tallness: float, side: float) -> tuple[float, float]:
    """Width and height of a picture: about the area of a square of that side, no larger than the page."""
    height = min(side * tallness**0.5, TALLEST, PAGE * tallness)
    return height / tallness, height


def _images(explanation: Explanation, number: int, block: _Block, opacity: float) -> Iterator[np.ndarray]:
    """The picture and its overlays, with no more dots than a print at twice the resolution can show."""
    from PIL import Image

    picture = explanation.pictures[number]
    rows = max(1, min(picture.shape[0], round(2 * block.picture_height * DOTS_PER_INCH)))
    columns = max(1, min(picture.shape[1], round(2 * block.picture_width * DOTS_PER_INCH)))
    reduced = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX))
    yield reduced
    for similarity in explanation.similarity[number]:
        grid = (similarity.shape[0], similarity.shape[1])
        heatmap = similarity_map(similarity.reshape(1, -1, 1), grid, (rows, columns))[0, 0]
        yield overlay(reduced, heatmap, opacity=opacity)


def _new_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    page_width, page_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    axes.set_axis_off()
    return axes


def _write_label(axes: Axes, lines: tuple[str, ...], note: str, fonts: list[str]) -> None:
    # Labels are the user's words: a dollar sign in them starts no formula.
    axes.set_title(
        "\n".join(lines), fontsize=LABEL_POINTS, fontfamily=fonts, pad=72 * NOTE_LINE, parse_math=False
    )
    _annotate(axes, note, fonts, at=(0.5, 1.0), shift=(0, 3), ha="center", va="bottom")


def _draw_bar(figure: Figure, opacity: float, fonts: list[str]) -> None:
    """What the colours mean, as they look over a middle grey."""
    width, height, middle = 1.4, 0.12, figure.get_size_inches()[0] / 2
    bar = _new_axes(figure, middle - width / 2, MARGIN, width, height)
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    bar.imshow(overlay(np.full((1, 256, 3), 128, dtype=np.uint8), ramp, opacity=opacity), aspect="auto")
    _annotate(bar, "lowest patch", fonts, at=(0.0, 0.5), shift=(-6, 0), ha="right", va="center")
    _annotate(bar, "highest patch", fonts, at=(1.0, 0.5), shift=(6, 0), ha="left", va="center")


def _annotate(
    axes: Axes,
    note: str,
    fonts: list[str],
    *,
    at: tuple[float, float],
    shift: tuple[int, int],
    ha: str,
    va: str,
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
        color=NOTE_COLOUR,
    )


def _check_opacity(opacity: float) -> None:
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}.")
