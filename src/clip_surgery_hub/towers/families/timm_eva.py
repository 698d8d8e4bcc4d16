"""The EVA towers of timm: EVA-02 with rotary position embeddings, and the EVA models before and after it.

Methods get queries and keys as the original path compares them, which is after the rotation; values are not
rotated. What stands before the patches (class token, registers) is not rotated either.
"""

from collections.abc import Sequence
from copy import deepcopy
from importlib import import_module
from typing import Any, cast

from torch import Tensor, cat, nn
from torch.nn.functional import linear

from clip_surgery_hub.towers.class_swap import SurgeryParts
from clip_surgery_hub.towers.timm_blocks import AttentionOnTwoPaths, BlockOnTwoPaths, ModelOnTwoPaths
from clip_surgery_hub.towers.timm_tower import TimmTower, descends_from, why_parent_refused, why_refused
from clip_surgery_hub.towers.tower import Grid, Tower

__all__ = ["DESCRIPTION", "EvaTower", "find_towers", "refusal"]

DESCRIPTION = "Eva of timm with its class token pooled (eva*_clip_*)"

_FILE = "timm.models.eva"


class EvaAttention(AttentionOnTwoPaths):
    """Before timm's `EvaAttention`: one projection or three, no bias of keys, rotated queries and keys."""

    qkv: Any
    qkv_bias_separate: bool
    q_proj: Any
    k_proj: Any
    v_proj: Any
    q_bias: Tensor | None
    k_bias: Tensor
    v_bias: Tensor
    q_norm: nn.Module
    k_norm: nn.Module
    num_prefix_tokens: int
    rotate_half: bool

    def heads(self, normed: Tensor, rope: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value `[B, heads, tokens, head_dim]`; queries and keys of patches are rotated.

        Args:
            normed: what the attention reads, `[B, tokens, width]`.
            rope: sines and cosines of each patch's place, `[N, 2 * head_dim]`; None where there are none.
        """
        query, key, value = (
            projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projected in self.projections(normed)
        )
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is None:
            return query, key, value
        return self.rotated(query, rope).type_as(value), self.rotated(key, rope).type_as(value), value

    def projections(self, normed: Tensor) -> Sequence[Tensor]:
        """Query, key and value before they are split into heads, `[B, tokens, width]` each."""
        if self.qkv is None:
            return [project(normed) for project in (self.q_proj, self.k_proj, self.v_proj)]
        if self.q_bias is None:
            return cast(Tensor, self.qkv(normed)).chunk(3, dim=-1)
        bias = cat([self.q_bias, self.k_bias, self.v_bias])
        if self.qkv_bias_separate:  # so that what has taken the place of the layer, such as LoRA, is called
            return cast(Tensor, self.qkv(normed) + bias).chunk(3, dim=-1)
        return linear(normed, self.qkv.weight, bias).chunk(3, dim=-1)

    def rotated(self, tokens: Tensor, rope: Tensor) -> Tensor:
        """Tokens `[B, heads, tokens, head_dim]`, those of patches rotated by their place."""
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        prefix = self.num_prefix_tokens
        patches = apply_rot_embed_cat(tokens[:, :, prefix:], rope, half=self.rotate_half)
        return cat([tokens[:, :, :prefix], patches], dim=2)


class EvaBlock(BlockOnTwoPaths):
    """Before timm's `EvaBlock`: norms first, and a scale per channel at the end where it has one."""

    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def attention_input(self, x: Tensor) -> Tensor:
        """`LN1(x)`, `[B, tokens, width]`."""
        return cast(Tensor, self.norm1(x))

    def attention_branch(self, attended: Tensor) -> Tensor:
        """`gamma1 * attended`, `[B, tokens, width]`."""
        return attended if self.gamma_1 is None else self.gamma_1 * attended

    def mlp_branch(self, x: Tensor) -> Tensor:
        """`gamma2 * MLP(LN2(x))`, `[B, tokens, width]`."""
        fed: Tensor = self.mlp(self.norm2(x))
        return fed if self.gamma_2 is None else self.gamma_2 * fed


class EvaBlockPostNorm(BlockOnTwoPaths):
    """Before timm's `EvaBlockPostNorm`, of EVA-02-E: norms what attention and MLP give, not what they get."""

    def attention_input(self, x: Tensor) -> Tensor:
        """`x` as it is, `[B, tokens, width]`."""
        return x

    def attention_branch(self, attended: Tensor) -> Tensor:
        """`LN1(attended)`, `[B, tokens, width]`."""
        return cast(Tensor, self.norm1(attended))

    def mlp_branch(self, x: Tensor) -> Tensor:
        """`LN2(MLP(x))`, `[B, tokens, width]`."""
        return cast(Tensor, self.norm2(self.mlp(x)))


class EvaModel(ModelOnTwoPaths):
    """Before timm's `Eva`."""

    def before_blocks(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Tokens `[B, tokens, width]`, and for the blocks the rotation of each place."""
        vision: Any = self
        tokens, rope = vision._pos_embed(vision.patch_embed(x))
        return vision.norm_pre(tokens), {"rope": rope}


_BEFORE = {
    "Eva": EvaModel,
    "EvaBlock": EvaBlock,
    "EvaBlockPostNorm": EvaBlockPostNorm,
    "EvaAttention": EvaAttention,
}


class EvaTower(TimmTower):
    """An `Eva` of timm."""

    def extras(self, grid: Grid) -> dict[str, Any]:
        """The rotation of each place of the grid, as timm makes it for a model of that size."""
        rope: Any = cast(Any, self.vision).rope
        if rope is None:
            return {"rope": None}
        made_for = getattr(rope, "feat_shape", None)
        if made_for is None:
            return {"rope": rope.get_embed(shape=grid)}
        if tuple(made_for) != grid:
            rope = deepcopy(rope)
            rope.update_feat_shape(grid)
        return {"rope": rope.get_embed()}


def find_towers(model: nn.Module) -> dict[str, Tower]:
    """Every EVA tower of timm in `model` by its path, of those that `refusal` does not refuse."""
    return {
        path: EvaTower.of(module)
        for path, module in model.named_modules()
        if descends_from(module, _FILE, "Eva")
    }


def refusal(module: nn.Module) -> str | None:
    """Why `module` cannot be modified, when it is an EVA tower of timm or a parent of one."""
    if not descends_from(module, _FILE, "Eva"):
        return why_parent_refused(module, _FILE, "Eva")
    parts = {
        "block": (_plain("EvaBlock"), _plain("EvaBlockPostNorm")),
        "attention": (_plain("EvaAttention"),),
    }
    if reason := why_refused(module, _plain("Eva"), parts):
        return reason
    if cast(Any, module).rope_mixed:
        return "surgery cannot be applied to this Eva of timm: each of its blocks has a rotation of its own"
    return None


def surgery_parts(name: str) -> SurgeryParts | None:
    """What the class with surgery is made of, of the model, block or attention class `name`."""
    return SurgeryParts(_BEFORE[name], _plain(name)) if name in _BEFORE else None


def _plain(name: str) -> type[nn.Module]:
    found: type[nn.Module] = getattr(import_module(_FILE), name)
    return found
