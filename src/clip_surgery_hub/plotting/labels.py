"""An image of labels: the scores as bars beside the image, and how surely each text is there at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clip_surgery_hub.plotting.layout import (
    DOTS_PER_INCH,
    LABEL_LINE,
    LABEL_POINTS,
    MARGIN,
    NOTE_POINTS,
    annotate,
    broken,
    draw_cells,
    drawable,
    empty_figure,
    installed_fonts,
    lay_out,
    new_axes,
    ruler,
)
from clip_surgery_hub.results.explanation import PRESENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clip_surgery_hub.results.explanation import Explanation, Label

MOST = 40  # bars that are drawn; more make no image that can be read
MOST_NAME, BARS, NOTES, FOOT, BETWEEN = 2.2, 2.6, 1.0, 0.6, 0.12  # inches
BAR = 0.7  # the share of a line that a bar fills
THERE, ABSENT = "#4c72b0", "0.75"  # bars of texts that seem to be in the image, and that do not


def plot_labels(explanation: Explanation, labels: Sequence[Label]) -> Figure:
    """Draw an image and its labels, each with its score as a bar and its presence, where that is known.

    Bars of texts that do not seem to be there (presence below `explanation.PRESENT`) are gray.

    Args:
        explanation: of one image.
        labels: some of its texts, as ``explanation.labels(...)[0]``, in the order in which they are drawn;
            the first 40 where there are more.

    Raises:
        ValueError: for an explanation of more images or none, or a label of a text that was not explained.
    """
    if len(explanation) != 1:
        raise ValueError(f"plot_labels draws one image, got {len(explanation)}; give explanation[0].")
    strange = [label.text for label in labels if label.text not in explanation.texts]
    if strange:
        raise ValueError(f"{strange[0]!r} was not explained; give labels of the explanation itself.")
    from matplotlib.ticker import MaxNLocator

    fonts, (image,), drawn = installed_fonts(), explanation.images_to_draw, labels[:MOST]
    measure = ruler(fonts, DOTS_PER_INCH)
    height, width = image.shape[:2]
    cells = lay_out((height, width), (_counted(len(labels)),), (f"{width} x {height} px",), measure)
    texts = drawable([label.text for label in drawn], fonts)
    names = [broken(text, MOST_NAME, measure) or ("(empty text)",) for text in texts]
    line = BETWEEN + LABEL_LINE * max(map(len, names), default=1)
    bars_height = line * max(1, len(names))
    figure_height = max(cells.height, bars_height + FOOT) + 2 * MARGIN
    widest = max((measure(part) for name in names for part in name), default=0.0)
    left = cells.width + widest + 4 * MARGIN
    beside = BARS + NOTES + MARGIN if drawn else 0.0
    figure = empty_figure(left + beside, figure_height)
    draw_cells(figure, cells, [cells.reduced(image)], top=figure_height - MARGIN, fonts=fonts)
    if not drawn:
        return figure
    bottom = (figure_height - bars_height + FOOT) / 2
    axes = new_axes(figure, left, bottom, BARS, bars_height)
    axes.set_axis_on()
    axes.spines[["top", "right"]].set_visible(False)
    lines = range(len(drawn))
    bars = axes.barh(lines, [label.score for label in drawn], height=BAR, color=THERE)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_yticks(
        lines, ["\n".join(name) for name in names], fontsize=LABEL_POINTS, fontfamily=fonts, parse_math=False
    )
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=NOTE_POINTS)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("score after feature surgery", fontsize=NOTE_POINTS, fontfamily=fonts)
    if explanation.presence is None:
        return figure
    axes.set_xlabel(f"{axes.get_xlabel()}; gray: presence below {PRESENT}")
    known = dict(zip(explanation.texts, explanation.presence[0].tolist(), strict=True))
    for number, (bar, label) in enumerate(zip(bars, drawn, strict=True)):
        if known[label.text] < PRESENT:
            bar.set_color(ABSENT)
        annotate(
            axes,
            f"presence {known[label.text]:.3f}",
            fonts,
            at=(1.0, number),
            shift=(6, 0),
            ha="left",
            va="center",
            measured=("axes fraction", "data"),
        )
    return figure


def _counted(labels: int) -> str:
    if labels > MOST:
        return f"the first {MOST} of {labels} labels"
    return "1 label" if labels == 1 else f"{labels or 'no'} labels"
