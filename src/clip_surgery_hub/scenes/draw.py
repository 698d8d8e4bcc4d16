"""Draw scenes: named objects on named backgrounds, with the exact mask of everything that can be seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clip_surgery_hub.scenes.backgrounds import TRAINING, draw_background
from clip_surgery_hub.scenes.look import Layer, Variation, place, recolor, redraw
from clip_surgery_hub.scenes.sprites import load_sprites

TRIES = 12
"""How many random positions are tried for an object before the one that covers least is taken."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What may be drawn.

    Attributes:
        size: height and width of the images in pixels.
        objects: least and most objects in an image.
        scale: least and most length of an object's longer side, as a share of the image's shorter side.
        concepts: words of the objects that may appear; None for all of them.
        styles: drawing styles; None for all of them.
        backgrounds: words of the backgrounds that may appear.
        twins: probability that an object is of the same concept as the one before it.
        overlap: largest share of an earlier object that a later one may hide, where there is room.
        plain: probability that the background's colors are turned at random and it is not named.
        variation: how far the objects may depart from their icons.
    """

    size: tuple[int, int] = (64, 64)
    objects: tuple[int, int] = (3, 3)
    scale: tuple[float, float] = (0.3, 0.5)
    concepts: tuple[str, ...] | None = None
    styles: tuple[str, ...] | None = None
    backgrounds: tuple[str, ...] = tuple(TRAINING)
    twins: float = 0.0
    overlap: float = 0.25
    plain: float = 0.0
    variation: Variation = field(default_factory=Variation)


@dataclass(frozen=True, eq=False)
class Scene:
    """A synthetic image and the truth about it.

    Attributes:
        image: uint8 [H, W, 3].
        objects: the word of each object, in the order in which they were drawn (later ones lie on top).
        centers: [K, 2] float64, x and y of each object's middle, as shares of width and height.
        visible: [K, H, W] bool, the pixels where each object can be seen.
        background: the background's word, or None where its colors were turned.
    """

    image: NDArray[np.uint8]
    objects: tuple[str, ...]
    centers: NDArray[np.float64]
    visible: NDArray[np.bool_]
    background: str | None

    @property
    def words(self) -> tuple[str, ...]:
        """The different words of the objects, in the order in which they were drawn."""
        return tuple(dict.fromkeys(self.objects))

    def mask(self, word: str) -> NDArray[np.bool_]:
        """[H, W] bool: all pixels where an object of that word can be seen."""
        chosen = [index for index, name in enumerate(self.objects) if name == word]
        if not chosen:
            raise ValueError(f"no {word!r} in this scene; it shows {', '.join(self.words) or 'nothing'}")
        return np.asarray(self.visible[chosen].any(0))


def draw_scene(seed: int | tuple[int, ...], world: World | None = None) -> Scene:
    """Draw the scene of a seed: the same seed and world give the same image everywhere.

    Objects and background draw from generators of their own, so the same seed in a world of other backgrounds
    shows the same objects at the same places.

    Args:
        seed: one or more non-negative integers, such as `(run, index)`.
        world: what may be drawn; None for 64 x 64 images of three objects of 30 to 50% of the side.

    Raises:
        ValueError: if the world names an unknown background, style or concept.
    """
    world = world or World()
    ground_rng, rng = np.random.default_rng(seed).spawn(2)
    height, width = world.size
    word, canvas = _draw_ground(world, ground_rng)
    names = _choose_concepts(world, rng)
    centers = np.zeros((len(names), 2))
    visible = np.zeros((len(names), height, width), bool)
    for index, name in enumerate(names):
        layer = _draw_object(name, world, rng)
        shape = layer[..., 3] > 0.5
        top, left = _find_place(shape, visible[:index], world.overlap, rng)
        there, here = _overlap((top, left), layer.shape[:2], (height, width))
        canvas[there] = canvas[there] * (1 - layer[here][..., 3:]) + layer[here][..., :3]
        visible[:index, *there] &= ~shape[here]
        visible[index, *there] = shape[here]
        centers[index] = (left + layer.shape[1] / 2) / width, (top + layer.shape[0] / 2) / height
    image = np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    return Scene(image, tuple(names), centers, visible, word)


def _choose_concepts(world: World, rng: np.random.Generator) -> list[str]:
    known = load_sprites().concepts
    concepts = world.concepts or known
    unknown = sorted(set(concepts) - set(known))
    if unknown:
        raise ValueError(
            f"no sprite shows {unknown[0]!r}; load_sprites().concepts lists the {len(known)} that exist"
        )
    names: list[str] = []
    for _ in range(int(rng.integers(world.objects[0], world.objects[1] + 1))):
        twin = names and rng.random() < world.twins
        names.append(names[-1] if twin else str(concepts[int(rng.integers(len(concepts)))]))
    return names


def _draw_ground(world: World, rng: np.random.Generator) -> tuple[str | None, NDArray[np.float32]]:
    word = str(world.backgrounds[int(rng.integers(len(world.backgrounds)))])
    ground = draw_background(word, rng, *world.size)
    if rng.random() < world.plain:
        opaque = np.concatenate([ground, np.ones_like(ground[..., :1])], -1)
        return None, recolor(opaque, Variation(color=1.0), rng)[..., :3]
    return word, ground


def _draw_object(name: str, world: World, rng: np.random.Generator) -> Layer:
    sprites = load_sprites()
    styles = world.styles or sprites.styles
    style = str(styles[int(rng.integers(len(styles)))])
    if style not in sprites.styles:
        raise ValueError(f"no drawing style is named {style!r}; there are {', '.join(sprites.styles)}")
    side = rng.uniform(*world.scale) * min(world.size)
    layer = place(sprites.at_least(style, name, side), side, world.variation, rng)
    return redraw(recolor(layer, world.variation, rng), world.variation, rng)


def _find_place(
    shape: NDArray[np.bool_], before: NDArray[np.bool_], overlap: float, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of an object, inside the image where it fits, hiding little of those before it."""
    height, width = before.shape[1:]
    areas = before.sum((1, 2))
    best, least = (0, 0), np.inf
    for _ in range(TRIES):
        top = int(rng.integers(min(0, height - shape.shape[0]), max(0, height - shape.shape[0]) + 1))
        left = int(rng.integers(min(0, width - shape.shape[1]), max(0, width - shape.shape[1]) + 1))
        if not len(before):
            return top, left
        there, here = _overlap((top, left), shape.shape, (height, width))
        hidden = (before[:, *there] & shape[here]).sum((1, 2)) / np.maximum(areas, 1)
        if hidden.max() < least:
            best, least = (top, left), float(hidden.max())
        if least <= overlap:
            break
    return best


def _overlap(
    corner: tuple[int, int], extent: tuple[int, ...], size: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a rectangle at `corner` lies in an image of `size`: slices of the image and of itself."""
    there, here = [], []
    for start, length, limit in zip(corner, extent, size, strict=True):
        first, last = max(start, 0), min(start + length, limit)
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    return (there[0], there[1]), (here[0], here[1])
