"""Numerics that observe a network's numbers, or round them as the integer pipeline does.

In float64 `FakeQuantNumerics` is the integer mirror: every value it returns is an integer of the
stage's format times a power of two, exactly, so a network under it gives the mirror's bits. In
float32 it is what quantisation-aware fine-tuning trains through: rounding passes gradients
straight, saturation stops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from emamba.config import Fixed
from emamba.fixed import IntegerTable
from emamba.fixed.model import DIVISOR_WIDTH, UNIT_FRAC
from emamba.fixed.tables import TABLES
from emamba.model import FloatNumerics
from emamba.model.fused import ROUNDED, Fusion, Rounding

__all__ = ["FakeQuantNumerics", "ObservingNumerics"]

# From a table's result to its kind and argument.
_TABLE_OF = {result: (kind, argument) for kind, (argument, result) in TABLES.items()}


class ObservingNumerics(FloatNumerics):
    """Keeps a sample of every activation and table argument a network makes."""

    def __init__(self, per_call: int = 20_000, seed: int = 0) -> None:
        self.per_call = per_call
        self._generator = torch.Generator().manual_seed(seed)
        self._samples: dict[str, list[Tensor]] = {}

    def activation(self, name: str, value: Tensor) -> Tensor:
        self._keep(name, value)
        return value

    def table(self, name: str, function: nn.Module, x: Tensor) -> Tensor:
        out = super().table(name, function, x)
        self._keep(name, out)
        self._keep(f"{name}.argument", x)
        return out

    def fusion(self, block: str, tables: nn.ModuleDict) -> Fusion | None:
        return None

    def samples(self, name: str) -> Tensor:
        """Every kept value of `name`, flat; the extremes of each call are among them."""
        return torch.cat(self._samples[name])

    def _keep(self, name: str, value: Tensor) -> None:
        flat = value.detach().reshape(-1)
        index = torch.randint(len(flat), (self.per_call,), generator=self._generator)
        kept = [
            flat[index] if len(flat) > self.per_call else flat,
            flat.min()[None],
            flat.max()[None],
        ]
        self._samples.setdefault(name, []).append(torch.cat(kept))


class _Replace(torch.autograd.Function):
    """Forward gives `exact`; backward is that of `value`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, exact: Tensor) -> Tensor:
        return exact

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _replace(value: Tensor, exact: Tensor) -> Tensor:
    out: Tensor = _Replace.apply(value, exact.detach())  # type: ignore[no-untyped-call]
    return out


class FakeQuantNumerics:
    """The integer pipeline's arithmetic on floats; `formats` and `tables` are the model's."""

    def __init__(self, formats: Mapping[str, Fixed], tables: Mapping[str, IntegerTable]) -> None:
        self.formats = formats
        self._dense = {name: torch.from_numpy(table.dense) for name, table in tables.items()}

    def activation(self, name: str, value: Tensor) -> Tensor:
        fmt = self.formats[name]
        top = fmt.max_int * fmt.lsb
        inside = value.clamp(-top, top)
        return _replace(inside, torch.floor(inside / fmt.lsb + 0.5) * fmt.lsb)

    def weight(self, name: str, value: Tensor) -> Tensor:
        return self.activation(name, value)

    def mean(self, x: Tensor) -> Tensor:
        lsb = self.formats["residual"].lsb
        mean = x.mean(-1, keepdim=True)
        total, d_model = x.detach().sum(-1, keepdim=True) / lsb, x.shape[-1]
        exact = torch.floor((2 * total + d_model) / (2 * d_model)) * lsb
        return _replace(mean, exact)

    def divide(self, centred: Tensor, spread: Tensor) -> Tensor:
        lsb = self.formats["residual"].lsb
        mantissa, bits = torch.frexp(spread.detach() / lsb)
        divisor = (mantissa * 2.0**DIVISOR_WIDTH).clamp_min(1.0)
        reciprocal = torch.floor(2.0 ** (2 * UNIT_FRAC) / divisor)
        left = torch.ldexp(centred.detach() / lsb, DIVISOR_WIDTH - bits)
        unit = torch.floor(left * reciprocal * 2.0**-UNIT_FRAC + 0.5) * 2.0**-UNIT_FRAC
        return _replace(centred / spread.clamp_min(lsb), unit * (spread > 0))

    def table(self, name: str, function: nn.Module, x: Tensor) -> Tensor:
        """`name` is `<block>dA` or `<block>gate`; `x` is already rounded to its own format."""
        block, _, output = name.rpartition(".")
        kind, argument = _TABLE_OF[output]
        x_format = self.formats[f"{block}.{argument}"]
        row = (x.detach() / x_format.lsb).long() + x_format.max_int
        dense = self._dense[f"{block}.{kind}"] = self._dense[f"{block}.{kind}"].to(row.device)
        exact = dense[row].to(x.dtype) * self.formats[name].lsb
        return _replace(function(x), exact)

    def fusion(self, block: str, tables: nn.ModuleDict) -> Fusion | None:
        formats = {name: self.formats[block + name] for name in ROUNDED}
        exp, silu = (
            self._dense[block + kind].float() * self.formats[block + result].lsb
            for kind, (_, result) in (("exp", TABLES["exp"]), ("silu", TABLES["silu"]))
        )
        return Fusion(Rounding(formats, exp, silu))
