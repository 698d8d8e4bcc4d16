"""The module, the images, the writer and a Trainer, put together to a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from rich.console import Console

from clip_surgery_hub.prediction.data import ImageDataModule
from clip_surgery_hub.prediction.module import SurgeryPredictor
from clip_surgery_hub.prediction.progress_bar import RunWatch
from clip_surgery_hub.prediction.runs import RunStatus, run_status
from clip_surgery_hub.prediction.signals import StopRequest
from clip_surgery_hub.prediction.writer import ShardWriter

__all__ = ["predict", "quiet_trainer"]


def predict(
    predictor: SurgeryPredictor,
    images: ImageDataModule,
    out: str | Path,
    *,
    shard_rows: int = 10_000,
    max_errors: int | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    **trainer_options: Any,
) -> RunStatus:
    """Explain many images into the folder of a run; the same call resumes a run that was stopped.

    Args:
        predictor: the model, the texts, and what is kept.
        images: what is explained.
        out: the folder of the run, see `ShardWriter`.
        shard_rows: the most rows of a shard.
        max_errors: so many images that cannot be read are put up with; None: any number.
        overwrite: begin anew where the folder holds a run with other settings.
        console: where a progress bar is drawn if it is a terminal; None: nowhere.
        trainer_options: of Lightning's Trainer, such as ``devices``, ``num_nodes``, ``strategy``.

    Returns:
        How the run ended.

    Raises:
        ValueError, RunError: for texts, options or a folder that cannot be used, before anything is written.
        RunError: if the run cannot be resumed.
        RunStopped: after SIGTERM or Ctrl+C, with all that was done recorded.
    """
    predictor.clip.check_texts([*predictor.texts, *predictor.background])
    writer = ShardWriter(out, shard_rows=shard_rows, max_errors=max_errors, overwrite=overwrite)
    callbacks = [writer, *([] if console is None else [RunWatch(writer, console)])]
    trainer = quiet_trainer(callbacks, **trainer_options)
    _check_strategy(trainer)
    writer.check(predictor, precision=str(trainer.precision), data=images.source.description)
    before_lightning = StopRequest(writer.stop)  # until Lightning has begun, and again at its end
    before_lightning.install()
    try:
        trainer.predict(predictor, images, return_predictions=False)
    finally:
        before_lightning.restore()
    return run_status(out)


def quiet_trainer(callbacks: Sequence[Callback], **options: Any) -> lightning.Trainer:
    """A Trainer that says and keeps nothing of its own: no logger, checkpoints, bar or summary.

    Args:
        callbacks: of the run.
        options: of Lightning's Trainer, such as ``devices``, ``num_nodes``, ``strategy``.

    Raises:
        ValueError: for options that no Trainer takes.
    """
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    try:
        return lightning.Trainer(callbacks=list(callbacks), **quiet | options)
    except (TypeError, MisconfigurationException) as error:  # Lightning raises either, or ValueError
        raise ValueError(f"The Trainer cannot be made: {error}") from error


def _check_strategy(trainer: lightning.Trainer) -> None:
    """Refuse strategies whose forward needs all ranks: of unequal numbers of batches the last would wait."""
    needs_all = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)
    if isinstance(trainer.strategy, needs_all) and trainer.world_size > 1:
        raise ValueError(
            f"{type(trainer.strategy).__name__} needs as many batches on every rank, but images are dealt "
            "out as they come. Take --strategy ddp, with the whole model on each device."
        )
