"""Images of the analysis of the attention: maps of one patch by block, and charts of shares and cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip_surgery_hub.analysis.attention_results import (
    KINDS,
    PARTS,
    AttentionAnalysis,
    AttentionAverages,
    BlockPart,
    Kind,
)
from clip_surgery_hub.plotting.layout import GAP, LABEL_LINE, NOTE_LINE
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
    block_chart,
    draw_outline,
    drawn_size,
    show_heat,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BLOCKS = 8
MARK = "#00c8ff"  # a color that the heat does not have
KIND_NAMES: Mapping[Kind, tuple[str, ...]] = {
    "query_key": ("q-k", "CLIP's own"),
    "value_value": ("v-v", "CLIP Surgery's"),
    "query_query": ("q-q",),
    "key_key": ("k-k",),
}
KIND_COLORS: Mapping[Kind, str] = {
    "query_key": "C3",
    "value_value": "C0",
    "query_query": "C2",
    "key_key": "C1",
}
PART_NAMES: Mapping[BlockPart, str] = {
    "attention": "q-k attention",
    "value_attention": "v-v attention",
    "mlp": "MLP",
}
PART_COLORS: Mapping[BlockPart, str] = {"attention": "C3", "value_attention": "C0", "mlp": "C4"}


def plot_attention(
    analysis: AttentionAnalysis, *, blocks: Sequence[int] | None = None, opacity: float = 0.8
) -> Figure:
    """Draw the chosen patch, where it attends to in some blocks, and the figures of all blocks.

    The heat is 0 at the least attention and 1 at the most that another patch gets: a patch that finds itself
    first would leave nothing to see of the others.

    Args:
        analysis: what is drawn.
        blocks: numbers of the blocks, 0 the first; None: eight at most, spread evenly up to the last.
        opacity: the most that the heat covers of the image, in [0, 1].

    Raises:
        ValueError: for a block that does not exist, none at all, or an opacity outside [0, 1].
    """
    count = len(analysis.cosines_to_cls["mlp"])
    chosen = _spread_evenly(count) if blocks is None else list(blocks)
    if not chosen or not all(0 <= block < count for block in chosen):
        raise ValueError(f"blocks must name some of the blocks 0 to {count - 1}, got {chosen}.")
    width, height = drawn_size(analysis.image, SIDE)
    large_width, large_height = drawn_size(analysis.image, LARGE_SIDE)
    room = max(large_width, NARROWEST_CELL)
    step, row = max(width, NARROWEST_CELL) + GAP, height + NOTE_LINE + GAP
    charts = 2 if analysis.coverage is None else 3
    top = HEAD + max(large_height, CHART_HEIGHT + FOOT) + GAP + LABEL_LINE
    page = Page(
        width=max(ROW_NAME + len(chosen) * step - GAP, room + charts * CHART_STEP),
        height=top + len(KINDS) * row + BAR_ROOM,
    )
    image = page.cell((room - large_width) / 2, HEAD, large_width, large_height)
    show_image(image, analysis.image)
    _mark(image, analysis, line=2.0)
    page.title(image, (f"row {analysis.patch[0]}, column {analysis.patch[1]}",), room=0.08)
    _draw_charts(page, room, analysis)
    for index, kind in enumerate(KINDS):
        page.row_name(top + index * row + height / 2, KIND_NAMES[kind])
        maps = analysis.maps(kind)
        for column, block in enumerate(chosen):
            left = ROW_NAME + column * step + (step - GAP - width) / 2
            cell = page.cell(left, top + index * row, width, height)
            most = _most_of_others(maps[block], analysis.patch)
            show_heat(cell, analysis.image, maps[block], opacity, most=most)
            _mark(cell, analysis, line=1.0)
            if index == 0:
                page.title(cell, (f"block {block}",), room=0.04)
            if analysis.coverage is not None:
                share = f"{analysis.same_object(kind)[block]:.0%} on the object"
                page.note(cell, share, at=(0.5, 0.0), shift=(0, -3), ha="center", va="top")
    page.bar("least attention", "most that another patch gets", opacity)
    return page.figure


def plot_averages(averages: AttentionAverages) -> Figure:
    """Draw shares on the same object and cosines by block, averaged over the images."""
    page = Page(width=3 * CHART_STEP, height=HEAD + CHART_HEIGHT + FOOT)
    for place, title, values, chance in (
        (0, "attention on the same object", averages.same_object, averages.chance),
        (1, "the same without the patch itself", averages.same_object_elsewhere, averages.chance_elsewhere),
    ):
        means = {kind: values[kind].mean(0) for kind in KINDS}
        _draw_attention(page, place * CHART_STEP, title, means, float(chance.mean()))
    _draw_cosines(page, 2 * CHART_STEP, {part: averages.cosines_to_cls[part].mean(0) for part in PARTS})
    return page.figure


def _draw_charts(page: Page, left: float, analysis: AttentionAnalysis) -> None:
    cosines = {part: analysis.cosines_to_cls[part].mean((1, 2)) for part in PARTS}
    if analysis.coverage is None:
        to_cls = {kind: analysis.attention_to_cls(kind) for kind in KINDS}
        _draw_attention(page, left, "attention to CLS", to_cls, None)
        _draw_cosines(page, left + CHART_STEP, cosines)
        return
    shares = {kind: analysis.same_object(kind) for kind in KINDS}
    elsewhere = {kind: analysis.same_object_elsewhere(kind) for kind in KINDS}
    _draw_attention(page, left, "attention on the same object", shares, analysis.chance[0])
    _draw_attention(
        page, left + CHART_STEP, "the same without the patch itself", elsewhere, analysis.chance[1]
    )
    _draw_cosines(page, left + 2 * CHART_STEP, cosines)


def _draw_attention(
    page: Page, left: float, title: str, values: Mapping[Kind, Tensor], chance: float | None
) -> None:
    lines = [(KIND_NAMES[kind][0], KIND_COLORS[kind], values[kind]) for kind in KINDS]
    axes = block_chart(page, left, title, "share of the attention", lines)
    if chance is not None:
        axes.axhline(chance, color="0.5", linewidth=1, linestyle="--", label="evenly")
    axes.set_ylim(0, 1)
    page.legend(axes)


def _draw_cosines(page: Page, left: float, values: Mapping[BlockPart, Tensor]) -> None:
    lines = [(PART_NAMES[part], PART_COLORS[part], values[part]) for part in PARTS]
    axes = block_chart(page, left, "what a block adds to the patches", "cosine to the final CLS", lines)
    axes.axhline(0, color="0.5", linewidth=1)
    page.legend(axes)


def _mark(axes: Axes, analysis: AttentionAnalysis, *, line: float) -> None:
    """Frame the chosen patch, and outline the mask."""
    from matplotlib.patches import Rectangle

    (rows, columns), (height, width) = analysis.grid, analysis.image.shape[:2]
    row, column = analysis.patch
    corner = (column * width / columns - 0.5, row * height / rows - 0.5)
    if analysis.mask is not None:
        draw_outline(axes, analysis.mask)
    axes.add_patch(
        Rectangle(corner, width / columns, height / rows, fill=False, edgecolor=MARK, linewidth=line)
    )


def _most_of_others(attention: Tensor, patch: tuple[int, int]) -> float:
    others = torch.ones_like(attention, dtype=torch.bool)
    others[patch] = False
    return float(attention[others].max())


def _spread_evenly(count: int) -> list[int]:
    """At most MOST_BLOCKS of so many blocks, the last among them."""
    shown = min(count, MOST_BLOCKS)
    return [count - 1 - index * count // shown for index in reversed(range(shown))]
