"""Images that went through the vision tower, for any number of text queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from clip_surgery_hub.results.settings import Settings

__all__ = ["EncodedImages"]


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedImages:
    """B images as the vision tower encodes them.

    Attributes:
        tokens: B tensors ``[1+N, C]``, CLS first, unit length, float32.
        grids: B patch grids ``(h, w)``, h * w = N.
        sizes: heights and widths of the images in pixels, ``(H, W)`` each.
        settings: how they were encoded.
        images: B arrays uint8 ``[H, W, 3]``, or None where only the sizes are kept; they are needed to draw.
    """

    tokens: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    settings: Settings
    images: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.tokens)

    def __getitem__(self, index: slice) -> EncodedImages:
        """Some of the images."""
        return replace(
            self,
            tokens=self.tokens[index],
            grids=self.grids[index],
            sizes=self.sizes[index],
            images=None if self.images is None else self.images[index],
        )

    def check_read_as(self, settings: Settings) -> None:
        """Check that they were encoded by the same model in the same way.

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
