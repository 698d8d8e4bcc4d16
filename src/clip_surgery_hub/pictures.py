"""Pictures of any kind become RGB arrays, and pixels that a vision tower reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

__all__ = ["Normalisation", "PictureError", "load_picture", "load_pictures", "picture_size", "to_pixels"]

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class PictureError(ValueError):
    """Something given as a picture is none; the message is one line that says what to do."""


@dataclass(frozen=True)
class Normalisation:
    """What a checkpoint's image processor does to the values of a picture.

    Attributes:
        mean: of the red, green and blue values in [0, 1]; subtracted.
        std: their standard deviation; divided by.
        resample: number of the PIL filter used for resizing; 3 is bicubic.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC


def load_pictures(images: Any) -> list[Image.Image]:
    """One picture or many, each of any kind that :func:`load_picture` takes, as RGB pictures.

    Args:
        images: one picture, any iterable of pictures, or a batch: a tensor ``[B, 3, H, W]`` or an array
            ``[B, H, W, 3]``.

    Raises:
        PictureError: for what is no picture (its place is named when there are several), or none at all.
    """
    alone = isinstance(images, str | os.PathLike | Image.Image)
    if isinstance(images, Tensor | np.ndarray):
        alone = images.ndim < 4
    elif not alone and not isinstance(images, Iterable):
        alone = True  # no picture either: the message is load_picture's
    given = [images] if alone else list(images)
    if not given:
        raise PictureError("No picture was given; give one or more.")
    loaded = []
    for number, image in enumerate(given):
        try:
            loaded.append(load_picture(image))
        except PictureError as error:
            named = len(given) == 1 or isinstance(image, str | os.PathLike)
            raise error if named else PictureError(f"Picture {number} of {len(given)}: {error}") from error
    return loaded


def load_picture(image: Any) -> Image.Image:
    """Any one picture as an upright RGB picture with 8 bits per colour.

    Orientation tags are followed, transparency is laid on white, grey, palette and CMYK become RGB, 16 bits
    become 8 (65535 is white). Of an animation it is the first frame.

    Args:
        image: a path; a PIL picture; an array ``[H, W, 3]``, ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 4]``; a
            tensor ``[3, H, W]``, ``[1, H, W]``, ``[4, H, W]`` or ``[H, W]``. Arrays and tensors hold uint8,
            uint16, or floats in [0, 1].

    Raises:
        PictureError: for anything else, and for files that are missing, empty, cut off or no pictures.
    """
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image))
    if isinstance(image, Image.Image):
        return _from_pil(image, "The picture")
    if isinstance(image, Tensor):
        if image.ndim == 3:
            if image.shape[0] not in (1, 3, 4):
                raise PictureError(
                    f"A tensor of shape {list(image.shape)} is no picture: [3, H, W], channels first, is "
                    "expected (an array has them last)."
                )
            image = image.permute(1, 2, 0)
        image = image.detach().cpu()
        return _from_array((image.float() if image.dtype == torch.bfloat16 else image).numpy())
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise PictureError(
        "A picture can be a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W], "
        f"not {type(image).__name__}."
    )


def _from_file(path: Path) -> Image.Image:
    path = path.expanduser()
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        raise PictureError(f"{path} is an address, not a file; download the picture and give its path.")
    if path.is_dir():
        raise PictureError(f"{path} is a folder; give the pictures in it one by one.")
    try:
        if path.stat().st_size == 0:
            raise PictureError(f"The file {path} is empty; replace it.")
        with Image.open(path) as opened:
            return _from_pil(opened, f"The picture {path}")
    except FileNotFoundError as error:
        raise PictureError(f"There is no file {path}; check the path.") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"The file {path} is no picture that can be read; give a PNG or JPEG.") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"The picture {path} is too large ({error}); make it smaller.") from error
    except PermissionError as error:
        raise PictureError(f"The file {path} may not be read; check its permissions.") from error
    except OSError as error:
        raise PictureError(f"The picture {path} cannot be read ({error}); replace it.") from error


def _from_pil(image: Image.Image, name: str) -> Image.Image:
    if min(image.size) == 0:
        raise PictureError(f"{name} is {image.width} x {image.height} pixels: there is nothing in it.")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        transparent = upright.has_transparency_data and upright.mode not in _SIXTEEN_BIT
        if upright.mode not in (*_SIXTEEN_BIT, "F"):
            upright = upright.convert("RGBA" if transparent else "RGB")
    except Exception as error:  # the decoders raise errors of every kind on damaged files
        raise PictureError(f"{name} is damaged or cut off ({error}); replace it.") from error
    if upright.mode in _SIXTEEN_BIT:
        return _from_array(_sixteen_bits(np.asarray(upright), name), name)
    if upright.mode == "F":
        return _from_array(np.asarray(upright), name)
    if transparent:
        white = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(white, upright).convert("RGB")
    return upright


def _sixteen_bits(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise PictureError(
            f"{name} has integer values from {values.min()} to {values.max()}; give 8 or 16 bits per colour."
        )
    return values.astype(np.uint16)


def _from_array(values: np.ndarray, name: str = "The array or tensor") -> Image.Image:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or values.size == 0:
        raise PictureError(
            f"{name} has shape {list(values.shape)}; a picture is an array [H, W, 3] or a tensor [3, H, W]."
        )
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = np.round(values / 257.0).astype(np.uint8)
    elif np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise PictureError(
                f"{name} has float values from {low:.3g} to {high:.3g}; they must lie in [0, 1] "
                "(pixel values that are normalised already go to encode_image)."
            )
        values = np.round(values.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise PictureError(f"{name} is of type {values.dtype}; give uint8, uint16, or floats in [0, 1].")
    image = Image.fromarray(np.ascontiguousarray(values[:, :, 0] if values.shape[2] == 1 else values))
    return _from_pil(image, name)


def picture_size(
    height: int, width: int, *, size: int, max_side: int | None = None, patch: int
) -> tuple[int, int]:
    """The height and width in pixels at which a picture is read: its aspect kept, in whole patches.

    The short side becomes ``size``, unless the long one would then exceed ``max_side``; both are rounded to
    the nearest whole number of patches, one at least, the long side never above ``max_side``.

    Args:
        height: of the picture in pixels.
        width: of the picture in pixels.
        size: short side in pixels.
        max_side: longest side in pixels; None: 4 x ``size``.
        patch: side of a patch in pixels.

    Raises:
        ValueError: for a ``size`` or ``max_side`` that holds no patch.
    """
    longest = 4 * size if max_side is None else max_side
    for name, value in (("size", size), ("max_side", longest)):
        if value < patch:
            raise ValueError(f"{name} must be at least one patch, {patch} pixels, got {value}.")
    scale = min(size / min(height, width), longest / max(height, width))
    rows, columns = (min(max(1, round(side * scale / patch)), longest // patch) for side in (height, width))
    return rows * patch, columns * patch


def to_pixels(image: Image.Image, size: tuple[int, int], normalisation: Normalisation) -> Tensor:
    """An RGB picture resized to ``size`` (height, width) and normalised: ``[3, H, W]`` float32."""
    if (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling(normalisation.resample))
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
    return (values - mean[:, None, None]) / std[:, None, None]
