"""Weights by OpenAI's names, which OpenCLIP shares, under the names of the modules that hold them here.

A name that is not known stays as it is, so that `filling.fill` finds and refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
