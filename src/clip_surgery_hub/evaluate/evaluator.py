"""The LightningModule of the evaluation: images with their truth in, metrics out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from clip_surgery_hub.evaluate.data import Item
from clip_surgery_hub.evaluate.metrics import Measurement, RowMetric
from clip_surgery_hub.evaluate.tasks import Task, TaskOptions
from clip_surgery_hub.evaluate.truth import Prediction
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.functional import feature_surgery, unit_length
from clip_surgery_hub.images.encoding import MOST_TOKENS
from clip_surgery_hub.images.windows import encode_in_windows
from clip_surgery_hub.model import CLIPSurgery

__all__ = ["SurgeryEvaluator"]


class SurgeryEvaluator(lightning.LightningModule):
    """Measures variants of one checkpoint, all from the same pass through its vision tower, in any Trainer.

    `Trainer.test` logs every metric as ``<variant>/<metric>``, gathered over the ranks.

    Args:
        clip: a checkpoint under any method; it is left under it.
        task: what is measured.
        task_options: what its metric has to know.
        variants: of the checkpoint, one at least.
        class_set: unit length embeddings of all texts, ``[X, C]``.
        owner: the class of each text, int64 ``[X]``; a class with several texts is as similar as the best.
        window: side and step of a sliding window in patches, None for the image at once.

    Attributes:
        measurements: by variant what the rows of all images say, on rank 0 when the test has ended; empty
            before, and where no image was left to measure.

    Raises:
        ValueError: for a class without text.
    """

    class_set: Tensor
    owner: Tensor

    def __init__(
        self,
        clip: CLIPSurgery,
        *,
        task: Task,
        task_options: TaskOptions,
        variants: Sequence[Variant],
        class_set: Tensor,
        owner: Tensor,
        window: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if set(owner.tolist()) != set(range(task_options.classes)):
            raise ValueError(f"Each of the {task_options.classes} classes needs a text.")
        self.clip = clip
        self.model = clip.model
        self.task, self.task_options, self.variants = task, task_options, tuple(variants)
        self.window = window
        self.register_buffer("class_set", class_set, persistent=False)
        self.register_buffer("owner", owner, persistent=False)
        self.metrics = nn.ModuleList(task.metric(task_options) for _ in variants)
        self.measurements: dict[Variant, Measurement] = {}

    def metric(self, variant: Variant) -> RowMetric:
        """The metric of one of the variants."""
        found = self.metrics[self.variants.index(variant)]
        assert isinstance(found, RowMetric)
        return found

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Unit length tokens ``[B, 1+N, C]``, float32, per variant, of pixels ``[B, 3, H, W]`` uint8."""
        pixels = self.clip.image_transform().normalization(pixels).to(self.clip.dtype)
        if self.window is None:
            return [unit_length(tokens) for tokens in self._tokens(pixels)]
        side, step = self.window
        # Blending is linear in the channels, so all variants are blended as one long token.
        blended = encode_in_windows(
            lambda cut: torch.cat(self._tokens(cut), dim=-1),
            pixels,
            patch=self.clip.tower.patch_size,
            side=side,
            step=step,
            most_tokens=MOST_TOKENS,
        )
        return [unit_length(tokens) for tokens in blended.chunk(len(self.variants), dim=-1)]

    @torch.no_grad()
    def similarity_of(self, pixels: Tensor, variant: Variant) -> tuple[Tensor, Tensor]:
        """Scores ``[T]`` and similarity ``[T, h, w]`` of one image ``[3, H, W]`` uint8, on the CPU."""
        tokens = self(pixels[None].to(self.class_set.device))[self.variants.index(variant)]
        found = self._similarity(tokens, variant)[0].cpu()
        grid = self.clip.tower.grid(pixels.shape[1], pixels.shape[2])
        return found[0], found[1:].T.unflatten(1, grid)

    def test_step(self, batch: Sequence[Item], batch_idx: int = 0) -> None:
        """Read the images of a batch, those of one size together, and update every variant's metric."""
        for items in _of_one_size(batch):
            pixels = torch.stack([item.pixels for item in items]).to(self.device)
            height, width = pixels.shape[-2:]
            grid = self.clip.tower.grid(height, width)
            for variant, tokens in zip(self.variants, self(pixels), strict=True):
                metric, similarity = self.metric(variant), self._similarity(tokens, variant)
                for item, one in zip(items, similarity, strict=True):
                    prediction = Prediction(scores=one[0], similarity=one[1:].T.unflatten(1, grid))
                    metric.update(item.truth.to(self.device), prediction)

    def setup(self, stage: str) -> None:
        """Begin without rows, also when another test came before."""
        self.measurements = {}
        for variant in self.variants:
            self.metric(variant).reset()

    def on_test_epoch_end(self) -> None:
        """Gather the rows of all ranks, compute every metric once, log it, and keep it on rank 0."""
        for variant in self.variants:
            metric = self.metric(variant)
            found = metric.measurement(metric.gathered_rows())
            if self.trainer.is_global_zero:
                self.measurements[variant] = found
            named = {f"{variant.name}/{name}": value.float() for name, value in found.values.items()}
            # Every rank has them already: their mean over the ranks is the same.
            self.log_dict({name: value.to(self.device) for name, value in named.items()}, sync_dist=True)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the batch: images of one size are moved together."""
        return batch

    def _tokens(self, pixels: Tensor) -> list[Tensor]:
        """Tokens ``[B, 1+N, C]``, float32, per variant, of normalized pixels ``[B, 3, H, W]``."""
        with torch.no_grad():
            surgeries = [variant.surgery for variant in self.variants]
            found = self.clip.tower.encode_all(pixels, surgeries, interpolation=self.clip.interpolation)
        return [tokens.float() for tokens in found]

    def _similarity(self, tokens: Tensor, variant: Variant) -> Tensor:
        """Similarity of tokens ``[B, 1+N, C]`` with the classes, ``[B, 1+N, T]``."""
        with torch.autocast(tokens.device.type, enabled=False):
            texts = self.class_set.float()
            found = feature_surgery(tokens, texts) if variant.features == "surgery" else tokens @ texts.T
        if found.shape[-1] == self.task_options.classes:
            return found
        best = found.new_full((*found.shape[:-1], self.task_options.classes), -torch.inf)
        return best.scatter_reduce(-1, self.owner.expand_as(found), found, "amax")


def _of_one_size(batch: Sequence[Item]) -> Iterator[list[Item]]:
    """The items grouped by the size at which they are read, in order."""
    groups: dict[tuple[int, ...], list[Item]] = {}
    for item in batch:
        groups.setdefault(tuple(item.pixels.shape), []).append(item)
    yield from groups.values()
