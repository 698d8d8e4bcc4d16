"""From options to a run: the module, the data, the writer and a Trainer, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from rich.console import Console

from clip_surgery_hub.lightning.data import PictureDataModule
from clip_surgery_hub.lightning.predictor import DEFAULT_OUTPUTS, SurgeryPredictor
from clip_surgery_hub.lightning.settings import run_settings
from clip_surgery_hub.lightning.stopping import StopRequest
from clip_surgery_hub.lightning.watch import RunWatch
from clip_surgery_hub.lightning.writer import ShardWriter
from clip_surgery_hub.runs import RunFolder, RunStatus, run_status

__all__ = ["Job", "predict"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `predict` is to do besides what and where: options of the Trainer and of the parts around it.

    Attributes:
        batch_size: pictures of a batch.
        workers: processes per rank that decode; 0: the rank does it itself.
        shard_rows: the most rows of a shard.
        max_errors: so many pictures that cannot be read are put up with; None: any number.
        overwrite: begin anew where the folder holds a run with other settings.
        accelerator: of the Trainer.
        devices: of the Trainer, on each node.
        nodes: of the Trainer.
        strategy: of the Trainer.
        precision: of the Trainer.
    """

    batch_size: int = 32
    workers: int = 0
    shard_rows: int = 10_000
    max_errors: int | None = None
    overwrite: bool = False
    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


def predict(
    data: Any,
    texts: Sequence[str],
    out: str | Path,
    *,
    model: Any = "clip_vit_tiny.scenes",
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    job: Job | None = None,
    column: str | None = None,
    key: str | None = None,
    console: Console | None = None,
    **reading: Any,
) -> RunStatus:
    """Explain many pictures into the folder of a run; the same call goes on with a run that was stopped.

    Args:
        data: see `PictureDataModule`.
        texts: see `SurgeryPredictor`.
        out: the folder of the run.
        model: see `SurgeryPredictor`.
        outputs: see `SurgeryPredictor`.
        job: how; None: one process on the best device.
        column: see `PictureDataModule`.
        key: see `PictureDataModule`.
        console: where a progress bar is drawn if it is a terminal; None: nowhere.
        reading: what else `SurgeryPredictor` takes.

    Returns:
        How the run ended.

    Raises:
        ValueError, OSError, ImportError: for wrong input, before anything is written.
        RunError: for a folder that cannot be used, or a run that cannot be gone on with.
        RunStopped: after SIGTERM or Ctrl+C, with all that was done recorded.
    """
    job = job or Job()
    pictures = PictureDataModule(data, batch_size=job.batch_size, workers=job.workers, column=column, key=key)
    predictor = SurgeryPredictor(model, texts, outputs=outputs, **reading)
    predictor.clip.check_texts([*predictor.texts, *predictor.background])
    writer = ShardWriter(out, shard_rows=job.shard_rows, max_errors=job.max_errors, overwrite=job.overwrite)
    trainer = lightning.Trainer(
        accelerator=job.accelerator,
        devices=job.devices,
        num_nodes=job.nodes,
        strategy=job.strategy,
        precision=job.precision,  # type: ignore[arg-type]  # Lightning says which there are
        callbacks=[writer, *([] if console is None else [RunWatch(writer, console)])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Before other ranks are started, which would each say the same.
    settings = run_settings(predictor, precision=str(trainer.precision), data=pictures.source.description)
    RunFolder.check(out, settings, overwrite=job.overwrite)
    before_lightning = StopRequest()  # what Lightning gives the signals back to at its end
    before_lightning.listen()
    try:
        trainer.predict(predictor, pictures, return_predictions=False)
    finally:
        before_lightning.deafen()
    return run_status(out)
