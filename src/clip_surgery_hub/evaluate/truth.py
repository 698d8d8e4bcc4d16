"""What an image of a data set is compared with, and what a variant says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.evaluate.datasets import VOID


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """The truth about one image.

    Attributes:
        index: number of the image in its data set.
        image: uint8 ``[H, W, 3]``.
        labels: bool ``[T]``, which classes count as shown.
        segmentation: int64 ``[H, W]``, the class of each pixel, `VOID` or `NO_CLASS`; None where the data set
            tells labels only.
    """

    index: int
    image: np.ndarray
    labels: Tensor
    segmentation: Tensor | None

    def to(self, device: torch.device) -> Truth:
        """The same with its tensors on a device."""
        moved = None if self.segmentation is None else self.segmentation.to(device)
        return replace(self, labels=self.labels.to(device), segmentation=moved)

    def objects(self, background: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """The classes to be found: numbers ``[K]``, masks ``[K, H, W]``, and the valid pixels ``[H, W]``.

        Classes that count as shown and have a pixel, without the background class.
        """
        assert self.segmentation is not None  # a task that needs it is refused where there is none
        shown = self.labels.clone()
        if background is not None:
            shown[background] = False
        numbers = shown.nonzero()[:, 0]
        masks = self.segmentation[None] == numbers[:, None, None]
        kept = masks.flatten(1).any(1)
        return numbers[kept], masks[kept], self.segmentation != VOID


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction:
    """What one variant says of one image, per class (the best of the class's synonyms).

    Attributes:
        scores: ``[T]``, of the image as a whole.
        similarity: ``[T, h, w]``, of its patches.
    """

    scores: Tensor
    similarity: Tensor
