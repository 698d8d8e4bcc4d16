"""The published mathematics, head by head and with explicit weights, to compare with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Similarities = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear(layer: Any, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def layer_norm(layer: Any, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def block_update(block: Any, x: Tensor, weights: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Tensor:
    """W_o (weights(q, k, v, s) v) + b_o of every token, from the block's input x [B, 1+N, C]."""
    attention = block.self_attn
    normed = layer_norm(block.layer_norm1, x)
    query, key, value = (linear(getattr(attention, f"{name}_proj"), normed) for name in ("q", "k", "v"))
    size = attention.head_dim
    mixed = []
    for start in range(0, query.shape[-1], size):
        q, k, v = (projected[..., start : start + size] for projected in (query, key, value))
        mixed.append(weights(q, k, v, size**-0.5) @ v)
    return linear(attention.out_proj, torch.cat(mixed, dim=-1))


def value_value(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.softmax(v @ v.mT * s, dim=-1)


def query_query(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.softmax(q @ q.mT * s, dim=-1)


def clip_surgery_patches(blocks: nn.ModuleList, states: Sequence[Tensor], depth: int) -> Tensor:
    """Patch tokens [B, N, C] of the new path: y starts as x and gathers what v-v attention adds.

    `states[i]` is the input of block i on the original path.
    """
    first = len(blocks) - depth
    y = states[first]
    for index in range(first, len(blocks)):
        y = y + block_update(blocks[index], states[index], value_value)
    return y[:, 1:]
