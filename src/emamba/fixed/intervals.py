"""Interval analysis: no accumulator of a model can overflow, whatever the input.

Each stage's operands are saturated to their formats, so they lie in known intervals; an
accumulator's largest magnitude then follows from the model's own weights. `check_bounds` compares
it with the accumulator's width, which is what a kernel wires (`acc_t` 32 bits, `scan_acc_t` 48).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emamba.fixed.model import UNIT_FRAC, IntegerModel, ModelError, block_names
from emamba.fixed.tables import SLOPE_FRAC, TABLES, IntegerTable

__all__ = [
    "ACC_WIDTH",
    "SCAN_ACC_WIDTH",
    "Bound",
    "OverflowPossible",
    "check_bounds",
    "interval_bounds",
]

ACC_WIDTH = 32
SCAN_ACC_WIDTH = 48


class OverflowPossible(ModelError):
    """A model with an accumulator that some input could overflow."""


@dataclass(frozen=True)
class Bound:
    """The largest magnitude one accumulator can reach, rounding and left shift included."""

    stage: str
    magnitude: int
    width: int

    @property
    def bits(self) -> int:
        """Signed bits that the magnitude needs."""
        return self.magnitude.bit_length() + 1


def check_bounds(model: IntegerModel) -> None:
    """Raise `OverflowPossible` unless every accumulator of `model` fits its width."""
    for bound in interval_bounds(model):
        if bound.bits > bound.width:
            raise OverflowPossible(
                f"accumulator {bound.stage} must fit {bound.width} bits, but can need {bound.bits}"
            )


def interval_bounds(model: IntegerModel) -> list[Bound]:
    """The bound of every accumulator, in pipeline order."""
    return list(_Analysis(model).bounds())


class _Analysis:
    def __init__(self, model: IntegerModel) -> None:
        self.model = model
        self.frac = {name: fmt.frac for name, fmt in model.formats.items()}
        self.top = {name: fmt.max_int for name, fmt in model.formats.items()}

    def bounds(self) -> Iterator[Bound]:
        yield self._linear("patch_embed", "input", "residual")
        for at in block_names(self.model.config):
            yield from self._block(at)
        yield self._linear("head.fc1", "head.input", "head.hidden")
        yield self._linear("head.fc2", "head.hidden", "output")

    def _block(self, at: str) -> Iterator[Bound]:
        yield self._norm(at)
        for out in ("x", "z"):
            yield self._linear(at + "in_proj", at + "norm", at + out)
        yield self._linear(at + "conv1d", at + "x", at + "u")
        for out in ("dt", "B", "C"):
            yield self._linear(at + "x_proj", at + "u", at + out)
        yield self._linear(at + "dt_proj", at + "dt", at + "delta")
        yield from self._scan(at)
        for kind, (_, out) in TABLES.items():
            yield self._table(at + kind, self.model.tables[at + kind], at + out)
        product = self.top[at + "y"] * self.top[at + "gate"]
        yield self._bound(at + "g", product, self.frac[at + "y"] + self.frac[at + "gate"], at + "g")
        yield self._out_proj(at)

    def _bound(
        self, stage: str, magnitude: int, acc_frac: int, out: str, width: int = ACC_WIDTH
    ) -> Bound:
        """Adds what the rounding shift to format `out` adds, or multiplies by a left shift."""
        shift = acc_frac - self.frac[out]
        grown = magnitude + (1 << (shift - 1)) if shift > 0 else magnitude << -shift
        return Bound(f"{stage} -> {out}", grown, width)

    def _rows(self, layer: str, x: str) -> tuple[int, int]:
        """Largest row of |weight| . max|x| + |bias|, and the accumulator's fraction."""
        weight = np.abs(self.model.tensors[f"{layer}.weight"].astype(np.int64))
        frac = self.frac[x] + self.frac[f"{layer}.weight"]
        rows = weight.sum(-1) * self.top[x]
        bias = self.model.tensors.get(f"{layer}.bias")
        if bias is not None:
            rows = rows + (np.abs(bias.astype(np.int64)) << frac - self.frac[f"{layer}.bias"])
        return int(rows.max()), frac

    def _linear(self, layer: str, x: str, out: str) -> Bound:
        magnitude, frac = self._rows(layer, x)
        return self._bound(layer, magnitude, frac, out)

    def _norm(self, at: str) -> Bound:
        gamma, beta = (
            np.abs(self.model.tensors[f"{at}norm.{part}"].astype(np.int64))
            for part in ("gamma", "beta")
        )
        frac = UNIT_FRAC + self.frac[f"{at}norm.gamma"]
        rows = (gamma << UNIT_FRAC) + (beta << frac - self.frac[f"{at}norm.beta"])
        return self._bound(at + "norm", int(rows.max()), frac, at + "norm")

    def _scan(self, at: str) -> Iterator[Bound]:
        frac, top, tensors = self.frac, self.top, self.model.tensors
        A, D = (np.abs(tensors[at + name].astype(np.int64)) for name in ("A", "D"))
        yield self._bound(
            at + "delta * A",
            top[at + "delta"] * int(A.max()),
            frac[at + "delta"] + frac[at + "A"],
            at + "dt_A",
        )
        yield self._bound(
            at + "delta * u * B",
            top[at + "delta"] * top[at + "u"] * top[at + "B"],
            sum(frac[at + name] for name in ("delta", "u", "B")),
            at + "dBu",
        )
        state = self.model.tables[at + "exp"].y_high * top[at + "h"] + top[at + "dBu"]
        yield self._bound(at + "dA * h + dB * u", state, frac[at + "h_wide"], at + "h_wide")
        yield self._bound(at + "h_wide", top[at + "h_wide"], frac[at + "h_wide"], at + "h")
        product = top[at + "C"] * top[at + "h_wide"]
        yield Bound(at + "C * h_wide", product, ACC_WIDTH)
        y_frac = frac[at + "C"] + frac[at + "h_wide"]
        skip = int(D.max()) * top[at + "u"] << y_frac - frac[at + "D"] - frac[at + "u"]
        read = self.model.config.d_state * product
        yield self._bound(at + "C h + D u", read + skip, y_frac, at + "y", SCAN_ACC_WIDTH)

    def _table(self, name: str, table: IntegerTable, out: str) -> Bound:
        top = table.x_format.max_int
        corners = np.concatenate([table.breakpoints, [-top, top]]).astype(np.int64)
        lines = table.slope.astype(np.int64)[:, None] * corners + table.intercept[:, None]
        magnitude = int(np.abs(lines).max())
        return self._bound(name, magnitude, table.x_format.frac + SLOPE_FRAC, out)

    def _out_proj(self, at: str) -> Bound:
        magnitude, frac = self._rows(at + "out_proj", at + "g")
        magnitude += self.top["residual"] << frac - self.frac["residual"]
        return self._bound(at + "out_proj + residual", magnitude, frac, "residual")
