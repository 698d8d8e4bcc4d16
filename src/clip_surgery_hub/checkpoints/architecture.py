"""The architectures that checkpoints in OpenCLIP's or OpenAI's names come in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransformerShape:
    """A stack of pre-norm blocks.

    Attributes:
        width: channels of a token.
        layers: number of blocks.
        heads: attention heads of a block.
        mlp_width: hidden channels of a block's MLP.
        activation: of the MLP, as `transformers` calls it.
        eps: of every layer norm.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    eps: float


@dataclass(frozen=True)
class TextShape:
    """OpenCLIP's text transformer.

    Attributes:
        transformer: its blocks.
        context_length: positions, start and end tokens included.
        vocabulary: number of token ids.
        causal: whether a token sees only those before it.
        pool: "argmax" (the highest id, CLIP's end token), "eos" (`end_token`) or "last" (the last position).
        end_token: the id that "eos" pools at.
        projection: "matrix" without bias, "linear" with bias, or "none".
    """

    transformer: TransformerShape
    context_length: int
    vocabulary: int
    causal: bool
    pool: str
    end_token: int
    projection: str


@dataclass(frozen=True)
class ViTShape:
    """OpenCLIP's own vision transformer: patches in pixels of square images."""

    transformer: TransformerShape
    patch_size: int
    image_size: int


@dataclass(frozen=True)
class ResNetShape:
    """OpenAI's modified ResNet with attention pool: blocks per stage, channels of stage 1, pixels."""

    stages: tuple[int, int, int, int]
    width: int
    image_size: int


@dataclass(frozen=True)
class TimmShape:
    """A tower of timm by its name; `pool` and `projection` as OpenCLIP calls them."""

    name: str
    pool: str
    projection: str
    image_size: int


@dataclass(frozen=True)
class Architecture:
    """A whole model: C is `embed_dim`, the width of the space that images and texts share."""

    embed_dim: int
    vision: ViTShape | ResNetShape | TimmShape
    text: TextShape
    logit_bias: bool
