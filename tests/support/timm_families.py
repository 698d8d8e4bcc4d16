"""Small random models of timm: those whose towers surgery supports, and those it refuses by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import timm
from timm.models.byobnet import ByobNet, model_cfgs
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

SIDE, PATCH, WIDTH, BLOCKS, HEADS = 32, 8, 32, 3, 2
RESNET_SIDE, RESNET_STRIDE = 64, 32

_SIZES = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": WIDTH,
    "depth": BLOCKS,
    "num_heads": HEADS,
    "num_classes": 24,
    "global_pool": "token",
}
_EVA02 = {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "mlp_ratio": 4 * 2 / 3}
_ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (2, 2)}


def vit(**changes: Any) -> Callable[[], nn.Module]:
    return partial(VisionTransformer, **{**_SIZES, **changes})


def eva(**changes: Any) -> Callable[[], nn.Module]:
    return partial(Eva, **{**_SIZES, **changes})


def resnet(name: str = "resnet50_clip", **changes: Any) -> Callable[[], nn.Module]:
    """One block per stage instead of many; 128 channels before the pool, which has two heads."""
    config = model_cfgs[name]
    blocks = tuple(replace(stage, d=1, c=16 * 2**index) for index, stage in enumerate(config.blocks))
    config = replace(config, blocks=blocks, width_factor=1.0, stem_chs=(8, 8, 16))
    return partial(ByobNet, config, num_classes=24, img_size=RESNET_SIDE, **changes)


#: Every kind of model that is supported, by what is special about it.
SUPPORTED: dict[str, Callable[[], nn.Module]] = {
    "ViT of CLIP": vit(pre_norm=True, norm_layer="layernorm", act_layer="quick_gelu"),
    "ViT with everything": vit(
        init_values=0.5, qk_norm=True, reg_tokens=3, no_embed_class=True, scale_attn_norm=True, fc_norm=True
    ),
    "ViT without head": vit(pre_norm=True, num_classes=0, depth=2),
    "EVA02 of CLIP": eva(qkv_fused=False, **_EVA02, **_ROTARY),
    "EVA02 with registers": eva(
        num_reg_tokens=2, init_values=0.5, use_abs_pos_emb=False, dynamic_img_size=True, **_ROTARY
    ),
    "EVA of CLIP": eva(),
    "EVA02-E of CLIP": eva(use_post_norm=True),
    "ResNet of CLIP": resnet(),
    "ResNet without projection": partial(resnet().func, *resnet().args, num_classes=0, img_size=RESNET_SIDE),
}

#: Models that are refused, and what the refusal says.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mean of patches": (vit(global_pool="avg"), r"this VisionTransformer of timm: .*global_pool='avg'"),
    "map pooling": (vit(global_pool="map", class_token=False), r"VisionTransformer .*global_pool='map'"),
    "no pooling": (vit(global_pool=""), r"image-level embedding is all of its tokens \(global_pool=''\)"),
    "built upon a ViT": (
        partial(timm.create_model, "deit_tiny_distilled_patch16_224"),
        "VisionTransformerDistilled: it changes the VisionTransformer of timm in its own way",
    ),
    "convolutions before a ViT": (
        partial(timm.create_model, "vit_tiny_r_s16_p8_224"),
        "its patches come from a HybridEmbed",
    ),
    "oblong patches": (vit(patch_size=(8, 4)), r"its patches are not square, but \(8, 4\) pixels"),
    "other blocks": (
        vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock),
        "where surgery knows Block it has ParallelScalingBlock",
    ),
    "mean of patches of EVA": (eva(global_pool="avg"), r"this Eva of timm: .*global_pool='avg'"),
    "other attention of EVA": (
        eva(attn_type="rope", use_rot_pos_emb=True),
        "where surgery knows EvaAttention it has AttentionRope",
    ),
    "mixed rotation": (
        eva(use_rot_pos_emb=True, rope_type="mixed"),
        "Eva of timm: each of its blocks has a rotation of its own",
    ),
    "ResNet with mean pooling": (resnet("resnet50_clip_gap"), r"ByobNet of timm: .*ClassifierHead .*'avg'"),
    "ResNet that gives its map": (resnet(global_pool=""), r"AttentionPool2d \(global_pool=''\)"),
}
