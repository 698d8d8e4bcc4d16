"""Vision towers of timm for checkpoints in OpenCLIP's and OpenAI's names, and a CLIP around one.

`TimmCLIP` is the module for what no class of transformers can hold; a SigLIP is described to transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput

from clip_surgery_hub.checkpoints.json_files import shortened
from clip_surgery_hub.checkpoints.open_clip_config import (
    SUPPORTED,
    Architecture,
    ResNetShape,
    TextShape,
    TimmShape,
    TransformerShape,
    ViTShape,
    read_architecture,
)

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
    return text.transformer.settings() | {
        "vocab_size": text.vocabulary,
        "projection_dim": embed_dim,
        "max_position_embeddings": text.context_length,
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
        architecture, vision = config.architecture, config.architecture.vision
        if isinstance(vision, ViTShape):
            raise ValueError("TimmCLIP holds towers of timm; OpenCLIP's own ViT belongs into CLIPModel.")
        self.config = config
        self.vision_model = (
            _resnet(vision, architecture.embed_dim)
            if isinstance(vision, ResNetShape)
            else _named(vision, architecture.embed_dim)
        )
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


def siglip_vision(shape: TimmShape) -> ViTShape:
    """The blocks, patches and pixels of a SigLIP tower of timm, by its name.

    Raises:
        ValueError: for a tower of another kind, or at another size than its own.
    """
    trunk: Any = _created(shape, num_classes=0, global_pool="map")
    blocks: Any = trunk.blocks if type(trunk).__name__ == "VisionTransformer" else ()
    if not len(blocks) or trunk.attn_pool is None or trunk.cls_token is not None:
        raise _refused(shape, trunk, "it is no SigLIP tower")
    first = blocks[0]
    # The pool has the activation, the heads and the MLP of the blocks in transformers.
    pool = trunk.attn_pool
    activation = _activation_of(first.mlp.act)
    own = (first.attn.num_heads, first.mlp.fc1.out_features, activation)
    if own != (pool.num_heads, pool.mlp.fc1.out_features, _activation_of(pool.mlp.act)):
        raise _refused(shape, trunk, "its pool is not like its blocks")
    return ViTShape(
        TransformerShape(
            width=trunk.embed_dim,
            layers=len(blocks),
            heads=first.attn.num_heads,
            mlp_width=first.mlp.fc1.out_features,
            activation=activation,
            eps=first.norm1.eps,
        ),
        patch_size=trunk.patch_embed.patch_size[0],
        image_size=shape.image_size,
    )


def _resnet(shape: ResNetShape, embed_dim: int) -> nn.Module:
    """OpenAI's modified ResNet as timm's ByobNet: stem of three, averages before strides, attention pool."""
    from timm.models import ByoBlockCfg, ByobNet, ByoModelCfg

    width = shape.width
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=depth, c=4 * width * 2**stage, s=1 if stage == 0 else 2, br=0.25)
        for stage, depth in enumerate(shape.stages)
    )
    settings = ByoModelCfg(
        blocks=blocks,
        stem_chs=(width // 2, width // 2, width),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="attn_abs",
    )
    tower: nn.Module = ByobNet(settings, num_classes=embed_dim, img_size=shape.image_size)
    return tower


def _named(shape: TimmShape, embed_dim: int) -> nn.Module:
    """A tower by its name, whose classifier is the projection."""
    if shape.pool != "token" or shape.projection != "head":
        raise _refused(shape, None, f"its timm_pool is {shape.pool!r} and its timm_proj {shape.projection!r}")
    tower: Any = _created(shape, num_classes=embed_dim, global_pool=shape.pool)
    plain = type(tower).__name__ in ("Eva", "VisionTransformer")
    if not plain or tower.cls_token is None or type(tower.patch_embed).__name__ != "PatchEmbed":
        raise _refused(shape, tower, "it is no plain ViT with a class token")
    return tower  # type: ignore[no-any-return]


def _created(shape: TimmShape, **settings: Any) -> nn.Module:
    import timm

    if shape.name not in timm.list_models():  # it also takes addresses of files to download
        raise _refused(shape, None, f"timm {timm.__version__} has no such tower")
    try:
        tower: Any = timm.create_model(shape.name, pretrained=False, **settings)
    except (TypeError, AssertionError) as error:  # a tower that has no such pool
        raise _refused(shape, None, "it cannot pool as the configuration says") from error
    side = getattr(getattr(tower, "patch_embed", None), "img_size", None)
    if side is not None and tuple(side) != (shape.image_size, shape.image_size):
        raise _refused(shape, tower, f"it reads {side[0]} px, but image_size is {shape.image_size}")
    return tower  # type: ignore[no-any-return]


def _activation_of(module: nn.Module) -> str:
    """Which activation a module computes, by its values: their classes have other names in other versions."""
    given = torch.linspace(-4, 4, 33, device="cpu")
    values: Tensor = module(given.clone())
    for name in ("gelu", "gelu_pytorch_tanh", "quick_gelu"):
        if torch.allclose(values, ACT2FN[name](given), atol=1e-6, rtol=0):
            return name
    raise ValueError(f"{type(module).__name__} is neither GELU, exact or by tanh, nor quick GELU.")


def _refused(shape: TimmShape, tower: nn.Module | None, reason: str) -> ValueError:
    kind = "" if tower is None else f" ({type(tower).__name__})"
    return ValueError(
        f"the vision tower {shortened(shape.name)}{kind} of timm is not supported: {reason}; {SUPPORTED}."
    )
