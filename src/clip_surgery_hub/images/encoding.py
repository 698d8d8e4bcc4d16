"""Images of mixed sizes go through the vision tower, those of one size together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.images.image_transform import Normalization, to_pixels
from clip_surgery_hub.images.windows import encode_in_windows
from clip_surgery_hub.results.settings import Settings

__all__ = ["EncodedImages", "encode_images"]

# Tokens that go through the tower at once: 41 images of 224 px, 7 of 512 px at patch 16.
MOST_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images that went through the vision tower, for any number of questions.

    Attributes:
        images: B arrays uint8 ``[H, W, 3]``, each of its own size.
        tokens: B tensors ``[1+N, C]``, CLS first, unit length, float32 on the CPU.
        grids: B patch grids ``(h, w)``, h * w = N.
        settings: how they were encoded.
    """

    images: tuple[np.ndarray, ...]
    tokens: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    settings: Settings

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def check_read_as(self, settings: Settings) -> None:
        """Check that they were read by the same model in the same way.

        Raises:
            ValueError: they were not; the message says in what they differ.
        """
        for name in ("model", "method", "depth", "interpolation"):
            found, wanted = getattr(self.settings, name), getattr(settings, name)
            if found != wanted:
                raise ValueError(
                    f"the images were encoded with {name} {found!r}, but are asked with {wanted!r}; "
                    "encode them again."
                )

    def __repr__(self) -> str:
        settings = self.settings
        return f"EncodedImages({len(self)} images, {settings.model}, {settings.method})"


def encode_images(
    encode: Callable[[Tensor], Tensor],
    images: Sequence[Image.Image],
    sizes: Sequence[tuple[int, int]],
    *,
    normalization: Normalization,
    patch: int,
    window: tuple[int, int] | None,
) -> list[Tensor]:
    """Tokens of RGB images.

    Args:
        encode: pixels ``[B, 3, H, W]`` to unit length tokens ``[B, 1+N, C]``.
        images: B images of any sizes.
        sizes: height and width in pixels at which each is read, whole patches.
        normalization: of their values.
        patch: side of a patch in pixels.
        window: side and step of a sliding window in patches, or None for the image at once.

    Returns:
        B tensors ``[1+N, C]``, each with the N of its size.
    """
    tokens: dict[int, Tensor] = {}
    for numbers in _batches_of_one_size(sizes, patch):
        pixels = [to_pixels(images[number], sizes[number], normalization) for number in numbers]
        if window is None:
            encoded = encode(torch.stack(pixels))
        else:
            side, step = window
            encoded = encode_in_windows(
                encode, torch.stack(pixels), patch=patch, side=side, step=step, most_tokens=MOST_TOKENS
            )
        tokens |= zip(numbers, encoded, strict=True)
    return [tokens[number] for number in range(len(images))]


def _batches_of_one_size(sizes: Sequence[tuple[int, int]], patch: int) -> Iterator[list[int]]:
    """The numbers of the images, batched by size, at most `MOST_TOKENS` patches in a batch."""
    of_size = defaultdict(list)
    for number, size in enumerate(sizes):
        of_size[size].append(number)
    for (height, width), numbers in of_size.items():
        most = max(1, MOST_TOKENS // (1 + (height // patch) * (width // patch)))
        for start in range(0, len(numbers), most):
            yield numbers[start : start + most]
