"""Muon in float32: `torch.optim.Muon` orthogonalizes in bfloat16, which many processors only emulate."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic that is applied to the singular values. Muon's usual choice: it lifts the small ones
fastest, and in five rounds brings all but the smallest between 0.7 and 1.2 instead of meeting 1 exactly."""
ROUNDS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """The matrices [K, M, N] with their singular values moved close to 1, by Newton-Schulz iteration."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalized Nesterov momentum of each matrix, those of one shape all at once.

    Args:
        parameters: matrices only.
        lr: length of the steps; a tall matrix takes them sqrt(rows / columns) times as long.
        momentum: of the gradients' running sum.
        weight_decay: decoupled, times `lr`.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.ndim != 2:
                    raise ValueError(
                        f"Muon steps matrices only; got a parameter of shape {tuple(matrix.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                steps = orthogonalized(
                    torch.stack([self._momentum(one, group["momentum"]) for one in matrices])
                )
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for matrix, step in zip(matrices, steps, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-rate)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        if "sum" not in self.state[matrix]:
            self.state[matrix]["sum"] = torch.zeros_like(matrix, dtype=torch.float32)
        total = self.state[matrix]["sum"]
        total.lerp_(matrix.grad.float(), 1 - momentum)
        return matrix.grad.float().lerp(total, momentum)
