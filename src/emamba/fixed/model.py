"""The integers of one network: sizes, formats, tensors and tables, checked against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emamba.config import Fixed, ModelConfig, config_hash
from emamba.fixed.tables import TABLES, IntegerTable

__all__ = [
    "ACTIVATION_WIDTHS",
    "BLOCK_WIDTHS",
    "DIVISOR_WIDTH",
    "STATE_SHIFT",
    "UNIT_FRAC",
    "IntegerModel",
    "ModelError",
    "activation_widths",
    "added_operands",
    "block_names",
    "tensor_shapes",
]

# Bits of every number a stage hands on. A matrix operand is 8 bits; the residual stream and the
# output are 16; the state is computed in 24 bits and stored in 17 (eMamba paper); dA is in units
# of 2**-7 and reaches 1 = 128.
ACTIVATION_WIDTHS = {"input": 8, "residual": 16, "head.input": 8, "head.hidden": 8, "output": 16}
BLOCK_WIDTHS = {
    "norm": 8,
    "x": 8,
    "z": 8,
    "u": 8,
    "dt": 8,
    "B": 8,
    "C": 8,
    "delta": 8,
    "dt_A": 12,
    "dA": 9,
    "dBu": 24,
    "h_wide": 24,
    "h": 17,
    "y": 16,
    "gate": 16,
    "g": 8,
}
STATE_SHIFT = 7
# (x - mean) / range has 15 fractional bits; its divisor is normalised to 16 bits first.
UNIT_FRAC = 15
DIVISOR_WIDTH = 16


class ModelError(ValueError):
    """Tensors, formats or tables that do not form the network their config describes."""


def block_names(config: ModelConfig) -> list[str]:
    """Prefixes of the blocks' names, in order: `blocks.0.`, `blocks.1.`, ..."""
    return [f"blocks.{i}." for i in range(config.n_layer)]


def activation_widths(config: ModelConfig) -> dict[str, int]:
    """Bits of every activation of a network, by format name."""
    blocks = {
        prefix + name: width
        for prefix in block_names(config)
        for name, width in BLOCK_WIDTHS.items()
    }
    return ACTIVATION_WIDTHS | blocks


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every int8 parameter tensor of a network, by name."""
    c, d = config, config.d_inner
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.weight": (c.d_model, c.patch_dim),
        "patch_embed.bias": (c.d_model,),
    }
    for prefix in block_names(c):
        shapes |= {
            f"{prefix}norm.gamma": (c.d_model,),
            f"{prefix}norm.beta": (c.d_model,),
            f"{prefix}in_proj.weight": (2 * d, c.d_model),
            f"{prefix}conv1d.weight": (d, c.d_conv),
            f"{prefix}conv1d.bias": (d,),
            f"{prefix}x_proj.weight": (c.dt_rank + 2 * c.d_state, d),
            f"{prefix}dt_proj.weight": (d, c.dt_rank),
            f"{prefix}dt_proj.bias": (d,),
            f"{prefix}A": (d, c.d_state),
            f"{prefix}D": (d,),
            f"{prefix}out_proj.weight": (c.d_model, d),
        }
    return shapes | {
        "head.fc1.weight": (c.head_width, c.head_inputs),
        "head.fc1.bias": (c.head_width,),
        "head.fc2.weight": (c.n_outputs, c.head_width),
        "head.fc2.bias": (c.n_outputs,),
    }


def added_operands(config: ModelConfig, formats: Mapping[str, Fixed]) -> Iterator[tuple[str, int]]:
    """Each operand that is shifted left into an accumulator, and that accumulator's fraction."""

    def frac(*names: str) -> int:
        return sum(formats[name].frac for name in names)

    yield "patch_embed.bias", frac("input", "patch_embed.weight")
    for at in block_names(config):
        yield at + "norm.beta", UNIT_FRAC + frac(at + "norm.gamma")
        yield at + "conv1d.bias", frac(at + "x", at + "conv1d.weight")
        yield at + "dt_proj.bias", frac(at + "dt", at + "dt_proj.weight")
        yield at + "D", frac(at + "C", at + "h_wide") - frac(at + "u")
        yield "residual", frac(at + "g", at + "out_proj.weight")
    yield "head.fc1.bias", frac("head.input", "head.fc1.weight")
    yield "head.fc2.bias", frac("head.hidden", "head.fc2.weight")


@dataclass(frozen=True)
class IntegerModel:
    """Everything the integer pipeline needs; raises `ModelError` unless it is consistent.

    `tensors` are int8, symmetric (-127..127), each in its format of the same name. `tables` hold
    `<block>silu` and `<block>exp`.
    """

    config: ModelConfig
    formats: Mapping[str, Fixed]
    tensors: Mapping[str, npt.NDArray[np.int8]]
    tables: Mapping[str, IntegerTable]

    def __post_init__(self) -> None:
        self._check_tensors()
        self._check_formats()
        self._check_tables()

    @property
    def n_parameters(self) -> int:
        """Numbers in all parameter tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def int8_bytes(self) -> int:
        """Bytes of all parameter tensors; tables are counted apart."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def config_hash(self) -> str:
        """What a bitstream must match: sizes and widths, not scales or weights."""
        return config_hash(self.config, activation_widths(self.config))

    def _check_tensors(self) -> None:
        shapes = tensor_shapes(self.config)
        _same_names("tensors", set(shapes), set(self.tensors))
        for name, shape in shapes.items():
            tensor = self.tensors[name]
            if tensor.dtype != np.int8:
                raise ModelError(f"tensor {name} must be int8, not {tensor.dtype}")
            if tensor.shape != shape:
                raise ModelError(f"tensor {name} must have shape {shape}, not {tensor.shape}")
            if tensor.size and int(tensor.min()) < -127:
                raise ModelError(f"tensor {name} must lie in -127..127, but holds -128")
            if name.endswith(".A") and int(tensor.max()) > 0:
                raise ModelError(f"tensor {name} must be <= 0 (A = -exp(A_log)), but holds > 0")

    def _check_formats(self) -> None:
        widths = activation_widths(self.config) | dict.fromkeys(tensor_shapes(self.config), 8)
        _same_names("formats", set(widths), set(self.formats))
        for name, width in widths.items():
            if self.formats[name].width != width:
                raise ModelError(
                    f"format {name} must be {width} bits wide, not {self.formats[name].width}"
                )
        for prefix in block_names(self.config):
            self._check_state_formats(prefix)
        for operand, acc_frac in added_operands(self.config, self.formats):
            more = self.formats[operand].frac - acc_frac
            if more > 0:
                raise ModelError(
                    f"{operand} must not have more fractional bits than the accumulator it is "
                    f"added to, but has {more} more"
                )

    def _check_state_formats(self, prefix: str) -> None:
        frac = {name: self.formats[prefix + name].frac for name in BLOCK_WIDTHS}
        if frac["dA"] != STATE_SHIFT:
            raise ModelError(f"format {prefix}dA must have frac 7, not {frac['dA']}")
        for name in ("dBu", "h_wide"):
            if frac[name] != frac["h"] + STATE_SHIFT:
                raise ModelError(
                    f"format {prefix}{name} must have frac h + 7 = {frac['h'] + 7}, "
                    f"not {frac[name]}"
                )

    def _check_tables(self) -> None:
        names = {p + kind: (p, kind) for p in block_names(self.config) for kind in TABLES}
        _same_names("tables", set(names), set(self.tables))
        for name, (prefix, kind) in names.items():
            table = self.tables[name]
            x, y = (self.formats[prefix + end] for end in TABLES[kind])
            if (table.kind, table.x_format, table.y_format) != (kind, x, y):
                raise ModelError(f"table {name} must be {kind} from {x} to {y}")
            try:
                table.check()
            except ValueError as error:
                raise ModelError(f"table {name}: {error}") from error


def _same_names(what: str, wanted: set[str], got: set[str]) -> None:
    if wanted != got:
        raise ModelError(
            f"{what} must be exactly those of the config; "
            f"missing {sorted(wanted - got)[:5]}, unknown {sorted(got - wanted)[:5]}"
        )
