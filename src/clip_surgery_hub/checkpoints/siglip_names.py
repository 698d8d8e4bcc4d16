"""SigLIP by OpenCLIP's names, a ViT of timm and a text transformer, as `SiglipModel` of transformers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clip_surgery_hub.checkpoints.openai_names import TEXT, Rules, renamed

_TRUNK: Rules = (
    (r"^visual\.trunk\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.trunk\.pos_embed$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.trunk\.norm\.", "vision_model.post_layernorm."),
    (r"^visual\.trunk\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual\.trunk\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv_proj."),
    (r"^visual\.trunk\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.out_proj."),
    (r"^visual\.trunk\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
    (r"^visual\.trunk\.attn_pool\.latent$", "vision_model.head.probe"),
    (r"^visual\.trunk\.attn_pool\.proj\.", "vision_model.head.attention.out_proj."),
    (r"^visual\.trunk\.attn_pool\.norm\.", "vision_model.head.layernorm."),
    (r"^visual\.trunk\.attn_pool\.mlp\.", "vision_model.head.mlp."),
    (r"^text_projection\.", "text_model.head."),
)
_POSITIONS = "vision_model.embeddings.position_embedding.weight"


def siglip_tensors(state: Mapping[str, Tensor], *, projection: bool) -> dict[str, Tensor]:
    """Weights of a SigLIP under the names of transformers.

    The query of the pool and its key and value, apart in timm, are joined. Where the text tower has no
    projection, that of transformers gets the identity.
    """
    rest = dict(state)
    joined = {}
    for kind in ("weight", "bias"):
        parts = [f"visual.trunk.attn_pool.{part}.{kind}" for part in ("q", "kv")]
        if all(part in rest for part in parts):
            joined[f"vision_model.head.attention.in_proj_{kind}"] = torch.cat(
                [rest.pop(part) for part in parts]
            )
    found = renamed(rest, (*TEXT, *_TRUNK)) | joined
    if _POSITIONS in found and found[_POSITIONS].shape[:1] == (1,):
        found[_POSITIONS] = found[_POSITIONS][0]
    if not projection and "ln_final.bias" in state:
        width = len(state["ln_final.bias"])
        found |= {"text_model.head.weight": torch.eye(width), "text_model.head.bias": torch.zeros(width)}
    for number in ("logit_scale", "logit_bias"):
        if number in found:
            found[number] = found[number].reshape(-1)
    return found
