"""Pictures of any kind become RGB arrays, and pixels that a vision tower reads."""

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
    "PictureError",
    "decode_picture",
    "load_picture",
    "load_pictures",
]

ERROR_KINDS = {
    "missing": "there is no such file, or no picture in the sample",
    "empty": "a file without bytes, or a picture without pixels",
    "not_a_picture": "the content is of no format that can be read",
    "damaged": "a picture, archive or table that is cut off or broken",
    "too_large": "more pixels declared than PIL's limit against decompression bombs",
    "not_permitted": "the file may not be read",
    "not_a_file": "a folder, or an address",
    "link_loop": "symbolic links that lead to each other",
    "bad_values": "numbers, shapes or types that are no colours",
    "unreadable": "anything else that keeps a picture from being read",
}
"""What can be wrong with a picture: the kinds of :class:`PictureError`."""

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What a folder is searched for. A file that is named by itself may have any name."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class PictureError(ValueError):
    """Something given as a picture is none; the message is one line that says what to do.

    Args:
        message: the line.
        kind: what is wrong, one of :data:`ERROR_KINDS`, for programs that count or sort.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        return type(self), (str(self), self.kind)  # workers send errors to other processes


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
        raise PictureError("No picture was given; give one or more.", "missing")
    loaded = []
    for number, image in enumerate(given):
        try:
            loaded.append(load_picture(image))
        except PictureError as error:
            named = len(given) == 1 or isinstance(image, str | os.PathLike)
            if named:
                raise
            raise PictureError(f"Picture {number} of {len(given)}: {error}", error.kind) from error
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
                    "expected (an array has them last).",
                    "bad_values",
                )
            image = image.permute(1, 2, 0)
        image = image.detach().cpu()
        return _from_array((image.float() if image.dtype == torch.bfloat16 else image).numpy())
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise PictureError(
        "A picture can be a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W], "
        f"not {type(image).__name__}.",
        "not_a_picture",
    )


def decode_picture(data: bytes) -> Image.Image:
    """The bytes of a picture file as an upright RGB picture, by the rules of :func:`load_picture`.

    Raises:
        PictureError: for bytes that are empty, cut off or no picture.
    """
    if not data:
        raise PictureError("The picture is empty: it has no bytes; replace it.", "empty")
    try:
        return _decode(BytesIO(data), "The picture", "The picture")
    except OSError as error:
        raise PictureError(f"The picture cannot be read ({error}); replace it.", "damaged") from error


def _from_file(path: Path) -> Image.Image:
    path = path.expanduser()
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        raise PictureError(
            f"{path} is an address, not a file; download the picture and give its path.", "not_a_file"
        )
    try:
        if path.is_dir():
            raise PictureError(f"{path} is a folder; give the pictures in it one by one.", "not_a_file")
        if path.stat().st_size == 0:
            raise PictureError(f"The file {path} is empty; replace it.", "empty")
        with path.open("rb") as opened:
            return _decode(opened, f"The file {path}", f"The picture {path}")
    except FileNotFoundError as error:
        raise PictureError(f"There is no file {path}; check the path.", "missing") from error
    except PermissionError as error:
        raise PictureError(
            f"The file {path} may not be read; check its permissions.", "not_permitted"
        ) from error
    except OSError as error:
        # An error without a number is not the disk's but the decoder's.
        kind = {errno.ELOOP: "link_loop", None: "damaged"}.get(error.errno, "unreadable")
        raise PictureError(f"The picture {path} cannot be read ({error}); replace it.", kind) from error


def _decode(opened: IO[bytes], file: str, picture: str) -> Image.Image:
    """A picture out of a file that is open; ``file`` and ``picture`` name it at the start of a message."""
    try:
        with Image.open(opened) as image:
            _check_area(image, picture)
            return _from_pil(image, picture)
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{file} is no picture that can be read; give a PNG or JPEG.", "not_a_picture"
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{picture} is too large ({error}); make it smaller.", "too_large") from error
    except (PictureError, OSError):
        raise
    except Exception as error:  # headers that are broken raise errors of every kind, before any pixel
        raise PictureError(f"{picture} is damaged or cut off ({error}); replace it.", "damaged") from error


def _check_area(image: Image.Image, name: str) -> None:
    """Refuse what PIL only warns of, up to twice its limit: the pixels are not there yet, only declared."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise PictureError(
            f"{name} is too large ({image.width} x {image.height} pixels, more than {limit}); "
            "make it smaller.",
            "too_large",
        )


def _from_pil(image: Image.Image, name: str) -> Image.Image:
    if min(image.size) == 0:
        raise PictureError(
            f"{name} is {image.width} x {image.height} pixels: there is nothing in it.", "empty"
        )
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        transparent = upright.has_transparency_data and upright.mode not in _SIXTEEN_BIT
        if upright.mode not in (*_SIXTEEN_BIT, "F"):
            upright = upright.convert("RGBA" if transparent else "RGB")
    except Image.DecompressionBombError as error:  # some formats declare a size only where a frame begins
        raise PictureError(f"{name} is too large ({error}); make it smaller.", "too_large") from error
    except Exception as error:  # the decoders raise errors of every kind on damaged files
        raise PictureError(f"{name} is damaged or cut off ({error}); replace it.", "damaged") from error
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
            f"{name} has integer values from {values.min()} to {values.max()}; give 8 or 16 bits per colour.",
            "bad_values",
        )
    return values.astype(np.uint16)


def _from_array(values: np.ndarray, name: str = "The array or tensor") -> Image.Image:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or values.size == 0:
        raise PictureError(
            f"{name} has shape {list(values.shape)}; a picture is an array [H, W, 3] or a tensor [3, H, W].",
            "bad_values",
        )
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = np.round(values / 257.0).astype(np.uint8)
    elif np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise PictureError(
                f"{name} has float values from {low:.3g} to {high:.3g}; they must lie in [0, 1] "
                "(pixel values that are normalised already go to encode_image).",
                "bad_values",
            )
        values = np.round(values.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise PictureError(
            f"{name} is of type {values.dtype}; give uint8, uint16, or floats in [0, 1].", "bad_values"
        )
    image = Image.fromarray(np.ascontiguousarray(values[:, :, 0] if values.shape[2] == 1 else values))
    return _from_pil(image, name)
