"""The vision towers of transformers that are built of CLIP's blocks."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isqrt
from typing import Any, cast

from torch import Tensor, cat, nn
from torch.nn.functional import interpolate

from clip_surgery_hub.towers.class_swap import (
    SurgeryParts,
    refuse_replaced_forward,
    remove_hooks,
    restore_classes,
    surgery_class,
    swap_classes,
)
from clip_surgery_hub.towers.clip_families import DESCRIPTION, FAMILIES, REFUSED, SUPPORTED, Family
from clip_surgery_hub.towers.tower import Grid, Interpolation, Surgery, Tower, unit_tokens
from clip_surgery_hub.towers.transformers_models import (
    modeling,
    parents,
    refuse_replaced_parts,
    refuse_unknown_parents,
    transformers_class,
)

__all__ = ["DESCRIPTION", "ClipTower", "find_towers", "refusal"]


@dataclass(frozen=True, eq=False)
class ClipTower(Tower):
    """A vision tower of one of the `FAMILIES`.

    Attributes:
        post_norm: the norm between the last block and the projection.
        projection: the linear map into the space shared with the texts, or None where the model has none.
        family: its classes.
    """

    post_norm: nn.Module
    projection: nn.Module | None
    family: Family

    def apply(self, surgery: Surgery, rollback: ExitStack) -> None:
        """Change the classes of the modified attention modules, then that of the encoder.

        The encoder comes last, so that a call from another thread is either plain or under surgery.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        from clip_surgery_hub.towers.clip_blocks import add_patch_grid

        attentions: list[Any] = [block.self_attn for block in self.blocks[len(self.blocks) - surgery.depth :]]
        refuse_replaced_forward(self.encoder, *attentions)
        attention, encoder = map(surgery_class, (self.family.attention, self.family.encoder))
        if _wants_grid(surgery):
            handle = self.vision.register_forward_pre_hook(add_patch_grid, with_kwargs=True)
            rollback.callback(handle.remove)
        rollback.callback(vars(self.encoder).pop, "surgery", None)
        vars(self.encoder)["surgery"] = surgery
        swap_classes({**dict.fromkeys(attentions, attention), self.encoder: encoder}, rollback)

    def restore(self) -> None:
        """Give the encoder and the modified attention modules their classes back.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        from clip_surgery_hub.towers.clip_blocks import add_patch_grid

        restore_classes([self.encoder, *(cast(Any, block).self_attn for block in self.blocks)])
        remove_hooks(self.vision, add_patch_grid)
        del self.encoder.surgery

    @property
    def embedding_width(self) -> int:
        """C, the length of an embedding in the space shared with the texts."""
        weight = cast(Tensor, (self.projection or self.post_norm).weight)
        return int(weight.shape[0])

    def encode(self, pixel_values: Tensor, *, interpolation: Interpolation = "bilinear") -> Tensor:
        """Unit length tokens `[B, 1+N, C]`, CLS first; see `Tower.encode`."""
        pixel_values, grid = self.prepared(pixel_values, interpolation)
        if interpolation == "bicubic" or grid == self._native_grid:
            output = self.vision(pixel_values, interpolate_pos_encoding=True)
        else:
            for_method = {"patch_grid": grid} if _wants_grid(self.surgery) else {}
            hidden = self._embedded(pixel_values, grid, interpolation)
            output = self.encoder(inputs_embeds=hidden, **for_method)
        return self.embed(output.last_hidden_state)

    def embed(self, last_hidden_state: Tensor) -> Tensor:
        """Tokens in the space shared with the texts: post-layernorm, projection, and division by the length.

        Args:
            last_hidden_state: `[B, 1+N, width]`, as the tower gives it.

        Returns:
            `[B, 1+N, C]`, float32 at least, CLS first; CLS is the model's own unit image embedding.
        """
        return unit_tokens(self.project(last_hidden_state))

    def project(self, last_hidden_state: Tensor) -> Tensor:
        """Post-layernorm and visual projection (where the model has one), on CLS and patches alike."""
        tokens: Tensor = self.post_norm(last_hidden_state)
        return tokens if self.projection is None else cast(Tensor, self.projection(tokens))

    def encode_all(
        self,
        pixel_values: Tensor,
        surgeries: Sequence[Surgery],
        *,
        interpolation: Interpolation = "bilinear",
    ) -> list[Tensor]:
        """The tokens under each surgery, from one pass of the original path; see `Tower.encode_all`."""
        from clip_surgery_hub.towers.many_methods import tokens_of_methods

        pixel_values, grid = self.prepared(pixel_values, interpolation)
        hidden = self._embedded(pixel_values, grid, interpolation)
        eager = modeling(self.family.package).eager_attention_forward
        found = tokens_of_methods(self.blocks, hidden, grid, surgeries, eager=eager)
        return [self.embed(tokens) for tokens in found]

    @property
    def _native_grid(self) -> tuple[int, int]:
        embeddings: Any = self.vision.embeddings
        side = isqrt(len(embeddings.position_embedding.weight) - 1)
        return side, side

    def _embedded(self, pixel_values: Tensor, grid: Grid, interpolation: Interpolation) -> Tensor:
        """Tokens before the first block, `[B, 1+N, width]`."""
        embeddings: Any = self.vision.embeddings
        if interpolation == "bicubic" or grid == self._native_grid:
            plain: Tensor = _pre_norm(self.vision)(embeddings(pixel_values, interpolate_pos_encoding=True))
            return plain
        positions = embeddings.position_embedding.weight
        native = positions[1:].T.unflatten(1, self._native_grid)[None]
        resized = interpolate(native, size=grid, mode="bilinear", align_corners=False)
        positions = cat([positions[:1], resized[0].flatten(1).T])
        patches = embeddings.patch_embedding(pixel_values.to(positions.dtype)).flatten(2).transpose(1, 2)
        cls = embeddings.class_embedding.expand(len(patches), 1, -1)
        hidden: Tensor = _pre_norm(self.vision)(cat([cls, patches], dim=1) + positions)
        return hidden


def find_towers(model: nn.Module) -> dict[str, Tower]:
    """Every CLIP tower in `model` by its path.

    Raises:
        TypeError: when a tower is not built as transformers builds it, or sits in a model of transformers
            which is not known to read only what surgery leaves as it was.
    """
    return {
        path: _tower(model, path, module, family)
        for path, module in model.named_modules()
        for family in FAMILIES
        if transformers_class(module) == family.vision
    }


def refusal(module: nn.Module) -> str | None:
    """Why `module` cannot be modified, when it is one of the models refused by name."""
    name = transformers_class(module)
    return f"surgery cannot be applied to {name}: {REFUSED[name]}" if name in REFUSED else None


def surgery_parts(name: str) -> SurgeryParts | None:
    """What the class with surgery is made of, of the encoder or attention class `name` of a family."""
    from clip_surgery_hub.towers.clip_blocks import AttentionWithSurgery, EncoderWithSurgery

    for family in FAMILIES:
        if name == family.attention:
            return SurgeryParts(AttentionWithSurgery, getattr(modeling(family.package), name))
        if name == family.encoder:
            library = modeling(family.package)
            eager = {"eager_attention_forward": staticmethod(library.eager_attention_forward)}
            return SurgeryParts(EncoderWithSurgery, getattr(library, name), eager)
    return None


def _tower(model: nn.Module, path: str, vision: Any, family: Family) -> ClipTower:
    library = modeling(family.package)
    attentions = [f"encoder.layers.{index}.self_attn" for index in range(len(vision.encoder.layers))]
    classes = {"encoder": getattr(library, family.encoder)}
    classes |= dict.fromkeys(attentions, getattr(library, family.attention))
    refuse_replaced_parts(vision, family.vision, classes)
    refuse_unknown_parents(model, path, family.vision, SUPPORTED)
    projections = [getattr(parent, "visual_projection", None) for parent in parents(model, path)]
    return ClipTower(
        name=family.vision,
        vision=vision,
        encoder=vision.encoder,
        blocks=vision.encoder.layers,
        post_norm=vision.post_layernorm,
        projection=next((p for p in projections if p is not None), None),
        patch_size=vision.config.patch_size,
        native_size=vision.config.image_size,
        family=family,
    )


def _pre_norm(vision: Any) -> nn.Module:
    """CLIP itself misspells the name of this norm; some of its family do not."""
    norm: nn.Module = vision.pre_layrnorm if hasattr(vision, "pre_layrnorm") else vision.pre_layernorm
    return norm


def _wants_grid(surgery: Surgery | None) -> bool:
    return surgery is not None and "grid" in surgery.method.arguments
