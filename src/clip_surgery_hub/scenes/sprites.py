"""The sprites: every concept of the synthetic scenes in three drawing styles, cut from one bundled atlas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from PIL import Image

HALVINGS = 3
"""Each sprite is kept at its full side and at this many halvings, so that shrinking it needs one step."""


@dataclass(frozen=True)
class Sprites:
    """The drawable objects.

    Attributes:
        concepts: the plain word of each concept.
        styles: the names of the drawing styles (the icon sets they come from).
        cell: side of a full-size sprite in pixels.
        pyramid: `pyramid[style, concept]` is the sprite, premultiplied RGBa, at `cell`, `cell / 2`, ...
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    cell: int
    pyramid: dict[tuple[str, str], tuple[Image.Image, ...]]

    def at_least(self, style: str, concept: str, side: float) -> Image.Image:
        """The smallest stored sprite of at least `side` pixels (the largest one, where none is)."""
        levels = self.pyramid[style, concept]
        for level in reversed(levels):
            if level.width >= side:
                return level
        return levels[0]


@lru_cache(maxsize=1)
def load_sprites() -> Sprites:
    """Read the bundled atlas (about a second, then kept: it is never changed)."""
    assets = files("clip_surgery_hub") / "assets"
    about = json.loads((assets / "sprites.json").read_text())
    with (assets / "sprites.webp").open("rb") as file:
        atlas = Image.open(file).convert("RGBa")
    cell, columns = about["cell"], about["columns"]
    pyramid: dict[tuple[str, str], tuple[Image.Image, ...]] = {}
    names = [(style, concept) for style in about["styles"] for concept in about["concepts"]]
    for index, name in enumerate(names):
        left, top = index % columns * cell, index // columns * cell
        sprite = atlas.crop((left, top, left + cell, top + cell))
        pyramid[name] = tuple(
            sprite.reduce(2**halving) if halving else sprite for halving in range(HALVINGS + 1)
        )
    return Sprites(tuple(about["concepts"]), tuple(about["styles"]), cell, pyramid)
