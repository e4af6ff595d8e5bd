"""The eMamba network, float reference.

Glossary (official Mamba names; shapes: b batch, l tokens, d = d_inner channels, n = d_state):

    u (b, l, d)       scan input, the causal depthwise convolution's output
    z (b, l, d)       gate, passed through SiLU
    dt (b, l, r)      low-rank step size, r = dt_rank; delta (b, l, d) = relu(dt_proj(dt))
    A (d, n)          = -exp(A_log); dA = exp(delta * A); dB = delta * B (Euler)
    B, C (b, l, n)    input and output maps of the state, from x_proj
    h (b, d, n)       state: h = dA * h + dB * u
    y (b, l, d)       scan output: y = C h + D u

Differences from official Mamba, after the eMamba paper: range norm instead of RMSNorm, ReLU
instead of softplus, piecewise-linear SiLU and exp, a flatten head. The paper leaves the
activation after the convolution, `dt_rank` and the head open: ours are choices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from emamba.config import ModelConfig
from emamba.model.approximation import EXP, SILU, Exact
from emamba.model.fused import Rounding, available, mix
from emamba.model.norm import NORMS, RangeNorm
from emamba.model.numerics import FloatNumerics, Numerics
from emamba.model.scan import selective_scan

__all__ = ["EMamba", "MambaBlock", "count_parameters"]


class Stage(nn.Module):
    """A module that reports its numbers to the network's numerics under its own name."""

    def __init__(self, name: str, numerics: Numerics) -> None:
        super().__init__()
        self.stage_name = name
        self.numerics = numerics

    def q(self, name: str, value: Tensor) -> Tensor:
        return self.numerics.activation(self.stage_name + name, value)

    def w(self, name: str, value: Tensor) -> Tensor:
        return self.numerics.weight(self.stage_name + name, value)

    def linear(self, layer: nn.Linear, name: str, x: Tensor) -> Tensor:
        bias = None if layer.bias is None else self.w(f"{name}.bias", layer.bias)
        return functional.linear(x, self.w(f"{name}.weight", layer.weight), bias)


class MambaBlock(Stage):
    """Range norm, in_proj, conv1d, selective scan, SiLU gate, out_proj, residual.

    `tables` are the network's SiLU and exp, shared by its blocks and so passed in. With `fused`,
    what lies between in_proj and out_proj is computed at once where numerics and device permit:
    the same numbers up to the float's own precision, sooner.
    """

    def __init__(self, config: ModelConfig, name: str, numerics: Numerics, norm: str) -> None:
        super().__init__(name, numerics)
        d, n, r = config.d_inner, config.d_state, config.dt_rank
        self.config = config
        self.fused = False
        self.norm = NORMS[norm](f"{name}norm", numerics, config.d_model)
        self.in_proj = nn.Linear(config.d_model, 2 * d, bias=False)
        self.conv1d = nn.Conv1d(d, d, config.d_conv, groups=d, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(d, r + 2 * n, bias=False)
        self.dt_proj = nn.Linear(r, d)
        self.A_log = nn.Parameter(torch.arange(1.0, n + 1).log().repeat(d, 1))
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = nn.Linear(d, config.d_model, bias=False)
        self._init_dt()

    def _init_dt(self) -> None:
        """Start delta log-uniform in [0.01, 0.3]: ReLU needs a positive bias to pass gradient."""
        nn.init.uniform_(self.dt_proj.weight, -0.5, 0.5)
        with torch.no_grad():
            span = math.log(0.3) - math.log(0.01)
            self.dt_proj.bias.copy_((torch.rand_like(self.dt_proj.bias) * span).exp() * 0.01)

    def forward(self, x: Tensor, tables: nn.ModuleDict) -> Tensor:
        """(b, l, d_model) -> (b, l, d_model)."""
        both = self.linear(self.in_proj, "in_proj", self.norm(x))
        fusion = self.numerics.fusion(self.stage_name, tables) if self.fused else None
        if fusion is not None and both.device.type == "cpu" and available():
            return self._add(x, self._at_once(both, fusion.rounding))
        if fusion is not None and fusion.rounding is None:
            return self._add(x, self._in_chunks(both, tables))
        return self._add(x, self._in_steps(both, tables))

    def _in_steps(self, both: Tensor, tables: nn.ModuleDict) -> Tensor:
        """in_proj's output (b, l, 2 d) -> g (b, l, d), token by token: the reference."""
        pre, z = self._halves(both)
        u = self._conv(functional.pad(pre.transpose(1, 2), (self.config.d_conv - 1, 0)))
        dA, dBu, C = self._discretise(u, tables)
        h = dBu.new_zeros(dBu[:, 0].shape)
        states = []
        # unbind, not indexing: the gradient of an index fills the whole tensor once per token.
        for dA_t, dBu_t in zip(dA.unbind(1), dBu.unbind(1), strict=True):
            wide, h = self._recur(dA_t, h, dBu_t)
            states.append(wide)
        return self._gate(self._read(torch.stack(states, 1), C, u), z, tables)

    def _in_chunks(self, both: Tensor, tables: nn.ModuleDict) -> Tensor:
        """`_in_steps` on floats, the scan vectorised."""
        pre, z = self._halves(both)
        u = self._conv(functional.pad(pre.transpose(1, 2), (self.config.d_conv - 1, 0)))
        delta, B, C = self._project(u)
        # Half floats would lose a state's small steps.
        with torch.autocast(u.device.type, enabled=False):
            u, delta, B, C = (t.to(self.A_log.dtype) for t in (u, delta, B, C))
            y = selective_scan(u, delta, -self.A_log.exp(), B, C) + self.D * u
        return self._gate(y, z, tables)

    def _at_once(self, both: Tensor, rounding: Rounding | None) -> Tensor:
        """`_in_steps` as one operation."""
        return mix(
            both,
            self.w("conv1d.weight", self.conv1d.weight)[:, 0],
            self.w("conv1d.bias", self.conv1d.bias),  # type: ignore[arg-type]
            self.w("x_proj.weight", self.x_proj.weight),
            self.w("dt_proj.weight", self.dt_proj.weight),
            self.w("dt_proj.bias", self.dt_proj.bias),
            self.w("A", -self.A_log.exp()),
            self.w("D", self.D),
            rounding,
        )

    def step(
        self, x: Tensor, window: Tensor, h: Tensor, tables: nn.ModuleDict
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token (b, d_model) with the conv window (b, d, d_conv - 1) and state h (b, d, n)."""
        both = self.linear(self.in_proj, "in_proj", self.norm(x[:, None]))
        pre, z = self._halves(both)
        window = torch.cat([window, pre.transpose(1, 2)], -1)
        u = self._conv(window)
        dA, dBu, C = self._discretise(u, tables)
        wide, h = self._recur(dA[:, 0], h, dBu[:, 0])
        g = self._gate(self._read(wide[:, None], C, u), z, tables)
        return self._add(x[:, None], g)[:, 0], window[..., 1:], h

    def _halves(self, both: Tensor) -> tuple[Tensor, Tensor]:
        pre, z = both.chunk(2, -1)
        return self.q("x", pre), self.q("z", z)

    def _conv(self, window: Tensor) -> Tensor:
        """u (b, l, d) of x with the tokens before it, (b, d, d_conv - 1 + l)."""
        weight = self.w("conv1d.weight", self.conv1d.weight)
        bias = self.w("conv1d.bias", self.conv1d.bias)  # type: ignore[arg-type]
        conv = functional.conv1d(window, weight, bias, groups=self.config.d_inner)
        return self.q("u", conv.transpose(1, 2))

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """delta (b, l, d), B and C (b, l, n) from u (b, l, d)."""
        r, n = self.config.dt_rank, self.config.d_state
        dt, B, C = torch.split(self.linear(self.x_proj, "x_proj", u), [r, n, n], -1)
        dt, B, C = self.q("dt", dt), self.q("B", B), self.q("C", C)
        delta = functional.relu(self.linear(self.dt_proj, "dt_proj", dt))
        return self.q("delta", delta), B, C

    def _discretise(self, u: Tensor, tables: nn.ModuleDict) -> tuple[Tensor, Tensor, Tensor]:
        """dA, dB * u (b, l, d, n) and C (b, l, n) from u (b, l, d)."""
        delta, B, C = self._project(u)
        A = self.w("A", -self.A_log.exp())
        argument = self.q("dt_A", delta[..., None] * A)
        # A learned table may leave exp's range by a little; a state must never grow by itself.
        dA = self.numerics.table(self.stage_name + "dA", tables["exp"], argument).clamp(0, 1)
        dBu = self.q("dBu", (delta * u)[..., None] * B[:, :, None])
        return dA, dBu, C

    def _recur(self, dA: Tensor, h: Tensor, dBu: Tensor) -> tuple[Tensor, Tensor]:
        """The state before and after it is narrowed for storage, both (b, d, n)."""
        wide = self.q("h_wide", dA * h + dBu)
        return wide, self.q("h", wide)

    def _read(self, states: Tensor, C: Tensor, u: Tensor) -> Tensor:
        """`y = C h + D u`, (b, l, d)."""
        return self.q("y", (states * C[:, :, None]).sum(-1) + self.w("D", self.D) * u)

    def _gate(self, y: Tensor, z: Tensor, tables: nn.ModuleDict) -> Tensor:
        """`y * silu(z)`."""
        gate = self.numerics.table(self.stage_name + "gate", tables["silu"], z)
        return self.q("g", y * gate)

    def _add(self, x: Tensor, g: Tensor) -> Tensor:
        """Project g and add it to the residual stream x."""
        return self.numerics.activation("residual", x + self.linear(self.out_proj, "out_proj", g))


class EMamba(Stage):
    """Patch embedding, blocks and flatten head; normalised input map to normalised outputs.

    `norm` is `range` (what ships), `layer` or `rms`. The tables start as the exact functions.
    """

    def __init__(
        self, config: ModelConfig, norm: str = "range", numerics: Numerics | None = None
    ) -> None:
        super().__init__("", numerics or FloatNumerics())
        self.config = config
        self.norm = norm
        self.tables = nn.ModuleDict({"silu": Exact(SILU), "exp": Exact(EXP)})
        self.patch_embed = nn.Linear(config.patch_dim, config.d_model)
        self.blocks = nn.ModuleList(
            MambaBlock(config, f"blocks.{i}.", self.numerics, norm) for i in range(config.n_layer)
        )
        self.head = nn.ModuleDict(
            {
                "fc1": nn.Linear(config.head_inputs, config.head_width),
                "fc2": nn.Linear(config.head_width, config.n_outputs),
            }
        )

    def set_numerics(self, numerics: Numerics) -> None:
        """Use other arithmetic from now on, in every stage."""
        for module in self.modules():
            if isinstance(module, (Stage, RangeNorm)):
                module.numerics = numerics

    def set_fused(self, fused: bool) -> None:
        """Compute blocks at once from now on, where that is possible, or step by step again."""
        for block in self.blocks:
            block.fused = fused  # type: ignore[assignment]

    def tokens(self, maps: Tensor) -> Tensor:
        """(b, height, width, channels) -> (b, n_tokens, patch_dim), row-major patches."""
        c = self.config
        rows, cols, p = c.input_height // c.patch, c.input_width // c.patch, c.patch
        grid = maps.reshape(-1, rows, p, cols, p, c.input_channels)
        return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, c.n_tokens, c.patch_dim)

    def embed(self, tokens: Tensor) -> Tensor:
        """(..., patch_dim) -> (..., d_model), the first residual stream."""
        return self.q("residual", self.linear(self.patch_embed, "patch_embed", tokens))

    def forward(self, maps: Tensor) -> Tensor:
        """(b, height, width, channels) -> (b, n_outputs)."""
        x = self.embed(self.tokens(self.q("input", maps)))
        for block in self.blocks:
            x = block(x, self.tables)
        return self.read_out(x)

    def read_out(self, x: Tensor) -> Tensor:
        """The head: (b, n_tokens, d_model) -> (b, n_outputs)."""
        flat = self.q("head.input", x.flatten(1))
        fc1, fc2 = self.head["fc1"], self.head["fc2"]
        hidden = functional.relu(self.linear(fc1, "head.fc1", flat))  # type: ignore[arg-type]
        hidden = self.q("head.hidden", hidden)
        return self.q("output", self.linear(fc2, "head.fc2", hidden))  # type: ignore[arg-type]

    def initial_state(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Zero conv windows and states, one pair a block, for `step`."""
        c, like = self.config, self.patch_embed.weight
        return [
            (
                like.new_zeros(batch, c.d_inner, c.d_conv - 1),
                like.new_zeros(batch, c.d_inner, c.d_state),
            )
            for _ in self.blocks
        ]

    def step(
        self, token: Tensor, state: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One token (b, patch_dim) through all blocks: features (b, d_model) and the next state."""
        x = self.embed(self.q("input", token))
        following = []
        for block, memory in zip(self.blocks, state, strict=True):
            x, *after = block.step(x, *memory, self.tables)  # type: ignore[operator]
            following.append((after[0], after[1]))
        return x, following


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in the model, tables included; shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
