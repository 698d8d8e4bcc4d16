"""What becomes of a segmentation: masks, their boxes, COCO's run lengths, a PNG whose pixels number texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_TEXTS = 256
"""So many numbers fit into the pixels of a palette PNG."""


def class_masks(index_map: Tensor, texts: int) -> Tensor:
    """One mask per text of a segmentation.

    Args:
        index_map: ``[H, W]`` integers, as :meth:`Explanation.segment` gives them.
        texts: T, the number of texts, background texts included if their masks are wanted.

    Returns:
        ``[T, H, W]`` bool; a pixel belongs to one mask at most.
    """
    _check_index_map(index_map)
    return index_map[None] == torch.arange(texts, device=index_map.device)[:, None, None]


def mask_to_rle(mask: Tensor) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths, which pycocotools and COCO's annotation files use.

    Args:
        mask: ``[H, W]`` bool.

    Returns:
        ``{"size": [H, W], "counts": str}``, ready for JSON.

    Raises:
        ValueError: for another shape or dtype.
    """
    from pycocotools import mask as coco

    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool [H, W], got {mask.dtype} {list(mask.shape)}.")
    packed = coco.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode("ascii")}


def rle_to_mask(rle: Mapping[str, Any]) -> Tensor:
    """The mask ``[H, W]`` bool of COCO's compressed run lengths.

    Raises:
        ValueError: where size or counts are missing or do not fit together.
    """
    from pycocotools import mask as coco

    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"].encode("ascii")
    except (KeyError, TypeError, ValueError, AttributeError, UnicodeEncodeError) as error:
        raise ValueError(
            'A mask in run lengths is {"size": [height, width], "counts": string}, as mask_to_rle gives it; '
            f"got {dict(rle)!r:.80}."
        ) from error
    if sum(_run_lengths(counts)) != height * width:
        raise ValueError(
            f"The run lengths cover {sum(_run_lengths(counts))} pixels, but a mask of {height} x {width} has "
            f"{height * width}: it is damaged."
        )
    decoded = coco.decode({"size": [height, width], "counts": counts})
    return torch.from_numpy(np.ascontiguousarray(decoded)).bool()


def mask_box(mask: Tensor) -> list[int] | None:
    """The smallest box around a mask ``[H, W]`` bool: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.

    None for a mask without pixels.
    """
    rows, columns = (mask.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows else None


def palette_image(index_map: Tensor, texts: Sequence[str]) -> Image:
    """A segmentation as a palette image: pixel values are numbers of texts, every number has a color.

    Args:
        index_map: ``[H, W]`` integers in [0, T).
        texts: the T texts, background texts included.

    Returns:
        A PIL image of mode "P"; save it as PNG, which changes nothing.

    Raises:
        ValueError: for more than 256 texts, or numbers that no text has.
    """
    from PIL import Image

    _check_index_map(index_map)
    if len(texts) > MOST_TEXTS:
        raise ValueError(f"A palette holds {MOST_TEXTS} texts, got {len(texts)}: keep the index map instead.")
    if index_map.numel() and not 0 <= int(index_map.min()) <= int(index_map.max()) < len(texts):
        raise ValueError(
            f"The index map holds numbers from {int(index_map.min())} to {int(index_map.max())}, but there "
            f"are {len(texts)} texts: give the background texts too."
        )
    image = Image.fromarray(index_map.cpu().numpy().astype(np.uint8), mode="L")
    image.putpalette(palette(len(texts)).flatten().tolist())
    return image


def palette(count: int) -> np.ndarray:
    """Colors that are easily distinguished, ``[count, 3]`` uint8; each is far from those before it in hue."""
    from matplotlib.colors import hsv_to_rgb

    numbers = np.arange(count)
    hue = (0.58 + numbers * 0.618034) % 1.0  # the golden angle never comes back to a hue it had
    saturation, value = 0.9 - 0.2 * (numbers // 8 % 3), 0.97 - 0.15 * (numbers // 3 % 4)
    colors: np.ndarray = np.rint(255 * hsv_to_rgb(np.stack([hue, saturation, value], -1))).astype(np.uint8)
    return colors


def _run_lengths(counts: bytes) -> list[int]:
    """COCO's string of run lengths: 5 bits a sign, the sixth says that more follow, from 3 on differences."""
    lengths: list[int] = []
    position = 0
    while position < len(counts):
        value = shift = 0
        more = True
        while more and position < len(counts):
            sign = counts[position] - 48
            value |= (sign & 0x1F) << shift
            more, shift, position = bool(sign & 0x20), shift + 5, position + 1
            if not more and sign & 0x10:
                value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths


def _check_index_map(index_map: Tensor) -> None:
    if index_map.ndim != 2 or index_map.is_floating_point() or index_map.dtype == torch.bool:
        raise ValueError(
            f"index_map must be integers [H, W], as segment() gives them for one image, got "
            f"{index_map.dtype} {list(index_map.shape)}."
        )
