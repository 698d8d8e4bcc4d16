"""Training batches for the small SAM: synthetic scenes, each with many point prompts and what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from data import training_look, training_world
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from clip_surgery_hub.scenes import Scene, World, draw_scene

LEAST_VISIBLE = 20
"""Pixels from which on an object is asked for."""
OBLONG = 0.15
"""Share of images that are not square and get a margin of the mean color, as SAM pads them."""
GRAY = (124, 116, 104)
"""The mean color in bytes."""
MOST = 8
"""How many points on the object, and how many off it, a prompt has at most."""
FROM_CLIP = 0.3
"""Share of the prompts with an even number of points that look like a CLIP's: as many on as off, in cells."""
CELLS = (5, 7)
"""How many such cells there are along a side: half of the patches of a CLIP that reads 80 or 112 pixels."""
ENLARGED = 0.25
"""Share of square images that are drawn smaller and enlarged, as SAM does with small images."""
LEAST_DRAWN = 0.6
"""The smallest side of these, as a share of the size."""
ASTRAY = 0.08
"""Share of a CLIP's points on the object that lie anywhere; those off it hardly ever lie on it."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Prompts that are asked together.

    All have the same number of points, drawn anew at every step: the decoder of `transformers` attends to
    points that fill up shorter prompts, of whichever label, and would have to learn to overlook them.

    Attributes:
        prompts: how many per image.
        points: the numbers of points that are drawn from.
        single: ask for the single mask, not for the three.
    """

    prompts: int
    points: tuple[int, ...]
    single: bool = False


GROUPS = {
    "one": Group(prompts=4, points=(1,)),
    "few": Group(prompts=4, points=(2, 3, 3, 4)),
    "many": Group(prompts=4, points=(5, 6, 7, 8, 10, 12, 14, 16)),
    "single": Group(prompts=2, points=(1, 2, 3, 4, 6, 8, 12), single=True),
}


@dataclass(frozen=True, eq=False)
class Shown:
    """An image uint8 [S, S, 3] and its objects bool [K, S, S], all large enough to be asked for."""

    image: NDArray[np.uint8]
    objects: NDArray[np.bool_]


def worlds_of_training(size: tuple[int, int]) -> tuple[World, World]:
    """The world as the last stages of the CLIP's training draw it, and that of the evaluation."""
    look = training_look(color=0.15, redraw=0.04)
    trained = training_world(min(size), (1, 5), (0.1, 0.6), None, look)
    return replace(trained, size=size), World(size=size)


class PromptBatches(IterableDataset[dict[str, Tensor]]):
    """Batches drawn from `(seed, number of the batch)`, so a resumed run continues where it was.

    Yields dicts of `pixels` uint8 [B, 3, S, S], `objects` bool [B, K, S, S], and for each group of `GROUPS`,
    of P prompts of N points: `NAME.points` float32 [B, P, N, 2], x and y, `NAME.labels` int64 [B, P, N], 1 on
    and 0 off the object, `NAME.object` int64 [B, P], which of the objects is meant.
    """

    def __init__(self, side: int, *, batch: int, seed: int, first: int, steps: int) -> None:
        self.side, self.batch = side, batch
        self.seed, self.first, self.steps = seed, first, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first + number, self.steps, workers):
            rng = np.random.default_rng((self.seed, step))
            yield self._collate([self._draw((self.seed, step, i), rng) for i in range(self.batch)], rng)

    def _draw(self, seed: tuple[int, ...], rng: np.random.Generator) -> Shown:
        """One scene with an object that can be asked for, square, padded to a square or enlarged."""
        size, fit = [self.side, self.side], _padded
        if rng.random() < OBLONG:
            size[int(rng.integers(2))] = int(rng.integers(self.side // 2, self.side))
        elif rng.random() < ENLARGED:
            size = [int(rng.integers(int(LEAST_DRAWN * self.side), self.side))] * 2
            fit = _enlarged
        trained, evaluated = worlds_of_training((size[0], size[1]))
        world = trained if rng.random() < 0.5 else evaluated
        for attempt in range(1000):
            scene = draw_scene((*seed, attempt), world)
            large = scene.visible.sum((1, 2)) >= LEAST_VISIBLE
            if large.any():
                return fit(scene, large, self.side)
        raise ValueError(f"no scene of {world} shows an object of {LEAST_VISIBLE} pixels")

    def _collate(self, shown: Sequence[Shown], rng: np.random.Generator) -> dict[str, Tensor]:
        pixels = np.stack([one.image for one in shown]).transpose(0, 3, 1, 2)
        objects = np.zeros((len(shown), max(len(one.objects) for one in shown), self.side, self.side), bool)
        for row, one in zip(objects, shown, strict=True):
            row[: len(one.objects)] = one.objects
        batch = {
            "pixels": torch.from_numpy(np.ascontiguousarray(pixels)),
            "objects": torch.from_numpy(objects),
        }
        for name, group in GROUPS.items():
            count = int(rng.choice(group.points))
            made = [prompts_of(one.objects, group.prompts, count, rng) for one in shown]
            points, labels, chosen = (np.stack(parts) for parts in zip(*made, strict=True))
            batch[f"{name}.points"] = torch.from_numpy(points)
            batch[f"{name}.labels"] = torch.from_numpy(labels)
            batch[f"{name}.object"] = torch.from_numpy(chosen)
        return batch


def _padded(scene: Scene, large: NDArray[np.bool_], side: int) -> Shown:
    height, width = scene.image.shape[:2]
    image = np.empty((side, side, 3), np.uint8)
    image[:] = GRAY
    image[:height, :width] = scene.image
    objects = np.zeros((int(large.sum()), side, side), bool)
    objects[:, :height, :width] = scene.visible[large]
    return Shown(image, objects)


def _enlarged(scene: Scene, large: NDArray[np.bool_], side: int) -> Shown:
    image = Image.fromarray(scene.image).resize((side, side), Image.Resampling.BILINEAR)
    places = (np.arange(side) * len(scene.image)) // side
    return Shown(np.array(image), scene.visible[large][:, places[:, None], places])


def prompts_of(
    objects: NDArray[np.bool_], prompts: int, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Prompts of `count` points for the objects [K, S, S] in turn, beginning with any of them.

    Returns:
        Points [prompts, count, 2], x and y, labels [prompts, count], and the object meant [prompts].
    """
    points = np.zeros((prompts, count, 2), np.float32)
    labels = np.zeros((prompts, count), np.int64)
    chosen = (np.arange(prompts) + rng.integers(len(objects))) % len(objects)
    anything = objects.any(0)
    for row, index in enumerate(chosen):
        if count % 2 == 0 and rng.random() < FROM_CLIP:
            points[row], on = _like_a_clip(objects[index], count // 2, rng), count // 2
        else:
            on = _how_many_on(count, rng)
            points[row] = _true_points(objects[index], anything, on, count - on, rng)
        labels[row, :on] = 1
    return points, labels, chosen


def _how_many_on(count: int, rng: np.random.Generator) -> int:
    """All of them in half of the cases where a prompt may have so many, else any number."""
    if count <= MOST and rng.random() < 0.5:
        return count
    return int(rng.integers(max(1, count - MOST), min(count, MOST) + 1))


def _true_points(
    mask: NDArray[np.bool_], anything: NDArray[np.bool_], on: int, off: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Pixels of the mask, then pixels outside of it, about half of them on other objects if there are any."""
    inside = _some(mask, on, rng)
    others = anything & ~mask
    on_others = int(rng.binomial(off, 0.5)) if others.any() else 0
    return np.concatenate([inside, _some(others, on_others, rng), _some(~mask, off - on_others, rng)])


def _some(mask: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Pixels of a mask [S, S], drawn with repetition: [count, 2], x and y."""
    if count == 0:
        return np.zeros((0, 2), np.float32)
    flat = np.flatnonzero(mask)
    drawn = flat[rng.integers(len(flat), size=count)]
    return np.stack([drawn % mask.shape[1], drawn // mask.shape[1]], -1).astype(np.float32)


def _like_a_clip(mask: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Middles of cells [2 * count, 2]: those nearest to a place about the object's middle, then others.

    A CLIP knows an object's place to about a cell. Its points are a blob of neighbors, its negative
    points are anywhere else. Of those made with five cells on 80 pixels 70% of the former lie on the object,
    and none for 10% of the objects; of the first bundled CLIP's it was 69% and 13% (80 scenes).
    """
    cells = int(rng.choice(CELLS))
    side = mask.shape[0] // cells
    middles = (np.arange(cells) * side + side // 2).astype(np.float32)
    places = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)  # [cells^2, 2], x and y
    rows, columns = np.nonzero(mask)
    center = np.array([columns.mean(), rows.mean()]) + rng.normal(0, side / 4, 2)
    whole = cells * side
    share = mask[:whole, :whole].reshape(cells, side, cells, side).mean((1, 3)).flatten()
    # Nearness first, then how much of the object the cell shows, and noise that makes blobs of any shape.
    merit = share - np.square(places - center).sum(1) / (2 * side) ** 2 + rng.normal(0, 0.1, len(places))
    order = np.argsort(-merit)
    on, rest = order[:count], order[count:]
    off = rest[np.argsort(share[rest].round(1) + 0.05 * rng.random(len(rest)))[:count]]
    astray = rng.random(count) < ASTRAY
    on = np.where(astray, rng.integers(len(places), size=count), on)
    return places[np.concatenate([on, off])]
