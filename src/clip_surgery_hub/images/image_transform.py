"""From an RGB image of any size to the pixels that a vision tower takes."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.images.loading import ImageError, decode_image, load_image

__all__ = ["LEAST_STD", "ImageTransform", "Normalization", "normalization_of", "per_color", "resized"]

LEAST_STD = 1e-6  # of colors in [0, 1]
_MOST = sys.float_info.max


@dataclass(frozen=True)
class Normalization:
    """What an image processor does to the values of an image; the defaults are CLIP's own.

    Attributes:
        mean: of the red, green and blue values in [0, 1]; subtracted.
        std: their standard deviation; divided by.
        resample: number of the PIL filter used for resizing; 3 is bicubic.
    """

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resample: int = Image.Resampling.BICUBIC

    def __call__(self, values: Tensor) -> Tensor:
        """Colors ``[..., 3, H, W]`` uint8 as the checkpoint takes them: float32, on the same device."""
        mean, std = (values.new_tensor(one, dtype=torch.float32) for one in (self.mean, self.std))
        return (values.float() / 255 - mean[:, None, None]) / std[:, None, None]


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """The size at which images are encoded, its rounding to whole patches, and the normalization.

    The short side becomes ``size``, unless the long one would then exceed ``max_side``. The aspect is kept
    and nothing is cropped: both sides are rounded to the nearest whole number of patches, one at least, the
    long side never above ``max_side``. `CLIPSurgery.image_transform` makes it for a checkpoint.

    Attributes:
        size: short side in pixels.
        patch_size: side of a patch in pixels.
        max_side: longest side in pixels; None: 4 x ``size``.
        normalization: of the values.

    Raises:
        ValueError: for a ``size`` or ``max_side`` that holds no patch.
    """

    size: int
    patch_size: int
    max_side: int | None = None
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("max_side", self._longest)):
            if value < self.patch_size:
                raise ValueError(f"{name} must be at least one patch, {self.patch_size} pixels, got {value}.")

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image resized and normalized: ``[3, H, W]`` float32, H and W whole patches."""
        return self.normalization(self.resize(image))

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The height and width in pixels at which an image of ``height`` x ``width`` pixels is encoded."""
        scale = min(self.size / min(height, width), self._longest / max(height, width))
        most = self._longest // self.patch_size
        rows, columns = (min(max(1, round(side * scale / self.patch_size)), most) for side in (height, width))
        return rows * self.patch_size, columns * self.patch_size

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """The patch rows and columns of an image of ``height`` x ``width`` pixels."""
        rows, columns = self.size_of(height, width)
        return rows // self.patch_size, columns // self.patch_size

    def resize(self, image: Image.Image) -> Tensor:
        """An RGB image at its :meth:`size_of`: ``[3, H, W]`` uint8."""
        return resized(image, self.size_of(image.height, image.width), self.normalization.resample)

    def read(self, content: Any) -> tuple[Tensor, tuple[int, int]]:
        """The resized pixels of an image, and its own height and width.

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
        return self.resize(image), (image.height, image.width)

    @property
    def _longest(self) -> int:
        return 4 * self.size if self.max_side is None else self.max_side


def normalization_of(processor: Any) -> Normalization | None:
    """The normalization that an image processor does.

    Args:
        processor: an image processor of `transformers`, a processor that holds one, a :class:`Normalization`,
            or None.

    Raises:
        TypeError: for an object of another kind.
        ValueError: for a processor whose numbers would make no image.
    """
    if processor is None or isinstance(processor, Normalization):
        return processor
    images: Any = getattr(processor, "image_processor", processor)
    if not hasattr(images, "image_mean") or not hasattr(images, "resample"):
        raise TypeError(
            f"processor must be an image processor of transformers or a Normalization, got "
            f"{type(processor).__name__}: give AutoImageProcessor.from_pretrained(...)."
        )
    resample = int(Image.Resampling(images.resample))
    if not images.do_normalize:
        return Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resample)
    mean = per_color(images.image_mean, "image_mean")
    return Normalization(mean, per_color(images.image_std, "image_std", least=LEAST_STD), resample)


def per_color(values: Any, name: str, *, least: float = -_MOST) -> tuple[float, ...]:
    """A number for red, green and blue; one alone is that of all.

    Raises:
        ValueError: for anything else, not finite, or below ``least``.
    """
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values] * 3
    if len(numbers) != 3 or not all(_is_number(number, least) for number in numbers):
        limit = "" if least == -_MOST else f" of at least {least:g}"
        raise ValueError(
            f"{name} must be a number{limit} for red, green and blue, but is {reprlib.repr(values)}"
        )
    return tuple(map(float, numbers))


def resized(image: Image.Image, size: tuple[int, int], resample: int) -> Tensor:
    """An RGB image at ``size`` (height, width), by the PIL filter of that number: ``[3, H, W]`` uint8."""
    if (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling(resample))
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def _is_number(value: Any, least: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value <= _MOST
