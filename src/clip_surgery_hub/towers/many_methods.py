"""The tokens of many methods and depths from one pass of the original path through CLIP's blocks.

The new path of every method and depth reads the original path and never feeds back into it, so one pass of
the original path, with the queries, keys and values that it computes, is all that any of them needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, cat, nn

from clip_surgery_hub.towers.clip_blocks import (
    AttentionWithSurgery,
    is_watched,
    next_patches,
    update_from_input,
)
from clip_surgery_hub.towers.tower import Grid, NewPath, Surgery


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
        blocks: of CLIP, first to last, plain or modified.
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
        active = [number for number, start in enumerate(starts) if start <= index]
        for number in active:
            if starts[number] == index:
                paths[number] = original[:, 1:]
        # Depths of one method share what a block adds.
        methods = {surgeries[number].method.name: surgeries[number].method for number in active}
        last_for_cls = index == len(blocks) - 1 and len(active) == len(surgeries)
        new_path = NewPath(tuple(methods.values()), grid, cls_only=last_for_cls, eager=eager)
        original = _run_block(block, original, new_path)
        added = dict(zip(methods, new_path.updates, strict=True))
        for number in active:
            method = surgeries[number].method
            paths[number] = next_patches(block, method, paths[number], added[method.name])
    return [
        cat([original[:, :1], original[:, 1:] if surgery.depth == 0 else path], dim=1)
        for surgery, path in zip(surgeries, paths, strict=True)
    ]


def _run_block(block: Any, original: Tensor, new_path: NewPath) -> Tensor:
    """A block on the original path, `[B, 1, width]` for CLS alone; the updates go into `new_path`."""
    if not new_path.methods:
        return block(original, None)  # type: ignore[no-any-return]
    if is_watched(block):  # somebody's hook sees the block as it is without surgery
        new_path.updates = [
            update_from_input(block, method, new_path.grid, new_path.prefix, original)
            for method in new_path.methods
        ]
        return block(original, None)  # type: ignore[no-any-return]
    # Of the class, since the attention of a block that is not modified has the plain forward.
    attended, _ = AttentionWithSurgery.forward(
        block.self_attn, block.layer_norm1(original), new_path=new_path
    )
    original = (original[:, :1] if new_path.cls_only else original) + attended
    tokens: Tensor = original + block.mlp(block.layer_norm2(original))
    return tokens
