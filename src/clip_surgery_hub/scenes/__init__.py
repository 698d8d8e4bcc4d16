"""Synthetic scenes: seeded images of named objects on named backgrounds, with exact masks.

Demo, tests, evaluation and the training of the bundled CLIP all draw from it.
"""

from clip_surgery_hub.scenes.backgrounds import HELD_OUT, TRAINING, draw_background
from clip_surgery_hub.scenes.captions import describe
from clip_surgery_hub.scenes.draw import Scene, World, draw_scene
from clip_surgery_hub.scenes.look import Variation
from clip_surgery_hub.scenes.sprites import Sprites, load_sprites

__all__ = [
    "HELD_OUT",
    "TRAINING",
    "Scene",
    "Sprites",
    "Variation",
    "World",
    "describe",
    "draw_background",
    "draw_scene",
    "load_sprites",
]
