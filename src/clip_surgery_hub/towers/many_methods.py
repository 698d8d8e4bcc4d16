"""Many readings of the same pixels from one pass of the original path through CLIP's blocks.

The new path of every method and depth reads the original path and never feeds back into it, so one pass of
the original path, with the queries, keys and values that it computes, is all that any of them needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, cat, nn

from clip_surgery_hub.methods import Method
from clip_surgery_hub.towers.clip_blocks import (
    attend_with_updates,
    is_watched,
    moved_on,
    update_from_input,
)
from clip_surgery_hub.towers.tower import Grid, Surgery


def tokens_of_methods(
    blocks: nn.ModuleList,
    tokens: Tensor,
    grid: Grid,
    surgeries: Sequence[Surgery],
    *,
    eager: Callable[..., Any],
) -> list[Tensor]:
    """The last hidden state under each surgery.

    Args:
        blocks: plain blocks of CLIP, first to last.
        tokens: before the first block, `[B, 1+N, width]`, CLS first.
        grid: the patch grid (rows, columns).
        surgeries: methods and depths, in any number and order.
        eager: the blocks' attention where no other implementation was chosen.

    Returns:
        `[B, 1+N, width]` per surgery, as a tower under that surgery gives it: CLS of the original path,
        patches of the new one.
    """
    starts = [len(blocks) - surgery.depth for surgery in surgeries]
    original, paths = tokens, [tokens[:, 1:]] * len(surgeries)
    for index, block in enumerate(blocks):
        reading = [number for number, start in enumerate(starts) if start <= index]
        for number in reading:
            if starts[number] == index:
                paths[number] = original[:, 1:]
        # Depths of one method share what a block adds.
        methods = {surgeries[number].method.name: surgeries[number].method for number in reading}
        last_for_cls = index == len(blocks) - 1 and len(reading) == len(surgeries)
        original, updates = _block(
            block, original, list(methods.values()), grid, cls_only=last_for_cls, eager=eager
        )
        added = dict(zip(methods, updates, strict=True))
        for number in reading:
            method = surgeries[number].method
            paths[number] = moved_on(block, method, paths[number], added[method.name])
    return [
        cat([original[:, :1], original[:, 1:] if surgery.depth == 0 else path], dim=1)
        for surgery, path in zip(surgeries, paths, strict=True)
    ]


def _block(
    block: Any,
    original: Tensor,
    methods: list[Method],
    grid: Grid,
    *,
    cls_only: bool,
    eager: Callable[..., Any],
) -> tuple[Tensor, list[Tensor]]:
    """A block's output on the original path, `[B, 1, width]` for CLS alone, and what each method adds."""
    if not methods:
        return block(original, None), []
    if is_watched(block):  # somebody's hook sees the block as it is without surgery
        updates = [
            update_from_input(block.self_attn, method, grid, block.layer_norm1, original)
            for method in methods
        ]
        return block(original, None), updates
    attended, _, updates = attend_with_updates(
        block.self_attn, methods, grid, block.layer_norm1(original), cls_only=cls_only, eager=eager
    )
    original = (original[:, :1] if cls_only else original) + attended
    return original + block.mlp(block.layer_norm2(original)), updates
