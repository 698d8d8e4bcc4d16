"""The backgrounds of synthetic scenes: named generators, each a seeded function to an image.

A generator takes a random generator and a size `(height, width)` in pixels and gives float32 colors
`[H, W, 3]` in [0, 1]. Patterns scale with the image, so a background means the same at every size.
`TRAINING` backgrounds are those that the bundled CLIP was trained on; `HELD_OUT` ones it has never seen,
and the demo and the evaluation draw on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colors = NDArray[np.float32]
Background = Callable[[np.random.Generator, int, int], NDArray[np.floating]]


def _noise(
    rng: np.random.Generator, height: int, width: int, cells: tuple[float, float], octaves: int = 3
) -> Colors:
    """Smooth random values [H, W], about 0.5 ± 0.2: octaves of random grids, enlarged and added."""
    total = np.zeros((height, width), np.float32)
    weight_sum = 0.0
    for octave in range(octaves):
        rows = int(np.clip(round(cells[0] * 2**octave), 2, height))
        columns = int(np.clip(round(cells[1] * 2**octave), 2, width))
        grid = Image.fromarray(rng.integers(0, 256, (rows, columns), np.uint8))
        weight = 0.6**octave
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), np.float32) * (
            weight / 255
        )
        weight_sum += weight
    return total / np.float32(weight_sum)


def _mix(first: NDArray[np.floating], second: NDArray[np.floating], share: NDArray[np.floating]) -> Colors:
    """Colors between two colors [3] (or images [H, W, 3]) by a share [H, W] in [0, 1]."""
    part = np.clip(share, 0, 1)[..., None]
    mixed: NDArray[np.floating] = first * (1 - part) + second * part
    return mixed.astype(np.float32)


def _color(rng: np.random.Generator, low: tuple[float, ...], high: tuple[float, ...]) -> NDArray[np.floating]:
    return rng.uniform(low, high)


def _ramps(height: int, width: int) -> tuple[Colors, Colors]:
    """Vertical and horizontal position [H, W] in [0, 1]."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    return rows / max(height - 1, 1), columns / max(width - 1, 1)


def _sky(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, _ = _ramps(height, width)
    high, low = (
        _color(rng, (0.1, 0.4, 0.75), (0.4, 0.65, 1)),
        _color(rng, (0.6, 0.75, 0.9), (0.85, 0.95, 1)),
    )
    clouds = _noise(rng, height, width, (3, 2), 4)
    sky = _mix(high, low, down * rng.uniform(0.5, 1.2))
    return _mix(sky, np.ones(3), (clouds - rng.uniform(0.45, 0.65)) * 5)


def _sunset(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, _ = _ramps(height, width)
    high, low = (
        _color(rng, (0.25, 0.1, 0.35), (0.6, 0.35, 0.7)),
        _color(rng, (0.9, 0.4, 0.1), (1, 0.75, 0.4)),
    )
    return _mix(high, low, down + (_noise(rng, height, width, (6, 1.5), 3) - 0.5) * 0.6)


def _night(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, _ = _ramps(height, width)
    night = _mix(
        _color(rng, (0, 0, 0.05), (0.1, 0.1, 0.25)), _color(rng, (0.1, 0.05, 0.2), (0.3, 0.2, 0.5)), down
    )
    stars = rng.random((height, width)) > 1 - rng.uniform(0.005, 0.03)
    return np.where(stars[..., None], rng.uniform(0.6, 1, (height, width, 1)), night).astype(np.float32)


def _grass(rng: np.random.Generator, height: int, width: int) -> Colors:
    blades = 0.6 * _noise(rng, height, width, (8, 32), 2) + 0.4 * _noise(rng, height, width, (3, 3), 3)
    dark, light = (
        _color(rng, (0.05, 0.25, 0), (0.2, 0.45, 0.15)),
        _color(rng, (0.35, 0.6, 0.1), (0.65, 0.85, 0.35)),
    )
    return _mix(dark, light, (blades - 0.5) * rng.uniform(1.5, 3) + 0.5)


def _water(rng: np.random.Generator, height: int, width: int) -> Colors:
    waves = _noise(rng, height, width, (rng.uniform(10, 24), 3), 2)
    deep, light = (
        _color(rng, (0, 0.15, 0.35), (0.1, 0.4, 0.65)),
        _color(rng, (0.2, 0.5, 0.7), (0.6, 0.9, 1)),
    )
    return _mix(deep, light, (waves - 0.5) * rng.uniform(1.5, 3.5) + 0.4)


def _sand(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, _ = _ramps(height, width)
    bend = _noise(rng, height, width, (2, 2), 2)
    ripples = 0.5 + 0.5 * np.sin(2 * np.pi * (down * rng.uniform(3, 10) + bend * rng.uniform(1, 3)))
    grain = _noise(rng, height, width, (40, 40), 1)
    dark, light = (
        _color(rng, (0.6, 0.45, 0.25), (0.75, 0.6, 0.4)),
        _color(rng, (0.85, 0.72, 0.5), (1, 0.9, 0.7)),
    )
    return _mix(dark, light, 0.5 * ripples + 0.7 * (grain - 0.25))


def _snow(rng: np.random.Generator, height: int, width: int) -> Colors:
    drifts = _noise(rng, height, width, (3, 2), 3)
    snow = _mix(_color(rng, (0.65, 0.75, 0.85), (0.85, 0.9, 1)), np.ones(3), (drifts - 0.3) * 2.5)
    flakes = rng.random((height, width)) > 1 - rng.uniform(0, 0.03)
    return np.where(flakes[..., None], 1, snow).astype(np.float32)


def _laid(
    rng: np.random.Generator, height: int, width: int, rows: float, columns: float, shift: float
) -> Colors:
    """A wall of pieces: [H, W], the random tone of each piece in [0.3, 1], 0 in the joints."""
    down, right = _ramps(height, width)
    row = np.floor(down * rows)
    across = right * columns + row * shift + rng.random()
    column = np.floor(across)
    tones = rng.uniform(0.3, 1, 997).astype(np.float32)
    tone = tones[(row * 31 + column * 17).astype(np.int64) % 997]
    joint = rng.uniform(0.06, 0.14)
    inside = down * rows % 1 > joint
    return np.where(inside & (across % 1 > joint * columns / max(rows, columns)), tone, 0).astype(np.float32)


def _brick(rng: np.random.Generator, height: int, width: int) -> Colors:
    rows = rng.uniform(5, 11)
    wall = _laid(rng, height, width, rows, rows / 2, 0.5)
    dark, light = (
        _color(rng, (0.4, 0.12, 0.08), (0.55, 0.25, 0.18)),
        _color(rng, (0.65, 0.3, 0.2), (0.85, 0.5, 0.4)),
    )
    bricks = _mix(dark, light, wall + (_noise(rng, height, width, (20, 20), 2) - 0.5) * 0.6)
    return np.where(wall[..., None] > 0, bricks, _color(rng, (0.6,) * 3, (0.85,) * 3)).astype(np.float32)


def _tiles(rng: np.random.Generator, height: int, width: int) -> Colors:
    rows = rng.uniform(3, 8)
    wall = _laid(rng, height, width, rows, rows, 0)
    base = _color(rng, (0.2,) * 3, (0.9,) * 3)
    tiles = _mix(base * rng.uniform(0.5, 0.9), np.clip(base * 1.2, 0, 1), wall)
    return np.where(wall[..., None] > 0, tiles, _color(rng, (0.3,) * 3, (1,) * 3)).astype(np.float32)


def _wood(rng: np.random.Generator, height: int, width: int) -> Colors:
    planks = _laid(rng, height, width, rng.uniform(3, 7), 1, 0.37)
    grain = _noise(rng, height, width, (30, 2), 2)
    dark, light = (
        _color(rng, (0.3, 0.15, 0.05), (0.5, 0.3, 0.15)),
        _color(rng, (0.6, 0.4, 0.2), (0.85, 0.65, 0.45)),
    )
    wood = _mix(dark, light, 0.5 * planks + (grain - 0.25))
    return wood * np.where(planks > 0, 1, 0.5)[..., None].astype(np.float32)


def _road(rng: np.random.Generator, height: int, width: int) -> Colors:
    grain = _noise(rng, height, width, (32, 32), 2)
    tone = rng.uniform(0.2, 0.5)
    road = _mix(np.full(3, tone * 0.7), np.full(3, tone * 1.4), (grain - 0.5) * 2 + 0.5)
    down, right = _ramps(height, width)
    slope, middle = rng.uniform(-1, 1), rng.uniform(0.2, 0.8)
    stripe = (np.abs(right + slope * (down - 0.5) - middle) < 0.025) & (down * rng.uniform(2, 5) % 1 < 0.6)
    return np.where(stripe[..., None], _color(rng, (0.8, 0.7, 0.2), (1, 1, 1)), road).astype(np.float32)


def _forest(rng: np.random.Generator, height: int, width: int) -> Colors:
    leaves = _noise(rng, height, width, (7, 7), 3)
    dark, light = (
        _color(rng, (0, 0.1, 0.02), (0.1, 0.25, 0.1)),
        _color(rng, (0.15, 0.35, 0.1), (0.4, 0.6, 0.25)),
    )
    forest = _mix(dark, light, (leaves - 0.5) * 3 + 0.4)
    _, right = _ramps(height, width)
    for _ in range(int(rng.integers(3, 8))):
        trunk = np.abs(right - rng.random() + (leaves - 0.5) * 0.05) < rng.uniform(0.01, 0.05)
        forest[trunk] = forest[trunk] * 0.3 + _color(rng, (0.15, 0.08, 0.02), (0.35, 0.25, 0.15))
    return forest


def _stones(rng: np.random.Generator, height: int, width: int) -> NDArray[np.floating]:
    down, right = _ramps(height, width)
    centers = rng.random((int(rng.integers(20, 60)), 2)).astype(np.float32)
    distance = (down[..., None] - centers[:, 0]) ** 2 + (right[..., None] - centers[:, 1]) ** 2
    nearest = distance.argmin(-1)
    two = np.partition(distance, 1, -1)
    tone = rng.uniform(0.3, 0.85, (len(centers), 1)) * _color(rng, (0.8, 0.8, 0.8), (1, 1, 1))
    edge = np.clip((np.sqrt(two[..., 1]) - np.sqrt(two[..., 0])) * 30, 0.3, 1)[..., None]
    rough = 0.7 + 0.6 * _noise(rng, height, width, (16, 16), 2)[..., None]
    stones: NDArray[np.floating] = tone[nearest] * edge * rough
    return stones


def _cloth(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, right = _ramps(height, width)
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * right + np.sin(angle) * down + 0.15 * _noise(rng, height, width, (2, 2), 2)
    folds = 0.5 + 0.5 * np.sin(2 * np.pi * along * rng.uniform(3, 12))
    base = _color(rng, (0.1,) * 3, (1,) * 3)
    return _mix(base * rng.uniform(0.3, 0.7), base, folds)


def _wall(rng: np.random.Generator, height: int, width: int) -> NDArray[np.floating]:
    down, right = _ramps(height, width)
    first, second = _color(rng, (0,) * 3, (1,) * 3), _color(rng, (0,) * 3, (1,) * 3)
    share = rng.uniform(-1, 1) * down + rng.uniform(-1, 1) * right
    return _mix(first, first * 0.6 + second * 0.4, share) + (
        rng.random((height, width, 1)) - 0.5
    ) * rng.uniform(0, 0.15)


def _paint(
    rng: np.random.Generator,
    height: int,
    width: int,
    marks: int,
    color_of: Callable[[], tuple[int, ...]],
    side: tuple[float, float],
) -> Colors:
    """Overlapping ellipses, polygons, boxes and lines of all sizes, drawn twice as large and shrunk."""
    canvas = Image.new("RGB", (width * 2, height * 2), color_of())
    draw = ImageDraw.Draw(canvas)
    reach = min(width, height) * 2
    for _ in range(marks):
        x, y = rng.uniform(0, width * 2), rng.uniform(0, height * 2)
        half_width, half_height = rng.uniform(*side, 2) * reach / 2
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), color_of())
        elif kind == 1:
            draw.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), color_of())
        elif kind == 2:
            corners = rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * (half_width, half_height) + (x, y)
            draw.polygon([(float(a), float(b)) for a, b in corners], color_of())
        else:
            draw.line(
                (x - half_width, y - half_height, x + half_width, y + half_height),
                color_of(),
                int(rng.integers(2, 7)),
            )
    return np.asarray(canvas.reduce(2), np.float32) / np.float32(255)


def _clutter(rng: np.random.Generator, height: int, width: int) -> NDArray[np.floating]:
    tint, spread = rng.uniform(40, 215, 3), rng.uniform(20, 110)

    def color_of() -> tuple[int, ...]:
        return tuple(int(value) for value in np.clip(tint + rng.normal(0, spread, 3), 0, 255))

    marks = _paint(rng, height, width, int(rng.integers(15, 70)), color_of, (0.03, rng.uniform(0.2, 0.7)))
    return marks * (0.75 + 0.5 * _noise(rng, height, width, (8, 8), 3)[..., None])


def _marble(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, right = _ramps(height, width)
    turbulence = _noise(rng, height, width, (3, 3), 4)
    veins = (
        np.abs(np.sin(np.pi * (right * rng.uniform(1, 3) + down * rng.uniform(1, 3) + turbulence * 4))) ** 0.5
    )
    return _mix(
        _color(rng, (0.2, 0.2, 0.25), (0.5, 0.5, 0.5)), _color(rng, (0.8, 0.8, 0.75), (1, 1, 1)), veins
    )


def _leaves(rng: np.random.Generator, height: int, width: int) -> NDArray[np.floating]:
    autumn = rng.uniform(0, 1)

    def color_of() -> tuple[int, ...]:
        red = rng.uniform(60, 230) * autumn + rng.uniform(20, 90) * (1 - autumn)
        return int(red), int(rng.uniform(60, 170)), int(rng.uniform(10, 60))

    return _paint(rng, height, width, 150, color_of, (0.05, 0.2))


def _city(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, right = _ramps(height, width)
    city = _mix(_color(rng, (0.3,) * 3, (0.8, 0.8, 1)), _color(rng, (0.6,) * 3, (1, 0.9, 0.8)), down)
    for _ in range(int(rng.integers(6, 14))):
        left, side, top = rng.uniform(-0.1, 1), rng.uniform(0.1, 0.3), rng.uniform(0.05, 0.6)
        house = (right > left) & (right < left + side) & (down > top)
        windows = (right * rng.uniform(20, 30) % 1 > 0.5) & (down * rng.uniform(15, 25) % 1 > 0.5)
        tone = _color(rng, (0.15,) * 3, (0.6,) * 3)
        city[house] = np.where(windows[house][:, None], np.clip(tone * 2.2, 0, 1), tone)
    return city


def _dots(rng: np.random.Generator, height: int, width: int) -> Colors:
    down, right = _ramps(height, width)
    count = rng.uniform(4, 10)
    row = np.floor(down * count)
    inside = ((down * count) % 1 - 0.5) ** 2 + ((right * count * width / height + row * 0.5) % 1 - 0.5) ** 2
    return _mix(
        _color(rng, (0,) * 3, (1,) * 3),
        _color(rng, (0,) * 3, (1,) * 3),
        (rng.uniform(0.05, 0.15) - inside) * 50,
    )


TRAINING: Mapping[str, Background] = MappingProxyType(
    {
        "sky": _sky,
        "sunset": _sunset,
        "night sky": _night,
        "grass": _grass,
        "water": _water,
        "sand": _sand,
        "snow": _snow,
        "brick": _brick,
        "tiles": _tiles,
        "wood": _wood,
        "road": _road,
        "forest": _forest,
        "stones": _stones,
        "cloth": _cloth,
        "wall": _wall,
        "clutter": _clutter,
    }
)
"""Backgrounds that the bundled CLIP was trained on, by the word that names them."""

HELD_OUT: Mapping[str, Background] = MappingProxyType(
    {"marble": _marble, "leaves": _leaves, "city": _city, "dots": _dots}
)
"""Backgrounds that training never uses: for the demo and for measuring."""


def draw_background(name: str, rng: np.random.Generator, height: int, width: int) -> Colors:
    """Draw a named background: float32 `[H, W, 3]` in [0, 1].

    Raises:
        ValueError: if no background has that name.
    """
    generator = TRAINING.get(name) or HELD_OUT.get(name)
    if generator is None:
        raise ValueError(f"no background is named {name!r}; there are {', '.join([*TRAINING, *HELD_OUT])}")
    return np.clip(generator(rng, height, width), 0, 1).astype(np.float32)
