"""The selective scan on floats, chunk by chunk: vectorised over batch, channels, states and time.

For devices without the fused operation, GPUs among them. A chunk of n tokens takes log2 n steps,
each over all of it; what autograd keeps is one state a chunk, the rest is computed again on the way
back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["selective_scan"]


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int = 16
) -> Tensor:
    """`h = exp(delta A) h + delta B u; y = C h`: y (b, l, d), differentiable.

    u, delta (b, l, d); A (d, n), never positive; B, C (b, l, n). Any float type and device.
    """
    out: Tensor = _Chunked.apply(u, delta, A, B, C, chunk)  # type: ignore[no-untyped-call]
    return out


def _scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk from state h (b, d, n): its y and the state after it.

    After each step row t holds what its last 1, 2, 4, ... tokens make of nothing, and how they
    decay what was before them (Hillis and Steele, "Data parallel algorithms", 1986).
    """
    dA = (delta[..., None] * A).exp()
    dBu = (delta * u)[..., None] * B[:, :, None]
    states = torch.cat((dBu[:, :1] + dA[:, :1] * h[:, None], dBu[:, 1:]), 1)
    reach = 1
    while reach < states.shape[1]:
        later = states[:, reach:] + dA[:, reach:] * states[:, :-reach]
        states = torch.cat((states[:, :reach], later), 1)
        dA = torch.cat((dA[:, :reach], dA[:, reach:] * dA[:, :-reach]), 1)
        reach *= 2
    return torch.einsum("bldn,bln->bld", states, C), states[:, -1]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int
    ) -> Tensor:
        h = u.new_zeros(len(u), *A.shape)
        entries, ys = [], []
        for parts in _chunks(chunk, u, delta, B, C):
            entries.append(h)
            y, h = _scan(parts[0], parts[1], A, parts[2], parts[3], h)
            ys.append(y)
        ctx.save_for_backward(u, delta, A, B, C, *entries)
        ctx.chunk = chunk
        return torch.cat(ys, 1)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, *entries = ctx.saved_tensors
        gh, gA = torch.zeros_like(entries[0]), torch.zeros_like(A)
        found: list[tuple[Tensor, ...]] = []
        chunks = list(zip(_chunks(ctx.chunk, u, delta, B, C, gy), entries, strict=True))
        for parts, entry in reversed(chunks):
            inputs = [t.detach().requires_grad_() for t in (*parts[:2], A, *parts[2:4], entry)]
            with torch.enable_grad():
                outputs = _scan(*inputs)
            gu, gdelta, gA_part, gB, gC, gh = torch.autograd.grad(outputs, inputs, (parts[4], gh))
            gA += gA_part
            found.append((gu, gdelta, gB, gC))
        gu, gdelta, gB, gC = (torch.cat(parts[::-1], 1) for parts in zip(*found, strict=True))
        return gu, gdelta, gA, gB, gC, None


def _chunks(chunk: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(torch.split(tensor, chunk, 1) for tensor in tensors), strict=True))
