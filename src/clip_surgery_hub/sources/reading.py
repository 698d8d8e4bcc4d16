"""From the content of a sample to the pixels that a batch is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from clip_surgery_hub.pictures import PictureError, decode_picture, load_picture, picture_size, resized

__all__ = ["PictureReading"]


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
