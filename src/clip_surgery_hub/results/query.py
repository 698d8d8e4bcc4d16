"""Texts made ready to be asked of any number of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clip_surgery_hub.functional import feature_surgery, presence
from clip_surgery_hub.results.encoded import EncodedImages
from clip_surgery_hub.results.explanation import Explanation

__all__ = ["TextQuery"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TextQuery:
    """What `CLIPSurgery.text_query` makes of texts: all that depends on them and on no image.

    Attributes:
        texts: the T texts asked for.
        background: K texts that belong to the class set but are not asked for.
        class_set: unit length embeddings ``[T+K, C]``, texts first.
        redundant: the feature that feature surgery takes away, ``[1, C]``; None: the class set's own.
        redundant_name: how it was asked for: "auto", "class_set", "empty_text", "none" or "given".
        templates: "paper", or "given" where embeddings were given in place of texts.
        presence_texts: embeddings ``[T, C]`` by one prompt each, for `functional.presence`; None where
            embeddings were given.
        presence_reference: embeddings ``[R, C]`` of words of many kinds, made likewise; None with the former.
    """

    texts: tuple[str, ...]
    background: tuple[str, ...]
    class_set: Tensor
    redundant: Tensor | None
    redundant_name: str
    templates: str
    presence_texts: Tensor | None = None
    presence_reference: Tensor | None = None

    def to(self, device: torch.device | str) -> TextQuery:
        """The same query with its embeddings on a device, where the tokens are."""
        embeds = {
            name: value.to(device)
            for name in ("class_set", "redundant", "presence_texts", "presence_reference")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **embeds)

    def explain(self, encoded: EncodedImages) -> Explanation:
        """Feature surgery on the tokens of images (the paper's section on it), and what goes with it.

        Args:
            encoded: by the same model; tokens and the query's embeddings on one device.

        Returns:
            An :class:`Explanation`, all tensors float32 on the CPU.
        """
        surgery = [
            feature_surgery(tokens[None], self.class_set, self.redundant)[0].cpu()
            for tokens in encoded.tokens
        ]
        plain = [(tokens @ self.class_set.T).cpu() for tokens in encoded.tokens]
        asked = slice(len(self.texts))
        return Explanation(
            texts=self.texts,
            background=self.background,
            surgery_similarity=tuple(map(_on_grid, surgery, encoded.grids)),
            plain_similarity=tuple(map(_on_grid, plain, encoded.grids)),
            scores=torch.stack([similarity[0, asked] for similarity in surgery]),
            plain_scores=torch.stack([similarity[0, asked] for similarity in plain]),
            sizes=encoded.sizes,
            settings=replace(encoded.settings, redundant=self.redundant_name, templates=self.templates),
            presence=self._presence(encoded),
            images=encoded.images,
        )

    def _presence(self, encoded: EncodedImages) -> Tensor | None:
        """`functional.presence` of each image and text, ``[B, T]``."""
        if self.presence_texts is None or self.presence_reference is None:
            return None
        return torch.cat(
            [
                presence(tokens[None], self.presence_texts, self.presence_reference).cpu()
                for tokens in encoded.tokens
            ]
        )


def _on_grid(similarity: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[1+N, T]`` with CLS -> ``[T, h, w]`` without."""
    return similarity[1:].T.reshape(-1, *grid).contiguous()
