"""The ResNets of CLIP in timm, which end in an attention pool.

The pool attends from the mean of the patches over that mean and all patches, `x = [mean; patches] +
positions`, and what it gives for the mean is the image-level embedding. It is the only block of the tower:
the depth is 1. It has no residual and no MLP, so that what a method makes of the patches replaces them,
whatever else its entry says:

    patches = W_o mix(q, k, v) + b_o, with q, k, v = W_q x + b_q, W_k x + b_k, W_v x + b_v,

where `normed` of a method that asks for it is x. Without surgery a patch is what the pool itself would give
for it, were it asked: `mix = softmax(scale Q K') V`.
"""

from contextlib import ExitStack
from typing import Any, cast

from torch import Tensor, cat, nn
from torch.nn.functional import scaled_dot_product_attention

from clip_surgery_hub.towers.class_swap import SurgeryParts, plain_class
from clip_surgery_hub.towers.timm_tower import descends_from, why_parent_refused
from clip_surgery_hub.towers.tower import (
    Grid,
    Interpolation,
    Surgery,
    Tower,
    resized_positions,
    unit_tokens,
)

__all__ = ["DESCRIPTION", "ResNetTower", "find_towers", "refusal"]

DESCRIPTION = "ByobNet of timm with CLIP's attention pool (resnet*_clip)"

_FILE = "timm.models.byobnet"
_POOL = ("timm.layers.attention_pool2d", "AttentionPool2d")


class ResNetTower(Tower):
    """A `ByobNet` of timm with an `AttentionPool2d` as its head, which is the encoder and its only block.

    The pool gives the image-level embedding alone, so the model itself stays as it is under surgery: patches
    are read by `encode`, which asks the pool for them.
    """

    def apply(self, surgery: Surgery, rollback: ExitStack) -> None:
        """Note the surgery on the pool, where `encode` finds it."""
        rollback.callback(vars(self.encoder).pop, "surgery", None)
        vars(self.encoder)["surgery"] = surgery

    def restore(self) -> None:
        """Take the note away."""
        del vars(self.encoder)["surgery"]

    @property
    def embedding_width(self) -> int:
        """C, the length of an embedding in the space shared with the texts; without projection the width."""
        pool: Any = self.encoder
        return int(getattr(pool.proj, "out_features", pool.embed_dim))

    def encode(self, pixel_values: Tensor, *, interpolation: Interpolation = "bilinear") -> Tensor:
        """Unit length tokens `[B, 1+N, C]`, the image-level embedding first; see `Tower.encode`.

        The image is cut to whole patches before the convolutions, which would take the rest in.
        """
        pool: Any = self.encoder
        pixel_values, (rows, columns) = self.prepared(pixel_values, interpolation)
        whole = pixel_values[:, :, : rows * self.patch_size, : columns * self.patch_size]
        patches = cast(Any, self.vision).forward_features(whole).flatten(2).mT
        positions = resized_positions(
            pool.pos_embed, tuple(pool.feat_size), (rows, columns), interpolation, prefix=1
        )
        x = cat([patches.mean(dim=1, keepdim=True), patches], dim=1) + positions
        query, key, value = (
            project(x).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
            for project in (pool.q, pool.k, pool.v)
        )
        pooled = scaled_dot_product_attention(query[:, :, :1], key, value, scale=pool.scale)
        offered = {"query": query, "key": key, "value": value, "normed": x, "scale": pool.scale}
        mixed = self._mix({**offered, "grid": (rows, columns)})
        tokens = cat([pooled, mixed[:, :, 1:]], dim=2).transpose(1, 2).flatten(2)
        return unit_tokens(pool.proj(tokens))

    def _mix(self, offered: dict[str, Any]) -> Tensor:
        """All tokens of the new path, `[B, heads, 1+N, head_dim]`, or of the pool itself without surgery."""
        method = None if self.surgery is None else self.surgery.method
        if method is None or method.mix is None:
            query, key, value, scale = (offered[name] for name in ("query", "key", "value", "scale"))
            return scaled_dot_product_attention(query, key, value, scale=scale)
        return method.mix(**{name: offered[name] for name in method.arguments})


def find_towers(model: nn.Module) -> dict[str, Tower]:
    """Every ResNet of CLIP in timm in `model` by its path, of those that `refusal` does not refuse."""
    return {
        path: _tower(module)
        for path, module in model.named_modules()
        if descends_from(module, _FILE, "ByobNet")
    }


def refusal(module: nn.Module) -> str | None:
    """Why `module` cannot be modified, when it is a ByobNet of timm or a parent of one."""
    if not descends_from(module, _FILE, "ByobNet"):
        return why_parent_refused(module, _FILE, "ByobNet")
    head: Any = cast(Any, module).head
    pooled = descends_from(head, *_POOL) and head.pool_type == "token"
    if pooled and head.qkv is None and head.cls_token is None:
        return None
    return (
        f"surgery cannot be applied to this {plain_class(module).__name__} of timm: its image-level "
        f"embedding comes from {type(head).__name__} (global_pool={cast(Any, module).global_pool!r}), and "
        "not from the attention pool of CLIP's ResNets (AttentionPool2d, global_pool='token')"
    )


def surgery_parts(name: str) -> SurgeryParts | None:
    """Nothing: the pool keeps its class under surgery."""
    return None


def _tower(vision: Any) -> ResNetTower:
    patch_size: int = vision.feature_info[-1]["reduction"]
    native: Grid = tuple(vision.head.feat_size)
    return ResNetTower(
        name=plain_class(vision).__name__,
        vision=vision,
        encoder=vision.head,
        blocks=nn.ModuleList([vision.head]),
        patch_size=patch_size,
        native_size=min(native) * patch_size,
    )
