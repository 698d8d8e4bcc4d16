"""What a checkpoint gives, whatever its format, and the way from a source to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_surgery_hub.checkpoints.finding import find_file, reachable
from clip_surgery_hub.checkpoints.json_files import read_json_object
from clip_surgery_hub.checkpoints.saved_surgery import SURGERY_FILE, SavedSurgery, read_saved_surgery
from clip_surgery_hub.images.image_transform import Normalization

SIDECAR_FILES = ("preprocessor_config.json", "processor_config.json", "concepts.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        model: in eval mode.
        tokenizer: its tokenizer as `transformers` has it, or None where there is none.
        normalization: what it wants done to images, or None where nothing says so.
        known_words: the words it was trained on, in lower case, or None where no ``concepts.json`` says so.
        surgery: how it wants to be read, as its ``clip_surgery.json`` says.
        sidecar_files: the content of small files that are kept as they are when the model is saved, by name.
    """

    model: nn.Module
    tokenizer: Any
    normalization: Normalization | None
    known_words: frozenset[str] | None
    surgery: SavedSurgery = SavedSurgery()
    sidecar_files: Mapping[str, bytes] = field(default_factory=dict)


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
    # Here, since each of them makes a `Checkpoint`.
    from clip_surgery_hub.checkpoints import open_clip_files, openai_archive, transformers_files

    if Path(source).is_file():
        return openai_archive.load(Path(source), dtype=dtype)
    source = reachable(source, revision)
    files = open_clip_files if _is_open_clip(source, revision) else transformers_files
    checkpoint = files.load(source, dtype=dtype, revision=revision)
    return _with_sidecar_files(checkpoint, source, revision)


def _is_open_clip(source: str, revision: str | None) -> bool:
    """Whether OpenCLIP's files are there, and none that describe the same model to transformers."""
    from clip_surgery_hub.checkpoints.open_clip_files import CONFIG_FILE

    if find_file(source, CONFIG_FILE, revision) is None:
        return False
    config = find_file(source, "config.json", revision)  # which may be timm's
    return config is None or "model_type" not in read_json_object(config)


def _with_sidecar_files(checkpoint: Checkpoint, source: str, revision: str | None) -> Checkpoint:
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
    found = {name: path for name in SIDECAR_FILES if (path := find_file(source, name, revision))}
    return replace(
        checkpoint,
        surgery=checkpoint.surgery if surgery is None else read_saved_surgery(surgery),
        sidecar_files={name: path.read_bytes() for name, path in found.items()},
    )
