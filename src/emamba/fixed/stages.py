"""One function per pipeline stage; the HLS kernels use the same names.

Shapes: b batch, l tokens, d = d_inner, n = d_state, r = dt_rank. Every value is an integer; the
comment behind a line gives its format, `frac` being the count of fractional bits. Accumulators
are exact; each stage ends in `q(name, acc, frac)`, one rounding shift and one saturation.
Widths of accumulators are proven in `emamba.fixed.intervals`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emamba.config import Fixed
from emamba.fixed.arithmetic import Ints, Requantiser, align, shift_round
from emamba.fixed.model import DIVISOR_WIDTH, UNIT_FRAC
from emamba.fixed.tables import IntegerTable

__all__ = [
    "Parameter",
    "ScanInputs",
    "conv1d",
    "dt_proj",
    "gate",
    "head",
    "in_proj",
    "out_proj",
    "patch_embed",
    "patches",
    "range_norm",
    "selective_scan",
    "x_proj",
]


class Parameter(NamedTuple):
    """An int8 tensor, widened for arithmetic, and the fractional bits of its format."""

    values: Ints
    frac: int


def patches(maps: Ints, patch: int) -> Ints:
    """(b, height, width, channels) -> (b, l, patch_dim): row-major patches, one token each."""
    b, height, width, channels = maps.shape
    rows, cols = height // patch, width // patch
    grid = maps.reshape(b, rows, patch, cols, patch, channels)
    shape = (b, rows * cols, patch * patch * channels)
    tokens: Ints = grid.transpose(0, 1, 3, 2, 4, 5).reshape(shape)
    return tokens


def patch_embed(
    tokens: Ints, fmt: Fixed, weight: Parameter, bias: Parameter, q: Requantiser
) -> Ints:
    """int8 (b, l, patch_dim) -> residual int16 (b, l, d_model)."""
    frac = fmt.frac + weight.frac
    return q("residual", _matvec(tokens, weight) + _bias(bias, frac), frac)


def range_norm(x: Ints, gamma: Parameter, beta: Parameter, q: Requantiser, name: str) -> Ints:
    """`gamma * (x - mean) / (max - min) + beta`: residual int16 -> int8 (b, l, d_model).

    One division a token, `2**30 / divisor`; the mean divides by the constant d_model. A token
    whose features are all equal gives beta.
    """
    d_model = x.shape[-1]
    total = x.sum(-1, keepdims=True, dtype=x.dtype)
    mean = (2 * total + d_model) // (2 * d_model)  # rounded half up, min <= mean <= max
    spread = x.max(-1, keepdims=True) - x.min(-1, keepdims=True)  # uint16
    left = DIVISOR_WIDTH - _bit_length(spread)
    divisor = np.maximum(spread << left, 1)  # 2**15 .. 2**16 - 1, or 1 where spread is 0
    reciprocal = np.where(spread > 0, (1 << 2 * UNIT_FRAC) // divisor, 0)  # 2**14 .. 2**15
    centred = (x - mean) << left  # |centred| <= divisor, hence |product| <= 2**30
    unit = shift_round(centred * reciprocal, UNIT_FRAC)  # int17 Q2.15
    frac = UNIT_FRAC + gamma.frac
    return q(name, unit * gamma.values + _bias(beta, frac), frac)


def in_proj(
    norm: Ints, fmt: Fixed, weight: Parameter, q: Requantiser, prefix: str
) -> tuple[Ints, Ints]:
    """int8 (b, l, d_model) -> convolution input x and gate z, int8 (b, l, d) each."""
    acc = _matvec(norm, weight)
    d, frac = acc.shape[-1] // 2, fmt.frac + weight.frac
    return q(prefix + "x", acc[..., :d], frac), q(prefix + "z", acc[..., d:], frac)


def conv1d(
    x: Ints, fmt: Fixed, weight: Parameter, bias: Parameter, q: Requantiser, name: str
) -> Ints:
    """Causal depthwise convolution over tokens, zeros before the first: int8 -> u int8."""
    length, d_conv = x.shape[1], weight.values.shape[-1]
    window = np.pad(x, ((0, 0), (d_conv - 1, 0), (0, 0)))
    frac = fmt.frac + weight.frac
    acc = _bias(bias, frac) + window[:, :length] * weight.values[:, 0]
    for tap in range(1, d_conv):
        acc += window[:, tap : tap + length] * weight.values[:, tap]
    return q(name, acc, frac)


def x_proj(
    u: Ints, fmt: Fixed, weight: Parameter, dt_rank: int, q: Requantiser, prefix: str
) -> tuple[Ints, Ints, Ints]:
    """int8 (b, l, d) -> dt (b, l, r), B (b, l, n), C (b, l, n), int8 each."""
    acc = _matvec(u, weight)
    d_state, frac = (acc.shape[-1] - dt_rank) // 2, fmt.frac + weight.frac
    dt, B, C = np.split(acc, [dt_rank, dt_rank + d_state], axis=-1)
    return q(prefix + "dt", dt, frac), q(prefix + "B", B, frac), q(prefix + "C", C, frac)


def dt_proj(
    dt: Ints, fmt: Fixed, weight: Parameter, bias: Parameter, q: Requantiser, name: str
) -> Ints:
    """`relu(dt_proj(dt))`: int8 (b, l, r) -> delta (b, l, d), never negative."""
    frac = fmt.frac + weight.frac
    return q(name, np.maximum(_matvec(dt, weight) + _bias(bias, frac), 0), frac)


class ScanInputs(NamedTuple):
    """What the scan of one block reads, each int8 in the format of its name."""

    u: Ints  # (b, l, d)
    delta: Ints  # (b, l, d)
    B: Ints  # (b, l, n)
    C: Ints  # (b, l, n)


def selective_scan(
    scan: ScanInputs, A: Parameter, D: Parameter, exp: IntegerTable, q: Requantiser, prefix: str
) -> tuple[Ints, Ints]:
    """`h = dA * h + dB * u; y = C h + D u`: y (b, l, d) and the last state h (b, d, n).

    dA = exp(delta * A) in units of 2**-7; the state is computed in 24 bits (`h_wide`), which y
    reads, and stored in 17 (`h`).
    """
    frac = {name: q.formats[prefix + name].frac for name in ("u", "delta", "B", "C", "h_wide")}
    dBu_frac = frac["delta"] + frac["u"] + frac["B"]
    y_frac = frac["C"] + frac["h_wide"]
    acc = align((D.values * scan.u).astype(np.int64), y_frac - D.frac - frac["u"])
    # States lie (b, n, d): the sum over n then runs over whole rows of channels.
    A_rows, B, C = A.values.T, scan.B[..., None], scan.C[..., None]
    delta, du = scan.delta[:, :, None], (scan.delta * scan.u)[:, :, None]
    h = np.zeros((len(scan.u), *A_rows.shape), np.int32)
    for t in range(scan.u.shape[1]):
        argument = q(prefix + "dt_A", delta[:, t] * A_rows, frac["delta"] + A.frac)
        dBu = q(prefix + "dBu", du[:, t] * B[:, t], dBu_frac)
        wide = q(prefix + "h_wide", exp(argument) * h + dBu, frac["h_wide"])
        acc[:, t] += (wide * C[:, t]).sum(1, dtype=np.int64)
        h = q(prefix + "h", wide, frac["h_wide"])
    return q(prefix + "y", acc, y_frac).astype(np.int32), h.transpose(0, 2, 1)


def gate(y: Ints, z: Ints, silu: IntegerTable, q: Requantiser, prefix: str) -> Ints:
    """`y * silu(z)`: (b, l, d) -> g int8."""
    frac = q.formats[prefix + "y"].frac + q.formats[prefix + "gate"].frac
    return q(prefix + "g", y * silu(z), frac)


def out_proj(g: Ints, fmt: Fixed, weight: Parameter, residual: Ints, q: Requantiser) -> Ints:
    """int8 (b, l, d) projected and added to the residual stream: int16 (b, l, d_model)."""
    frac = fmt.frac + weight.frac
    acc = _matvec(g, weight)
    return q("residual", acc + align(residual, frac - q.formats["residual"].frac), frac)


def head(
    x: Ints,
    fc1: tuple[Parameter, Parameter],
    fc2: tuple[Parameter, Parameter],
    q: Requantiser,
) -> tuple[Ints, Ints, Ints]:
    """Flatten, fc1, ReLU, fc2: residual int16 (b, l, d_model) -> output int16 (b, n_outputs).

    Also returns the int8 flattened input and hidden layer, in that order, before the output.
    """
    flat = q("head.input", x.reshape(len(x), -1), q.formats["residual"].frac)
    frac = q.formats["head.input"].frac + fc1[0].frac
    acc = np.maximum(_matvec(flat, fc1[0]) + _bias(fc1[1], frac), 0)
    hidden = q("head.hidden", acc, frac)
    frac = q.formats["head.hidden"].frac + fc2[0].frac
    return flat, hidden, q("output", _matvec(hidden, fc2[0]) + _bias(fc2[1], frac), frac)


def _matvec(x: Ints, weight: Parameter) -> Ints:
    """`weight @ x` over the last axis, exact in int32. einsum, since matmul is slow on integers."""
    flat = x.reshape(-1, x.shape[-1])
    out: Ints = np.einsum("mk,nk->mn", flat, weight.values)
    return out.reshape(*x.shape[:-1], -1)


def _bias(bias: Parameter, acc_frac: int) -> Ints:
    return align(bias.values, acc_frac - bias.frac)


def _bit_length(x: Ints) -> Ints:
    """Bits of each non-negative integer below 2**16."""
    powers = 1 << np.arange(DIVISOR_WIDTH, dtype=np.int32)
    return np.searchsorted(powers, x, side="right").astype(np.int32)
