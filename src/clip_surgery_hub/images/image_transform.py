"""From an RGB image of any size to the pixels that a vision tower reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.images.loading import ImageError, decode_image, load_image

__all__ = ["Normalization", "ImageTransform", "normalized", "image_size", "resized", "to_pixels"]


@dataclass(frozen=True)
class Normalization:
    """What a checkpoint's image processor does to the values of an image.

    Attributes:
        mean: of the red, green and blue values in [0, 1]; subtracted.
        std: their standard deviation; divided by.
        resample: number of the PIL filter used for resizing; 3 is bicubic.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC


@dataclass(frozen=True)
class ImageTransform:
    """How images are decoded and resized: as `CLIPSurgery.explain` does it, up to the normalization.

    Attributes:
        size: short side in pixels, see `images.image_size`.
        patch: side of a patch in pixels.
        max_side: longest side in pixels; None: 4 x ``size``.
        resample: number of the PIL filter used for resizing; 3 is bicubic.

    Raises:
        ValueError: for a ``size`` or ``max_side`` that holds no patch.
    """

    size: int
    patch: int
    max_side: int | None = None
    resample: int = Image.Resampling.BICUBIC

    def __post_init__(self) -> None:
        image_size(1, 1, size=self.size, max_side=self.max_side, patch=self.patch)  # raises what it would

    def read(self, content: Any) -> tuple[Tensor, tuple[int, int]]:
        """The pixels of an image, and its own height and width.

        Args:
            content: the bytes of an image file, whatever `images.load_image` takes, or the
                :class:`ImageError` that is all there is of it.

        Returns:
            ``[3, H, W]`` uint8, H and W whole patches, not normalized; and height and width of the upright
            image in pixels, before it was resized.

        Raises:
            ImageError: for content that is no image; nothing else, whatever is wrong with it.
        """
        try:
            if isinstance(content, ImageError):
                raise content
            image = decode_image(content) if isinstance(content, bytes) else load_image(content)
        except ImageError:
            raise
        except Exception as error:  # such as a path with a zero byte, or memory that ran out
            raise ImageError(f"The image cannot be read ({error!r}); replace it.") from error
        height, width = image.height, image.width
        size = image_size(height, width, size=self.size, max_side=self.max_side, patch=self.patch)
        return resized(image, size, self.resample), (height, width)


def image_size(
    height: int, width: int, *, size: int, max_side: int | None = None, patch: int
) -> tuple[int, int]:
    """The height and width in pixels at which an image is read: its aspect kept, in whole patches.

    The short side becomes ``size``, unless the long one would then exceed ``max_side``; both are rounded to
    the nearest whole number of patches, one at least, the long side never above ``max_side``.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
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


def to_pixels(image: Image.Image, size: tuple[int, int], normalization: Normalization) -> Tensor:
    """An RGB image resized to ``size`` (height, width) and normalized: ``[3, H, W]`` float32."""
    return normalized(resized(image, size, normalization.resample), normalization)


def resized(image: Image.Image, size: tuple[int, int], resample: int) -> Tensor:
    """An RGB image at ``size`` (height, width), by the PIL filter of that number: ``[3, H, W]`` uint8."""
    if (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling(resample))
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def normalized(values: Tensor, normalization: Normalization) -> Tensor:
    """Colors ``[..., 3, H, W]`` uint8 as a checkpoint wants them: float32, on the same device."""
    both = (normalization.mean, normalization.std)
    mean, std = (values.new_tensor(one, dtype=torch.float32) for one in both)
    return (values.float() / 255 - mean[:, None, None]) / std[:, None, None]
