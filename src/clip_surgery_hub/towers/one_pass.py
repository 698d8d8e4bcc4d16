"""Many readings of the same pixels from one pass of the original path through CLIP's blocks.

The new path of every method and depth reads the original path and never feeds back into it, so the inputs of
the blocks, computed once, are all that any of them needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat, nn

from clip_surgery_hub.methods import Method
from clip_surgery_hub.towers.new_path import Grid
from clip_surgery_hub.towers.tower import Operation
from clip_surgery_hub.towers.two_paths import moved_on, update_from_input


def all_readings(
    blocks: nn.ModuleList, tokens: Tensor, grid: Grid, operations: Sequence[Operation]
) -> list[Tensor]:
    """The last hidden state under each operation.

    Args:
        blocks: plain blocks of CLIP, first to last.
        tokens: before the first block, `[B, 1+N, width]`, CLS first.
        grid: the patch grid (rows, columns).
        operations: methods and depths, in any number and order.

    Returns:
        `[B, 1+N, width]` per operation, as a tower under that operation gives it: CLS of the original path,
        patches of the new one.
    """
    states = [tokens]
    for block in blocks:
        states.append(block(states[-1], None))
    updates: dict[tuple[str, int], Tensor] = {}

    def update(method: Method, index: int) -> Tensor:
        """What block `index` adds by `method`; depths of one method share it."""
        key = (method.name, index)
        if key not in updates:
            block: Any = blocks[index]
            updates[key] = update_from_input(block.self_attn, method, grid, block.layer_norm1, states[index])
        return updates[key]

    def patches(operation: Operation) -> Tensor:
        if operation.depth == 0:
            return states[-1][:, 1:]
        method, first = operation.method, len(blocks) - operation.depth
        path = states[first][:, 1:]
        for index in range(first, len(blocks)):
            path = moved_on(blocks[index], method, path, update(method, index))
        return path

    return [cat([states[-1][:, :1], patches(operation)], dim=1) for operation in operations]
