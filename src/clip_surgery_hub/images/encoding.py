"""Images of mixed sizes go through the vision tower, those of one size together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.windows import encode_in_windows

__all__ = ["MOST_TOKENS", "encode_images"]

# Tokens that go through the tower at once: 41 images of 224 px, 7 of 512 px at patch 16.
MOST_TOKENS = 8192


@torch.no_grad()
def encode_images(
    encode: Callable[[Tensor], Tensor],
    images: Sequence[Image.Image],
    transform: ImageTransform,
    *,
    window: tuple[int, int] | None,
) -> list[Tensor]:
    """Tokens of RGB images.

    Args:
        encode: pixels ``[B, 3, H, W]`` to unit length tokens ``[B, 1+N, C]``, such as `Tower.encode`.
        images: B images of any sizes.
        transform: from an image to its pixels.
        window: side and step of a sliding window in patches, or None for the image at once.

    Returns:
        B tensors ``[1+N, C]``, each with the N of its size, float32 on the CPU.
    """
    tokens: dict[int, Tensor] = {}
    for numbers in _batches_of_one_size(images, transform):
        pixels = torch.stack([transform(images[number]) for number in numbers])
        if window is None:
            encoded = encode(pixels)
        else:
            side, step = window
            encoded = encode_in_windows(
                encode, pixels, patch=transform.patch_size, side=side, step=step, most_tokens=MOST_TOKENS
            )
        tokens |= zip(numbers, encoded.float().cpu(), strict=True)
    return [tokens[number] for number in range(len(images))]


def _batches_of_one_size(images: Sequence[Image.Image], transform: ImageTransform) -> Iterator[list[int]]:
    """The numbers of the images, batched by patch grid, at most `MOST_TOKENS` tokens in a batch."""
    of_grid = defaultdict(list)
    for number, image in enumerate(images):
        of_grid[transform.grid_of(image.height, image.width)].append(number)
    for (rows, columns), numbers in of_grid.items():
        most = max(1, MOST_TOKENS // (1 + rows * columns))
        for start in range(0, len(numbers), most):
            yield numbers[start : start + most]
