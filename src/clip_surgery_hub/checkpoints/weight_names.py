"""Weights by OpenAI's and OpenCLIP's names, under the names of the modules that hold them here.

A name that is not known stays as it is, so that `load_state.load_state` finds and refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Rules = Iterable[tuple[str, str]]

_BLOCK = (
    (r"\.resblocks\.", ".layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.in_proj_(weight|bias)$", r".self_attn.qkv_proj.\1"),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)

#: The text transformer as `text_model` of transformers; its projection has a name per model.
TEXT: Rules = (
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.", "text_model.encoder."),
    *_BLOCK,
)
#: The vision transformer as `vision_model` of transformers.
VISION: Rules = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.", "vision_model.encoder."),
    (r"^visual\.proj$", "visual_projection.weight"),
)
#: The modified ResNet as timm's ByobNet.
RESNET: Rules = (
    (r"^visual\.conv([123])\.", r"vision_model.stem.conv\1.conv."),
    (r"^visual\.bn([123])\.", r"vision_model.stem.conv\1.bn."),
    (r"^visual\.layer1\.", "vision_model.stages.0."),
    (r"^visual\.layer2\.", "vision_model.stages.1."),
    (r"^visual\.layer3\.", "vision_model.stages.2."),
    (r"^visual\.layer4\.", "vision_model.stages.3."),
    (r"(stages\.\d\.\d+)\.conv1\.", r"\1.conv1_1x1.conv."),
    (r"(stages\.\d\.\d+)\.bn1\.", r"\1.conv1_1x1.bn."),
    (r"(stages\.\d\.\d+)\.conv2\.", r"\1.conv2_kxk.conv."),
    (r"(stages\.\d\.\d+)\.bn2\.", r"\1.conv2_kxk.bn."),
    (r"(stages\.\d\.\d+)\.conv3\.", r"\1.conv3_1x1.conv."),
    (r"(stages\.\d\.\d+)\.bn3\.", r"\1.conv3_1x1.bn."),
    (r"\.downsample\.0\.", ".shortcut.conv.conv."),
    (r"\.downsample\.1\.", ".shortcut.conv.bn."),
    (r"^visual\.attnpool\.positional_embedding$", "vision_model.head.pos_embed"),
    (r"^visual\.attnpool\.([qkv])_proj\.", r"vision_model.head.\1."),
    (r"^visual\.attnpool\.c_proj\.", "vision_model.head.proj."),
)
#: A tower of timm, which keeps its names.
TRUNK: Rules = ((r"^visual\.trunk\.", "vision_model."),)

#: SigLIP, a ViT of timm, as `vision_model` of `SiglipModel` of transformers.
_SIGLIP: Rules = (
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


def renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Weights under other names, by regular expressions in turn; joint query, key and value come apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if ".self_attn.qkv_proj." in new and tensor.ndim and not len(tensor) % 3:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[new.replace(".qkv_proj.", f".{letter}_proj.")] = part
        else:
            # OpenAI multiplies by its projections from the right, a linear layer holds them transposed.
            turned = name in ("visual.proj", "text_projection") and tensor.ndim == 2
            found[new] = tensor.T if turned else tensor
    return found


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the prefixes ``module.`` of DDP and ``text.`` of OpenCLIP's models with custom text.

    The scale and bias of the logits, numbers of shape ``[]`` or ``[1]``, become ``[]``.
    """
    parallel = all(name.startswith("module.") for name in state)
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name.removeprefix("module.") if parallel else name
        number = new in ("logit_scale", "logit_bias") and tensor.numel() == 1
        found[new.removeprefix("text.")] = tensor.reshape(()) if number else tensor
    return found


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
    found = renamed(rest, (*TEXT, *_SIGLIP)) | joined
    if _POSITIONS in found and found[_POSITIONS].shape[:1] == (1,):
        found[_POSITIONS] = found[_POSITIONS][0]
    if not projection and "ln_final.bias" in state:
        width = len(state["ln_final.bias"])
        found |= {"text_model.head.weight": torch.eye(width), "text_model.head.bias": torch.zeros(width)}
    for number in ("logit_scale", "logit_bias"):
        if number in found:
            found[number] = found[number].reshape(-1)
    return found
