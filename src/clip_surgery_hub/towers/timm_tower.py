"""What the vision transformers of timm have in common as towers, and which of them are refused."""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, cast

from torch import Tensor, cat, nn

from clip_surgery_hub.towers.class_swap import (
    plain_class,
    refuse_replaced_forward,
    restore_classes,
    surgery_class,
    swap_classes,
)
from clip_surgery_hub.towers.timm_blocks import through_blocks
from clip_surgery_hub.towers.tower import (
    Grid,
    Interpolation,
    Surgery,
    Tower,
    resized_positions,
    unit_tokens,
)


@dataclass(frozen=True, eq=False)
class TimmTower(Tower):
    """A vision transformer of timm: it embeds the pixels, runs its blocks and projects by itself."""

    @classmethod
    def of(cls, vision: Any) -> Self:
        """The tower that is `vision` itself."""
        return cls(
            name=plain_class(vision).__name__,
            vision=vision,
            encoder=vision,
            blocks=nn.ModuleList(vision.blocks),
            patch_size=vision.patch_embed.patch_size[0],
            native_size=min(vision.patch_embed.img_size),
        )

    @abstractmethod
    def extras(self, grid: Grid) -> dict[str, Any]:
        """What the blocks are called with besides their tokens, for a patch grid."""

    def apply(self, surgery: Surgery, rollback: ExitStack) -> None:
        """Change the classes of the modified attentions and blocks, then that of the model.

        The model comes last, so that a call from another thread is either plain or under surgery.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        blocks: list[Any] = list(self.blocks[len(self.blocks) - surgery.depth :])
        parts = [*(block.attn for block in blocks), *blocks, self.vision]
        refuse_replaced_forward(*parts)
        changes = {part: surgery_class(type(part).__name__) for part in parts}
        rollback.callback(vars(self.vision).pop, "surgery", None)
        vars(self.vision)["surgery"] = surgery
        swap_classes(changes, rollback)

    def restore(self) -> None:
        """Give the model, the modified blocks and their attentions their classes back.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        blocks: list[Any] = list(self.blocks)
        restore_classes([self.vision, *blocks, *(block.attn for block in blocks)])
        del vars(self.vision)["surgery"]

    @property
    def embedding_width(self) -> int:
        """C, the length of an embedding in the space shared with the texts; without a head the width."""
        vision: Any = self.vision
        return int(getattr(vision.head, "out_features", vision.num_features))

    def encode(self, pixel_values: Tensor, *, interpolation: Interpolation = "bilinear") -> Tensor:
        """Unit length tokens `[B, 1+N, C]`, CLS first, without registers; see `Tower.encode`.

        Norm and head are the model's own, on CLS and patches alike; nothing is dropped before the head.
        """
        vision: Any = self.vision
        pixel_values, grid = self.prepared(pixel_values, interpolation)
        hidden = self.embedded(pixel_values, grid, interpolation)
        hidden = through_blocks(vision, hidden, grid, self.surgery, self.extras(grid))
        hidden = cat([hidden[:, :1], hidden[:, vision.num_prefix_tokens :]], dim=1)
        return unit_tokens(vision.head(vision.fc_norm(vision.norm(hidden))))

    def embedded(self, pixel_values: Tensor, grid: Grid, interpolation: Interpolation) -> Tensor:
        """Tokens before the first block, `[B, prefix + N, width]`, for pixels of any size; none is dropped.

        The embedding of patches asserts the size it was built for, so its parts are called one by one.
        """
        vision: Any = self.vision
        patches = vision.patch_embed.norm(vision.patch_embed.proj(pixel_values).flatten(2).mT)
        before = [token for token in (vision.cls_token, vision.reg_token) if token is not None]
        tokens = cat([*(token.expand(len(patches), -1, -1) for token in before), patches], dim=1)
        if vision.pos_embed is not None:
            placed = 0 if vision.no_embed_class else vision.num_prefix_tokens
            positions = resized_positions(
                vision.pos_embed[0], vision.patch_embed.grid_size, grid, interpolation, prefix=placed
            )
            bare = tokens.shape[1] - len(positions)
            tokens = cat([tokens[:, :bare], tokens[:, bare:] + positions], dim=1)
        return cast(Tensor, vision.norm_pre(vision.pos_drop(tokens)))


def descends_from(module: nn.Module, file: str, name: str) -> bool:
    """Whether `module` is of the class `name` in timm's module `file`, or of one built upon it."""
    return any((base.__module__, base.__name__) == (file, name) for base in type(module).__mro__)


def why_refused(
    vision: Any, plain: type[nn.Module], parts: Mapping[str, tuple[type[nn.Module], ...]]
) -> str | None:
    """Why a vision transformer of timm cannot be modified, or None.

    Args:
        vision: of the class `plain`, or of one built upon it.
        plain: the class that surgery knows.
        parts: the classes that surgery knows of "block" and "attention".
    """
    name = plain_class(vision).__name__
    if plain_class(vision) is not plain:
        return f"surgery cannot be applied to {name}: it changes the {plain.__name__} of timm in its own way"
    reason = _why_not_by_class_token(vision) or _why_not_these_parts(vision, parts)
    return reason and f"surgery cannot be applied to this {name} of timm: {reason}"


def why_parent_refused(parent: nn.Module, file: str, name: str) -> str | None:
    """Why a model of timm cannot be modified where `parent` has it, or None.

    open_clip's TimmModel may project after the model, in a head of its own that a tower knows nothing of.
    """
    if not descends_from(parent, "open_clip.timm_model", "TimmModel"):
        return None
    parts: Any = parent
    if len(parts.head) == 0 or not descends_from(parts.trunk, file, name):
        return None
    return (
        f"surgery cannot be applied to this TimmModel of open_clip: it projects what the {name} of timm "
        "gives in a head of its own, and surgery knows only that of timm. For embeddings before that "
        "projection, pass .trunk by itself"
    )


def _why_not_by_class_token(vision: Any) -> str | None:
    if vision.global_pool != "token" or vision.cls_token is None:
        pooled = "all of its tokens" if vision.global_pool == "" else "made from its patch tokens"
        return (
            f"its image-level embedding is {pooled} (global_pool={vision.global_pool!r}), which surgery "
            "replaces, and not its class token alone (global_pool='token')"
        )
    return None


def _why_not_these_parts(vision: Any, parts: Mapping[str, tuple[type[nn.Module], ...]]) -> str | None:
    embedding = vision.patch_embed
    if not descends_from(embedding, "timm.layers.patch_embed", "PatchEmbed"):
        return f"its patches come from a {type(embedding).__name__}, and surgery knows only PatchEmbed"
    if len(set(embedding.patch_size)) > 1:
        return f"its patches are not square, but {embedding.patch_size} pixels"
    for block in vision.blocks:
        for part, module in (("block", block), ("attention", getattr(block, "attn", None))):
            if plain_class(cast(nn.Module, module)) not in parts[part]:
                known = " or ".join(one.__name__ for one in parts[part])
                return f"where surgery knows {known} it has {plain_class(cast(nn.Module, module)).__name__}"
    return None
