"""Whether weights have the sizes of their description, before anything of these sizes is built."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from clip_surgery_hub.checkpoints.architecture import Architecture, ResNetShape, ViTShape
from clip_surgery_hub.checkpoints.json_files import shortened


def check_sizes(architecture: Architecture, state: Mapping[str, Tensor], source: str) -> None:
    """Compare everything that a module's memory depends on: widths, positions, vocabulary, numbers of blocks.

    Args:
        architecture: the description.
        state: the weights by OpenCLIP's names, without prefixes.
        source: the checkpoint, for messages.

    Raises:
        ValueError: naming the weight, or the blocks, that do not belong to the description.
    """
    for name, shape in _shapes(architecture).items():
        found = list(state[name].shape) if name in state else None
        if found != shape:
            has = "is not there" if found is None else f"has shape {shortened(found)}"
            raise ValueError(
                f"the weight {name} of {source} {has}, but {shape} is what its configuration says; give "
                "files that belong together."
            )
    for name, depth in _blocks(architecture).items():
        start = re.compile(rf"{re.escape(name)}\.(\d+)\.")
        count = len({part[1] for weight in state if (part := start.match(weight))})
        if count != depth:
            raise ValueError(
                f"the weights of {source} have {count} blocks {name}, but {depth} is what its configuration "
                "says; give files that belong together."
            )


def _shapes(architecture: Architecture) -> dict[str, list[int]]:
    text, vision, embed_dim = architecture.text, architecture.vision, architecture.embed_dim
    width = text.transformer.width
    shapes = {
        "token_embedding.weight": [text.vocabulary, width],
        "positional_embedding": [text.context_length, width],
    }
    if text.projection == "matrix":
        shapes["text_projection"] = [width, embed_dim]
    elif text.projection == "linear":
        shapes["text_projection.weight"] = [embed_dim, width]
    if isinstance(vision, ViTShape):
        channels, side = vision.transformer.width, vision.patch_size
        shapes["visual.conv1.weight"] = [channels, 3, side, side]
        shapes["visual.positional_embedding"] = [(vision.image_size // side) ** 2 + 1, channels]
    elif isinstance(vision, ResNetShape):
        cells = (vision.image_size // 32) ** 2
        shapes["visual.attnpool.positional_embedding"] = [cells + 1, 32 * vision.width]
    return shapes


def _blocks(architecture: Architecture) -> dict[str, int]:
    vision = architecture.vision
    blocks = {"transformer.resblocks": architecture.text.transformer.layers}
    if isinstance(vision, ViTShape):
        blocks["visual.transformer.resblocks"] = vision.transformer.layers
    elif isinstance(vision, ResNetShape):
        blocks |= {f"visual.layer{stage}": depth for stage, depth in enumerate(vision.stages, start=1)}
    return blocks
