"""The published mathematics, head by head and with explicit weights, to compare with."""

from collections.abc import Callable, Sequence
from math import exp
from typing import Any

import torch
from torch import Tensor, nn

#: From a head's q, k, v [B, tokens, head_dim] and scale: how much goes where, [B, tokens, tokens].
Weights = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def linear(layer: Any, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def layer_norm(layer: Any, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias


def block_update(block: Any, x: Tensor, weights: Weights) -> Tensor:
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


def unit(x: Tensor) -> Tensor:
    return x / (x**2).sum(-1, keepdim=True).sqrt()


def unit_value_unit_value(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.softmax(unit(v) @ unit(v).mT * 8 * s, dim=-1)


def keep_value(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.eye(v.shape[-2], dtype=v.dtype).expand(len(v), -1, -1)


def query_query_and_key_key(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.softmax(q @ q.mT * s, dim=-1) + torch.softmax(k @ k.mT * s, dim=-1)


def key_key_of_neighbors(grid: tuple[int, int]) -> Weights:
    """softmax(k k' s + w), w = exp(-|distance|^2 / 50) between patches, 0 for what stands before them."""

    def weights(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
        places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
        before = k.shape[-2] - len(places)
        near = torch.zeros(k.shape[-2], k.shape[-2], dtype=k.dtype)
        for i, (row, column) in enumerate(places):
            for j, (other_row, other_column) in enumerate(places):
                squared = (row - other_row) ** 2 + (column - other_column) ** 2
                near[before + i, before + j] = exp(-squared / (2 * 5**2))
        return torch.softmax(k @ k.mT * s + near, dim=-1)

    return weights


def mean_of_three_groupings(normed: Tensor) -> Weights:
    """The mean of softmax(tau p p') over p = q, k, v, each grouped once; tau is each image's own."""

    def weights(q: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
        images = []
        for index, image in enumerate(normed):
            tau = s * sum((token**2).sum().sqrt() for token in image) / len(image)
            of_three = []
            for p in (q[index], k[index], v[index]):
                p = unit(p)
                p = unit(torch.softmax(tau * p @ p.mT, dim=-1) @ p)
                of_three.append(torch.softmax(tau * p @ p.mT, dim=-1))
            images.append((of_three[0] + of_three[1] + of_three[2]) / 3)
        return torch.stack(images)

    return weights


def method_weights(name: str, normed: Tensor, grid: tuple[int, int]) -> Weights:
    """How much of each token's value goes into each token, by the method's name."""
    return {
        "clip_surgery": value_value,
        "clip_surgery_normalized": unit_value_unit_value,
        "gem": mean_of_three_groupings(normed),
        "maskclip": keep_value,
        "sclip": query_query_and_key_key,
        "clearclip": query_query,
        "naclip": key_key_of_neighbors(grid),
    }[name]


def method_patches(
    name: str, blocks: nn.ModuleList, states: Sequence[Tensor], depth: int, grid: tuple[int, int]
) -> Tensor:
    """Patch tokens [B, N, C] of the new path of a method after the last `depth` blocks.

    `states[i]` is the input of block i on the original path.
    """
    y = states[len(blocks) - depth]
    for block, x in list(zip(blocks, states, strict=False))[-depth:]:
        update = block_update(block, x, method_weights(name, layer_norm(block.layer_norm1, x), grid))
        y = update if name in ("maskclip", "clearclip", "naclip") else y + update
        if name == "sclip":
            y = y + block.mlp(layer_norm(block.layer_norm2, y))
    return y[:, y.shape[1] - grid[0] * grid[1] :]


def clip_surgery_patches(blocks: nn.ModuleList, states: Sequence[Tensor], depth: int) -> Tensor:
    """Patch tokens [B, N, C] of the new path: y starts as x and gathers what v-v attention adds.

    `states[i]` is the input of block i on the original path.
    """
    first = len(blocks) - depth
    y = states[first]
    for index in range(first, len(blocks)):
        y = y + block_update(blocks[index], states[index], value_value)
    return y[:, 1:]
