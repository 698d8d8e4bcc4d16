"""From a name to a `CLIPSurgery`, with the weights of its checkpoint or with random ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from clip_surgery_hub.checkpoints import Checkpoint, build_open_clip, load_checkpoint
from clip_surgery_hub.hub import MODELS, Entry, resolve
from clip_surgery_hub.images.image_transform import Normalization
from clip_surgery_hub.model import CLIPSurgery


def create_model(
    name: str,
    *,
    pretrained: bool = True,
    method: str | None = None,
    depth: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> CLIPSurgery:
    """Create a model by its name.

    Args:
        name: a registered name (see `list_models`), a folder, or a hub id.
        pretrained: False gives the architecture with random weights, drawn from torch's generator. Registered
            architectures need no network then, but have no tokenizer: give embeddings in place of texts.
        method: how the vision tower is read, see `clip_surgery_hub.methods.METHODS`; None: as the checkpoint
            was saved, else "clip_surgery".
        depth: how many of the last blocks are modified; None: the method's own depth.
        device: None: where `CLIPSurgery.from_pretrained` would put it.
        dtype: None: float32.
        revision: branch, tag or commit of a hub id; None: the one of the entry (`Entry.revision`).

    Raises:
        ValueError: unknown name, unknown method or a depth out of range.
        OSError: the files cannot be reached.
    """
    dtype = dtype or torch.float32
    if pretrained:
        return CLIPSurgery.from_pretrained(
            name, method=method, depth=depth, device=device, dtype=dtype, revision=revision
        )
    parts = _untrained(name, revision)
    parts.model.to(dtype)
    return CLIPSurgery(
        parts.model.eval(),
        name=name,
        tokenizer=parts.tokenizer,
        processor=parts.normalization,
        method="clip_surgery" if method is None else method,
        depth=depth,
        device=device,
    )


def build_model(entry: Entry) -> nn.Module:
    """The modules of an entry with random weights, on torch's default device, from its configuration.

    Raises:
        ValueError: the entry has no configuration.
    """
    if entry.config is None:
        raise ValueError(f"the entry {entry.name} has no configuration to build a model from")
    if "vision_cfg" in entry.config:
        return build_open_clip(entry.config, source=entry.name)
    from transformers import AutoConfig, AutoModel

    given = dict(entry.config)
    config = AutoConfig.for_model(given.pop("model_type", "clip"), **given)
    return AutoModel.from_config(config)  # type: ignore[no-any-return]


def _untrained(name: str, revision: str | None) -> Checkpoint:
    """The checkpoint with random weights: from the configuration of its entry, else from its files."""
    entry = MODELS.get(name)
    if entry is None or entry.config is None:
        found = load_checkpoint(resolve(name), revision=revision)
        return replace(found, model=type(found.model)(found.model.config), known_words=None)
    return Checkpoint(build_model(entry), None, Normalization(entry.mean, entry.std), None)
