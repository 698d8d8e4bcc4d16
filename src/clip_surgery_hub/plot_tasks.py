"""Pictures of points and of segmentations, in the manner of `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clip_surgery_hub.labels import drawable, installed_fonts
from clip_surgery_hub.plot import DOTS_PER_INCH, plot_explanation
from clip_surgery_hub.segmentation import palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clip_surgery_hub.explanation import Explanation
    from clip_surgery_hub.prompts import Prompt

ON, OFF = "#00e060", "#ff4040"
LEGEND_LINE, LEGEND_WIDTH, PICTURE_SIDE, MARGIN = 0.24, 2.6, 4.0, 0.15  # inches


def plot_prompts(explanation: Explanation, prompts: Sequence[Prompt]) -> Figure:
    """Draw the points of each prompt over the heatmaps of its texts: green on the text, red off it.

    Args:
        explanation: of one picture.
        prompts: for texts that were explained; those of a combination are drawn over each of its heatmaps.
    """
    axes = plot_explanation(explanation)[0]
    figure: Figure = axes[0].figure
    for prompt in prompts:
        places = prompt.points.xy.numpy()
        colours = [ON if label else OFF for label in prompt.points.labels.tolist()]
        for text in prompt.texts:
            cell = axes[1 + explanation.texts.index(text)]
            cell.scatter(places[:, 0], places[:, 1], s=14, c=colours, edgecolors="black", linewidths=0.5)
    return figure


def plot_segments(
    picture: np.ndarray, index_map: Tensor, texts: Sequence[str], *, opacity: float = 0.6
) -> Figure:
    """Draw the picture, and beside it the colour of each pixel's text with a legend of those that appear.

    Args:
        picture: uint8 ``[H, W, 3]``.
        index_map: ``[H, W]`` numbers of texts.
        texts: the texts, background texts included.
        opacity: how much the colours cover, in [0, 1].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    numbers, fonts = index_map.cpu().numpy(), installed_fonts()
    colours = palette(len(texts))
    mixed = np.rint((1 - opacity) * picture + opacity * colours[numbers]).astype(np.uint8)
    shares = {number: float((numbers == number).mean()) for number in np.unique(numbers).tolist()}
    names = drawable([texts[number] for number in shares], fonts)
    tallness = picture.shape[0] / picture.shape[1]
    width, height = PICTURE_SIDE / max(tallness, 1), PICTURE_SIDE * min(tallness, 1)
    page_width = 2 * width + LEGEND_WIDTH + 4 * MARGIN
    page_height = 2 * MARGIN + max(height, LEGEND_LINE * len(names) + MARGIN)
    figure = Figure(figsize=(page_width, page_height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    for column, image in enumerate((picture, mixed)):
        left = MARGIN + column * (width + MARGIN)
        bottom = (page_height - height) / 2
        box = (left / page_width, bottom / page_height, width / page_width, height / page_height)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(image)
    handles = [
        Patch(
            color=colours[number] / 255, label=f"{name if len(name) <= 24 else name[:23] + '…'}  {share:.0%}"
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
