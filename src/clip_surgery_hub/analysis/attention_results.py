"""What the analysis of the attention found: weights of one patch, averages over many, cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.results.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "PARTS", "AttentionAnalysis", "AttentionAverages"]

Kind = Literal["query_key", "value_value", "query_query", "key_key"]
BlockPart = Literal["attention", "value_attention", "mlp"]

#: Kinds of attention by what is compared with what: "query_key" is CLIP's own, "value_value" that of surgery.
KINDS: tuple[Kind, ...] = get_args(Kind)

#: What adds to the tokens in a block: "attention" and "mlp" are CLIP's own, "value_attention" is surgery's.
PARTS: tuple[BlockPart, ...] = get_args(BlockPart)


@dataclass(frozen=True, eq=False)
class AttentionAnalysis:
    """Where one patch of an image attends to, block by block, and which way each block moves the patches.

    Everything is of the original path, that of CLIP itself, whatever method it is read by.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        patch: row and column of the chosen patch in the grid.
        weights: by kind of attention, ``[L, heads, 1+N]``: how the chosen patch attends to all tokens in each
            of the L blocks, CLS first, then the N = h * w patches in reading order. Each row sums to 1.
        cosines_to_cls: by part, ``[L, h, w]`` in [-1, 1]: cosine of what the part adds to each patch, read as
            the direct contribution to the embedding, and the final CLS embedding.
        cosines_to_final: the same to the patch's own final embedding, that of plain CLIP.
        mask: ``[H, W]`` bool, the object that the patch lies on, or None.
        coverage: ``[h, w]`` in [0, 1], the share of each patch under the mask, or None without a mask.
        settings: how the image was read.

    All tensors are float32 on the CPU.
    """

    image: np.ndarray
    patch: tuple[int, int]
    weights: Mapping[Kind, Tensor]
    cosines_to_cls: Mapping[BlockPart, Tensor]
    cosines_to_final: Mapping[BlockPart, Tensor]
    mask: np.ndarray | None
    coverage: Tensor | None
    settings: Settings

    @property
    def grid(self) -> tuple[int, int]:
        """Patch rows and columns ``(h, w)``."""
        _, rows, columns = self.cosines_to_cls["mlp"].shape
        return rows, columns

    def maps(self, kind: Kind) -> Tensor:
        """Attention of the chosen patch to every patch, ``[L, h, w]``, averaged over the heads.

        With :meth:`attention_to_cls` a block's map sums to 1.
        """
        return self.head_maps(kind).mean(1)

    def head_maps(self, kind: Kind) -> Tensor:
        """Attention of the chosen patch to every patch in each head, ``[L, heads, h, w]``."""
        maps: Tensor = self.weights[kind][:, :, 1:].unflatten(2, self.grid)
        return maps

    def attention_to_cls(self, kind: Kind) -> Tensor:
        """Attention of the chosen patch to CLS, ``[L]``, averaged over the heads."""
        return self.weights[kind][:, :, 0].mean(1)

    def same_object(self, kind: Kind) -> Tensor:
        """Share of the attention to patches that lands under the mask, ``[L]`` in [0, 1].

        Raises:
            ValueError: when the analysis was made without a mask.
        """
        return share_on(self.maps(kind).flatten(1), self._covered())

    def same_object_elsewhere(self, kind: Kind) -> Tensor:
        """As :meth:`same_object`, but without the chosen patch itself on either side, ``[L]`` in [0, 1].

        What is compared with itself, as values with values, finds itself first; this share leaves that out.

        Raises:
            ValueError: when the analysis was made without a mask.
        """
        others = torch.ones(self.grid)
        others[self.patch] = 0
        return share_on(self.maps(kind).flatten(1) * others.flatten(), self._covered())

    @property
    def chance(self) -> tuple[float, float]:
        """Both shares for attention that is spread evenly: over all patches, and over all others.

        Raises:
            ValueError: when the analysis was made without a mask.
        """
        covered = self._covered()
        itself = float(covered.unflatten(0, self.grid)[self.patch])
        return float(covered.mean()), (float(covered.sum()) - itself) / (len(covered) - 1)

    def plot(self, *, blocks: Sequence[int] | None = None, opacity: float = 0.8) -> Figure:
        """Draw the attention maps of some blocks, and the shares and cosines of all of them.

        Args:
            blocks: numbers of the blocks whose maps are drawn, 0 the first; None: eight at most, spread
                evenly up to the last.
            opacity: the most that the heat covers of the image, in [0, 1].

        Returns:
            A figure that belongs to no window; ``figure.savefig("attention.png")`` writes it.

        Raises:
            ValueError: for a block that does not exist, none at all, or an opacity outside [0, 1].
        """
        from clip_surgery_hub.plotting.attention import plot_attention

        return plot_attention(self, blocks=blocks, opacity=opacity)

    def to_dict(self) -> dict[str, Any]:
        """The numbers by block in plain values that JSON can hold; the maps are not in it."""
        height, width = self.image.shape[:2]
        masked = self.coverage is not None
        return {
            "image": {"height": height, "width": width},
            "grid": list(self.grid),
            "patch": {"row": self.patch[0], "column": self.patch[1]},
            "attention": {
                kind: {
                    "to_cls": self.attention_to_cls(kind).tolist(),
                    "same_object": self.same_object(kind).tolist() if masked else None,
                    "same_object_elsewhere": self.same_object_elsewhere(kind).tolist() if masked else None,
                }
                for kind in KINDS
            },
            "chance": self.chance[0] if masked else None,
            "chance_elsewhere": self.chance[1] if masked else None,
            "cosine_to_cls": {part: self.cosines_to_cls[part].mean((1, 2)).tolist() for part in PARTS},
            "cosine_to_final": {part: self.cosines_to_final[part].mean((1, 2)).tolist() for part in PARTS},
            "settings": self.settings.to_dict(),
        }

    def _covered(self) -> Tensor:
        if self.coverage is None:
            raise ValueError(
                "the share on the same object needs the object's mask: give mask= to attention_analysis."
            )
        return self.coverage.flatten()


@dataclass(frozen=True, eq=False)
class AttentionAverages:
    """Shares and cosines as in :class:`AttentionAnalysis`, over all patches on objects of P images.

    Attributes:
        same_object: by kind, ``[P, L]``: share of the attention to patches that lands on the same object,
            averaged over the patches of each object, then over the image's objects.
        same_object_elsewhere: by kind, ``[P, L]``: the same without the attending patch itself.
        chance: ``[P]``, the first share for attention that is spread evenly.
        chance_elsewhere: ``[P]``, the second share for attention that is spread evenly.
        cosines_to_cls: by part, ``[P, L]``, averaged over all patches of the image.
        cosines_to_final: by part, ``[P, L]``, averaged over all patches of the image.
        objects: how many objects were counted.
        settings: how the images were read.

    All tensors are float32 on the CPU. Averages over the images are means over the first dimension.
    """

    same_object: Mapping[Kind, Tensor]
    same_object_elsewhere: Mapping[Kind, Tensor]
    chance: Tensor
    chance_elsewhere: Tensor
    cosines_to_cls: Mapping[BlockPart, Tensor]
    cosines_to_final: Mapping[BlockPart, Tensor]
    objects: int
    settings: Settings

    def plot(self) -> Figure:
        """Draw shares and cosines by block, averaged over the images; see `AttentionAnalysis.plot`."""
        from clip_surgery_hub.plotting.attention import plot_averages

        return plot_averages(self)

    def to_dict(self) -> dict[str, Any]:
        """The averages over the images, by block, in plain values that JSON can hold."""

        def by_block(values: Mapping[Any, Tensor]) -> dict[str, list[float]]:
            return {name: value.mean(0).tolist() for name, value in values.items()}

        return {
            "images": len(self.chance),
            "objects": self.objects,
            "same_object": by_block(self.same_object),
            "same_object_elsewhere": by_block(self.same_object_elsewhere),
            "chance": float(self.chance.mean()),
            "chance_elsewhere": float(self.chance_elsewhere.mean()),
            "cosine_to_cls": by_block(self.cosines_to_cls),
            "cosine_to_final": by_block(self.cosines_to_final),
            "settings": self.settings.to_dict(),
        }


def share_on(attention: Tensor, coverage: Tensor) -> Tensor:
    """Share of attention ``[..., N]`` that lands under a mask of coverage ``[N]``, ``[...]`` in [0, 1]."""
    return (attention * coverage).sum(-1) / attention.sum(-1)
