"""From OpenCLIP's description of a model to the module that computes it, with weights or without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_surgery_hub.checkpoints.load_state import load_state, without_initialization
from clip_surgery_hub.checkpoints.open_clip_config import (
    SUPPORTED,
    Architecture,
    ResNetShape,
    TimmShape,
    ViTShape,
    read_architecture,
)
from clip_surgery_hub.checkpoints.timm_clip import TimmCLIP, TimmCLIPConfig, siglip_vision, text_settings
from clip_surgery_hub.checkpoints.weight_names import (
    RESNET,
    TEXT,
    TRUNK,
    VISION,
    renamed,
    siglip_tensors,
    without_prefixes,
)
from clip_surgery_hub.checkpoints.weights import Weights


def build_open_clip(model_cfg: Mapping[str, Any], *, source: str) -> nn.Module:
    """The module that a description means, with random weights, on torch's default device.

    Args:
        model_cfg: OpenCLIP's description: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and others.
        source: what it describes, for messages.

    Returns:
        `CLIPModel` of transformers where it can hold the model, `MetaClip2Model` where texts end with a token
        of their own vocabulary, `SiglipModel`, or a `TimmCLIP`.

    Raises:
        ValueError: for a model that is not supported.
    """
    architecture = read_architecture(model_cfg, source)
    if _is_siglip(architecture):
        return _siglip(architecture, source)
    text = architecture.text
    if not text.causal or text.projection != "matrix" or text.pool == "last" or architecture.logit_bias:
        raise _other_text(architecture, source, "neither CLIP's nor SigLIP's")
    if isinstance(architecture.vision, ViTShape):
        return _clip(architecture, architecture.vision)
    if text.pool == "eos":
        raise _other_text(architecture, source, "not one that goes with a tower of timm")
    return TimmCLIP(TimmCLIPConfig(dict(model_cfg)))


def load_open_clip(
    model_cfg: Mapping[str, Any], state: Mapping[str, Tensor], *, path: Path, dtype: torch.dtype
) -> nn.Module:
    """The module that a description means, with weights, in eval mode.

    Args:
        model_cfg: see `build_open_clip`.
        state: the weights by OpenCLIP's names, which are OpenAI's where OpenAI has them.
        path: the file of the weights, for messages.
        dtype: of the module.

    Raises:
        ValueError: for a model that is not supported, or weights that are not those of the description.
    """
    architecture = read_architecture(model_cfg, str(path))
    state = without_prefixes(state)
    _check_blocks(architecture, state, path)
    weights = Weights(path, _tensors(architecture, state), {})
    return load_state(lambda: build_open_clip(model_cfg, source=str(path)), weights, dtype=dtype)


def _check_blocks(architecture: Architecture, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse another number of blocks than the description has, before any is built."""
    vision = architecture.vision
    depths = {"transformer.resblocks": architecture.text.transformer.layers}
    if isinstance(vision, ViTShape):
        depths["visual.transformer.resblocks"] = vision.transformer.layers
    elif isinstance(vision, ResNetShape):
        depths |= {f"visual.layer{stage}": depth for stage, depth in enumerate(vision.stages, start=1)}
    for name, depth in depths.items():
        if (count := count_blocks(state, name)) != depth:
            raise ValueError(
                f"the weights of {path} have {count} blocks {name}, but {depth} is what its configuration "
                "says; give files that belong together."
            )


def count_blocks(state: Mapping[str, Tensor], name: str) -> int:
    """How many numbers follow a name in the names of weights."""
    start = re.compile(rf"{re.escape(name)}\.(\d+)\.")
    return len({found[1] for weight in state if (found := start.match(weight))})


def _tensors(architecture: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of the module of `build_open_clip`."""
    if _is_siglip(architecture):
        return siglip_tensors(state, projection=architecture.text.projection != "none")
    kinds = {ViTShape: VISION, ResNetShape: RESNET, TimmShape: TRUNK}
    projection = (r"^text_projection$", "text_projection.weight")
    return renamed(state, (*kinds[type(architecture.vision)], *TEXT, projection))


def _clip(architecture: Architecture, vision: ViTShape) -> nn.Module:
    import transformers

    # CLIPModel takes an end token of 2 for OpenAI's, and pools at the highest id; MetaClip2Model believes it.
    kind = "MetaClip2" if architecture.text.pool == "eos" else "CLIP"
    config = getattr(transformers, f"{kind}Config")(
        text_config=text_settings(architecture.text, architecture.embed_dim),
        vision_config=_vision_settings(vision) | {"projection_dim": architecture.embed_dim},
        projection_dim=architecture.embed_dim,
        architectures=[f"{kind}Model"],
    )
    model: nn.Module = getattr(transformers, f"{kind}Model")(config)
    return model


def _siglip(architecture: Architecture, source: str) -> nn.Module:
    import transformers

    text = architecture.text
    assert isinstance(architecture.vision, TimmShape)
    if text.causal or text.pool != "last" or text.projection == "matrix" or not architecture.logit_bias:
        raise _other_text(architecture, source, "not SigLIP's")
    with without_initialization():
        vision = siglip_vision(architecture.vision)
    if vision.transformer.width != architecture.embed_dim:
        raise ValueError(
            f"{source} cannot be read: {architecture.vision.name!r} gives {vision.transformer.width} "
            f"channels, but embed_dim is {architecture.embed_dim}; give files that belong together."
        )
    settings = text_settings(text, architecture.embed_dim) | {"eos_token_id": None}
    del settings["projection_dim"]
    config = transformers.SiglipConfig(
        text_config=settings | {"projection_size": architecture.embed_dim},
        vision_config=_vision_settings(vision),
        architectures=["SiglipModel"],
    )
    return transformers.SiglipModel(config)


def _vision_settings(vision: ViTShape) -> dict[str, Any]:
    return vision.transformer.settings() | {"patch_size": vision.patch_size, "image_size": vision.image_size}


def _is_siglip(architecture: Architecture) -> bool:
    vision = architecture.vision
    return isinstance(vision, TimmShape) and (vision.pool, vision.projection) == ("map", "none")


def _other_text(architecture: Architecture, source: str, judgement: str) -> ValueError:
    text = architecture.text
    return ValueError(
        f"{source} cannot be read: its text tower (causal: {text.causal}, pooled at {text.pool!r}, "
        f"projection {text.projection!r}, logits with bias: {architecture.logit_bias}) is {judgement}; "
        f"{SUPPORTED}."
    )
