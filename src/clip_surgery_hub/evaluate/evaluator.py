"""The LightningModule of the evaluation: pictures with their truth in, figures out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from clip_surgery_hub.evaluate.data import Item
from clip_surgery_hub.evaluate.metrics import RowMetric
from clip_surgery_hub.evaluate.tasks import Setting, Task
from clip_surgery_hub.evaluate.truth import Answer
from clip_surgery_hub.evaluate.variants import Reading
from clip_surgery_hub.functional import feature_surgery, unit_length
from clip_surgery_hub.images.encoding import MOST_TOKENS
from clip_surgery_hub.images.image_transform import normalised
from clip_surgery_hub.images.windows import encode_in_windows
from clip_surgery_hub.model import CLIPSurgery

__all__ = ["SurgeryEvaluator"]


class SurgeryEvaluator(lightning.LightningModule):
    """Measures readings of one checkpoint, all from the same pass through its vision tower, in any Trainer.

    `Trainer.test` logs every figure as ``<reading>/<figure>``, gathered over the ranks.

    Args:
        clip: a checkpoint whose tower is not under surgery (`transform.remove_surgery`).
        task: what is measured.
        setting: what its metric has to know.
        readings: R of them.
        class_set: unit length embeddings of all texts, ``[X, C]``.
        owner: the class of each text, int64 ``[X]``; a class with several texts is as similar as the best.
        window: side and step of a sliding window in patches, None for the picture at once.

    Raises:
        RuntimeError: when the tower is under surgery.
        ValueError: for a class without text.
    """

    class_set: Tensor
    owner: Tensor

    def __init__(
        self,
        clip: CLIPSurgery,
        *,
        task: Task,
        setting: Setting,
        readings: Sequence[Reading],
        class_set: Tensor,
        owner: Tensor,
        window: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        clip.tower.check_plain()
        if set(owner.tolist()) != set(range(setting.classes)):
            raise ValueError(f"Each of the {setting.classes} classes needs a text.")
        self.clip = clip
        self.model = clip.model
        self.task, self.setting, self.readings = task, setting, tuple(readings)
        self.window = window
        self.register_buffer("class_set", class_set, persistent=False)
        self.register_buffer("owner", owner, persistent=False)
        self.metrics = nn.ModuleList(task.metric(setting) for _ in readings)

    def metric(self, reading: Reading) -> RowMetric:
        """The metric of one of the readings."""
        found = self.metrics[self.readings.index(reading)]
        assert isinstance(found, RowMetric)
        return found

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Unit length tokens ``[B, 1+N, C]``, float32, per reading, of pixels ``[B, 3, H, W]`` uint8."""
        pixels = normalised(pixels, self.clip.known_normalisation).to(self.clip.dtype)
        if self.window is None:
            return [unit_length(tokens) for tokens in self._read(pixels)]
        side, step = self.window
        # Blending is linear in the channels, so all readings are blended as one long token.
        blended = encode_in_windows(
            lambda cut: torch.cat(self._read(cut), dim=-1),
            pixels,
            patch=self.clip.tower.patch_size,
            side=side,
            step=step,
            most_tokens=MOST_TOKENS,
        )
        return [unit_length(tokens) for tokens in blended.chunk(len(self.readings), dim=-1)]

    @torch.no_grad()
    def similarity_of(self, pixels: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        """Scores ``[T]`` and similarity ``[T, h, w]`` of one picture ``[3, H, W]`` uint8, on the CPU."""
        tokens = self(pixels[None].to(self.class_set.device))[self.readings.index(reading)]
        found = self._similarity(tokens, reading)[0].cpu()
        grid = self.clip.tower.grid(pixels.shape[1], pixels.shape[2])
        return found[0], found[1:].T.unflatten(1, grid)

    def test_step(self, batch: Sequence[Item], batch_idx: int = 0) -> None:
        """Read the pictures of a batch, those of one size together, and update every reading's metric."""
        for items in _of_one_size(batch):
            pixels = torch.stack([item.pixels for item in items]).to(self.device)
            height, width = pixels.shape[-2:]
            grid = self.clip.tower.grid(height, width)
            for reading, tokens in zip(self.readings, self(pixels), strict=True):
                metric, similarity = self.metric(reading), self._similarity(tokens, reading)
                for item, one in zip(items, similarity, strict=True):
                    answer = Answer(scores=one[0], similarity=one[1:].T.unflatten(1, grid))
                    metric.update(item.truth.to(self.device), answer)

    def on_test_epoch_end(self) -> None:
        """Log the figures over all pictures of all ranks."""
        for reading in self.readings:
            figures = self.metric(reading).compute()
            named = {f"{reading.name}/{name}": value.float() for name, value in figures.items()}
            self.log_dict(named, sync_dist=True)  # every rank has them already: their mean is the same

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch: pictures of one size are moved together."""
        return batch

    def _read(self, pixels: Tensor) -> list[Tensor]:
        with torch.no_grad():
            operations = [reading.operation for reading in self.readings]
            found = self.clip.tower.encode_all(pixels, operations, interpolation=self.clip.interpolation)
        return [tokens.float() for tokens in found]

    def _similarity(self, tokens: Tensor, reading: Reading) -> Tensor:
        """Similarity of tokens ``[B, 1+N, C]`` with the classes, ``[B, 1+N, T]``."""
        with torch.autocast(tokens.device.type, enabled=False):
            texts = self.class_set.float()
            found = feature_surgery(tokens, texts) if reading.features == "surgery" else tokens @ texts.T
        if found.shape[-1] == self.setting.classes:
            return found
        best = found.new_full((*found.shape[:-1], self.setting.classes), -torch.inf)
        return best.scatter_reduce(-1, self.owner.expand_as(found), found, "amax")


def _of_one_size(batch: Sequence[Item]) -> Iterator[list[Item]]:
    """The items grouped by the size at which they are read, in order."""
    groups: dict[tuple[int, ...], list[Item]] = {}
    for item in batch:
        groups.setdefault(tuple(item.pixels.shape), []).append(item)
    yield from groups.values()
