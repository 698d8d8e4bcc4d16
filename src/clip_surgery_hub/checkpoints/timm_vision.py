"""Vision towers of timm for checkpoints in OpenCLIP's and OpenAI's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from clip_surgery_hub.checkpoints.architecture import ResNetShape, TimmShape, TransformerShape, ViTShape
from clip_surgery_hub.checkpoints.json_files import shortened
from clip_surgery_hub.checkpoints.open_clip_config import SUPPORTED

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": lambda x: gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def build_vision(shape: ResNetShape | TimmShape, embed_dim: int) -> nn.Module:
    """A tower that gives embeddings ``[B, embed_dim]`` of pixels, with random weights.

    Raises:
        ValueError: for a tower of timm of another kind, or at another size than its own.
    """
    return _resnet(shape, embed_dim) if isinstance(shape, ResNetShape) else _named(shape, embed_dim)


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
    for name, function in _ACTIVATIONS.items():
        if torch.allclose(values, function(given), atol=1e-6, rtol=0):
            return name
    raise ValueError(f"{type(module).__name__} is neither GELU, exact or by tanh, nor quick GELU.")


def _refused(shape: TimmShape, tower: nn.Module | None, reason: str) -> ValueError:
    kind = "" if tower is None else f" ({type(tower).__name__})"
    return ValueError(
        f"the vision tower {shortened(shape.name)}{kind} of timm is not supported: {reason}; {SUPPORTED}."
    )
