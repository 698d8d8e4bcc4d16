"""Writes the rows of an evaluation to its folder as they come, and begins with those that are there."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from contextlib import ExitStack, suppress
from typing import Any
from uuid import uuid4

import lightning
import torch
from torch import Tensor

from clip_surgery_hub.evaluate.data import EvaluationData
from clip_surgery_hub.evaluate.evaluator import SurgeryEvaluator
from clip_surgery_hub.evaluate.metrics import Measurement, RowMetric
from clip_surgery_hub.evaluate.parts import EvaluationFolder
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.files.lock import hold_rank, hold_run

__all__ = ["PartRecorder", "measure_recorded"]

_WAIT = 10.0
"""Seconds to wait for what a killed evaluation left behind."""


class PartRecorder(lightning.Callback):
    """Records what every rank measures, in parts of its own, and begins with what was recorded before.

    So the metrics at the end are those of all images, however often the evaluation was killed, and however
    many ranks it had each time.

    Args:
        folder: of the evaluation.
        seconds: the longest that a measured image waits to be recorded.
    """

    def __init__(self, folder: EvaluationFolder, *, seconds: float = 60.0) -> None:
        self._folder, self._seconds = folder, seconds
        self._held = ExitStack()
        self._earlier: list[dict[str, dict[str, Tensor]]] = []
        self._images: list[int] = []
        self._recorded: dict[str, int] = {}
        self._written = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Hold the folder, on rank 0, and tell all ranks what is left to do; all of them fail if one does."""
        if stage != "test":
            return
        data = _data_of(trainer, pl_module)
        session, done, failure = uuid4().hex, set[int](), None
        if trainer.is_global_zero:
            try:
                self._folder.create()
                self._held.enter_context(hold_run(self._folder.path, session, wait=_WAIT))
                done, self._earlier = self._folder.images(), self._folder.rows()
            except (OSError, ValueError) as error:
                failure = error
        session, done, failure = trainer.strategy.broadcast((session, done, failure))
        if failure is not None:
            raise failure
        if not trainer.is_global_zero:
            self._held.enter_context(hold_rank(self._folder.path, session, wait=_WAIT))
        data.done = frozenset(done)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin with the rows that are there, on rank 0 alone: the rows of the ranks are added up."""
        data = _data_of(trainer, pl_module)
        assert isinstance(pl_module, SurgeryEvaluator)
        for rows in self._earlier:
            for variant in pl_module.variants:
                _add_rows_of(pl_module.metric(variant), rows[variant.name], data.numbers)
        self._earlier = []
        self._recorded = {one.name: pl_module.metric(one).additions for one in pl_module.variants}
        self._images, self._written = [], time.monotonic()

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the images; write now and then."""
        self._images += [item.truth.index for item in batch]
        if time.monotonic() - self._written >= self._seconds:
            self.write(pl_module)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the rest, before the metrics are computed."""
        self.write(pl_module)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Wait until every rank has written."""
        trainer.strategy.barrier()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Let the folder go."""
        self._held.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Whatever ended it, Ctrl+C too: what was measured is recorded."""
        with suppress(OSError):  # writing may be what failed
            self.write(pl_module)
        self._held.close()  # Lightning calls no teardown of callbacks then

    def write(self, pl_module: lightning.LightningModule) -> None:
        """Record the rows since the last time."""
        assert isinstance(pl_module, SurgeryEvaluator)
        if not self._images:
            return
        rows = {}
        for variant in pl_module.variants:
            metric, name = pl_module.metric(variant), variant.name
            rows[name] = metric.rows_since(self._recorded[name])
            self._recorded[name] = metric.additions
        self._folder.write(rows, self._images)
        self._images, self._written = [], time.monotonic()


def measure_recorded(
    folder: EvaluationFolder, evaluator: SurgeryEvaluator, images: Container[int]
) -> dict[Variant, Measurement]:
    """What the recorded rows of these images say under each variant, measured in this process or not.

    Raises:
        ValueError: a part is damaged.
    """
    recorded = folder.rows()
    found = {}
    for variant in evaluator.variants:
        metric = evaluator.task.metric(evaluator.task_options)
        for rows in recorded:
            _add_rows_of(metric, rows[variant.name], images)
        found[variant] = metric.measurement(metric.rows())
    return found


def _add_rows_of(metric: RowMetric, rows: Mapping[str, Tensor], images: Container[int]) -> None:
    """Add those of the rows that are of these images."""
    kept = torch.tensor([number in images for number in rows["image"].tolist()], dtype=torch.bool)
    metric.add_rows({name: column[kept] for name, column in rows.items()})


def _data_of(trainer: lightning.Trainer, module: lightning.LightningModule) -> EvaluationData:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(module, SurgeryEvaluator) or not isinstance(data, EvaluationData):
        raise TypeError("PartRecorder records what a SurgeryEvaluator measures on an EvaluationData.")
    return data
