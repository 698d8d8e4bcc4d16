"""Watching a run from inside: a progress bar on a terminal, a line of the log every minute."""

from __future__ import annotations

import time
from typing import Any

import lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from clip_surgery_hub.prediction.runs import RunLog, RunStatus, run_status
from clip_surgery_hub.prediction.writer import ShardWriter

__all__ = ["RunWatch"]

_EVERY = 1.0
"""Seconds between two looks at the run."""


class RunWatch(lightning.Callback):
    """On rank 0: a bar of all ranks' images with their speed, errors and time left, and ``log.jsonl``.

    Args:
        writer: of the run.
        console: where the bar is drawn, if that is a terminal.
    """

    def __init__(self, writer: ShardWriter, console: Console) -> None:
        self._writer, self._console = writer, console
        self._log: RunLog | None = None
        self._bar: Progress | None = None
        self._looked = 0.0

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin to watch."""
        if not trainer.is_global_zero:
            return
        self._log = RunLog(self._writer.out)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("explaining"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"),
                console=self._console,
            )
            self._bar.add_task("", total=None, told="")
            self._bar.start()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        """Look, now and then."""
        if self._log is not None:
            self._log.tick()
        if self._bar is not None and time.monotonic() - self._looked >= _EVERY:
            self._looked = time.monotonic()
            self._draw(run_status(self._writer.out))

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log how it ended."""
        if self._log is not None:
            self._draw(self._log.write())

    def teardown(self, *_: Any, **__: Any) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    on_exception = teardown  # Lightning calls no teardown of callbacks then

    def _draw(self, status: RunStatus) -> None:
        if self._bar is None:
            return
        told = f"{status.per_second:.1f} images/s, {status.failed} failed"
        self._bar.update(
            self._bar.task_ids[0],
            completed=status.done + status.failed,
            total=status.total,
            told=told if status.time_left is None else f"{told}, {status.time_left} left",
        )
