"""What is evaluated: variants of one checkpoint, each a method, a depth and a kind of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from clip_surgery_hub.methods import get_method
from clip_surgery_hub.towers import Surgery

__all__ = ["Features", "Variant", "variants_of"]

Features = Literal["plain", "surgery"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to read a checkpoint.

    Attributes:
        method: name of the surgery method of the vision tower; "none" is raw CLIP.
        depth: how many of the last blocks it covers; 0 for "none".
        features: "plain" compares tokens and texts by cosine similarity, "surgery" after feature surgery
            over the class set.
    """

    method: str
    depth: int
    features: Features

    @property
    def name(self) -> str:
        """In one word, such as ``clip_surgery-6-surgery``."""
        return f"{self.method}-{self.depth}-{self.features}"

    @property
    def surgery(self) -> Surgery:
        """What is done to the tower."""
        return Surgery(get_method(self.method), self.depth)


def variants_of(
    methods: Sequence[str],
    *,
    blocks: int,
    depths: Sequence[int | None] = (None,),
    features: Sequence[str] = ("auto",),
    automatic: Features = "surgery",
) -> tuple[Variant, ...]:
    """All combinations that mean something, each once.

    Args:
        methods: names out of `methods.METHODS`.
        blocks: of the vision tower.
        depths: None for each method's own; a method of the last block only, and "none", have one depth.
        features: "plain", "surgery", or "auto": ``automatic`` for "clip_surgery", whose paper brought feature
            surgery, and "plain" for all other methods, as their papers read them.
        automatic: see ``features``; the paper's segmentation leaves feature surgery out.

    Raises:
        ValueError: for no method, or an unknown method, depth or kind of features.
    """
    if not methods:
        raise ValueError("No method was given; name one or more, such as clip_surgery,none.")
    allowed = ("auto", *get_args(Features))
    if wrong := [kind for kind in features if kind not in allowed]:
        raise ValueError(f"features must be of {', '.join(map(repr, allowed))}, got {wrong[0]!r}.")
    found: dict[Variant, None] = {}
    for name in methods:
        method = get_method(name)
        fixed = method.mix is None or not method.residual
        for depth in dict.fromkeys([None] if fixed else depths):
            for kind in features:
                chosen: Features = "plain"
                if kind == "surgery" or (kind == "auto" and name == "clip_surgery"):
                    chosen = "surgery" if kind == "surgery" else automatic
                found[Variant(method=name, depth=method.resolve_depth(depth, blocks), features=chosen)] = None
    return tuple(found)
