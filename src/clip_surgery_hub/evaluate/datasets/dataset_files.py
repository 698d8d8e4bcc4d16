"""The files of a data set: folders, lists, images and masks, with an error that names what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clip_surgery_hub.evaluate.datasets.dataset import DatasetEntry

__all__ = ["find", "read_index_mask", "read_list", "read_image", "read_rgb_mask", "stems_in"]


def find(entry: DatasetEntry, folder: Path, places: Sequence[str]) -> Path:
    """The first of the places in a folder that there is.

    Args:
        entry: the data set, for the error.
        folder: where to look.
        places: paths below the folder; the first is where the data set itself has it.

    Raises:
        FileNotFoundError: none of them is there; says what was looked for and where to get it.
    """
    for place in places:
        if (folder / place).exists():
            return folder / place
    others = f", nor {', nor '.join(places[1:])} there" if places[1:] else ""
    raise FileNotFoundError(f"{entry.title}: there is no {folder / places[0]}{others}. {entry.advice}")


def read_list(file: Path) -> tuple[str, ...]:
    """The lines of a text file, without those that are empty.

    Raises:
        ValueError: it has none, or is no text.
    """
    try:
        lines = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"The list {file} is no text ({error}); get it anew.") from error
    if not lines:
        raise ValueError(f"The list {file} is empty; get it anew.")
    return lines


def stems_in(folder: Path, ending: str) -> tuple[str, ...]:
    """What comes before the ending in the names of a folder's files, sorted.

    Raises:
        ValueError: no file ends so.
    """
    names = sorted(name.removesuffix(ending) for name in os.listdir(folder) if name.endswith(ending))
    if not names:
        raise ValueError(f"The folder {folder} has no files that end in {ending}; get them anew.")
    return tuple(names)


def read_image(file: Path) -> Image.Image:
    """An image as RGB, with its pixels as they are stored and nothing but its pixels.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged or no image.
    """
    return Image.fromarray(_pixels(file, "image", "RGB"))


def read_index_mask(file: Path) -> np.ndarray:
    """A mask of one number per pixel (palette or gray), as it is stored: ``[H, W]``.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, no image, or one in colors.
    """
    values = _pixels(file, "mask", None)
    if values.ndim != 2:
        raise ValueError(
            f"The mask {file} is an image in colors, but one number per pixel is expected: it was saved "
            "without its palette. Get it anew."
        )
    return values


def read_rgb_mask(file: Path) -> np.ndarray:
    """A mask whose pixels are three bytes: uint8 ``[H, W, 3]``.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, no image, or one without three channels.
    """
    values = _pixels(file, "mask", None)
    if values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"The mask {file} has shape {list(values.shape)}, but RGB is expected; get it anew.")
    return values


def _pixels(file: Path, kind: str, mode: str | None) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.array(image if mode is None else image.convert(mode))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There is no {kind} {file}, which the data set names; get the data set anew."
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The {kind} {file} is damaged or none ({error}); get it anew.") from error
