"""How one drawn object may look: turned, mirrored, recoloured, redrawn with other strokes, blurred.

Three icon styles are few. These changes spread them out, so that what is learned from the drawn world is the
shape of a dog and not the palette of one icon set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Layer = NDArray[np.float32]
"""A drawn object: premultiplied red, green, blue and alpha, `[h, w, 4]` in [0, 1]."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How far objects may depart from their icons. Zero everywhere draws them as they are.

    Attributes:
        rotation: largest turn to either side, in degrees.
        stretch: largest change of the aspect, 0.2 is 20% either way.
        mirror: probability of a left-right flip.
        colour: strength of the changes of hue, saturation, brightness and contrast, in [0, 1].
        redraw: probability of each change of drawing manner: an outline, strokes, flat tones, shading, grey.
        blur: largest radius of a Gaussian blur, as a share of the object's side.
    """

    rotation: float = 20.0
    stretch: float = 0.1
    mirror: float = 0.5
    colour: float = 0.2
    redraw: float = 0.0
    blur: float = 0.01


def place(sprite: Image.Image, side: float, variation: Variation, rng: np.random.Generator) -> Layer:
    """Turn, stretch, mirror and scale a premultiplied RGBa sprite so that its longer side is `side` pixels."""
    angle = np.deg2rad(rng.uniform(-variation.rotation, variation.rotation))
    stretch = np.exp(rng.uniform(-variation.stretch, variation.stretch) / 2)
    flip = -1.0 if rng.random() < variation.mirror else 1.0
    scale = sprite.width / side
    extent = max(2, int(np.ceil(side * stretch * (abs(np.cos(angle)) + abs(np.sin(angle))))))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    a, b, d, e = flip * cos / stretch, flip * sin / stretch, -sin * stretch, cos * stretch
    middle = extent / 2
    shift_x, shift_y = sprite.width / 2 - a * middle - b * middle, sprite.height / 2 - d * middle - e * middle
    turned = sprite.transform(
        (extent, extent), Image.Transform.AFFINE, (a, b, shift_x, d, e, shift_y), Image.Resampling.BILINEAR
    )
    radius = rng.uniform(0, variation.blur) * side
    if radius > 0.3:
        turned = turned.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(turned, np.float32) / np.float32(255)


def recolour(layer: Layer, variation: Variation, rng: np.random.Generator) -> Layer:
    """Change hue, saturation, brightness and contrast by one colour matrix drawn at random."""
    strength = variation.colour
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
    matrix = (saturation * np.eye(3) + (1 - saturation) * np.ones((3, 1)) * _GREY) @ hue
    contrast = 1 + rng.uniform(-0.7, 0.7) * strength
    offset = 0.5 * (1 - contrast) + rng.uniform(-0.4, 0.4) * strength
    tones = contrast * matrix * (1 + rng.uniform(-0.3, 0.3, (3, 1)) * strength)
    alpha = layer[..., 3:]
    colours = np.clip(layer[..., :3] @ tones.T.astype(np.float32) + np.float32(offset) * alpha, 0, alpha)
    return np.concatenate([colours, alpha], -1, dtype=np.float32)


def redraw(layer: Layer, variation: Variation, rng: np.random.Generator) -> Layer:
    """Draw the object in another manner, each with probability `variation.redraw`."""
    chance = variation.redraw
    if chance == 0:
        return layer
    picks = rng.random(6) < chance * np.array([1, 0.6, 0.6, 1, 0.5, 0.4])
    colours, alpha = layer[..., :3], layer[..., 3:]
    if picks[0]:  # flat tones: few levels of each colour, as poster and line artists fill
        levels = float(rng.integers(2, 6))
        straight = colours / np.maximum(alpha, 1e-3)
        colours = np.clip(np.round(straight * levels) / levels, 0, 1) * alpha
    if picks[1]:  # grey
        colours = np.repeat((colours @ _GREY)[..., None], 3, -1)
    if picks[4]:  # one tint over all
        tint = rng.random(3, np.float32)
        colours = (0.5 * colours + 0.5 * (colours @ _GREY)[..., None] * tint * 1.5).clip(0, alpha)
    if picks[2]:  # strokes where the brightness jumps, over paler fills
        grey = colours @ _GREY
        jump = np.abs(np.diff(grey, axis=0, prepend=grey[:1])) + np.abs(
            np.diff(grey, axis=1, prepend=grey[:, :1])
        )
        pale = rng.uniform(0, 0.9)
        colours = (colours * (1 - pale) + pale * alpha) * (1 - np.clip(jump * rng.uniform(2, 6), 0, 1))[
            ..., None
        ]
    if picks[3]:  # light from one side
        side = np.linspace(rng.uniform(0.5, 1), rng.uniform(0.9, 1.3), layer.shape[0], dtype=np.float32)
        colours = np.clip(
            colours * (side[:, None, None] if rng.random() < 0.5 else side[None, :, None]), 0, alpha
        )
    layer = np.concatenate([colours, alpha], -1, dtype=np.float32)
    if picks[5] or rng.random() < chance * 0.5:  # an outline around the whole object
        layer = outline(
            layer,
            1 if layer.shape[0] < 40 else 2,
            rng.uniform(0, 0.35, 3) if rng.random() < 0.7 else rng.random(3),
        )
    return layer


def outline(layer: Layer, width: int, colour: NDArray[np.floating]) -> Layer:
    """Lay the object on a copy of its silhouette, `width` pixels wider, of one colour."""
    alpha = Image.fromarray((np.pad(layer[..., 3], width) * 255).astype(np.uint8))
    wider = np.asarray(alpha.filter(ImageFilter.MaxFilter(2 * width + 1)), np.float32)[..., None] / 255
    inner = np.pad(layer, ((width, width), (width, width), (0, 0)))
    behind = np.concatenate([wider * colour.astype(np.float32), wider], -1)
    return (inner + behind * (1 - inner[..., 3:])).astype(np.float32)
