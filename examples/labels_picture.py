"""A picture of labels: the scores as bars beside the picture, and how surely each text is there at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from clip_surgery_hub.cells import MARGIN, NOTE_COLOUR, NOTE_POINTS, empty_figure, new_axes
from clip_surgery_hub.explanation import Label
from clip_surgery_hub.labels import LABEL_POINTS, drawable, installed_fonts

SIDE, NAMES, BARS, NOTES, FOOT = 2.6, 1.3, 2.6, 1.0, 0.4  # inches
BAR, BAR_COLOUR = 0.6, "#4c72b0"  # the share of a line that a bar fills


def plot_labels(picture: np.ndarray, labels: Sequence[Label], presence: Sequence[float]) -> Figure:
    """Draw a picture and its labels, the surest on top.

    Args:
        picture: uint8 ``[H, W, 3]``.
        labels: one or more, in the order in which they are drawn.
        presence: of each label in the picture, in [0, 1].
    """
    fonts = installed_fonts()
    picture_width = SIDE * picture.shape[1] / picture.shape[0]
    left = 2 * MARGIN + picture_width + NAMES
    figure = empty_figure(left + BARS + NOTES + MARGIN, SIDE + FOOT + 2 * MARGIN)
    new_axes(figure, MARGIN, MARGIN + FOOT, picture_width, SIDE).imshow(picture)
    axes = new_axes(figure, left, MARGIN + FOOT, BARS, SIDE)
    axes.set_axis_on()
    axes.spines[["top", "right"]].set_visible(False)
    lines = range(len(labels))
    axes.barh(lines, [label.score for label in labels], height=BAR, color=BAR_COLOUR)
    axes.invert_yaxis()
    names = drawable([label.text for label in labels], fonts)
    axes.set_yticks(lines, names, fontsize=LABEL_POINTS, fontfamily=fonts, parse_math=False)
    axes.tick_params(axis="x", labelsize=NOTE_POINTS)
    axes.set_xlabel("score after feature surgery", fontsize=NOTE_POINTS, fontfamily=fonts)
    for line, share in zip(lines, presence, strict=True):
        axes.annotate(
            f"presence {share:.2f}",
            xy=(1.0, line),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=NOTE_POINTS,
            fontfamily=fonts,
            color=NOTE_COLOUR,
        )
    return figure
