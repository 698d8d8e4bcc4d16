"""What a checkpoint gives, whatever its format, and the way from a source to it."""

from __future__ import annotations

import warnings
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
    checkpoint: Checkpoint = files.load(source, dtype=dtype, revision=revision)
    surgery = find_file(source, SURGERY_FILE, revision)
    found = {name: path for name in SIDECAR_FILES if (path := find_file(source, name, revision))}
    return replace(
        checkpoint,
        surgery=checkpoint.surgery if surgery is None else read_saved_surgery(surgery),
        sidecar_files={name: path.read_bytes() for name, path in found.items()},
    )


def _is_open_clip(source: str, revision: str | None) -> bool:
    """Whether OpenCLIP's files are there, and none that describe the same model to transformers."""
    from clip_surgery_hub.checkpoints.open_clip_files import CONFIG_FILE

    if find_file(source, CONFIG_FILE, revision) is None:
        return False
    config = find_file(source, "config.json", revision)  # which may be timm's
    return config is None or "model_type" not in read_json_object(config)


def correct_activation(model: nn.Module, activation: str, *, source: str) -> None:
    """Give the towers the activation that their weights were trained with, where their files say another.

    Some files on the hub do: their description was written without ``quick_gelu``, and what reads it computes
    something close to the model that was trained. No weight tells, so that a wrong one runs and is wrong. The
    configuration is corrected too, so that the model is saved as what it is.

    Args:
        model: of transformers, or around a tower of timm. Its MLPs with an ``activation_fn`` are the vision
            tower's and CLIP's or SigLIP's text tower's; BERT's text towers have their own, which stays.
        activation: by its name in `transformers`.
        source: the checkpoint, for the warning that says so.
    """
    from transformers.activations import ACT2FN

    mlps = [module for module in model.modules() if hasattr(module, "activation_fn")]
    configs: list[Any] = [mlp.config for mlp in mlps if hasattr(getattr(mlp, "config", None), "hidden_act")]
    wrong = sorted({config.hidden_act for config in configs} - {activation})
    if not wrong:
        return
    for mlp in mlps:
        mlp.activation_fn = ACT2FN[activation]
    for config in configs:
        config.hidden_act = activation
    warnings.warn(
        f"the files of {source} say {' and '.join(wrong)}, but its weights were trained with {activation}, "
        "which is used.",
        stacklevel=2,
    )
