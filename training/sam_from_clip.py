"""A SAM whose image encoder begins as the vision blocks of a trained CLIP, or that of a smaller SAM.

Both towers are made of the same blocks, so the blocks are copied. What SAM lacks is replaced: the norm before
the first block by the linear map of pixels and position that comes closest to it, and CLS by nothing. Prompt
encoder and mask decoder begin at random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from data import training_look, training_world
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPModel, SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamAttention, SamVisionEncoder

from clip_surgery_hub.scenes import draw_scene

Colors: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The colors of published SAMs: code that knows only those, not this one's processor, is right as well."""
FIT_SCENES = 400
SHARPNESS = 1.5
"""How much larger than usual the shared first projections of queries and keys are."""


def normalized(pixels: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Images uint8 [B, 3, H, W] as float32 of mean 0 and deviation 1 per color."""
    middle, spread = (pixels.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (mean, std))
    return (pixels.float() / 255 - middle) / spread


def sam_config(clip: Any, *, channels: int, heads: int) -> SamConfig:
    """Blocks like the CLIP's, every one looking at the whole image; a small prompt encoder and decoder."""
    theirs = clip.config
    place = {"image_size": theirs.image_size, "patch_size": theirs.patch_size}
    vision = place | {
        "hidden_size": theirs.hidden_size,
        "mlp_dim": theirs.intermediate_size,
        "num_hidden_layers": theirs.num_hidden_layers,
        "num_attention_heads": theirs.num_attention_heads,
        "hidden_act": theirs.hidden_act,
        "layer_norm_eps": theirs.layer_norm_eps,
        "use_rel_pos": False,
        "window_size": 0,
        "global_attn_indexes": list(range(theirs.num_hidden_layers)),
        "output_channels": channels,
        "num_pos_feats": channels // 2,
        "initializer_range": 0.02,  # the default of 1e-10 waits for weights that are loaded
    }
    decoder = {"hidden_size": channels, "mlp_dim": 4 * channels, "num_attention_heads": heads}
    return SamConfig(
        vision_config=vision,
        prompt_encoder_config=place | {"hidden_size": channels},
        mask_decoder_config=decoder,
    )


def build_sam(folder: Path, *, channels: int = 128, heads: int = 4) -> SamModel:
    """A SAM to be trained, from the CLIP in `folder`; everything random comes from torch's generator."""
    clip, colors = _vision_tower(folder)
    config = sam_config(clip, channels=channels, heads=heads)
    # For sequences this short eager attention has the fastest backward pass.
    model = SamModel._from_config(config, attn_implementation="eager")
    _begin_decoder(model)
    _copy_blocks(model.vision_encoder, clip)
    _fit_stem(model.vision_encoder, clip, colors, some_images(FIT_SCENES, config.vision_config.image_size))
    return model


def grow_sam(folder: Path, side: int) -> SamModel:
    """The trained SAM in `folder` for images of another side: its positions resized, all else as it is."""
    small = SamModel.from_pretrained(folder, dtype=torch.float32)
    config = SamConfig.from_pretrained(folder)
    config.dtype = None  # that of the file; training is in float32
    for part in (config.vision_config, config.prompt_encoder_config):
        part.image_size = side
    grid = side // config.vision_config.patch_size
    config.prompt_encoder_config.image_embedding_size = grid
    weights = small.state_dict()
    positions = weights["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
    resized = F.interpolate(positions, (grid, grid), mode="bicubic", align_corners=False)
    weights["vision_encoder.pos_embed"] = resized.permute(0, 2, 3, 1)
    model = SamModel._from_config(config, attn_implementation="eager")
    model.load_state_dict(weights)
    model.shared_image_embedding.positional_embedding.requires_grad_(False)
    return model


def some_images(count: int, side: int, first: int = 0) -> Tensor:
    """Images of scenes as training draws them, uint8 [count, 3, side, side]."""
    world = training_world(side, (1, 5), (0.1, 0.6), None, training_look(color=0.15, redraw=0.04))
    drawn = [draw_scene((0, 0, first + index), world).image for index in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def closeness(model: SamModel, folder: Path, count: int = 100) -> float:
    """Mean cosine between what the blocks make of a patch in this SAM and in the CLIP that it began from."""
    clip, colors = _vision_tower(folder)
    pixels = some_images(count, clip.config.image_size, first=FIT_SCENES)
    theirs = clip(normalized(pixels, *colors)).last_hidden_state[:, 1:]
    encoder = model.vision_encoder
    ours = encoder.patch_embed(normalized(pixels)) + encoder.pos_embed
    for block in encoder.layers:
        ours = block(ours)
    return float(F.cosine_similarity(ours.flatten(1, 2), theirs, dim=-1).mean())


def _copy_blocks(encoder: SamVisionEncoder, clip: Any) -> None:
    """The CLIP's blocks, with queries, keys and values in one matrix."""
    for ours, theirs in zip(encoder.layers, clip.encoder.layers, strict=True):
        attention = theirs.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        joint = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias")}
        ours.attn.qkv.load_state_dict(joint)
        pairs = (
            (ours.attn.proj, attention.out_proj),
            (ours.layer_norm1, theirs.layer_norm1),
            (ours.layer_norm2, theirs.layer_norm2),
            (ours.mlp.lin1, theirs.mlp.fc1),
            (ours.mlp.lin2, theirs.mlp.fc2),
        )
        for mine, source in pairs:
            mine.load_state_dict(source.state_dict())


@torch.no_grad()
def _fit_stem(
    encoder: SamVisionEncoder,
    clip: Any,
    colors: Colors,
    pixels: Tensor,
) -> None:
    """Patch and position embeddings such that their sum comes closest to the CLIP's normed embeddings.

    With x [N, P, 3 * patch^2] the pixels of the patches, y [N, P, C] what the CLIP's first block gets, and
    means over images at each place p, the least squares solution is W = argmin |(y - mean y) - W (x - mean
    x)|^2 and position p = mean y_p - W mean x_p, which needs no bias.
    """
    y = clip.pre_layrnorm(clip.embeddings(normalized(pixels, *colors)))[:, 1:].double()
    convolution = encoder.patch_embed.projection
    side = clip.config.patch_size
    x = F.unfold(normalized(pixels), side, stride=side).mT.double()  # in the order of a kernel's weights
    x_mean, y_mean = x.mean(0), y.mean(0)
    x_rest, y_rest = (x - x_mean).flatten(0, 1), (y - y_mean).flatten(0, 1)
    gram = x_rest.T @ x_rest
    gram.diagonal().add_(1e-5 * gram.diagonal().mean())  # directions that hardly occur stay out
    weight = torch.linalg.solve(gram, x_rest.T @ y_rest).T  # [C, 3 * patch^2]
    convolution.weight.copy_(weight.view_as(convolution.weight))
    convolution.bias.zero_()
    encoder.pos_embed.copy_((y_mean - x_mean @ weight.T).view_as(encoder.pos_embed))


@torch.no_grad()
def _begin_decoder(model: SamModel) -> None:
    """Random weights of the usual sizes, in place of those that `transformers` gives before loading.

    Position frequencies have deviation 1: one cell of the grid is then about as far as two places can be
    alike. Queries and keys between points and image begin with the same projection, so that from the first
    step a point looks at its own place, and a place at the points that are near.
    """
    for part in (model.vision_encoder.neck, model.prompt_encoder, model.mask_decoder):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
                module.reset_parameters()
    frequencies = model.shared_image_embedding.positional_embedding
    frequencies.normal_(std=1.0)
    frequencies.requires_grad_(False)
    model.prompt_encoder.no_mask_embed.weight.mul_(0.1)  # the same at every place: no need to be loud
    for name, module in model.mask_decoder.named_modules():
        if isinstance(module, SamAttention) and "_attn_" in name:
            width = module.q_proj.in_features
            module.q_proj.weight.normal_(std=SHARPNESS * width**-0.5)
            module.k_proj.weight.copy_(module.q_proj.weight)


def _vision_tower(folder: Path) -> tuple[Any, Colors]:
    """The CLIP's vision tower, and mean and deviation of the colors that it takes."""
    processor = CLIPImageProcessor.from_pretrained(folder)
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    return clip.vision_model, (tuple(processor.image_mean), tuple(processor.image_std))
