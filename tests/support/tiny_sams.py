"""Small segmentation models with random weights, one of every family, and images with points to ask them."""

import re

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    Sam2Config,
    Sam2Model,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)
from transformers.models.timm_wrapper import TimmWrapperConfig

from clip_surgery_hub.results.explanation import Explanation, Settings

SIDE = 64

# Name in segment_anything -> name in transformers, applied one after the other.
_RENAMED = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
)


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """All weights drawn anew, norms and biases too, so that a formula that forgets one gives other masks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                scale = 1.0 if "position" in name else value[0].numel() ** -0.5 if value.ndim > 1 else 0.2
                drawn = torch.randn(value.shape, generator=generator) * scale
                value.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn)
                if value.ndim == 1 and name.endswith("weight"):
                    value.add_(1)
    return model.eval()


def tiny_sam() -> Sam:
    """A SAM of segment_anything: 64 px, patch 8, 3 blocks of width 32, the middle one without a window."""
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=2,
        mlp_ratio=2,
        out_chans=32,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(
        embed_dim=32, image_embedding_size=(8, 8), input_image_size=(SIDE, SIDE), mask_in_chans=16
    )
    decoder = MaskDecoder(
        transformer_dim=32,
        transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=48),
        iou_head_hidden_dim=24,
    )
    return seeded(Sam(encoder, prompts, decoder))


_VISION = {
    "hidden_size": 32,
    "output_channels": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "mlp_ratio": 2.0,
    "window_size": 3,
    "global_attn_indexes": [1],
    "num_pos_feats": 16,
    "initializer_range": 0.02,
}
_PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 16}
_DECODER = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 8, "iou_head_hidden_dim": 24}


def as_transformers(sam: Sam) -> SamModel:
    """The same weights in the model of transformers."""
    weights = {}
    for name, value in sam.state_dict().items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = value
    shared = "shared_embedding.positional_embedding"
    weights["shared_image_embedding.positional_embedding"] = weights[f"prompt_encoder.{shared}"]
    model = SamModel(
        SamConfig(vision_config=_VISION, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER)
    )
    model.load_state_dict(weights)
    return model.eval()


def tiny_sam_hq() -> SamHQModel:
    decoder = _DECODER | {"vit_dim": 32}
    config = SamHQConfig(vision_config=_VISION, prompt_encoder_config=_PROMPTS, mask_decoder_config=decoder)
    return seeded(SamHQModel(config))


_PYRAMID = {
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 32,
}
_PROMPTS_2 = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 16}


def sam2_parts() -> dict[str, dict]:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "image_size": [SIDE, SIDE],
        "window_positional_embedding_background_size": [2, 2],
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": [16, 24, 32, 48],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [4, 4, 2, 2],
        "global_attention_blocks": [2],
    }
    vision = _PYRAMID | {"backbone_config": backbone, "backbone_channel_list": [48, 32, 24, 16]}
    return {"vision_config": vision, "prompt_encoder_config": _PROMPTS_2, "mask_decoder_config": _DECODER}


def tiny_sam2() -> Sam2Model:
    return seeded(Sam2Model(Sam2Config(**sam2_parts())))


def tiny_edgetam() -> EdgeTamModel:
    levels = {"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]}
    backbone = TimmWrapperConfig(architecture="test_efficientnet", model_args=levels)
    vision = _PYRAMID | {"backbone_config": backbone, "backbone_channel_list": [64, 48, 32, 24]}
    config = EdgeTamConfig(
        vision_config=vision, prompt_encoder_config=_PROMPTS_2, mask_decoder_config=_DECODER
    )
    return seeded(EdgeTamModel(config))


FAMILIES = {
    "SamModel": lambda: as_transformers(tiny_sam()),
    "SamHQModel": tiny_sam_hq,
    "Sam2Model": tiny_sam2,
    "EdgeTamModel": tiny_edgetam,
}
BEFORE_5_20 = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"),
    reason="transformers before 5.20 cannot make such a model without asking the hub for another",
)
NAMES = [pytest.param(name, marks=BEFORE_5_20 if name == "EdgeTamModel" else ()) for name in FAMILIES]


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colors, as photographs have: noise of 5 x 7 places, enlarged."""
    places = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(places, (height, width), mode="bicubic").clamp(0, 1)
    return (255 * smooth[0].permute(1, 2, 0)).to(torch.uint8).numpy()


def explained(*images: np.ndarray, maps: Tensor | None = None, texts: int = 3) -> Explanation:
    """An explanation of these images by maps ``[T, h, w]``, by default random ones on 8 x 8 patches."""
    if maps is None:
        maps = torch.randn(texts, 8, 8, generator=torch.Generator().manual_seed(1))
    return Explanation(
        images=images,
        sizes=tuple((image.shape[0], image.shape[1]) for image in images),
        texts=tuple(f"text {number}" for number in range(len(maps))),
        background=(),
        surgery_similarity=(maps,) * len(images),
        plain_similarity=(maps,) * len(images),
        scores=torch.zeros(len(images), len(maps)),
        plain_scores=torch.zeros(len(images), len(maps)),
        settings=Settings(model="some/model", method="none", versions={}),
    )
