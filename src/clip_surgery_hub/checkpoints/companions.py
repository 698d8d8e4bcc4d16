"""The small files beside the weights that are saved again as they are, and the one with the surgery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.files import find_file
from clip_surgery_hub.checkpoints.saved_surgery import SURGERY_FILE, read_saved_surgery

_COMPANIONS = ("preprocessor_config.json", "processor_config.json", "concepts.json")


def with_companions(checkpoint: Checkpoint, source: str, revision: str | None) -> Checkpoint:
    """The checkpoint, with what lies beside its weights; beside a single file lies nothing of it.

    Args:
        checkpoint: what was loaded.
        source: the folder, file or hub id that it was loaded from.
        revision: branch, tag or commit of a hub id.

    Raises:
        OSError: where a file cannot be read.
        ValueError: for a damaged ``clip_surgery.json``.
    """
    if Path(source).is_file():
        return checkpoint
    surgery = find_file(source, SURGERY_FILE, revision)
    found = {name: path for name in _COMPANIONS if (path := find_file(source, name, revision))}
    return replace(
        checkpoint,
        surgery=checkpoint.surgery if surgery is None else read_saved_surgery(surgery),
        companions={name: path.read_bytes() for name, path in found.items()},
    )
