"""Predictions go to the folder of a run as they come, in shards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import lightning
from lightning.pytorch.callbacks import BasePredictionWriter

from clip_surgery_hub.prediction.module import SurgeryPredictor
from clip_surgery_hub.prediction.run_settings import run_settings
from clip_surgery_hub.prediction.runs import (
    KeySet,
    RankProgress,
    RunError,
    RunFolder,
    ShardSink,
    finished_ranks,
    images_schema,
    run_status,
)
from clip_surgery_hub.prediction.signals import RankProcesses, RunStopped, StopRequest
from clip_surgery_hub.prediction.sources import Source

__all__ = ["ShardWriter"]

_LOOK_AROUND = 2.0
"""Seconds between two looks at what the other ranks do."""
_PATIENCE = 20.0
"""Seconds that a rank which ends early waits for those that it started; clusters kill after 30."""
_POLL = 0.1


class ShardWriter(BasePredictionWriter):
    """Writes what a `SurgeryPredictor` predicts to the folder of a run, or resumes one that was stopped.

    Every rank writes shards of its own. An `ImageDataModule` in the same Trainer leaves out the images
    that are recorded already. Give ``trainer.predict(..., return_predictions=False)``, or all rows stay in
    memory too. On SIGTERM or Ctrl+C the batch under way is finished, everything is written, and the process
    ends with exit code 75.

    Args:
        out: the folder; read it with `read_run` and `read_errors`.
        shard_rows: the most rows of a shard.
        seconds: the longest that a row waits to be recorded.
        max_errors: so many images that cannot be read are put up with, over all ranks; None: any number.
        overwrite: begin anew where the folder holds a run with other settings.

    Raises:
        RunError: when prediction starts, for a folder that cannot be used; later, if a shard cannot be
            written or there are more than ``max_errors`` errors.
        RunStopped: after SIGTERM or Ctrl+C.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        shard_rows: int = 10_000,
        seconds: float = 60.0,
        max_errors: int | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__("batch")
        if max_errors is not None and max_errors < 0:
            raise ValueError(f"max_errors must be 0 or more, got {max_errors}.")
        self.out = Path(out)
        self.shard_rows, self.seconds = shard_rows, seconds
        self.max_errors, self.overwrite = max_errors, overwrite
        self.recorded_keys: KeySet | None = None
        self.folder: RunFolder | None = None
        self._sink: ShardSink | None = None
        self._progress: RankProgress | None = None
        self._settings: dict[str, Any] | None = None
        self.stop = StopRequest()
        self._rank_processes = RankProcesses()
        self._looked = 0.0

    def check(self, predictor: SurgeryPredictor, *, precision: str, data: str | None) -> None:
        """Raise what :meth:`setup` would, before ranks are started that would each say the same.

        Args:
            predictor: see `run_settings`, as the others.
            precision: of the Trainer.
            data: what the images are.

        Raises:
            RunError: for a folder that cannot be used.
        """
        self._settings = run_settings(predictor, precision=precision, data=data)
        RunFolder.check(self.out, self._settings, overwrite=self.overwrite)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Open the run on rank 0, join it on the others; all of them fail if one does."""
        if stage != "predict":
            return
        super().setup(trainer, pl_module, stage)
        if not isinstance(pl_module, SurgeryPredictor):
            raise TypeError(
                f"ShardWriter writes what a SurgeryPredictor predicts, not {type(pl_module).__name__}."
            )
        session, failure = "", None
        if trainer.is_global_zero:
            try:
                source = _source(trainer)
                settings = self._settings or run_settings(
                    pl_module,
                    precision=str(trainer.precision),
                    data=None if source is None else source.description,
                )
                self.folder = RunFolder.open(self.out, settings, overwrite=self.overwrite)
                session = self.folder.session
            except (OSError, ValueError) as error:
                failure = error
        session, failure = trainer.strategy.broadcast((session, failure))
        if failure is not None:
            raise failure
        if self.folder is None:
            self.folder = RunFolder.join(self.out, session)
        self._rank_processes = RankProcesses.of(trainer)
        self.recorded_keys = self.folder.recorded_keys()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the signals, after Lightning did, whose own handler waits for all ranks."""
        self.stop.install(partial(_tell_others, trainer))

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Sequence[Mapping[str, Any]],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take the rows of a batch; end the run where that is due."""
        sink, progress = self._open(trainer, pl_module)
        failed = [{"key": row["key"], **row["error"]} for row in prediction if "error" in row]
        sink.add("errors", failed)
        sink.add("images", [row for row in prediction if "error" not in row])
        progress.update(sink.added)
        if self.stop.made:
            self._end_early(trainer)
        if time.monotonic() - self._looked >= _LOOK_AROUND:
            self._look_around(trainer)

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write what is open; rank 0 stays until all others have, for it holds the run."""
        self._close(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        while finished_ranks(self._running) < trainer.world_size:
            if self.stop.made:
                self._end_early(trainer)
            time.sleep(_POLL)
        self._check_errors()
        found = run_status(self.out)
        self._open(trainer, pl_module)[1].close(total=found.done + found.failed)  # of a stream nobody knew it

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Whatever ended the run: what was done is written, unless writing is what failed."""
        if self._sink is not None:
            with suppress(RunError):
                self._sink.flush()
        self._let_go()  # Lightning calls no teardown of callbacks then

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Let the run and the signals go."""
        self._let_go()

    def _let_go(self) -> None:
        self.stop.restore()
        if self.folder is not None:
            self.folder.close()
        # The settings too: the weights may be others when the Trainer predicts again.
        self.folder = self._sink = self._progress = self._settings = None

    def _close(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write what is open, and say that this rank will write no more."""
        sink, progress = self._open(trainer, module)
        sink.flush()
        progress.update(sink.added)
        progress.close()

    def _end_early(self, trainer: lightning.Trainer) -> NoReturn:
        """Write what is open and end, with the ranks that this one started, or with the one that started it.

        Raises:
            RunStopped: in any case.
            RunError: if it cannot be written.
        """
        self._close(trainer, trainer.lightning_module)
        parent = self._rank_processes.parent
        if parent is not None:
            if self._rank_processes.parent_lives and not self._running.abandoned:
                os.kill(parent, signal.SIGTERM)  # it may not have been asked, and would wait for this rank
            # Lightning kills all others when one of these ends with another code: they write still.
            raise RunStopped(0)
        if self._rank_processes.children:
            _tell_others(trainer, signal.SIGTERM)  # again: a request may have come before they listened
            deadline = time.monotonic() + _PATIENCE
            ranks = 1 + self._rank_processes.children
            while finished_ranks(self._running) < ranks and time.monotonic() < deadline:
                time.sleep(_POLL)
        raise RunStopped

    @property
    def _running(self) -> RunFolder:
        assert self.folder is not None  # from setup to teardown
        return self.folder

    def _look_around(self, trainer: lightning.Trainer) -> None:
        """What rank 0 sees to for all, and the others of rank 0.

        Raises:
            RunError: for too many errors, or a rank 0 that was killed.
            RunStopped: if rank 0 has ended in good order.
        """
        self._looked = time.monotonic()
        if trainer.is_global_zero:
            self._check_errors()
        elif self._running.released:  # rank 0 said why
            self._end_early(trainer)
        elif self._running.abandoned:
            raise RunError(f"Rank 0 of the run in {self.out} has ended; start the same command again.")

    def _check_errors(self) -> None:
        if self.max_errors is None:
            return
        failed = run_status(self.out).failed
        if failed > self.max_errors:
            raise RunError(
                f"{failed} images could not be read, at most {self.max_errors} were allowed; what was done "
                f"is recorded. See read_errors, then start again with another --max-errors."
            )

    def _open(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> tuple[ShardSink, RankProgress]:
        """The sink and the counters of this rank; made at the first batch, when the texts are embedded."""
        assert isinstance(module, SurgeryPredictor)
        if self._sink is None or self._progress is None:
            schema = images_schema(
                module.outputs,
                texts=module.texts,
                background=module.background,
                width=module.clip.tower.embedding_width,
            )
            folder, rank = self._running, trainer.global_rank
            source = _source(trainer)
            self._sink = ShardSink(folder, rank, schema, shard_rows=self.shard_rows, seconds=self.seconds)
            self._progress = RankProgress(folder, rank, total=None if source is None else source.count())
        return self._sink, self._progress


def _source(trainer: lightning.Trainer) -> Source | None:
    """Where the images come from, if an `ImageDataModule` gives them."""
    return getattr(getattr(trainer, "datamodule", None), "source", None)


def _tell_others(trainer: lightning.Trainer, number: int) -> None:
    """Signal the ranks that this one started, if it did."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(number)
