"""The float network as one would rewrite it for a float runtime: the same function, fewer steps.

Tokens come first, so the scan splits and joins whole arrays; the range norm's constants are folded
into in_proj and dt_proj into x_proj; a piecewise-linear table is a sum of ReLUs, which vectorises
where a look-up does not. Arrays are (l, b, c), or (l, c, b) with `batch_last`, where each operation
runs over the batch: slower for few frames, faster for many. Names are `emamba.model.network`'s.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from emamba.model import EXP, SILU, EMamba, Exact, PiecewiseLinear
from emamba.model.network import MambaBlock
from emamba.model.norm import RangeNorm

__all__ = ["Rewritten", "with_exact_functions"]


def with_exact_functions(network: EMamba) -> EMamba:
    """A copy that computes SiLU and exp themselves, as a float runtime would, not their tables."""
    twin = copy.deepcopy(network)
    twin.tables = nn.ModuleDict({"silu": Exact(SILU), "exp": Exact(EXP)})
    return twin


class Rewritten(nn.Module):
    """`network` with its arithmetic reordered: (b, height, width, channels) -> (b, n_outputs)."""

    def __init__(self, network: EMamba, batch_last: bool = False) -> None:
        super().__init__()
        self.config = network.config
        self.batch_last = batch_last
        embed = network.patch_embed
        self.patch_embed = _Linear(embed.weight, embed.bias, batch_last)
        self.blocks = nn.Sequential(
            *(_Block(block, network.tables, batch_last) for block in network.blocks)  # type: ignore[arg-type]
        )
        self.fc1, self.fc2 = network.head["fc1"], network.head["fc2"]
        self.eval().requires_grad_(False)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.blocks(self.patch_embed(self._tokens(maps)))
        flat = x.flatten(0, 1).T if self.batch_last else x.transpose(0, 1).flatten(1)
        out: Tensor = self.fc2(functional.relu(self.fc1(flat)))
        return out

    def _tokens(self, maps: Tensor) -> Tensor:
        """(b, height, width, channels) -> tokens first, patch_dim numbers each."""
        c = self.config
        rows, cols, p = c.input_height // c.patch, c.input_width // c.patch, c.patch
        grid = maps.reshape(-1, rows, p, cols, p, c.input_channels)
        if self.batch_last:
            return grid.permute(1, 3, 2, 4, 5, 0).reshape(c.n_tokens, c.patch_dim, -1)
        return grid.permute(1, 3, 0, 2, 4, 5).reshape(c.n_tokens, -1, c.patch_dim)


class _Linear(nn.Module):
    """A linear layer over the channels, `weight` (out, in), `bias` (out) or none."""

    def __init__(self, weight: Tensor, bias: Tensor | None, batch_last: bool) -> None:
        super().__init__()
        self.batch_last = batch_last
        self.weight = _constant(weight if batch_last else weight.T)
        self.bias = None if bias is None else _vector(bias, batch_last)

    def forward(self, x: Tensor) -> Tensor:
        product = self.weight @ x if self.batch_last else x @ self.weight
        return product if self.bias is None else product + self.bias


class _Block(nn.Module):
    """One Mamba block; keeps its input's shape."""

    def __init__(self, block: MambaBlock, tables: nn.ModuleDict, batch_last: bool) -> None:
        super().__init__()
        self.config, self.batch_last = block.config, batch_last
        self.channels = 1 if batch_last else 2
        self.in_proj = _normed_in_proj(block, batch_last)
        self.x_proj = _merged_x_proj(block, batch_last)
        self.out_proj = _Linear(block.out_proj.weight, None, batch_last)
        taps = block.conv1d.weight[:, 0].T
        self.taps = _constant(taps[:, :, None] if batch_last else taps)
        self.conv_bias = _vector(block.conv1d.bias, batch_last)  # type: ignore[arg-type]
        self.A = _vector(-block.A_log.exp().T, batch_last)
        self.D = _vector(block.D, batch_last)
        self.silu, self.exp = _silu(tables["silu"]), _decay(tables["exp"])

    def forward(self, x: Tensor) -> Tensor:
        c, axis = self.config, self.channels
        spread = x.amax(axis, keepdim=True) - x.amin(axis, keepdim=True)
        pre, z = torch.split(self.in_proj(x / spread.clamp_min(1e-12)), c.d_inner, axis)
        u = self._convolve(pre)
        dt, B, C = torch.split(self.x_proj(u), [c.d_inner, c.d_state, c.d_state], axis)
        delta = functional.relu(dt)
        dA = self.exp(delta.unsqueeze(axis) * self.A)
        dBu = B.unsqueeze(axis + 1) * (delta * u).unsqueeze(axis)
        y = self._read(_scan(dA, dBu), C) + self.D * u
        out: Tensor = x + self.out_proj(y * self.silu(z))
        return out

    def _convolve(self, pre: Tensor) -> Tensor:
        last = self.config.d_conv - 1
        u = pre * self.taps[last] + self.conv_bias
        for tap in range(last):
            late = last - tap
            u = u + functional.pad(pre, (0, 0, 0, 0, late, -late)) * self.taps[tap]
        return u

    def _read(self, states: Tensor, C: Tensor) -> Tensor:
        """C h: states (l, b, n, d) and C (l, b, n), or (l, n, d, b) and (l, n, b)."""
        if self.batch_last:
            return (states * C.unsqueeze(2)).sum(1)
        return (C.unsqueeze(2) @ states).squeeze(2)


class _Lines(nn.Module):
    """A piecewise-linear table as a sum of ReLUs, for arguments up to `upper`."""

    def __init__(self, table: PiecewiseLinear, upper: float) -> None:
        super().__init__()
        knots, slopes, intercepts = (part.tolist() for part in table.lines())
        self.first, self.slope, self.intercept = knots[0], slopes[1], intercepts[1]
        bends = zip(knots[1:], slopes[1:], slopes[2:], strict=False)
        self.bends = [(knot, after - before) for knot, before, after in bends if knot < upper]

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope * x + self.intercept
        for knot, change in self.bends:
            y = y + change * functional.relu(x - knot)
        return torch.where(x >= self.first, y, 0.0)


def _normed_in_proj(block: MambaBlock, batch_last: bool) -> _Linear:
    """in_proj after range norm, of which only `x / range` is left to do."""
    norm, weight = block.norm, block.in_proj.weight
    if not isinstance(norm, RangeNorm):
        raise TypeError(f"only a network with range norm can be rewritten, not {type(norm)}")
    scaled = weight * norm.gamma
    # Taking each row's mean off the weights takes the token's mean off its features.
    return _Linear(scaled - scaled.mean(1, keepdim=True), weight @ norm.beta, batch_last)


def _merged_x_proj(block: MambaBlock, batch_last: bool) -> _Linear:
    """x_proj with dt_proj applied to its first rows: u -> delta before ReLU, B, C."""
    rank = block.config.dt_rank
    weight, dt = block.x_proj.weight, block.dt_proj
    bias = torch.cat([dt.bias, dt.bias.new_zeros(len(weight) - rank)])
    return _Linear(torch.cat([dt.weight @ weight[:rank], weight[rank:]]), bias, batch_last)


def _scan(dA: Tensor, dBu: Tensor) -> Tensor:
    """The state after each token, tokens first."""
    first, *rest = zip(torch.split(dA, 1), torch.split(dBu, 1), strict=True)
    states = [first[1]]
    for decay, added in rest:
        states.append(decay * states[-1] + added)
    return torch.cat(states)


def _silu(table: nn.Module) -> nn.Module:
    return _Lines(table, math.inf) if isinstance(table, PiecewiseLinear) else table


def _decay(table: nn.Module) -> nn.Module:
    """exp of arguments that never pass 0, for delta >= 0 and A < 0; a table's is held in [0, 1]."""
    if not isinstance(table, PiecewiseLinear):
        return table
    return nn.Sequential(_Lines(table, 0.0), nn.Hardtanh(0.0, 1.0))


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone().contiguous(), requires_grad=False)


def _vector(value: Tensor, batch_last: bool) -> nn.Parameter:
    """Numbers per channel, shaped to meet the channel axis."""
    return _constant(value[..., None] if batch_last else value)
