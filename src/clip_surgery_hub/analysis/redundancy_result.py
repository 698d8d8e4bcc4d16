"""What the analysis of redundant features found: channels that all texts share, maps before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.functional.measures import contrasts
from clip_surgery_hub.results.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COMPARISONS", "Comparison", "RedundancyAnalysis"]

Comparison = Literal["raw", "feature_surgery", "architecture_surgery", "both"]

#: How patches are compared with texts: with no surgery, with one of the two, or with both.
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)

TOP_CHANNELS = 20


@dataclass(frozen=True, eq=False)
class RedundancyAnalysis:
    """What all texts share in B images, and what their maps are before and after surgery.

    Patches and texts are compared in four ways: "raw" is CLIP itself, "feature_surgery" that alone,
    "architecture_surgery" the patches as the method reads them, "both" the two together. Under the method
    "none" the last two are the first two.

    Attributes:
        original: similarity on the original path, before and after feature surgery.
        modified: the same on the path that the method reads.
        unrelated: texts that name nothing in the images, by default the empty one.
        original_unrelated: B maps ``[h, w]``, their mean cosine similarity on the original path.
        modified_unrelated: the same on the path that the method reads.
        mean: ``[C]``, mean over patches and texts of each channel's product F_nc T_tc; they sum to the mean
            cosine similarity.
        spread: ``[C]``, mean over patches of the product's standard deviation over the texts.
        common: ``[C]``, mean over patches of the square of the product's mean over the texts.
        energy: ``[C]``, mean over patches and texts of the product's square; at least ``common``.
        masks: for each image the masks ``[H, W]`` of texts that are in it, or None.

    Channels are of the path that the method reads. All tensors are float32 on the CPU.
    """

    original: Explanation
    modified: Explanation
    unrelated: tuple[str, ...]
    original_unrelated: tuple[Tensor, ...]
    modified_unrelated: tuple[Tensor, ...]
    mean: Tensor
    spread: Tensor
    common: Tensor
    energy: Tensor
    masks: tuple[Mapping[str, np.ndarray], ...] | None

    @property
    def shared(self) -> Tensor:
        """Share of each channel's energy that all texts have in common, ``[C]`` in [0, 1].

        1: it reacts to all texts alike. 0: it only distinguishes them.
        """
        return torch.where(self.energy > 0, self.common / self.energy, 0.0)

    @property
    def redundancy(self) -> float:
        """Share of the energy of all channels together that all texts have in common, in [0, 1]."""
        return float(self.common.sum() / self.energy.sum())

    @property
    def order(self) -> Tensor:
        """The channels by what they do for all texts alike, the most first: ``[C]`` int64 by ``common``."""
        return self.common.argsort(descending=True, stable=True)

    def similarity(self, comparison: Comparison) -> list[Tensor]:
        """Similarity of every patch with every text, B tensors ``[T, h, w]``.

        Raises:
            ValueError: for an unknown comparison.
        """
        if comparison not in COMPARISONS:
            known = ", ".join(map(repr, COMPARISONS))
            raise ValueError(f"comparison must be one of {known}, got {comparison!r}.")
        explanation = self.original if comparison in ("raw", "feature_surgery") else self.modified
        before = comparison in ("raw", "architecture_surgery")
        return list(explanation.plain_similarity if before else explanation.surgery_similarity)

    def contrasts(self, comparison: Comparison) -> list[dict[str, float]]:
        """For each image the contrast of every text that has a mask, in percent; mSC is their mean.

        The contrast is the mean of the min-max map under the mask minus its mean elsewhere, in [-100, 100];
        negative means that the map shows the opposite.

        Raises:
            ValueError: when the analysis was made without masks, or for an unknown comparison.
        """
        if self.masks is None:
            raise ValueError("contrast needs the objects' masks: give masks= to redundancy_analysis.")
        return [
            dict(zip(masks, self._contrasts(similarity, masks), strict=True)) if masks else {}
            for similarity, masks in zip(self.similarity(comparison), self.masks, strict=True)
        ]

    def _contrasts(self, similarity: Tensor, masks: Mapping[str, np.ndarray]) -> list[float]:
        """The contrasts of the texts that have a mask, of an image's similarity ``[T, h, w]``."""
        inside = torch.from_numpy(np.stack(list(masks.values())))  # [K, H, W]
        own = similarity[[self.modified.texts.index(text) for text in masks]]
        grid, size = (own.shape[1], own.shape[2]), (inside.shape[1], inside.shape[2])
        (heat,) = similarity_map(own.flatten(1).T[None], grid, size)
        valid = torch.ones(size, dtype=torch.bool)
        return (100 * contrasts(heat, inside, valid)).tolist()

    def msc(self, comparison: Comparison) -> float:
        """Mean contrast over the texts of an image, then over the images that have any, in percent.

        Raises:
            ValueError: as :meth:`contrasts`.
        """
        return _mean_contrast(self.contrasts(comparison))

    def resemblance(self, comparison: Comparison) -> Tensor:
        """How much each text's map resembles that of the unrelated texts, ``[B, T]`` in [-1, 1].

        Pearson's correlation over the patches; 0 for a map that is constant.
        """
        on_original = comparison in ("raw", "feature_surgery")
        unrelated = self.original_unrelated if on_original else self.modified_unrelated
        pairs = zip(self.similarity(comparison), unrelated, strict=True)
        return torch.stack([correlation(maps.flatten(1), one.flatten()) for maps, one in pairs])

    def plot(self, *, number: int = 0, texts: Sequence[str] | None = None, opacity: float = 0.8) -> Figure:
        """Draw the maps of an image before and after surgery, and the channels that all texts share.

        Args:
            number: of the image, 0 the first.
            texts: those of the class set that are drawn; None: five at most, those with a mask first, then
                those with the highest scores.
            opacity: the most that the heat covers of the image, in [0, 1].

        Returns:
            A figure that belongs to no window; ``figure.savefig("redundancy.png")`` writes it.

        Raises:
            ValueError: for an image or text that is not there, or an opacity outside [0, 1].
        """
        from clip_surgery_hub.plotting.redundancy import plot_redundancy

        return plot_redundancy(self, number=number, texts=texts, opacity=opacity)

    def to_dict(self) -> dict[str, Any]:
        """The numbers in plain values that JSON can hold, of the channels the foremost; no maps."""
        top, shared = self.order[:TOP_CHANNELS].tolist(), self.shared
        contrasts = None if self.masks is None else {one: self.contrasts(one) for one in COMPARISONS}
        return {
            "images": len(self.modified),
            "texts": list(self.modified.texts),
            "unrelated": list(self.unrelated),
            "redundancy": self.redundancy,
            "channels": [
                {
                    "channel": channel,
                    "mean": float(self.mean[channel]),
                    "spread": float(self.spread[channel]),
                    "shared": float(shared[channel]),
                }
                for channel in top
            ],
            "msc": contrasts and {one: _mean_contrast(found) for one, found in contrasts.items()},
            "contrasts": contrasts,
            "resemblance": {one: float(self.resemblance(one).mean()) for one in COMPARISONS},
            "settings": self.modified.settings.to_dict(),
        }


def _mean_contrast(contrasts: Sequence[Mapping[str, float]]) -> float:
    """Mean over the texts of an image, then over the images that have any."""
    return float(np.mean([np.mean(list(found.values())) for found in contrasts if found]))


def correlation(maps: Tensor, one: Tensor) -> Tensor:
    """Pearson's correlation of maps ``[T, N]`` with one map ``[N]``, ``[T]``; 0 where one is constant."""
    maps, one = maps - maps.mean(-1, keepdim=True), one - one.mean()
    lengths = maps.norm(dim=-1) * one.norm()
    return torch.where(lengths > 0, maps @ one / lengths, 0.0)
