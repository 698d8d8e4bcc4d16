"""From a source to a `Checkpoint`: which format it is in."""

from __future__ import annotations

from pathlib import Path

import torch

from clip_surgery_hub.checkpoints import open_clip_files, openai_archive, transformers_files
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.companions import with_companions
from clip_surgery_hub.checkpoints.files import find_file, reachable
from clip_surgery_hub.checkpoints.json_files import read_json_object


def load_checkpoint(
    source: str, *, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Checkpoint:
    """Load a checkpoint; what is in the cache needs no network.

    Args:
        source: a folder, a hub id ``owner/name``, or a file of OpenAI's (``*.pt``).
        dtype: of the weights.
        revision: branch, tag or commit of a hub id.

    Raises:
        OSError: where there is no checkpoint, or it cannot be reached.
        ValueError: for files that are damaged, incomplete or of no format that is known.
    """
    if Path(source).is_file():
        return openai_archive.load(Path(source), dtype=dtype)
    source = reachable(source, revision)
    files = open_clip_files if _is_open_clip(source, revision) else transformers_files
    checkpoint = files.load(source, dtype=dtype, revision=revision)
    return with_companions(checkpoint, source, revision)


def _is_open_clip(source: str, revision: str | None) -> bool:
    """Whether OpenCLIP's files are there, and none that describe the same model to transformers."""
    if find_file(source, open_clip_files.CONFIG_FILE, revision) is None:
        return False
    config = find_file(source, "config.json", revision)  # which may be timm's
    return config is None or "model_type" not in read_json_object(config)
