"""Images for a Lightning Trainer: each one once, for any number of ranks and workers."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.prediction.sources import ImageBatches, leave_signals_to_the_rank, open_source

__all__ = ["ImageDataModule"]


class ImageDataModule(LightningDataModule):
    """Images to predict on, in batches of one shape each.

    The images are shared among the ranks and the workers here, so a Trainer's sampler has nothing to do: no
    image comes twice to fill up a batch, none is left out, in any Trainer.

    Args:
        data: whatever :func:`~clip_surgery_hub.prediction.sources.open_source` takes.
        batch_size: of full batches; those that are cut short hold fewer.
        workers: processes per rank that decode; 0: the rank does it itself.
        column: see `open_source`.
        key: see `open_source`.
        image_transform: how images are decoded and resized; None: the attribute ``image_transform`` of the
            module that the Trainer runs.
        done: keys that are left out; None: the attribute ``recorded_keys`` of the first of the Trainer's
            callbacks that has one, or nothing.

    Raises:
        ValueError: for a ``batch_size`` below 1, ``workers`` below 0, or data that is nothing `open_source`
            knows.
        OSError: for data that cannot be read.
        ImportError: for a package that the data needs.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int = 32,
        workers: int = 0,
        column: str | None = None,
        key: str | None = None,
        image_transform: ImageTransform | None = None,
        done: Container[str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers}.")
        self.source = open_source(data, column=column, key=key)
        self.batch_size = batch_size
        self.workers = workers
        self._image_transform = image_transform
        self._done = done

    @property
    def image_transform(self) -> ImageTransform:
        """How images are decoded and resized.

        Raises:
            ValueError: if neither this module was told, nor the one that the Trainer runs knows.
        """
        module = None if self.trainer is None else self.trainer.lightning_module
        image_transform = self._image_transform or getattr(module, "image_transform", None)
        if image_transform is None:
            raise ValueError(
                "ImageDataModule was not told how to read images, and the Trainer's module has no "
                "attribute 'image_transform'. Give image_transform=ImageTransform(size=..., patch_size=...)."
            )
        return image_transform

    @property
    def done(self) -> Container[str]:
        """The keys that are left out."""
        callbacks: list[Any] = [] if self.trainer is None else list(getattr(self.trainer, "callbacks", []))
        recorded = (getattr(callback, "recorded_keys", None) for callback in callbacks)
        found = (
            self._done if self._done is not None else next((one for one in recorded if one is not None), None)
        )
        return () if found is None else found

    @property
    def remaining(self) -> int | None:
        """How many images all ranks have to do; None where only reading all of them would tell."""
        return self.source.remaining(self.done)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The batches of this rank, as `sources.batches_of` describes them.

        Raises:
            ValueError: see :attr:`image_transform`.
        """
        trainer = self.trainer
        batches = ImageBatches(
            self.source,
            self.image_transform,
            batch_size=self.batch_size,
            done=self.done,
            rank=0 if trainer is None else trainer.global_rank,
            ranks=1 if trainer is None else trainer.world_size,
        )
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=leave_signals_to_the_rank,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
