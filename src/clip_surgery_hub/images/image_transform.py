"""From an RGB picture of any size to the pixels that a vision tower reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.images.loading import PictureError, decode_picture, load_picture

__all__ = ["Normalisation", "PictureReading", "normalised", "picture_size", "resized", "to_pixels"]


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


@dataclass(frozen=True)
class PictureReading:
    """How pictures are decoded and resized: as `CLIPSurgery.explain` does it, up to the normalisation.

    Attributes:
        size: short side in pixels, see `pictures.picture_size`.
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
        picture_size(1, 1, size=self.size, max_side=self.max_side, patch=self.patch)  # raises what it would

    def read(self, content: Any) -> tuple[Tensor, tuple[int, int]]:
        """The pixels of a picture, and its own height and width.

        Args:
            content: the bytes of a picture file, whatever `pictures.load_picture` takes, or the
                :class:`PictureError` that is all there is of it.

        Returns:
            ``[3, H, W]`` uint8, H and W whole patches, not normalised; and height and width of the upright
            picture in pixels, before it was resized.

        Raises:
            PictureError: for content that is no picture; nothing else, whatever is wrong with it.
        """
        try:
            if isinstance(content, PictureError):
                raise content
            picture = decode_picture(content) if isinstance(content, bytes) else load_picture(content)
        except PictureError:
            raise
        except Exception as error:  # such as a path with a zero byte, or memory that ran out
            raise PictureError(f"The picture cannot be read ({error!r}); replace it.") from error
        height, width = picture.height, picture.width
        size = picture_size(height, width, size=self.size, max_side=self.max_side, patch=self.patch)
        return resized(picture, size, self.resample), (height, width)


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
    return normalised(resized(image, size, normalisation.resample), normalisation)


def resized(image: Image.Image, size: tuple[int, int], resample: int) -> Tensor:
    """An RGB picture at ``size`` (height, width), by the PIL filter of that number: ``[3, H, W]`` uint8."""
    if (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling(resample))
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def normalised(values: Tensor, normalisation: Normalisation) -> Tensor:
    """Colours ``[..., 3, H, W]`` uint8 as a checkpoint wants them: float32, on the same device."""
    both = (normalisation.mean, normalisation.std)
    mean, std = (values.new_tensor(one, dtype=torch.float32) for one in both)
    return (values.float() / 255 - mean[:, None, None]) / std[:, None, None]
