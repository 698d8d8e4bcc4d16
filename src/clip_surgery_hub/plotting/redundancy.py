"""Images of the analysis of redundant features: maps before and after surgery, channels, contrasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip_surgery_hub.analysis.redundancy_result import Comparison, RedundancyAnalysis
from clip_surgery_hub.plotting.layout import (
    DOTS_PER_INCH,
    GAP,
    LABEL_LINE,
    NOTE_LINE,
    NOTE_POINTS,
    broken,
    drawable,
    installed_fonts,
    ruler,
)
from clip_surgery_hub.plotting.page import (
    BAR_ROOM,
    CHART_HEIGHT,
    CHART_STEP,
    FOOT,
    HEAD,
    LARGE_SIDE,
    NARROWEST_CELL,
    ROW_NAME,
    SIDE,
    Page,
    draw_outline,
    drawn_size,
    show_heat,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TEXTS = 5
NAMES: dict[Comparison, tuple[str, ...]] = {
    "raw": ("raw CLIP",),
    "feature_surgery": ("feature", "surgery"),
    "architecture_surgery": ("architecture", "surgery"),
    "both": ("both", "surgeries"),
}


def plot_redundancy(
    analysis: RedundancyAnalysis,
    *,
    number: int = 0,
    texts: Sequence[str] | None = None,
    opacity: float = 0.8,
) -> Figure:
    """Draw an image's maps of some texts before and after surgery, and what channels do for all texts.

    Args:
        analysis: what is drawn.
        number: of the image.
        texts: out of the class set; None: five at most, those with a mask first, then by score.
        opacity: the most that the heat covers of the image, in [0, 1].

    Raises:
        ValueError: for an image or text that is not there, or an opacity outside [0, 1].
    """
    read = analysis.modified
    if not 0 <= number < len(read):
        raise ValueError(f"number must be one of the images 0 to {len(read) - 1}, got {number}.")
    chosen = _foremost(analysis, number) if texts is None else list(texts)
    if unknown := [text for text in chosen if text not in read.texts]:
        raise ValueError(f"{unknown[0]!r} is none of the class set's texts.")
    comparisons = _comparisons(analysis)
    shown: list[Comparison] = [
        one for one in comparisons if one != "feature_surgery" or len(comparisons) == 2
    ]
    image = read.images_to_draw[number]
    width, height = drawn_size(image, SIDE)
    large_width, large_height = drawn_size(image, LARGE_SIDE)
    room = max(large_width, NARROWEST_CELL)
    step, row = max(width, NARROWEST_CELL) + GAP, height + NOTE_LINE + GAP
    charts = 1 if analysis.masks is None else 2
    headings = _headings(["mean of the unrelated texts", *chosen], step - GAP)
    top = HEAD + max(large_height, CHART_HEIGHT + FOOT) + GAP + max(map(len, headings)) * LABEL_LINE
    page = Page(
        width=max(ROW_NAME + len(headings) * step - GAP, room + charts * CHART_STEP),
        height=top + len(shown) * row + BAR_ROOM,
    )
    large = page.cell((room - large_width) / 2, HEAD, large_width, large_height)
    show_image(large, image)
    page.title(large, ("image" if len(read) == 1 else f"image {number}",), room=0.08)
    _draw_channels(page, room, analysis)
    if analysis.masks is not None:
        _draw_contrasts(page, room + CHART_STEP, analysis, comparisons)
    for index, comparison in enumerate(shown):
        page.row_name(top + index * row + height / 2, NAMES[comparison])
        for column, (similarity, note) in enumerate(_cells(analysis, number, comparison, chosen)):
            left = ROW_NAME + column * step + (step - GAP - width) / 2
            cell = page.cell(left, top + index * row, width, height)
            if index == 0:
                page.title(cell, headings[column], room=0.04)
            page.note(cell, note, at=(0.5, 0.0), shift=(0, -3), ha="center", va="top")
            if similarity is None:
                continue
            show_heat(cell, image, similarity, opacity)
            if analysis.masks is not None and column and chosen[column - 1] in analysis.masks[number]:
                draw_outline(cell, analysis.masks[number][chosen[column - 1]])
    page.bar("lowest patch", "highest patch", opacity)
    return page.figure


def _comparisons(analysis: RedundancyAnalysis) -> list[Comparison]:
    """The comparisons that differ: raw CLIP has no path of its own to be read beside the original."""
    if analysis.modified.settings.method == "none":
        return ["raw", "feature_surgery"]
    return ["raw", "feature_surgery", "architecture_surgery", "both"]


def _cells(
    analysis: RedundancyAnalysis, number: int, comparison: Comparison, chosen: Sequence[str]
) -> list[tuple[Tensor | None, str]]:
    """Map and note of each cell in a row: of the unrelated texts before feature surgery, then the chosen."""
    maps = analysis.similarity(comparison)[number]
    before: Tensor | None = None
    if comparison == "raw":
        before = analysis.original_unrelated[number]
    elif comparison == "architecture_surgery":
        before = analysis.modified_unrelated[number]
    contrasts = None if analysis.masks is None else analysis.contrasts(comparison)[number]
    cells: list[tuple[Tensor | None, str]] = [(before, "")]
    for text in chosen:
        note = ""
        if contrasts is not None:
            note = f"contrast {contrasts[text]:+.0f}" if text in contrasts else "no mask"
        cells.append((maps[analysis.modified.texts.index(text)], note))
    return cells


def _foremost(analysis: RedundancyAnalysis, number: int) -> list[str]:
    """Texts with a mask in the image, then those of the highest scores, MOST_TEXTS in all."""
    masked = [] if analysis.masks is None else list(analysis.masks[number])
    ranked = analysis.modified.scores[number].argsort(descending=True, stable=True).tolist()
    rest = [
        analysis.modified.texts[index] for index in ranked if analysis.modified.texts[index] not in masked
    ]
    return [*masked, *rest][:MOST_TEXTS]


def _headings(texts: Sequence[str], width: float) -> list[tuple[str, ...]]:
    fonts = installed_fonts()
    measure = ruler(fonts, DOTS_PER_INCH)
    return [broken(text, width, measure) for text in drawable(texts, fonts)]


def _draw_channels(page: Page, left: float, analysis: RedundancyAnalysis) -> None:
    """Each channel's product with the texts, by rank: what they have in common, and what differs."""
    axes = page.chart(
        left,
        f"{analysis.redundancy:.0%} of the energy is common to all texts",
        across="channels, the most common first",
        upright="product of patch and text (rms)",
    )
    common, energy = analysis.common[analysis.order], analysis.energy[analysis.order]
    apart = (energy - common).clamp(min=0).sqrt()
    ranks = torch.arange(1, len(common) + 1).tolist()
    axes.plot(ranks, common.sqrt().tolist(), color="C3", label="common to all texts")
    axes.plot(ranks, apart.tolist(), color="C0", linewidth=0.8, label="differs between texts")
    axes.set_xscale("log")
    page.legend(axes)


def _draw_contrasts(
    page: Page, left: float, analysis: RedundancyAnalysis, comparisons: Sequence[Comparison]
) -> None:
    """The mean contrast of each comparison over all images that have masks."""
    counted = sum(bool(masks) for masks in analysis.masks or ())
    title = "of this image" if len(analysis.modified) == 1 else f"over {counted} images"
    axes = page.chart(left, f"mean contrast (mSC) {title}", across="percent", upright="")
    values = [analysis.msc(comparison) for comparison in comparisons]
    bars = axes.barh(range(len(values)), values, color="C0", height=0.6)
    axes.bar_label(bars, fmt="%+.1f", padding=3, fontsize=NOTE_POINTS)
    axes.set_yticks(range(len(values)), ["\n".join(NAMES[comparison]) for comparison in comparisons])
    axes.invert_yaxis()
    axes.axvline(0, color="0.5", linewidth=1)
    axes.margins(x=0.2)
