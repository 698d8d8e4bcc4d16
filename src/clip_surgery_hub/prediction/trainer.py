"""Lightning's Trainer for a run that keeps its own record: no logger, checkpoints, bar or summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

__all__ = ["quiet_trainer"]


def quiet_trainer(callbacks: Sequence[Callback], **options: Any) -> lightning.Trainer:
    """A Trainer that says and keeps nothing of its own.

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
