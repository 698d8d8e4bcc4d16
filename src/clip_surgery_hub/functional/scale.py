"""Lengths and ranges: what the other functions scale by."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_length(x: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors to Euclidean length 1; a zero vector stays zero.

    The length is taken in float32 at least, since squares of float16 components overflow or vanish early.

    Args:
        x: floating point tensor of any shape.
        dim: the dimension along which a vector lies.

    Returns:
        A tensor of the shape and dtype of ``x``.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=at_least_float32(x))
    return (x / torch.where(length > 0, length, torch.ones_like(length))).to(x.dtype)


def min_max(x: Tensor) -> Tensor:
    """Scale the last dimension to [0, 1]; a constant one becomes zeros."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    spread = high - low
    return (x - low) / torch.where(spread > 0, spread, torch.ones_like(spread))


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype to compute in, so that half precision loses nothing on the way."""
    return torch.promote_types(x.dtype, torch.float32)
