"""From a source to a `Checkpoint`: which format it is in."""

from __future__ import annotations

import torch

from clip_surgery_hub.checkpoints import transformers_files
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.companions import with_companions
from clip_surgery_hub.checkpoints.files import reachable


def load_checkpoint(
    source: str, *, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Checkpoint:
    """Load a checkpoint; what is in the cache needs no network.

    Args:
        source: a folder, or a hub id ``owner/name``.
        dtype: of the weights.
        revision: branch, tag or commit of a hub id.

    Raises:
        OSError: where there is no checkpoint, or it cannot be reached.
        ValueError: for files that are damaged, incomplete or of no format that is known.
    """
    source = reachable(source, revision)
    checkpoint = transformers_files.load(source, dtype=dtype, revision=revision)
    return with_companions(checkpoint, source, revision)
