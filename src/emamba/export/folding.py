"""How much of each stage works side by side: the numbers behind `config.hpp`'s `fold::`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from emamba.config import ConfigError, ModelConfig

__all__ = ["PADDED", "Folding", "Shape", "native_folding", "stage_shapes"]


@dataclass(frozen=True)
class Shape:
    """What one stage does to a token: a matrix of `rows` x `cols`, or `rows` channels.

    `cols` is 1 for a stage without a reduction; `pe` divides rows, `simd` divides columns.
    `copies` counts matrices of this shape that run side by side (in_proj has two).
    """

    rows: int
    cols: int
    copies: int = 1


# Stages that multiply by a matrix whose rows may be padded with zeros.
PADDED = {"patch_embed", "x_proj", "dt_proj", "out_proj", "head_fc1", "head_fc2"}


def stage_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The foldable shape of every stage, by the stage's name."""
    c = config
    return {
        "patch_embed": Shape(c.d_model, c.patch_dim),
        "range_norm": Shape(c.d_model, 1),
        "in_proj": Shape(c.d_inner, c.d_model, copies=2),
        "conv1d": Shape(c.d_inner, 1),
        "x_proj": Shape(c.dt_rank + 2 * c.d_state, c.d_inner),
        "dt_proj": Shape(c.d_inner, c.dt_rank),
        "selective_scan": Shape(c.d_inner, c.d_state),
        "gate": Shape(c.d_inner, 1),
        "out_proj": Shape(c.d_model, c.d_inner),
        "head_fc1": Shape(c.head_width, c.d_model),
        "head_fc2": Shape(c.n_outputs, c.head_width),
    }


@dataclass(frozen=True)
class Folding:
    """PE rows (or channels) and SIMD columns (or states) of each stage that work at once.

    `lanes[stage] = (pe, simd)`. FIFOs between blocks' stages whose tokens have `fifo_bram_bits`
    bits or more lie in block RAM, instead of registers and logic. Raises `ConfigError` unless SIMD
    divides the columns and, where rows are channels, PE divides them: what the kernels'
    `static_assert`s demand too.
    """

    config: ModelConfig
    lanes: dict[str, tuple[int, int]]
    fifo_bram_bits: int | None = None

    def __post_init__(self) -> None:
        shapes = stage_shapes(self.config)
        if set(self.lanes) != set(shapes):
            raise ConfigError(f"a folding must name exactly the stages {sorted(shapes)}")
        for stage, shape in shapes.items():
            pe, simd = self.lanes[stage]
            if simd < 1 or shape.cols % simd:
                raise ConfigError(f"{stage}: SIMD must divide {shape.cols} columns, not {simd}")
            if pe < 1 or (shape.rows % pe and stage not in PADDED):
                raise ConfigError(f"{stage}: PE must divide {shape.rows} channels, not {pe}")

    def pe(self, stage: str) -> int:
        """Rows or channels of `stage` at once."""
        return self.lanes[stage][0]

    def simd(self, stage: str) -> int:
        """Columns or states of `stage` at once."""
        return self.lanes[stage][1]

    def steps(self, stage: str) -> int:
        """Steps that one token (one frame for `head_fc2`) takes in `stage`."""
        shape = stage_shapes(self.config)[stage]
        return math.ceil(shape.rows / self.pe(stage)) * (shape.cols // self.simd(stage))

    def constants(self) -> dict[str, int]:
        """What `config.hpp` holds in `fold::`, by name."""
        values = {}
        for stage in stage_shapes(self.config):
            values[f"{stage}_pe"] = self.pe(stage)
            if stage == "selective_scan":
                values[f"{stage}_state"] = self.simd(stage)
            elif stage in PADDED | {"in_proj"}:
                values[f"{stage}_simd"] = self.simd(stage)
        return values | {"silu_copies": self.silu_copies}

    @property
    def silu_copies(self) -> int:
        """Look-up memories of SiLU: each has two ports."""
        return math.ceil(self.pe("gate") / 2)


class NativeFolding(Folding):
    """Every stage in one step, look-up memories once: loops as long as vector units like them."""

    @property
    def silu_copies(self) -> int:
        return 1


# Rows are padded with zeros to whole vectors of 16-bit lanes.
_VECTOR_LANES = 16


def native_folding(config: ModelConfig) -> Folding:
    """The folding that the native engine compiles."""
    lanes = {}
    for stage, shape in stage_shapes(config).items():
        rows = shape.rows
        if stage in PADDED:
            rows = math.ceil(rows / _VECTOR_LANES) * _VECTOR_LANES
        lanes[stage] = (rows, shape.cols)
    return NativeFolding(config, lanes)
