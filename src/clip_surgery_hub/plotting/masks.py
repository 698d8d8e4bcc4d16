"""Images of points, of masks and of segmentations, in the manner of `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clip_surgery_hub.images.masks import palette
from clip_surgery_hub.plotting.heatmaps import plot_explanation
from clip_surgery_hub.plotting.layout import (
    DOTS_PER_INCH,
    MARGIN,
    NOTE_POINTS,
    draw_cells,
    drawable,
    empty_figure,
    installed_fonts,
    lay_out,
    ruler,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clip_surgery_hub.results.explanation import Explanation, Points
    from clip_surgery_hub.sam.prompts import Prompt

ON, OFF = "#00e060", "#ff4040"
OUTLINE, DIMMED = "#ffd000", 0.35  # of a mask, and how bright the image is outside of it
LEGEND_LINE, LEGEND_WIDTH, IMAGE_SIDE, FOOT = 0.24, 2.6, 4.0, 0.3  # inches


def plot_prompts(explanation: Explanation, prompts: Sequence[Prompt]) -> Figure:
    """Draw the points of each prompt over the heatmaps of its texts: green on the text, red off it.

    Args:
        explanation: of one image.
        prompts: for texts that were explained; those of a combination are drawn over each of its heatmaps.
    """
    axes = plot_explanation(explanation)[0]
    figure: Figure = axes[0].figure
    for prompt in prompts:
        for text in prompt.texts:
            _draw_points(axes[1 + explanation.texts.index(text)], prompt.points)
    return figure


def plot_masks(image: np.ndarray, prompts: Sequence[Prompt], masks: Tensor, scores: Tensor) -> Figure:
    """Draw the image, and beside it the mask of each prompt: in color and outlined, the rest dark gray.

    The points that were asked are drawn over each: green on the text, red off it.

    Args:
        image: uint8 ``[H, W, 3]``.
        prompts: P of them.
        masks: bool ``[P, H, W]``.
        scores: ``[P]``, how good the segmentation model takes each mask to be.
    """
    from matplotlib.lines import Line2D

    fonts = installed_fonts()
    height, width = image.shape[:2]
    labels = drawable([prompt.name for prompt in prompts], fonts)
    shares = masks.float().mean((1, 2)).tolist()
    notes = [f"score {score:.2f}, area {share:.0%}" for score, share in zip(scores, shares, strict=True)]
    cells = lay_out(
        (height, width),
        ("image", *labels),
        (f"{width} x {height} px", *notes),
        ruler(fonts, DOTS_PER_INCH),
    )
    figure = empty_figure(cells.width + 2 * MARGIN, cells.height + FOOT + 2 * MARGIN)
    reduced = cells.reduced(image)
    inside = [cells.reduced(np.where(mask, 255, 0).astype(np.uint8)) > 127 for mask in masks]
    images = [reduced, *(_lit(reduced, mask) for mask in inside)]
    _, *drawn = draw_cells(figure, cells, images, top=cells.height + FOOT + MARGIN, fonts=fonts)
    for axes, mask, prompt in zip(drawn, inside, prompts, strict=True):
        _draw_outline(axes, mask, (height, width))
        _draw_points(axes, prompt.points)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=color, markeredgecolor="black", label=name)
        for color, name in ((ON, "on the text"), (OFF, "off it"))
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=2,
        frameon=False,
        prop={"family": fonts, "size": NOTE_POINTS},
    )
    return figure


def plot_segments(
    image: np.ndarray, index_map: Tensor, texts: Sequence[str], *, opacity: float = 0.6
) -> Figure:
    """Draw the image, and beside it the color of each pixel's text with a legend of those that appear.

    Args:
        image: uint8 ``[H, W, 3]``.
        index_map: ``[H, W]`` numbers of texts.
        texts: the texts, background texts included.
        opacity: how much the colors cover, in [0, 1].
    """
    from matplotlib.patches import Patch

    numbers, fonts = index_map.cpu().numpy(), installed_fonts()
    colors = palette(len(texts))
    mixed = np.rint((1 - opacity) * image + opacity * colors[numbers]).astype(np.uint8)
    shares = {number: float((numbers == number).mean()) for number in np.unique(numbers).tolist()}
    names = drawable([texts[number] for number in shares], fonts)
    tallness = image.shape[0] / image.shape[1]
    width, height = IMAGE_SIDE / max(tallness, 1), IMAGE_SIDE * min(tallness, 1)
    page_width = 2 * width + LEGEND_WIDTH + 4 * MARGIN
    page_height = 2 * MARGIN + max(height, LEGEND_LINE * len(names) + MARGIN)
    figure = empty_figure(page_width, page_height)
    for column, shown in enumerate((image, mixed)):
        left = MARGIN + column * (width + MARGIN)
        bottom = (page_height - height) / 2
        box = (left / page_width, bottom / page_height, width / page_width, height / page_height)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(shown)
    handles = [
        Patch(
            color=colors[number] / 255, label=f"{name if len(name) <= 24 else name[:23] + '…'}  {share:.0%}"
        )
        for (number, share), name in zip(shares.items(), names, strict=True)
    ]
    legend = figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=((2 * width + 3 * MARGIN) / page_width, 0.5),
        frameon=False,
        prop={"family": fonts, "size": 9},
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_points(axes: Axes, points: Points) -> None:
    places = points.xy.numpy()
    colors = [ON if label else OFF for label in points.labels.tolist()]
    axes.scatter(places[:, 0], places[:, 1], s=22, c=colors, edgecolors="black", linewidths=0.5)


def _lit(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image ``[h, w, 3]`` in color inside of a mask ``[h, w]``, dark gray outside."""
    gray = DIMMED * image.mean(-1, keepdims=True)
    lit: np.ndarray = np.where(mask[..., None], image, gray).astype(np.uint8)
    return lit


def _draw_outline(axes: Axes, mask: np.ndarray, size: tuple[int, int]) -> None:
    """The border of a mask ``[h, w]`` over an image of H x W pixels."""
    from matplotlib import colors

    if mask.all() or not mask.any() or min(mask.shape) < 2:  # there is no border
        return
    rows, columns = (
        (np.arange(count) + 0.5) * pixels / count - 0.5
        for count, pixels in zip(mask.shape, size, strict=True)
    )
    axes.contour(
        columns, rows, mask.astype(float), levels=[0.5], colors=[colors.to_rgb(OUTLINE)], linewidths=1.2
    )
