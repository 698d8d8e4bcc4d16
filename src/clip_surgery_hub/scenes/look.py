"""How one drawn object may look: turned, warped, mirrored, recolored, redrawn with other strokes, blurred.

Three icon styles are few. These changes spread them out, so that what is learned is the shape of a dog and
not the palette of one icon set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Layer = NDArray[np.float32]
"""A drawn object: premultiplied red, green, blue and alpha, `[h, w, 4]` in [0, 1]."""

WARP_CELLS = 3
"""A warp moves the corners of so many by so many cells of an object, and bends what lies between them."""

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How far objects may depart from their icons. Zero everywhere draws them as they are.

    Attributes:
        rotation: largest turn to either side, in degrees.
        stretch: largest change of the aspect, 0.2 is 20% either way.
        warp: largest shift of a part against the rest, as a share of the object's side: other proportions.
        mirror: probability of a left-right flip.
        color: strength of the changes of hue, saturation, brightness and contrast, in [0, 1].
        redraw: probability of each change of drawing manner: an outline, strokes, flat tones, shading, gray.
        blur: largest radius of a Gaussian blur, as a share of the object's side.
    """

    rotation: float = 20.0
    stretch: float = 0.1
    warp: float = 0.0
    mirror: float = 0.5
    color: float = 0.2
    redraw: float = 0.0
    blur: float = 0.01


def place(sprite: Image.Image, side: float, variation: Variation, rng: np.random.Generator) -> Layer:
    """Turn, stretch, warp, mirror and scale a premultiplied RGBa sprite to a longer side of `side` pixels."""
    angle = np.deg2rad(rng.uniform(-variation.rotation, variation.rotation))
    stretch = np.exp(rng.uniform(-variation.stretch, variation.stretch) / 2)
    flip = -1.0 if rng.random() < variation.mirror else 1.0
    scale = sprite.width / side
    room = 1 + 2 * variation.warp
    extent = max(2, int(np.ceil(side * stretch * room * (abs(np.cos(angle)) + abs(np.sin(angle))))))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    a, b, d, e = flip * cos / stretch, flip * sin / stretch, -sin * stretch, cos * stretch
    middle = extent / 2
    shift_x, shift_y = sprite.width / 2 - a * middle - b * middle, sprite.height / 2 - d * middle - e * middle
    affine = (a, b, shift_x, d, e, shift_y)
    if variation.warp:
        shifts = rng.uniform(-1, 1, (2, WARP_CELLS + 1, WARP_CELLS + 1)) * variation.warp * sprite.width
        mesh = _warped(affine, extent, shifts)
        turned = sprite.transform((extent, extent), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    else:
        turned = sprite.transform((extent, extent), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    radius = rng.uniform(0, variation.blur) * side
    if radius > 0.3:
        turned = turned.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(turned, np.float32) / np.float32(255)


def _warped(
    affine: tuple[float, ...], extent: int, shifts: NDArray[np.float64]
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Pillow's mesh of an affine map whose corners are moved by `shifts` [2, n + 1, n + 1] (x, y) pixels.

    Neighboring cells share their corners, so the image stays in one piece.
    """
    a, b, c, d, e, f = affine
    lines = np.linspace(0, extent, WARP_CELLS + 1).round().astype(int)
    x, y = np.meshgrid(lines, lines)
    corners = np.stack([a * x + b * y + c, d * x + e * y + f]) + shifts
    cells = []
    for row in range(WARP_CELLS):
        for column in range(WARP_CELLS):
            box = (lines[column], lines[row], lines[column + 1], lines[row + 1])
            # Pillow goes round a cell from its upper left corner downwards.
            around = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
            cells.append((tuple(map(int, box)), tuple(float(v) for at in around for v in corners[:, *at])))
    return cells


def recolor(layer: Layer, variation: Variation, rng: np.random.Generator) -> Layer:
    """Change hue, saturation, brightness and contrast by one color matrix drawn at random."""
    strength = variation.color
    if strength == 0:
        return layer
    turn = rng.uniform(-np.pi, np.pi) * strength * rng.random()
    cos, sin = np.cos(turn), np.sin(turn)
    third, root = 1 / 3, np.sqrt(1 / 3)
    hue = (
        cos * np.eye(3)
        + third * (1 - cos) * np.ones((3, 3))
        + root * sin * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    )
    saturation = 1 + rng.uniform(-1, 1) * strength
    matrix = (saturation * np.eye(3) + (1 - saturation) * np.ones((3, 1)) * _GRAY) @ hue
    contrast = 1 + rng.uniform(-0.7, 0.7) * strength
    offset = 0.5 * (1 - contrast) + rng.uniform(-0.4, 0.4) * strength
    tones = contrast * matrix * (1 + rng.uniform(-0.3, 0.3, (3, 1)) * strength)
    return _with_colors(
        layer, layer[..., :3] @ tones.T.astype(np.float32) + np.float32(offset) * layer[..., 3:]
    )


def redraw(layer: Layer, variation: Variation, rng: np.random.Generator) -> Layer:
    """Draw the object in other manners, each with probability `variation.redraw` times the manner's share."""
    for share, manner in _MANNERS:
        if rng.random() < variation.redraw * share:
            layer = manner(layer, rng)
    return layer


def flat_tones(layer: Layer, rng: np.random.Generator) -> Layer:
    """Few levels of each color, as poster and line artists fill."""
    levels = float(rng.integers(2, 6))
    straight = layer[..., :3] / np.maximum(layer[..., 3:], 1e-3)
    return _with_colors(layer, np.round(straight * levels) / levels * layer[..., 3:])


def gray(layer: Layer, rng: np.random.Generator) -> Layer:
    """No color at all."""
    return _with_colors(layer, (layer[..., :3] @ _GRAY)[..., None] * np.ones(3))


def tint(layer: Layer, rng: np.random.Generator) -> Layer:
    """One color over everything."""
    brightness = (layer[..., :3] @ _GRAY)[..., None]
    return _with_colors(layer, 0.5 * layer[..., :3] + 0.75 * brightness * rng.random(3))


def strokes(layer: Layer, rng: np.random.Generator) -> Layer:
    """Dark strokes where the brightness jumps, over paler fills."""
    brightness = layer[..., :3] @ _GRAY
    down = np.abs(np.diff(brightness, axis=0, prepend=brightness[:1]))
    across = np.abs(np.diff(brightness, axis=1, prepend=brightness[:, :1]))
    pale = rng.uniform(0, 0.9)
    ink = np.clip((down + across) * rng.uniform(2, 6), 0, 1)[..., None]
    return _with_colors(layer, (layer[..., :3] * (1 - pale) + pale * layer[..., 3:]) * (1 - ink))


def side_light(layer: Layer, rng: np.random.Generator) -> Layer:
    """Light from above or from the left."""
    ramp = np.linspace(rng.uniform(0.5, 1), rng.uniform(0.9, 1.3), layer.shape[0])
    return _with_colors(
        layer, layer[..., :3] * (ramp[:, None, None] if rng.random() < 0.5 else ramp[:, None])
    )


def outline(layer: Layer, rng: np.random.Generator) -> Layer:
    """A line around the whole object, mostly dark: the object on a wider copy of its silhouette."""
    width = 1 if layer.shape[0] < 40 else 2
    color = rng.uniform(0, 0.35, 3) if rng.random() < 0.7 else rng.random(3)
    alpha = Image.fromarray((np.pad(layer[..., 3], width) * 255).astype(np.uint8))
    wider = np.asarray(alpha.filter(ImageFilter.MaxFilter(2 * width + 1)), np.float32)[..., None] / 255
    inner = np.pad(layer, ((width, width), (width, width), (0, 0)))
    behind = np.concatenate([wider * color, wider], -1)
    return (inner + behind * (1 - inner[..., 3:])).astype(np.float32)


_MANNERS: tuple[tuple[float, Callable[[Layer, np.random.Generator], Layer]], ...] = (
    (1.0, flat_tones),
    (0.6, gray),
    (0.5, tint),
    (0.6, strokes),
    (1.0, side_light),
    (0.8, outline),
)


def _with_colors(layer: Layer, colors: NDArray[np.floating]) -> Layer:
    """The layer with other (premultiplied) colors, cut to what its alpha allows."""
    alpha = layer[..., 3:]
    return np.concatenate([np.clip(colors, 0, alpha), alpha], -1, dtype=np.float32)
