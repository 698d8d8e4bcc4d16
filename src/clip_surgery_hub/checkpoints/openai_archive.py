"""A file ``*.pt`` in OpenAI's own format: a TorchScript archive, or the weights of one by the same names.

Nothing in it describes the model; its architecture is in the shapes. What no shape tells (the activation, and
the 64 channels of a head) is OpenAI's, so weights that do not say that they are OpenAI's are refused.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_surgery_hub.checkpoints.building import count_blocks, load_open_clip
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.json_files import shortened
from clip_surgery_hub.checkpoints.open_clip_files import (
    CONFIG_FILE,
    load_open_clip_tokenizer,
    read_normalization,
)
from clip_surgery_hub.checkpoints.script_pickle import ScriptModule
from clip_surgery_hub.checkpoints.torchscript import is_torchscript, named_tensors, read_torchscript
from clip_surgery_hub.checkpoints.weights import read_weights

# Numbers in OpenAI's archives that only say again what the shapes say; by them OpenAI's weights are known.
_MARKS = ("input_resolution", "context_length", "vocab_size")


def load(path: Path, *, dtype: torch.dtype) -> Checkpoint:
    """Load the model, and the tokenizer where its files lie beside the archive; see `load_checkpoint`."""
    source = str(path)
    if is_torchscript(path):
        modules = read_torchscript(path)
        state = named_tensors(modules)
        _check_activation(modules, source)
    else:
        _check_not_cut_off(path)
        modules, state = {}, read_weights(path)
        if not set(_MARKS) <= state.keys():
            raise ValueError(
                f"{source} holds weights that do not say which activation they were trained with: OpenAI's "
                f"have {', '.join(_MARKS)} among them. Put them into a folder as "
                f"open_clip_pytorch_model.bin, beside an {CONFIG_FILE} that describes the model, and give it."
            )
    # The causal mask, which transformers makes itself, is an attribute of every block.
    state = {
        name: tensor
        for name, tensor in state.items()
        if name not in _MARKS and not re.search(r"(^|\.)attn_mask$", name)
    }
    model_cfg = openai_model_cfg(state, source)
    _check_heads(modules, source)
    model = load_open_clip(model_cfg, state, path=path, dtype=dtype)
    tokenizer = load_open_clip_tokenizer(str(path.parent), None, model, model_cfg["text_cfg"])
    return Checkpoint(model, tokenizer, read_normalization(None, source), known_words=None)


def openai_model_cfg(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """OpenCLIP's description of a CLIP by OpenAI, from the shapes of its weights.

    Everything that OpenAI published has heads of 64 channels, an MLP of four widths and quick GELU.

    Args:
        state: tensors by OpenAI's names.
        source: the checkpoint, for messages.

    Raises:
        ValueError: for weights that are not those of a CLIP by OpenAI.
    """

    def shape(name: str, dimensions: int) -> list[int]:
        if name not in state or state[name].ndim != dimensions:
            raise ValueError(
                f"{source} is no CLIP by OpenAI: it has no {name} of {dimensions} dimensions; give OpenAI's "
                "file, or a folder of another format."
            )
        return list(state[name].shape)

    def side(name: str) -> int:
        """Layout along a side of a square grid whose positions, and one more, are in an embedding."""
        return math.isqrt(max(shape(name, 2)[0] - 1, 0))

    width, embed_dim = shape("text_projection", 2)
    text = {
        "context_length": shape("positional_embedding", 2)[0],
        "vocab_size": shape("token_embedding.weight", 2)[0],
        "width": width,
        "heads": max(width // 64, 1),
        "layers": count_blocks(state, "transformer.resblocks"),
    }
    vision: dict[str, Any]
    if "visual.proj" in state:
        channels, _, patch, _ = shape("visual.conv1.weight", 4)
        vision = {
            "width": channels,
            "layers": count_blocks(state, "visual.transformer.resblocks"),
            "patch_size": patch,
            "image_size": patch * side("visual.positional_embedding"),
        }
    else:
        vision = {
            "width": shape("visual.layer1.0.conv1.weight", 4)[0],
            "layers": [count_blocks(state, f"visual.layer{stage}") for stage in (1, 2, 3, 4)],
            "image_size": 32 * side("visual.attnpool.positional_embedding"),
        }
    return {"embed_dim": embed_dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def _check_not_cut_off(path: Path) -> None:
    """A zip is known by its end, too."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path):
            raise ValueError(f"the archive {path} is cut off: its end is missing; copy the file again.")


def _check_activation(modules: Mapping[str, ScriptModule], source: str) -> None:
    """An archive knows the classes of its modules: the one between the layers of an MLP must be OpenAI's."""
    for name, module in modules.items():
        if re.search(r"\.mlp\.(gelu|act)$", name) and not module.kind.endswith("QuickGELU"):
            raise ValueError(
                f"{source} is no CLIP by OpenAI: {name} is {shortened(module.kind)}, where OpenAI's models "
                "have QuickGELU; its results would be wrong."
            )


def _check_heads(modules: Mapping[str, ScriptModule], source: str) -> None:
    """Where the attention of an archive still knows its number of heads, it must be OpenAI's."""
    for name, module in modules.items():
        heads, width = module.attributes.get("num_heads"), module.attributes.get("embed_dim")
        if type(heads) is int and type(width) is int and heads != max(width // 64, 1):
            raise ValueError(
                f"{source} is no CLIP by OpenAI: {name} has {heads} heads for {width} channels, where "
                "OpenAI's models have 64 channels per head."
            )
