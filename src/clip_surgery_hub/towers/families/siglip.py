"""The vision tower of SigLIP in transformers, which the SigLIP 2 checkpoints of fixed resolution share.

It has no class token: a pooling head attends from a learned probe to all patches, and what it makes of them
is the image-level embedding. Token 0 of `Tower.tokens` is that embedding of the original path. A patch comes
into the same space by going through the head alone: attention over one key is the identity, whatever the
probe asks, so with W_v, W_o of the head's attention

    `h = W_o (W_v p + b_v) + b_o`, and the embedding of the patch p is `h + MLP(LN(h))`.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from math import isqrt
from typing import Any, cast

from torch import Tensor, cat, nn
from torch.nn.functional import interpolate, linear

from clip_surgery_hub.towers.class_swap import (
    SurgeryParts,
    refuse_replaced_forward,
    remove_hooks,
    restore_classes,
    surgery_class,
    swap_classes,
)
from clip_surgery_hub.towers.clip_families import WRAPPERS
from clip_surgery_hub.towers.tower import Grid, Interpolation, Surgery, Tower, unit_tokens
from clip_surgery_hub.towers.transformers_models import (
    modeling,
    parents,
    refuse_replaced_parts,
    refuse_unknown_parents,
    transformers_class,
)

__all__ = ["DESCRIPTION", "REFUSED", "SUPPORTED", "SiglipTower", "find_towers", "refusal"]

#: Models that hold the tower and read nothing of it that surgery changes.
SUPPORTED = ("SiglipModel", "SiglipVisionModel", *WRAPPERS)

DESCRIPTION = (
    "SiglipModel of transformers and its vision model, with checkpoints of SigLIP and the fixed resolutions "
    "of SigLIP 2"
)

_CLASSIFIER = "its classifier averages the patch tokens of last_hidden_state, which surgery replaces"
_NAFLEX = (
    "the NaFlex checkpoints of SigLIP 2 take patches of many aspect ratios with a mask, not pixels: take a "
    "checkpoint of fixed resolution, such as google/siglip2-base-patch16-224, which is a SiglipModel and can "
    "be given images of any shape"
)

#: Models that are near to SigLIP, but cannot be modified, and why.
REFUSED = {
    "SiglipForImageClassification": _CLASSIFIER,
    "Siglip2ForImageClassification": _CLASSIFIER,
    "Siglip2Model": _NAFLEX,
    "Siglip2VisionModel": _NAFLEX,
}

_VISION, _ENCODER, _ATTENTION = "SiglipVisionModel", "SiglipEncoder", "SiglipAttention"


@dataclass(frozen=True, eq=False)
class SiglipTower(Tower):
    """The vision tower of a SigLIP.

    Attributes:
        projection: what a model around the tower puts between the pooled embedding and the space shared with
            the texts; None in SigLIP itself.
    """

    projection: nn.Module | None

    def apply(self, surgery: Surgery, rollback: ExitStack) -> None:
        """Hook the vision tower, then change the classes of the modified attention modules and the encoder.

        The encoder comes last, so that a call from another thread is either plain or under surgery.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        from clip_surgery_hub.towers.siglip_blocks import ask_for_new_tokens, give_new_tokens

        first = len(self.blocks) - surgery.depth
        attentions: list[Any] = [block.self_attn for block in self.blocks[first:]]
        refuse_replaced_forward(self.encoder, *attentions)
        attention, encoder = map(surgery_class, (_ATTENTION, _ENCODER))
        # Before the hooks of others, which are to find what the tower gives.
        given = self.vision.register_forward_hook(give_new_tokens, with_kwargs=True, prepend=True)
        rollback.callback(given.remove)
        asked = self.vision.register_forward_pre_hook(ask_for_new_tokens, with_kwargs=True)
        rollback.callback(asked.remove)
        rollback.callback(vars(self.encoder).pop, "surgery", None)
        vars(self.encoder)["surgery"] = surgery
        swap_classes({**dict.fromkeys(attentions, attention), self.encoder: encoder}, rollback)

    def restore(self) -> None:
        """Give the encoder and the modified attention modules their classes back, and take the hooks off.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        from clip_surgery_hub.towers.siglip_blocks import ask_for_new_tokens, give_new_tokens

        restore_classes([self.encoder, *(cast(Any, block).self_attn for block in self.blocks)])
        remove_hooks(self.vision, ask_for_new_tokens, give_new_tokens)
        del self.encoder.surgery

    @property
    def embedding_width(self) -> int:
        """C, the length of an embedding in the space shared with the texts."""
        last: Any = self.projection or cast(Any, self.vision).post_layernorm
        return int(last.weight.shape[0])

    def encode(self, pixel_values: Tensor, *, interpolation: Interpolation = "bilinear") -> Tensor:
        """Unit length image-level embedding and patches, `[B, 1+N, C]`; see `Tower.encode`."""
        pixel_values, grid = self.prepared(pixel_values, interpolation)
        pooled, patches = self._pooled_and_patches(pixel_values, grid, interpolation)
        return self._embedded(cat([pooled[:, None], self._through_head(patches)], dim=1))

    def embed_patches(self, last_hidden_state: Tensor) -> Tensor:
        """Patches in the space shared with the texts, of unit length: each one alone through the head.

        Args:
            last_hidden_state: `[B, N, width]`, as the tower gives it, post-normed.

        Returns:
            `[B, N, C]`. The image-level embedding is the `pooler_output` of the tower.
        """
        return self._embedded(self._through_head(last_hidden_state))

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, width]` behind the head, projected and brought to unit length, `[B, N, C]`."""
        tokens = tokens if self.projection is None else self.projection(tokens)
        return unit_tokens(tokens)

    def _through_head(self, patches: Tensor) -> Tensor:
        """The pooling head on each patch alone, `[B, N, width]`, in closed form."""
        head: Any = cast(Any, self.vision).head
        attention: nn.MultiheadAttention = head.attention
        value = slice(2 * patches.shape[-1], None)  # of the projections of queries, keys and values in one
        projected = linear(patches, attention.in_proj_weight[value], attention.in_proj_bias[value])
        attended = linear(projected, attention.out_proj.weight, attention.out_proj.bias)
        tokens: Tensor = attended + head.mlp(head.layernorm(attended))
        return tokens

    def _pooled_and_patches(
        self, pixel_values: Tensor, grid: Grid, interpolation: Interpolation
    ) -> tuple[Tensor, Tensor]:
        """Pooled embedding `[B, width]` of the original path, post-normed patches `[B, N, width]`."""
        from clip_surgery_hub.towers.siglip_blocks import NewTokens

        vision: Any = self.vision
        positions = vision.embeddings.position_embedding.weight
        side = isqrt(len(positions))
        if interpolation == "bicubic" or grid == (side, side):
            given = vision(pixel_values, interpolate_pos_encoding=True)
            return given.pooler_output, given.last_hidden_state
        native = positions.T.unflatten(1, (side, side))[None]
        resized = interpolate(native, size=grid, mode="bilinear", align_corners=False)
        embedded = vision.embeddings.patch_embedding(pixel_values.to(positions.dtype))
        hidden = (embedded + resized).flatten(2).transpose(1, 2)
        new_tokens = NewTokens(grid)
        asked = {} if self.surgery is None else {"new_tokens": new_tokens}
        original = vision.post_layernorm(self.encoder(inputs_embeds=hidden, **asked).last_hidden_state)
        new = new_tokens.patches
        return vision.head(original), original if new is None else vision.post_layernorm(new)


def find_towers(model: nn.Module) -> dict[str, Tower]:
    """Every SigLIP tower in `model` by its path.

    Raises:
        TypeError: when a tower is not built as transformers builds it, has no pooling head, or sits in a
            model of transformers which is not known to read only what surgery leaves as it was.
    """
    return {
        path: _tower(model, path, module)
        for path, module in model.named_modules()
        if transformers_class(module) == _VISION
    }


def refusal(module: nn.Module) -> str | None:
    """Why `module` cannot be modified, when it is one of the models refused by name."""
    name = transformers_class(module)
    return f"surgery cannot be applied to {name}: {REFUSED[name]}" if name in REFUSED else None


def surgery_parts(name: str) -> SurgeryParts | None:
    """What the class with surgery is made of, of the encoder or the attention class `name`."""
    if name not in (_ENCODER, _ATTENTION):
        return None
    from clip_surgery_hub.towers.clip_blocks import AttentionWithSurgery
    from clip_surgery_hub.towers.siglip_blocks import SiglipEncoderWithSurgery

    library = modeling("siglip")
    if name == _ATTENTION:
        return SurgeryParts(AttentionWithSurgery, getattr(library, name))
    eager = {"eager_attention_forward": staticmethod(library.eager_attention_forward)}
    return SurgeryParts(SiglipEncoderWithSurgery, getattr(library, name), eager)


def _tower(model: nn.Module, path: str, vision: Any) -> SiglipTower:
    if not vision.use_head:
        raise TypeError(
            f"this {_VISION} has no pooling head (vision_use_head=False in its configuration), so that there "
            "is no image-level embedding and its patches have no place beside the texts: load the tower from "
            "the SigLIP checkpoint that it came from"
        )
    transformers_models = modeling("siglip")
    attentions = [f"encoder.layers.{index}.self_attn" for index in range(len(vision.encoder.layers))]
    parts = {
        "encoder": getattr(transformers_models, _ENCODER),
        **dict.fromkeys(attentions, getattr(transformers_models, _ATTENTION)),
    }
    parts |= {
        "head": transformers_models.SiglipMultiheadAttentionPoolingHead,
        "head.attention": nn.MultiheadAttention,
    }
    refuse_replaced_parts(vision, _VISION, parts)
    refuse_unknown_parents(model, path, _VISION, SUPPORTED)
    projections = [getattr(parent, "visual_projection", None) for parent in parents(model, path)]
    return SiglipTower(
        name=_VISION,
        vision=vision,
        encoder=vision.encoder,
        blocks=vision.encoder.layers,
        patch_size=vision.config.patch_size,
        native_size=vision.config.image_size,
        projection=next((p for p in projections if p is not None), None),
    )
