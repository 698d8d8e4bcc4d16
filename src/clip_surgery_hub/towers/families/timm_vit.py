"""The vision transformers of timm that embed an image in their class token, CLIP's among them."""

from importlib import import_module
from typing import Any, cast

from torch import Tensor, nn

from clip_surgery_hub.towers.class_swap import SurgeryParts
from clip_surgery_hub.towers.timm_blocks import AttentionOnTwoPaths, BlockOnTwoPaths, ModelOnTwoPaths
from clip_surgery_hub.towers.timm_tower import TimmTower, descends_from, why_parent_refused, why_refused
from clip_surgery_hub.towers.tower import Grid, Tower

__all__ = ["DESCRIPTION", "ViTTower", "find_towers", "refusal"]

DESCRIPTION = "VisionTransformer of timm with its class token pooled (vit_*_clip_*)"

_FILE = "timm.models.vision_transformer"


class ViTAttention(AttentionOnTwoPaths):
    """Before timm's `Attention`: one projection for all three; queries and keys may be normed."""

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module

    def heads(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value `[B, heads, tokens, head_dim]` of `normed` `[B, tokens, width]`."""
        batch, tokens, _ = normed.shape
        query, key, value = self.qkv(normed).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.q_norm(query), self.k_norm(key), value


class ViTBlock(BlockOnTwoPaths):
    """Before timm's `Block`: norms first, and a scale per channel at the end where it has one."""

    ls1: nn.Module
    ls2: nn.Module

    def attention_input(self, x: Tensor) -> Tensor:
        """`LN1(x)`, `[B, tokens, width]`."""
        return cast(Tensor, self.norm1(x))

    def attention_branch(self, attended: Tensor) -> Tensor:
        """`scale1 * attended`, `[B, tokens, width]`."""
        return cast(Tensor, self.ls1(attended))

    def mlp_branch(self, x: Tensor) -> Tensor:
        """`scale2 * MLP(LN2(x))`, `[B, tokens, width]`."""
        return cast(Tensor, self.ls2(self.mlp(self.norm2(x))))


class ViTModel(ModelOnTwoPaths):
    """Before timm's `VisionTransformer`."""

    def before_blocks(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Tokens `[B, tokens, width]`; the blocks need nothing besides."""
        vision: Any = self
        return vision.norm_pre(vision.patch_drop(vision._pos_embed(vision.patch_embed(x)))), {}


_BEFORE = {"VisionTransformer": ViTModel, "Block": ViTBlock, "Attention": ViTAttention}


class ViTTower(TimmTower):
    """A `VisionTransformer` of timm."""

    def extras(self, grid: Grid) -> dict[str, Any]:
        """Nothing."""
        return {}


def find_towers(model: nn.Module) -> dict[str, Tower]:
    """Every vision transformer of timm in `model` by its path, of those that `refusal` does not refuse."""
    return {
        path: ViTTower.of(module)
        for path, module in model.named_modules()
        if descends_from(module, _FILE, "VisionTransformer")
    }


def refusal(module: nn.Module) -> str | None:
    """Why `module` cannot be modified, when it is a vision transformer of timm or a parent of one."""
    if not descends_from(module, _FILE, "VisionTransformer"):
        return why_parent_refused(module, _FILE, "VisionTransformer")
    parts = {"block": (_plain("Block"),), "attention": (_plain("Attention"),)}
    return why_refused(module, _plain("VisionTransformer"), parts)


def surgery_parts(name: str) -> SurgeryParts | None:
    """What the class with surgery is made of, of the model, block or attention class `name`."""
    return SurgeryParts(_BEFORE[name], _plain(name)) if name in _BEFORE else None


def _plain(name: str) -> type[nn.Module]:
    found: type[nn.Module] = getattr(import_module(_FILE), name)
    return found
