"""A CLIP whose vision tower is timm's: the module for what no class of transformers can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput

from clip_surgery_hub.checkpoints.architecture import Architecture, TextShape, ViTShape
from clip_surgery_hub.checkpoints.open_clip_config import read_architecture
from clip_surgery_hub.checkpoints.timm_vision import build_vision

# transformers pools at the highest id where the configuration gives this end token, as OpenAI's own do.
POOLS_AT_HIGHEST_ID = 2


@dataclass(frozen=True)
class TimmCLIPConfig:
    """What a `TimmCLIP` is built from.

    Attributes:
        model_cfg: OpenCLIP's description of the model, as in open_clip_config.json.
    """

    model_cfg: Mapping[str, Any]
    model_type = "clip"

    @cached_property
    def architecture(self) -> Architecture:
        """The description, checked."""
        return read_architecture(self.model_cfg, "the configuration")

    @cached_property
    def text_config(self) -> CLIPTextConfig:
        """The text tower as transformers describes it."""
        return CLIPTextConfig(**text_settings(self.architecture.text, self.architecture.embed_dim))


def text_settings(text: TextShape, embed_dim: int) -> dict[str, Any]:
    """A causal text transformer as the arguments of `CLIPTextConfig` and its kin."""
    blocks = text.transformer
    return {
        "vocab_size": text.vocabulary,
        "hidden_size": blocks.width,
        "intermediate_size": blocks.mlp_width,
        "projection_dim": embed_dim,
        "num_hidden_layers": blocks.layers,
        "num_attention_heads": blocks.heads,
        "max_position_embeddings": text.context_length,
        "hidden_act": blocks.activation,
        "layer_norm_eps": blocks.eps,
        "bos_token_id": None,  # where texts start is the tokenizer's business
        "eos_token_id": text.end_token if text.pool == "eos" else POOLS_AT_HIGHEST_ID,
    }


class TimmCLIP(nn.Module):
    """A vision tower of timm beside the text tower of transformers' CLIP.

    Args:
        config: what it is built from; weights are random, drawn from torch's generator.

    Attributes:
        vision_model: the tower, whose head or pool gives the embedding ``[B, C]`` of pixels.
        text_model: the text transformer, before its projection.
        text_projection: to C channels, without bias.
        logit_scale: logarithm of the factor on cosine similarity.

    Raises:
        ValueError: for a description of something else.
    """

    def __init__(self, config: TimmCLIPConfig) -> None:
        super().__init__()
        architecture = config.architecture
        if isinstance(architecture.vision, ViTShape):
            raise ValueError("TimmCLIP holds towers of timm; OpenCLIP's own ViT belongs into CLIPModel.")
        self.config = config
        self.vision_model = build_vision(architecture.vision, architecture.embed_dim)
        text = CLIPTextModelWithProjection(config.text_config)
        self.text_model, self.text_projection = text.text_model, text.text_projection
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """`pooler_output` ``[B, C]`` of pixels ``[B, 3, H, W]``, of any length."""
        return BaseModelOutputWithPooling(pooler_output=self.vision_model(pixel_values))

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` ``[T, C]`` of token ids ``[T, L]``, of any length."""
        found = self.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=found.last_hidden_state, pooler_output=self.text_projection(found.pooler_output)
        )

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None
    ) -> CLIPOutput:
        """Unit length embeddings of T texts and B images, and the logits ``[B, T]`` between them."""
        found = (self.get_image_features(pixel_values), self.get_text_features(input_ids, attention_mask))
        image, text = (nn.functional.normalize(cast(Tensor, one.pooler_output), dim=-1) for one in found)
        logits = self.logit_scale.exp() * image @ text.T
        return CLIPOutput(
            logits_per_image=logits, logits_per_text=logits.T, image_embeds=image, text_embeds=text
        )
