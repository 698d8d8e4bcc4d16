"""Images in rows, each with a label of one or more lines and a note over it, in the space that they need.

Figures are built without pyplot, so they belong to nobody's window or notebook state. Every cell is given the
room that its image and its label need, in inches, so that no label can run into another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_POINTS = 10.0
LABEL_LINES = 3
# Signs that the first font does not have are taken from the others, where they are installed.
FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
)
PAGE = 14.0  # inches, as are all lengths below: the widest row of cells
LEAST_SIDE, MOST_SIDE = 1.8, 3.6  # of a square image; others have about its area
TALLEST, NARROWEST_CELL = 4.5, 1.5
GAP, MARGIN = 0.2, 0.15
LABEL_LINE, NOTE_LINE = 0.19, 0.22
NOTE_POINTS, NOTE_COLOR = 8.5, "0.45"
DOTS_PER_INCH = 150
LONGEST_FIGURE = 2**16 / DOTS_PER_INCH - 1  # matplotlib draws at most 2^16 dots


def installed_fonts() -> list[str]:
    """Those of FONTS that matplotlib finds on this machine; it brings the first of them itself."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def drawable(texts: Sequence[str], fonts: Sequence[str]) -> list[str]:
    """The texts with an empty box for every sign that no font has, and one warning that names those."""
    from matplotlib.font_manager import findfont, get_font

    known = {sign for name in fonts for sign in get_font(findfont(name)).get_charmap()}
    missing = sorted(
        {sign for text in texts for sign in text if ord(sign) not in known and not sign.isspace()}
    )
    if missing:
        shown = "".join(missing[:10]) + ("…" if len(missing) > 10 else "")
        warnings.warn(
            f"No font here has {shown}, drawn as empty boxes. Install one of: {', '.join(FONTS[1:])}.",
            stacklevel=4,
        )
    return [text.translate({ord(sign): "\N{WHITE SQUARE}" for sign in missing}) for text in texts]


def ruler(fonts: Sequence[str], dots_per_inch: float) -> Callable[[str], float]:
    """A function that tells how many inches wide a line of a label is."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer = RendererAgg(1, 1, dots_per_inch)
    font = FontProperties(family=list(fonts), size=LABEL_POINTS)
    return lambda text: renderer.get_text_width_height_descent(text, font, False)[0] / dots_per_inch


def broken(text: str, width: float, measure: Callable[[str], float]) -> tuple[str, ...]:
    """Break a label into at most LABEL_LINES lines, within a word only where it is longer than a line.

    Args:
        text: the label; any white space separates words.
        width: of a line, in inches.
        measure: what :func:`ruler` returned.

    Returns:
        The lines; the last ends in an ellipsis if there was more.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for sign in word:
            if lines[-1] and measure(lines[-1] + sign) > width:
                lines.append("")
            lines[-1] += sign
    if len(lines) > LABEL_LINES:
        last = lines[LABEL_LINES - 1]
        while last and measure(f"{last}…") > width:
            last = last[:-1]
        lines[LABEL_LINES - 1 :] = [f"{last.rstrip()}…"]
    return tuple(lines)


@dataclass(frozen=True)
class Layout:
    """How large the cells of one image are, what is written over them, and how they stand in rows.

    Attributes:
        shape: rows and columns of the image's pixels.
        image_width: of the image in each cell, in inches.
        image_height: of the image in each cell, in inches.
        columns: how many cells a row has at most.
        labels: the lines of each cell's label.
        notes: a few small words under each label.
    """

    shape: tuple[int, int]
    image_width: float
    image_height: float
    columns: int
    labels: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    @property
    def cell_width(self) -> float:
        """Of a cell, which may be wider than its image."""
        return max(self.image_width, NARROWEST_CELL)

    @property
    def width(self) -> float:
        """Of all cells."""
        return self.columns * (self.cell_width + GAP) - GAP

    @property
    def row_heights(self) -> list[float]:
        """Of each row with its labels."""
        rows = [
            self.labels[start : start + self.columns] for start in range(0, len(self.labels), self.columns)
        ]
        return [max(map(len, row)) * LABEL_LINE + NOTE_LINE + self.image_height for row in rows]

    @property
    def height(self) -> float:
        """Of all cells."""
        return sum(self.row_heights) + GAP * (len(self.row_heights) - 1)

    def corner(self, index: int) -> tuple[float, float]:
        """Where the image of a cell starts: from the left of all, and its foot from the top of all."""
        row, column = divmod(index, self.columns)
        centered = (self.cell_width - self.image_width) / 2
        return column * (self.cell_width + GAP) + centered, sum(self.row_heights[: row + 1]) + GAP * row

    def reduced(self, image: np.ndarray) -> np.ndarray:
        """An image with no more dots than a print of a cell at twice the resolution can show.

        Args:
            image: uint8 ``[H, W, 3]`` or ``[H, W]``.
        """
        from PIL import Image

        rows = max(1, min(image.shape[0], round(2 * self.image_height * DOTS_PER_INCH)))
        columns = max(1, min(image.shape[1], round(2 * self.image_width * DOTS_PER_INCH)))
        return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX))


def lay_out(
    shape: tuple[int, int],
    labels: Sequence[str],
    notes: Sequence[str],
    measure: Callable[[str], float],
) -> Layout:
    """Layout for so many versions of an image, as large as fit in as few rows as they need.

    Args:
        shape: rows and columns of the image's pixels.
        labels: one per cell, broken into lines where they are too long.
        notes: one per cell, few words: they are not broken.
        measure: what `labels.ruler` returned.
    """
    tallness = shape[0] / shape[1]
    least_width = max(_drawn_size(tallness, LEAST_SIDE)[0], NARROWEST_CELL)
    in_rows = -(-len(labels) // max(1, int((PAGE + GAP) / (least_width + GAP))))
    in_columns = -(-len(labels) // in_rows)  # as few as that many rows need, for rows of about equal length
    side = ((PAGE + GAP) / in_columns - GAP) * tallness**0.5  # with which they fill the page
    width, height = _drawn_size(tallness, min(MOST_SIDE, max(LEAST_SIDE, side)))
    cell_width = max(width, NARROWEST_CELL)
    lines = tuple(broken(label, cell_width, measure) for label in labels)
    return Layout(shape, width, height, in_columns, lines, tuple(notes))


def empty_figure(width: float, height: float) -> Figure:
    """A figure that nobody else can see, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def draw_cells(
    figure: Figure,
    cells: Layout,
    images: Iterable[np.ndarray],
    *,
    top: float,
    left: float = 0.0,
    fonts: list[str],
) -> list[Axes]:
    """Draw a version of the image into each cell.

    Args:
        figure: what is drawn on.
        cells: the places.
        images: uint8 ``[h, w, 3]``, one per cell, all of the whole image, of any resolution.
        top: where the cells begin, in inches from the foot of the figure.
        left: how far they are moved from the left margin, in inches.
        fonts: what `labels.installed_fonts` returned.

    Returns:
        The axes of each cell, in pixels of the image, so that points and boxes can be drawn on them.
    """
    (rows, columns), drawn = cells.shape, []
    for index, image in enumerate(images):
        column, below = cells.corner(index)
        place = (MARGIN + left + column, top - below)
        axes = new_axes(figure, *place, cells.image_width, cells.image_height)
        axes.imshow(image, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        # Labels are the user's words: a dollar sign in them starts no formula.
        axes.set_title(
            "\n".join(cells.labels[index]),
            fontsize=LABEL_POINTS,
            fontfamily=fonts,
            pad=72 * NOTE_LINE,
            parse_math=False,
        )
        annotate(axes, cells.notes[index], fonts, at=(0.5, 1.0), shift=(0, 3), ha="center", va="bottom")
        drawn.append(axes)
    return drawn


def new_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes for an image alone, at a place in inches from the lower left corner."""
    page_width, page_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    axes.set_axis_off()
    return axes


def annotate(
    axes: Axes,
    note: str,
    fonts: list[str],
    *,
    at: tuple[float, float],
    shift: tuple[int, int],
    ha: str,
    va: str,
    measured: str | tuple[str, str] = "axes fraction",
) -> None:
    """A few small words at a place of the axes, in shares of it or as `measured`, shifted by points."""
    axes.annotate(
        note,
        xy=at,
        xycoords=measured,
        xytext=shift,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=NOTE_POINTS,
        fontfamily=fonts,
        color=NOTE_COLOR,
    )


def _drawn_size(tallness: float, side: float) -> tuple[float, float]:
    """Width and height of an image: about the area of a square of that side, no larger than the page."""
    height = min(side * tallness**0.5, TALLEST, PAGE * tallness)
    return height / tallness, height
