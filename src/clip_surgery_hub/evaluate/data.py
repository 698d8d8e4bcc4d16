"""The images of a data set with their truth, shared among ranks and workers: each one once."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clip_surgery_hub.evaluate.datasets import DataSet
from clip_surgery_hub.evaluate.truth import Truth
from clip_surgery_hub.images.image_transform import ImageTransform

__all__ = ["EvaluationData", "Item"]


@dataclass(frozen=True, eq=False)
class Item:
    """An image as it is read, and the truth about it.

    Attributes:
        pixels: uint8 ``[3, H, W]``, whole patches, not normalized.
        truth: at the image's own size.
    """

    pixels: Tensor
    truth: Truth


class EvaluationData(LightningDataModule):
    """The first images of a data set, in any Trainer.

    The images are shared among the ranks here: a sampler of Lightning's would fill up the last batches with
    images that come twice.

    Args:
        dataset: where the images are.
        image_transform: how they are resized.
        limit: so many, from the first; None: all.
        done: numbers of images that are left out; a recorder of Lightning's callbacks may say so later.
        batch_size: images that are read together where they have one size.
        workers: processes per rank that decode; 0: the rank does it itself.

    Raises:
        ValueError: for a limit or a batch size below 1.
    """

    def __init__(
        self,
        dataset: DataSet,
        image_transform: ImageTransform,
        *,
        limit: int | None = None,
        done: Container[int] = frozenset(),
        batch_size: int = 8,
        workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("limit", limit), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.dataset, self.image_transform = dataset, image_transform
        self.numbers = range(len(dataset) if limit is None else min(limit, len(dataset)))
        self.done = done
        self.batch_size, self.workers = batch_size, workers

    def test_dataloader(self) -> DataLoader[Item]:
        """The images of this rank that are left."""
        trainer = self.trainer
        rank, ranks = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        left = [number for number in self.numbers if number not in self.done]
        own = left[rank::ranks]
        batches = [
            list(range(first, min(first + self.batch_size, len(own))))
            for first in range(0, len(own), self.batch_size)
        ]
        if left and not own:  # more ranks than images: this one takes part in the gathering at the end
            batches = [[]]
        return DataLoader(
            _Items(self.dataset, self.image_transform, own),
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=list,
        )


class _Items(Dataset[Item]):
    def __init__(self, dataset: DataSet, image_transform: ImageTransform, numbers: Sequence[int]) -> None:
        self._dataset, self._image_transform, self._numbers = dataset, image_transform, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> Item:
        number = self._numbers[place]
        sample = self._dataset.sample(number)
        pixels, _ = self._image_transform.read(sample.image)
        segmentation = None
        if sample.segmentation is not None:
            segmentation = torch.from_numpy(sample.segmentation.astype(np.int64))
        truth = Truth(
            index=number,
            image=np.asarray(sample.image),
            labels=torch.from_numpy(sample.labels),
            segmentation=segmentation,
        )
        return Item(pixels, truth)
