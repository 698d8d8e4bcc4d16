"""Small random models of OpenCLIP, their folders, and surgery transcribed from OpenCLIP's modules."""

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.support.transcription import layer_norm, linear

TOKENS, END = 16, 49
TEXT = {"context_length": TOKENS, "vocab_size": END + 1, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = TEXT | {
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}
VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 3}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None}
SIGLIP = {
    "image_size": 32,
    "timm_model_name": "vit_tiny_patch8_siglip_32",
    "timm_pool": "map",
    "timm_proj": "none",
}
EVA = {"image_size": 32, "timm_pool": "token", "timm_proj": None}
SIGLIP_MODEL = {"embed_dim": 64, "custom_text": True, "init_logit_bias": -10, "vision_cfg": SIGLIP}

#: ``model_cfg`` by what each stands for, with what distinguishes the real one.
CASES: dict[str, dict[str, Any]] = {
    "ViT-B-32-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "ViT-B-16": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "ViT-L-14 with its own eps": {
        "embed_dim": 24,
        "vision_cfg": VIT | {"image_size": [40, 40], "norm_kwargs": {"eps": 1e-2}},
        "text_cfg": TEXT | {"mlp_ratio": 3.0},
    },
    "ViT-H-14": {
        "embed_dim": 24,
        "vision_cfg": VIT | {"width": 120, "head_width": 40},
        "text_cfg": TEXT | {"heads": 4},
    },
    "ViT-bigG-14": {
        "embed_dim": 24,
        "vision_cfg": VIT | {"width": 104, "head_width": 26, "mlp_ratio": 4.9231},
        "text_cfg": TEXT,
    },
    "ViT-H-14-worldwide": {
        "embed_dim": 24,
        "vision_cfg": VIT,
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 2, "hf_tokenizer_name": "facebook/xlm-v-base"},
    },
    "RN50": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
    "RN50x4-quickgelu": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": RESNET | {"width": 16, "image_size": 96},
        "text_cfg": TEXT,
    },
    "EVA02-B-16": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": EVA | {"timm_model_name": "eva02_tiny_patch8_clip_32"},
        "text_cfg": TEXT,
    },
    "EVA02-E-14": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": EVA | {"timm_model_name": "eva02_small_patch8_clip_32"},
        "text_cfg": TEXT,
    },
    "ViT-B-16-SigLIP": SIGLIP_MODEL | {"text_cfg": SIGLIP_TEXT},
    "ViT-B-16-SigLIP2": SIGLIP_MODEL | {"text_cfg": SIGLIP_TEXT | {"act_kwargs": {"approximate": "tanh"}}},
    "ViT-gopt-16-SigLIP2-256": SIGLIP_MODEL
    | {
        "vision_cfg": SIGLIP | {"timm_model_name": "vit_small_patch8_siglip_32"},
        "text_cfg": SIGLIP_TEXT | {"act_kwargs": {"approximate": "tanh"}, "mlp_ratio": 3.7362},
    },
    "ViT-SO400M-16-SigLIP-i18n-256": SIGLIP_MODEL
    | {"text_cfg": SIGLIP_TEXT | {"width": 64, "proj_bias": False, "proj_type": "none"}},
}

_TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 2, "mlp_ratio": 8 / 3}
_EVA = _TIMM | {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}


@register_model
def eva02_tiny_patch8_clip_32(pretrained: bool = False, **changes: Any) -> nn.Module:
    own = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
    return build_model_with_cfg(Eva, "eva02_tiny_patch8_clip_32", pretrained, **_EVA | own | changes)


@register_model
def eva02_small_patch8_clip_32(pretrained: bool = False, **changes: Any) -> nn.Module:
    own = {"use_post_norm": True}
    return build_model_with_cfg(Eva, "eva02_small_patch8_clip_32", pretrained, **_EVA | own | changes)


@register_model
def vit_tiny_patch8_siglip_32(pretrained: bool = False, **changes: Any) -> nn.Module:
    own = _TIMM | {"class_token": False, "global_pool": "map"}
    return build_model_with_cfg(VisionTransformer, "vit_tiny_patch8_siglip_32", pretrained, **own | changes)


@register_model
def vit_small_patch8_siglip_32(pretrained: bool = False, **changes: Any) -> nn.Module:
    own = _TIMM | {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh", "num_heads": 4}
    return build_model_with_cfg(VisionTransformer, "vit_small_patch8_siglip_32", pretrained, **own | changes)


def open_clip_model(model_cfg: dict[str, Any]) -> Any:
    """OpenCLIP's own model, its every weight and statistic random, in eval mode."""
    kwargs = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = (CustomTextCLIP if model_cfg.get("custom_text") else CLIP)(**kwargs).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith("logit_"):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for name, buffer in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(torch.rand_like(buffer), alpha=0.2)
    return model


def write_folder(folder: Path, model_cfg: dict[str, Any], tensors: dict[str, Tensor], **more: Any) -> Path:
    """A folder as OpenCLIP pushes it."""
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": model_cfg} | more
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, folder / "open_clip_model.safetensors")
    return folder


def token_ids(model_cfg: dict[str, Any]) -> Tensor:
    """Prompts of several lengths, `[3, TOKENS]`, with the model's end token, padded with 0."""
    text = model_cfg["text_cfg"]
    end = text["eos_id"] if text.get("pool_type") == "eos" else END
    ids = torch.randint(3, END - 1, (3, TOKENS), generator=torch.Generator().manual_seed(1))
    for row, length in zip(ids, (5, 9, TOKENS), strict=True):
        row[length - 1] = end
        row[length:] = 0
    return ids


def pixels_for(model_cfg: dict[str, Any]) -> Tensor:
    """Pixels `[2, 3, H, W]` of the model's own size."""
    side = model_cfg["vision_cfg"]["image_size"]
    side = side if isinstance(side, int) else side[0]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def surgery_tokens(model: Any, pixels: Tensor, depth: int) -> Tensor:
    """Embeddings `[B, 1+N, C]` of the image and, by v-v attention in the last blocks, of its patches."""
    visual = model.visual
    if hasattr(visual, "attnpool"):
        return _resnet_tokens(visual, pixels)
    trunk = getattr(visual, "trunk", visual)
    own = hasattr(trunk, "transformer")
    blocks = list(trunk.transformer.resblocks if own else trunk.blocks)
    states: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: states.append(args[0])) for block in blocks]
    image = model.encode_image(pixels)
    for hook in hooks:
        hook.remove()
    patches = states[-depth]
    for block, state in zip(blocks[-depth:], states[-depth:], strict=True):
        patches = patches + (_own_update if own else _timm_update)(block, state)
    if own:
        embedded = layer_norm(trunk.ln_post, patches[:, 1:]) @ trunk.proj
    elif trunk.attn_pool is None:
        embedded = linear(trunk.head, layer_norm(trunk.norm, patches[:, 1:]))
    else:
        embedded = _map_pool_alone(trunk.attn_pool, layer_norm(trunk.norm, patches))
    return torch.cat([image[:, None], embedded], dim=1)


def _value_value(value: Tensor, heads: int) -> Tensor:
    """softmax(s V V') V of every head, from the values `[B, tokens, width]` of all."""
    size = value.shape[-1] // heads
    parts = value.split(size, dim=-1)
    return torch.cat([torch.softmax(part @ part.mT * size**-0.5, dim=-1) @ part for part in parts], dim=-1)


def _own_update(block: Any, state: Tensor) -> Tensor:
    """The update of a block of OpenCLIP, with v-v attention."""
    attention, width = block.attn, state.shape[-1]
    normed = layer_norm(block.ln_1, state)
    weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    return linear(attention.out_proj, _value_value(normed @ weight.T + bias, attention.num_heads))


def _timm_update(block: Any, state: Tensor) -> Tensor:
    """The update of a block of timm's ViT or EVA, with v-v attention; a norm may come after attention."""
    attention = block.attn
    late = type(block).__name__ == "EvaBlockPostNorm"
    normed = state if late else layer_norm(block.norm1, state)
    if getattr(attention, "qkv", None) is None:
        value = linear(attention.v_proj, normed)
    else:
        width = attention.qkv.weight.shape[0] // 3
        bias = (
            attention.v_bias
            if getattr(attention, "v_bias", None) is not None
            else attention.qkv.bias[2 * width :]
        )
        value = normed @ attention.qkv.weight[2 * width :].T + bias
    mixed = _value_value(value, attention.num_heads)
    if isinstance(attention.norm, nn.LayerNorm):
        mixed = layer_norm(attention.norm, mixed)
    update = linear(attention.proj, mixed)
    return layer_norm(block.norm1, update) if late else update


def _map_pool_alone(pool: Any, patches: Tensor) -> Tensor:
    """SigLIP's pool asked of each patch alone: attention over one token is that token's value."""
    width = patches.shape[-1]
    value = patches @ pool.kv.weight[width:].T + pool.kv.bias[width:]
    pooled = linear(pool.proj, value)
    return pooled + linear(pool.mlp.fc2, pool.mlp.act(linear(pool.mlp.fc1, layer_norm(pool.norm, pooled))))


def _resnet_tokens(visual: Any, pixels: Tensor) -> Tensor:
    """The attention pool, its patches by v-v attention."""
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    pool = visual.attnpool
    patches = features.flatten(2).mT
    x = torch.cat([patches.mean(1, keepdim=True), patches], dim=1) + pool.positional_embedding
    mixed = _value_value(linear(pool.v_proj, x), pool.num_heads)
    return torch.cat([pool(features)[:, None], linear(pool.c_proj, mixed)[:, 1:]], dim=1)
