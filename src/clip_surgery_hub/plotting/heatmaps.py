"""Images of an explanation: the heat over the gray image, one overlay per text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.plotting.layout import (
    DOTS_PER_INCH,
    GAP,
    LONGEST_FIGURE,
    MARGIN,
    Layout,
    annotate,
    draw_cells,
    drawable,
    empty_figure,
    installed_fonts,
    lay_out,
    new_axes,
    ruler,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clip_surgery_hub.results.explanation import Explanation

COLORS = "inferno"  # perceptually uniform: equal steps of heat look like equal steps, also in gray
BAR_ROOM = 0.3  # inches


def overlay(image: np.ndarray, heatmap: Tensor | np.ndarray, *, opacity: float = 0.8) -> np.ndarray:
    """Lay the colors of a heatmap over the gray image, so that every color seen is heat.

    The colors cover the image by ``opacity`` where the heat is 1 and by half as much where it is 0, so
    that the image stays readable where nothing was found.

    Args:
        image: uint8 ``[H, W, 3]``.
        heatmap: ``[H, W]`` in [0, 1]; dark is 0, bright yellow is 1.
        opacity: the most that the colors cover, in [0, 1].

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: if the sizes differ, or for an opacity outside [0, 1].
    """
    from matplotlib import colormaps

    heat = np.asarray(heatmap, dtype=np.float32)
    if heat.shape != image.shape[:2]:
        raise ValueError(
            f"The heatmap must be as large as the image, {list(image.shape[:2])}, got {list(heat.shape)}."
        )
    _check_opacity(opacity)
    steps = np.arange(256, dtype=np.float32)
    cover = opacity * (1 + steps / 255) / 2  # [256]
    colors = cover[:, None] * colormaps[COLORS](np.arange(256))[:, :3].astype(np.float32) * 255  # [256, 3]
    levels = np.rint(heat.clip(0, 1) * 255).astype(np.uint8)
    luminance = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # [H, W]
    mixed = ((1 - cover)[levels] * luminance)[..., None] + colors[levels]
    covered: np.ndarray = np.rint(mixed).astype(np.uint8)
    return covered


def plot_explanation(explanation: Explanation, *, opacity: float = 0.8) -> np.ndarray:
    """Draw every image with its overlays side by side, the text and its score over each.

    Args:
        explanation: B images and T texts.
        opacity: the most that the heat covers of the image, in [0, 1].

    Returns:
        Matplotlib axes ``[B, 1+T]``: the image, then one overlay per text, in pixels of the image, so
        that its points and boxes can be drawn on them. Their figure is ``axes[0, 0].figure``.

    Raises:
        ValueError: for no images, more than one figure can hold, or an opacity outside [0, 1].
    """
    _check_opacity(opacity)
    if len(explanation) == 0:
        raise ValueError("There is nothing to plot: the explanation holds no image.")
    fonts = installed_fonts()
    labels, measure = drawable(explanation.texts, fonts), ruler(fonts, DOTS_PER_INCH)
    blocks = [_layout(explanation, number, labels, measure) for number in range(len(explanation))]
    width = 2 * MARGIN + max(block.width for block in blocks)
    height = 2 * MARGIN + BAR_ROOM + sum(block.height + GAP for block in blocks)
    if height > LONGEST_FIGURE:
        raise ValueError(
            f"{len(blocks)} images with {len(labels)} texts need a figure {height:.0f} inches high; "
            f"{LONGEST_FIGURE:.0f} is the most. Plot fewer images at once, as in explanation[:5].plot()."
        )
    figure = empty_figure(width, height)
    axes: np.ndarray = np.empty((len(blocks), 1 + len(labels)), dtype=object)
    top = height - MARGIN
    for number, block in enumerate(blocks):
        maps = explanation.similarity[number]
        images = heat_images(block, explanation.images_to_draw[number], maps, opacity=opacity)
        axes[number] = draw_cells(figure, block, images, top=top, fonts=fonts)
        top -= block.height + GAP
    _draw_bar(figure, opacity, fonts)
    return axes


def heat_images(
    cells: Layout, image: np.ndarray, similarity: Iterable[Tensor], *, opacity: float
) -> Iterator[np.ndarray]:
    """The image, then its overlays, at the resolution that the cells want.

    Args:
        cells: what they are drawn into.
        image: uint8 ``[H, W, 3]``.
        similarity: patch similarity ``[h, w]`` of each overlay, of any scale.
        opacity: see :func:`overlay`.
    """
    reduced = cells.reduced(image)
    yield reduced
    for one in similarity:
        grid, size = (one.shape[0], one.shape[1]), (reduced.shape[0], reduced.shape[1])
        yield overlay(reduced, similarity_map(one.reshape(1, -1, 1), grid, size)[0, 0], opacity=opacity)


def _layout(
    explanation: Explanation, number: int, labels: list[str], measure: Callable[[str], float]
) -> Layout:
    rows, columns = explanation.sizes[number]
    name = "image" if len(explanation) == 1 else f"image {number + 1}"
    notes = (f"score {score:.3f}" for score in explanation.scores[number].tolist())
    return lay_out((rows, columns), (name, *labels), (f"{columns} x {rows} px", *notes), measure)


def _draw_bar(figure: Figure, opacity: float, fonts: list[str]) -> None:
    """What the colors mean, as they look over a middle gray."""
    width, height, middle = 1.4, 0.12, figure.get_size_inches()[0] / 2
    bar = new_axes(figure, middle - width / 2, MARGIN, width, height)
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    bar.imshow(overlay(np.full((1, 256, 3), 128, dtype=np.uint8), ramp, opacity=opacity), aspect="auto")
    annotate(bar, "lowest patch", fonts, at=(0.0, 0.5), shift=(-6, 0), ha="right", va="center")
    annotate(bar, "highest patch", fonts, at=(1.0, 0.5), shift=(6, 0), ha="left", va="center")


def _check_opacity(opacity: float) -> None:
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}.")
