"""A page for the images of the analyses: cells, charts, names and notes at places in inches.

As in `plot`, the figure is built without pyplot, and whatever is written has room of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.plotting.heatmaps import overlay
from clip_surgery_hub.plotting.layout import (
    GAP,
    LABEL_LINE,
    LABEL_POINTS,
    LONGEST_FIGURE,
    MARGIN,
    NOTE_POINTS,
    annotate,
    empty_figure,
    installed_fonts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE, LARGE_SIDE = 1.5, 2.6  # inches, as are all lengths below: about the side of a square image
MOST_STRETCH = 1.5  # the longest side of an image that is not square, in these
NARROWEST_CELL = 1.3
ROW_NAME = 1.2  # room for the names of the rows, on the left
HEAD = LABEL_LINE + 0.08  # room over what stands at the head of a page
CHART_WIDTH, CHART_HEIGHT = 3.3, 2.3
TICKS, FOOT = 0.85, 0.7  # room for a chart's ticks, labels and legend, on its left and under it
CHART_STEP = TICKS + CHART_WIDTH + GAP
BAR_ROOM = 0.35


class Page:
    """A figure whose places are told in inches from its top left corner, inside of the margins.

    Args:
        width: of the room inside of the margins.
        height: of that room.

    Raises:
        ValueError: for a width that no figure can have.
    """

    def __init__(self, *, width: float, height: float) -> None:
        if width > LONGEST_FIGURE:
            raise ValueError(
                f"the figure would be {width:.0f} inches wide, {LONGEST_FIGURE:.0f} is the most: draw fewer."
            )
        self.width, self.height = width + 2 * MARGIN, height + 2 * MARGIN
        self.figure = empty_figure(self.width, self.height)
        self.fonts = installed_fonts()

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place."""
        bottom = self.height - MARGIN - top - height
        return self.figure.add_axes(
            (
                (MARGIN + left) / self.width,
                bottom / self.height,
                width / self.width,
                height / self.height,
            )
        )

    def cell(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place, for an image alone."""
        axes = self.axes(left, top, width, height)
        axes.set_axis_off()
        return axes

    def chart(self, left: float, title: str, *, across: str, upright: str) -> Axes:
        """Axes at the head of the page, with a title and labels."""
        axes = self.axes(left + TICKS, HEAD, CHART_WIDTH, CHART_HEIGHT)
        self.title(axes, (title,), room=0.08)
        axes.tick_params(labelsize=NOTE_POINTS)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(across, fontsize=NOTE_POINTS, fontfamily=self.fonts)
        axes.set_ylabel(upright, fontsize=NOTE_POINTS, fontfamily=self.fonts)
        return axes

    def legend(self, axes: Axes) -> None:
        """The names of a chart's lines under it."""
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.42 / CHART_HEIGHT),
            ncols=5,
            frameon=False,
            fontsize=NOTE_POINTS,
            handlelength=1.1,
            columnspacing=0.9,
            borderaxespad=0.0,
        )

    def title(self, axes: Axes, lines: Iterable[str], *, room: float) -> None:
        """Lines over axes, so far above as there must be room for."""
        # Labels are the user's words: a dollar sign in them starts no formula.
        axes.set_title(
            "\n".join(lines), fontsize=LABEL_POINTS, fontfamily=self.fonts, pad=72 * room, parse_math=False
        )

    def note(
        self, axes: Axes, note: str, *, at: tuple[float, float], shift: tuple[int, int], ha: str, va: str
    ) -> None:
        """A few small words at a place of the axes, in shares of it, shifted by points."""
        annotate(axes, note, self.fonts, at=at, shift=shift, ha=ha, va=va)

    def row_name(self, middle: float, lines: Iterable[str]) -> None:
        """The name of a row of cells on the left, around a height."""
        self.figure.text(
            MARGIN / self.width,
            1 - (MARGIN + middle) / self.height,
            "\n".join(lines),
            ha="left",
            va="center",
            fontsize=LABEL_POINTS,
            fontfamily=self.fonts,
        )

    def bar(self, low: str, high: str, opacity: float) -> None:
        """What the colors mean, as they look over a middle gray, at the foot."""
        width, height = 1.4, 0.12
        inside = self.width - 2 * MARGIN
        bar = self.cell((inside - width) / 2, self.height - 2 * MARGIN - height, width, height)
        ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
        gray = np.full((1, 256, 3), 128, dtype=np.uint8)
        bar.imshow(overlay(gray, ramp, opacity=opacity), aspect="auto")
        self.note(bar, low, at=(0.0, 0.5), shift=(-6, 0), ha="right", va="center")
        self.note(bar, high, at=(1.0, 0.5), shift=(6, 0), ha="left", va="center")


def drawn_size(image: np.ndarray, side: float) -> tuple[float, float]:
    """Width and height of a drawn image: about the area of a square of that side, less for long ones."""
    tallness = image.shape[0] / image.shape[1]
    width, height = side / tallness**0.5, side * tallness**0.5
    reduced = min(1.0, MOST_STRETCH * side / max(width, height))
    return width * reduced, height * reduced


def show_image(axes: Axes, image: np.ndarray) -> None:
    """The image as it is, in its pixels."""
    axes.imshow(image, aspect="auto")


def show_heat(
    axes: Axes, image: np.ndarray, heat: Tensor, opacity: float, *, most: float | None = None
) -> None:
    """Lay heat ``[h, w]`` over the gray image, from its lowest patch to its highest.

    Args:
        axes: a cell.
        image: uint8 ``[H, W, 3]``.
        heat: any values.
        opacity: see `plot.overlay`.
        most: what is above this is drawn as the highest; None: nothing is.
    """
    from PIL import Image

    drawn = axes.get_window_extent()  # as many dots as a print at twice the resolution can show
    rows, columns = (
        max(1, min(pixels, round(2 * dots)))
        for pixels, dots in zip(image.shape[:2], (drawn.height, drawn.width), strict=True)
    )
    reduced = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX))
    clipped = heat if most is None else heat.clamp(max=most)
    grid = (heat.shape[0], heat.shape[1])
    scaled = similarity_map(clipped.reshape(1, -1, 1), grid, (rows, columns))[0, 0]
    extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
    axes.imshow(overlay(reduced, scaled, opacity=opacity), extent=extent, aspect="auto")


def draw_outline(axes: Axes, mask: np.ndarray) -> None:
    """The border of a mask ``[H, W]`` over an image of that size."""
    axes.contour(mask.astype(float), levels=[0.5], colors="white", linewidths=0.8)


def block_chart(
    page: Page, left: float, title: str, upright: str, lines: Sequence[tuple[str, str, Tensor]]
) -> Axes:
    """A chart of figures by block at the head of a page.

    Args:
        page: to draw on.
        left: where its room begins.
        title: over it.
        upright: label of the upright axis.
        lines: name, color and figures ``[L]`` of each line.
    """
    from matplotlib.ticker import MaxNLocator

    axes = page.chart(left, title, across="block", upright=upright)
    for name, color, values in lines:
        axes.plot(range(len(values)), values.tolist(), marker="o", markersize=3, color=color, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes
