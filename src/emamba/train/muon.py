"""Muon: momentum whose matrices are moved in all their directions alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Muon"]

# Of a quintic that takes singular values of 0..1 close to 1 in five rounds.
_A, _B, _C, _ROUNDS = 3.4445, -4.7750, 2.0315, 5


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` in float32, its steps scaled to AdamW's size, for matrices; of a
    convolution's weights, one with a row for each channel that comes out.

    After K. Jordan, "Muon", 2024, and J. Liu et al., "Muon is scalable for LLM training", 2025.
    torch's own computes in bfloat16, which is nine times slower where a CPU has to emulate it.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            lr, beta = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"]
                momentum.lerp_(matrix.grad, 1 - beta)
                step = _evened(matrix.grad.lerp(momentum, beta).flatten(1))
                matrix.mul_(1 - lr * group["weight_decay"])
                size = -0.2 * math.sqrt(max(step.shape)) * lr
                matrix.add_(step.reshape(matrix.shape), alpha=size)


def _evened(matrix: Tensor) -> Tensor:
    """The matrix with its singular values near 1 (within 0.7..1.2, but for the smallest)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: Tensor = wide / wide.norm().clamp_min(1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x if wide is matrix else x.T
