"""Images of any kind become RGB arrays, and pixels that a vision tower reads."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

__all__ = [
    "ERROR_KINDS",
    "SUFFIXES",
    "ImageError",
    "decode_image",
    "load_image",
    "load_images",
]

ERROR_KINDS = {
    "missing": "there is no such file, or no image in the sample",
    "empty": "a file without bytes, or an image without pixels",
    "not_an_image": "the content is of no format that can be read",
    "damaged": "an image, archive or table that is cut off or broken",
    "too_large": "more pixels declared than PIL's limit against decompression bombs",
    "not_permitted": "the file may not be read",
    "not_a_file": "a folder, or an address",
    "link_loop": "symbolic links that lead to each other",
    "bad_values": "numbers, shapes or types that are no colors",
    "unreadable": "anything else that keeps an image from being read",
}
"""What can be wrong with an image: the kinds of :class:`ImageError`."""

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What a folder is searched for. A file that is named by itself may have any name."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class ImageError(ValueError):
    """Something given as an image is none; the message is one line that says what to do.

    Args:
        message: the line.
        kind: what is wrong, one of :data:`ERROR_KINDS`, for programs that count or sort.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (str(self), self.kind)  # workers send errors to other processes


def load_images(images: Any) -> list[Image.Image]:
    """One image or many, each of any kind that :func:`load_image` takes, as RGB images.

    Args:
        images: one image, any iterable of images, or a batch: a tensor ``[B, 3, H, W]`` or an array
            ``[B, H, W, 3]``.

    Raises:
        ImageError: for what is no image (its place is named when there are several), or none at all.
    """
    alone = isinstance(images, str | os.PathLike | Image.Image)
    if isinstance(images, Tensor | np.ndarray):
        alone = images.ndim < 4
    elif not alone and not isinstance(images, Iterable):
        alone = True  # no image either: the message is load_image's
    given = [images] if alone else list(images)
    if not given:
        raise ImageError("No image was given; give one or more.", "missing")
    loaded = []
    for number, image in enumerate(given):
        try:
            loaded.append(load_image(image))
        except ImageError as error:
            named = len(given) == 1 or isinstance(image, str | os.PathLike)
            if named:
                raise
            raise ImageError(f"Image {number} of {len(given)}: {error}", error.kind) from error
    return loaded


def load_image(image: Any) -> Image.Image:
    """Any one image as an upright RGB image with 8 bits per color.

    Orientation tags are followed, transparency is laid on white, gray, palette and CMYK become RGB, 16 bits
    become 8 (65535 is white). Of an animation it is the first frame.

    Args:
        image: a path; a PIL image; an array ``[H, W, 3]``, ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 4]``; a
            tensor ``[3, H, W]``, ``[1, H, W]``, ``[4, H, W]`` or ``[H, W]``. Arrays and tensors hold uint8,
            uint16, or floats in [0, 1].

    Raises:
        ImageError: for anything else, and for files that are missing, empty, cut off or no images.
    """
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image))
    if isinstance(image, Image.Image):
        return _from_pil(image, "The image")
    if isinstance(image, Tensor):
        if image.ndim == 3:
            if image.shape[0] not in (1, 3, 4):
                raise ImageError(
                    f"A tensor of shape {list(image.shape)} is no image: [3, H, W], channels first, is "
                    "expected (an array has them last).",
                    "bad_values",
                )
            image = image.permute(1, 2, 0)
        image = image.detach().cpu()
        return _from_array((image.float() if image.dtype == torch.bfloat16 else image).numpy())
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise ImageError(
        "An image can be a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W], "
        f"not {type(image).__name__}.",
        "not_an_image",
    )


def decode_image(data: bytes) -> Image.Image:
    """The bytes of an image file as an upright RGB image, by the rules of :func:`load_image`.

    Raises:
        ImageError: for bytes that are empty, cut off or no image.
    """
    if not data:
        raise ImageError("The image is empty: it has no bytes; replace it.", "empty")
    try:
        return _decode(BytesIO(data), "The image", "The image")
    except OSError as error:
        raise ImageError(f"The image cannot be read ({error}); replace it.", "damaged") from error


def _from_file(path: Path) -> Image.Image:
    path = path.expanduser()
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        raise ImageError(
            f"{path} is an address, not a file; download the image and give its path.", "not_a_file"
        )
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder; give the images in it one by one.", "not_a_file")
        if path.stat().st_size == 0:
            raise ImageError(f"The file {path} is empty; replace it.", "empty")
        with path.open("rb") as opened:
            return _decode(opened, f"The file {path}", f"The image {path}")
    except FileNotFoundError as error:
        raise ImageError(f"There is no file {path}; check the path.", "missing") from error
    except PermissionError as error:
        raise ImageError(
            f"The file {path} may not be read; check its permissions.", "not_permitted"
        ) from error
    except OSError as error:
        # An error without a number is not the disk's but the decoder's.
        kind = {errno.ELOOP: "link_loop", None: "damaged"}.get(error.errno, "unreadable")
        raise ImageError(f"The image {path} cannot be read ({error}); replace it.", kind) from error


def _decode(opened: IO[bytes], file: str, named: str) -> Image.Image:
    """An image out of a file that is open; ``file`` and ``named`` name it at the start of a message."""
    try:
        with Image.open(opened) as image:
            _check_area(image, named)
            return _from_pil(image, named)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{file} is no image that can be read; give a PNG or JPEG.", "not_an_image"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{named} is too large ({error}); make it smaller.", "too_large") from error
    except (ImageError, OSError):
        raise
    except Exception as error:  # headers that are broken raise errors of every kind, before any pixel
        raise ImageError(f"{named} is damaged or cut off ({error}); replace it.", "damaged") from error


def _check_area(image: Image.Image, name: str) -> None:
    """Refuse what PIL only warns of, up to twice its limit: the pixels are not there yet, only declared."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(
            f"{name} is too large ({image.width} x {image.height} pixels, more than {limit}); "
            "make it smaller.",
            "too_large",
        )


def _from_pil(image: Image.Image, name: str) -> Image.Image:
    if min(image.size) == 0:
        raise ImageError(f"{name} is {image.width} x {image.height} pixels: there is nothing in it.", "empty")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        transparent = upright.has_transparency_data and upright.mode not in _SIXTEEN_BIT
        if upright.mode not in (*_SIXTEEN_BIT, "F"):
            upright = upright.convert("RGBA" if transparent else "RGB")
    except Image.DecompressionBombError as error:  # some formats declare a size only where a frame begins
        raise ImageError(f"{name} is too large ({error}); make it smaller.", "too_large") from error
    except Exception as error:  # the decoders raise errors of every kind on damaged files
        raise ImageError(f"{name} is damaged or cut off ({error}); replace it.", "damaged") from error
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
        raise ImageError(
            f"{name} has integer values from {values.min()} to {values.max()}; give 8 or 16 bits per color.",
            "bad_values",
        )
    return values.astype(np.uint16)


def _from_array(values: np.ndarray, name: str = "The array or tensor") -> Image.Image:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or values.size == 0:
        raise ImageError(
            f"{name} has shape {list(values.shape)}; an image is an array [H, W, 3] or a tensor [3, H, W].",
            "bad_values",
        )
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = np.round(values / 257.0).astype(np.uint8)
    elif np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ImageError(
                f"{name} has float values from {low:.3g} to {high:.3g}; they must lie in [0, 1] "
                "(pixel values that are normalized already go to encode_image).",
                "bad_values",
            )
        values = np.round(values.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise ImageError(
            f"{name} is of type {values.dtype}; give uint8, uint16, or floats in [0, 1].", "bad_values"
        )
    image = Image.fromarray(np.ascontiguousarray(values[:, :, 0] if values.shape[2] == 1 else values))
    return _from_pil(image, name)
