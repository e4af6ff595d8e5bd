"""Modelled resources of a folded top, stage by stage, and its share of the ZCU102's.

Counts follow what the C++ does; the unit costs are estimates before any synthesis, with reasons
and spread in docs/kernel-model.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import reduce
from operator import add

from emamba.config import ModelConfig
from emamba.export.folding import Folding, Shape, stage_shapes
from emamba.export.pipeline import in_bram, pipeline, streams
from emamba.export.timing import frame_words, output_words
from emamba.fixed.intervals import ACC_WIDTH, SCAN_ACC_WIDTH
from emamba.fixed.model import ACTIVATION_WIDTHS, BLOCK_WIDTHS

__all__ = ["ZCU102", "Resources", "resources", "stage_resources", "total"]


@dataclass(frozen=True)
class Resources:
    """DSP48E2 slices, LUTs (memories in LUTs included), flip-flops, 36-Kbit block RAMs."""

    dsp: int = 0
    lut: int = 0
    ff: int = 0
    bram36: float = 0.0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.dsp + other.dsp,
            self.lut + other.lut,
            self.ff + other.ff,
            self.bram36 + other.bram36,
        )

    def __mul__(self, count: int) -> Resources:
        return Resources(self.dsp * count, self.lut * count, self.ff * count, self.bram36 * count)

    def shares(self) -> tuple[float, float, float, float]:
        """Fraction of the ZCU102's (dsp, lut, ff, bram36)."""
        dsp, lut, ff, bram36 = (
            mine / all_ for mine, all_ in zip(astuple(self), astuple(ZCU102), strict=True)
        )
        return (dsp, lut, ff, bram36)


# XCZU9EG, AMD DS891.
ZCU102 = Resources(dsp=2_520, lut=274_080, ff=548_160, bram36=912)

# Unit costs, docs/kernel-model.md.
_INT8_PRODUCT = Resources(lut=60, ff=32)
_DIVIDER = Resources(lut=32 * 33, ff=32 * 96)
_LOOP = Resources(lut=250, ff=300)  # counters, states, handshakes, header and status
_LOAD_LOOP = Resources(lut=130, ff=130)  # counters, a word shifted out byte by byte
_LOAD_TABLE = Resources(dsp=1, lut=450, ff=300)
_CRC = Resources(lut=400, ff=100)
_SHELL = Resources(lut=800, ff=1_050)  # registers, packets, cycle counter; CRCs apart
_SYSTEM = Resources(lut=6_000, ff=8_000, bram36=4)  # DMA, interconnect, interrupts, reset
_MEMORY_BITS_IN_LUTS = 1_024
_SRL_FIFO_BITS, _SRL_FIFO_DEPTH = 1_024, 2
_DSP_PORTS = (27, 18)
_RAMB18 = ((512, 36), (1_024, 18), (2_048, 9), (4_096, 4), (8_192, 2), (16_384, 1))

_WIDTHS = ACTIVATION_WIDTHS | BLOCK_WIDTHS
_RESULTS = {
    "patch_embed": "residual",
    "in_proj": "x",
    "x_proj": "B",
    "dt_proj": "delta",
    "out_proj": "residual",
    "head_fc1": "head.hidden",
    "head_fc2": "output",
}
_WITH_BIAS = ("patch_embed", "dt_proj", "head_fc1", "head_fc2")


def resources(
    config: ModelConfig, folding: Folding, fifo_depths: Mapping[str, int]
) -> dict[str, Resources]:
    """Resources of each process, of all `fifos`, of the kernel's `shell` and of the `system`."""
    parts = {"dispatch": _LOOP + _CRC}
    for process in pipeline(config):
        stage = process.stage
        parts[process.name] = (
            _patches(config)
            if stage == "patches"
            else stage_resources(config, stage, *folding.lanes[stage])
        )
    words = output_words(config)
    parts["collect"] = _LOOP + _mux(words, 64) + Resources(ff=64 * words)
    chains = _fifo(2, 64) * (len(pipeline(config)) + 1)
    tokens = (
        _bram_fifo(fifo_depths[s.name], s.bits)
        if in_bram(s, folding)
        else _fifo(fifo_depths[s.name], s.bits)
        for s in streams(config)
    )
    parts["fifos"] = reduce(add, tokens, chains)
    return parts | {"shell": _SHELL + _CRC * 2, "system": _SYSTEM}


def total(parts: Mapping[str, Resources]) -> Resources:
    """The sum of what `resources` returns."""
    return reduce(add, parts.values(), Resources())


def stage_resources(config: ModelConfig, stage: str, pe: int, simd: int) -> Resources:
    """Resources of one stage with `pe` rows or channels and `simd` columns or states at once."""
    shape = stage_shapes(config)[stage]
    match stage:
        case "range_norm":
            logic = _range_norm(config, pe)
        case "conv1d":
            logic = _conv1d(config, pe)
        case "gate":
            logic = _gate(config, pe)
        case "selective_scan":
            logic = _selective_scan(config, pe, simd)
        case _:
            logic = _matvec(config, stage, shape, pe, simd)
    return _LOOP + _LOAD_LOOP + logic


def _matvec(config: ModelConfig, stage: str, shape: Shape, pe: int, simd: int) -> Resources:
    lanes = pe * shape.copies
    row_folds, col_folds = math.ceil(shape.rows / pe), shape.cols // simd
    tokens = config.n_tokens if stage == "head_fc1" else 1
    width = _WIDTHS[_RESULTS[stage]]
    weight = _memory(tokens * row_folds * col_folds, 8) + Resources(lut=1)
    parts = (_product(8, 8, added=True) + weight) * (lanes * simd)
    # A slice adds the other product of its pair.
    parts += (_adder_tree(math.ceil(simd / 2), 16) + _adder(ACC_WIDTH)) * lanes
    parts += _requantise(ACC_WIDTH, width) * lanes
    parts += _mux(col_folds, 8) * simd
    parts += Resources(ff=8 * shape.cols + width * shape.rows * shape.copies)
    if stage in _WITH_BIAS:
        parts += _LOAD_LOOP + _memory(row_folds, ACC_WIDTH) * lanes
    if stage == "out_proj":
        old = _WIDTHS["residual"]
        parts += (_mux(row_folds, old) + _shifter(ACC_WIDTH)) * lanes
        parts += Resources(ff=old * shape.rows)
    if stage == "head_fc1":
        parts += (_mux(col_folds, _WIDTHS["residual"]) + _requantise(ACC_WIDTH, 8)) * simd
        parts += Resources(lut=row_folds // 4, ff=row_folds) * (ACC_WIDTH * lanes)
        parts += Resources(ff=_WIDTHS["residual"] * shape.cols)
    return parts


def _range_norm(config: ModelConfig, pe: int) -> Resources:
    width, channels = _WIDTHS["residual"], config.d_model
    extreme = Resources(lut=width // 2 + width // 2, ff=width)  # a comparison and a choice
    statistics = _adder_tree(channels, width) + extreme * (2 * (channels - 1))
    # The mean divides by a constant: a multiplication by its reciprocal.
    statistics += _DIVIDER + _product(32, 33, added=False) + _shifter(17) * 2
    fold = channels // pe
    lane = _mux(fold, width) + _adder(17) + _shifter(ACC_WIDTH)
    lane += _product(32, 18, added=False) + _adder(ACC_WIDTH) + _product(17, 8, added=True)
    lane += _requantise(ACC_WIDTH, 8) + _memory(fold, 8) + _memory(fold, ACC_WIDTH)
    lane += Resources(lut=2 * width)  # x waits for the divider in shift registers
    return statistics + lane * pe + _LOAD_LOOP + Resources(ff=(width + 8) * channels)


def _conv1d(config: ModelConfig, pe: int) -> Resources:
    taps, fold = config.d_conv, config.d_inner // pe
    lane = (_product(8, 8, added=True) + _memory(fold, 8)) * taps
    lane += _memory(fold, 8) * (taps - 1) + _memory(fold, ACC_WIDTH) + _mux(fold, 8)
    lane += _adder_tree(math.ceil(taps / 2) + 1, 17) + _requantise(ACC_WIDTH, 8)
    return lane * pe + _LOAD_LOOP + Resources(ff=2 * 8 * config.d_inner)


def _gate(config: ModelConfig, pe: int) -> Resources:
    y, silu, fold = _WIDTHS["y"], _WIDTHS["gate"], config.d_inner // pe
    lane = _mux(fold, y + 8) + _product(y, silu, added=False) + _requantise(ACC_WIDTH, 8)
    tables = _memory(2**8 - 1, silu) * math.ceil(pe / 2)  # two ports each
    return lane * pe + tables + _LOAD_TABLE + Resources(ff=(y + 8 + 8) * config.d_inner)


def _selective_scan(config: ModelConfig, pe: int, simd: int) -> Resources:
    h, h_wide, y = _WIDTHS["h"], _WIDTHS["h_wide"], _WIDTHS["y"]
    fold = config.d_inner // pe
    steps = fold * (config.d_state // simd)
    lane = _product(15, 8, added=False) + _requantise(ACC_WIDTH, _WIDTHS["dBu"])
    lane += _product(_WIDTHS["dA"], h, added=True) + Resources(lut=2 * h_wide, ff=h_wide)
    lane += _product(8, h_wide, added=True) + Resources(lut=h_wide + 2 * h, ff=h)
    lane += _memory(steps, h)
    channel = _product(8, 8, added=False) * 2 + _shifter(SCAN_ACC_WIDTH) + _memory(fold, 8)
    channel += _adder_tree(simd, ACC_WIDTH) + _adder(SCAN_ACC_WIDTH)
    channel += _requantise(SCAN_ACC_WIDTH, y) + _mux(fold, 16)
    channel += _memory(steps << (_WIDTHS["delta"] - 1), 8 * simd)  # a row for each delta
    loading = _LOAD_TABLE + _INT8_PRODUCT + _requantise(ACC_WIDTH, _WIDTHS["dt_A"])
    loading += _memory(1 << (_WIDTHS["dt_A"] - 1), 8)
    operands = _mux(config.d_state // simd, 16) * simd
    registers = Resources(ff=(8 + 8 + y) * config.d_inner + 16 * config.d_state)
    return lane * (pe * simd) + channel * pe + loading + operands + registers


def _patches(config: ModelConfig) -> Resources:
    """Every byte of a frame is a register, since a word's eight bytes land in any patches."""
    frame = Resources(lut=frame_words(config), ff=64 * frame_words(config))
    return _LOOP + frame + _mux(config.n_tokens, 8 * config.patch_dim)


def _product(a_bits: int, b_bits: int, *, added: bool) -> Resources:
    """A multiplier: in DSPs if an addition follows or an operand exceeds 8 bits, else in LUTs.

    A slice takes one product; two int8 products are not packed into one.
    """
    if not added and max(a_bits, b_bits) <= 8:
        return _INT8_PRODUCT
    wide, narrow = max(a_bits, b_bits), min(a_bits, b_bits)
    slices = math.ceil(wide / _DSP_PORTS[0]) * math.ceil(narrow / _DSP_PORTS[1])
    return Resources(dsp=slices, ff=wide + narrow if slices > 1 else 8)


def _adder(bits: int) -> Resources:
    return Resources(lut=bits, ff=bits)


def _adder_tree(operands: int, bits: int) -> Resources:
    """A sum of `operands`, a register every second level."""
    lut = (operands - 1) * (bits + (operands - 1).bit_length())
    return Resources(lut=lut, ff=lut // 2)


def _shifter(bits: int) -> Resources:
    """By any number of places: a LUT takes two levels of a bit."""
    return Resources(lut=math.ceil((bits - 1).bit_length() / 2 * bits), ff=bits)


def _requantise(acc_bits: int, bits: int) -> Resources:
    """Shift left, add a half (decoded from the shift), shift right, saturate."""
    rounding = Resources(lut=2 * acc_bits, ff=acc_bits)
    return _shifter(acc_bits) * 2 + rounding + Resources(lut=2 * bits, ff=bits)


def _mux(inputs: int, bits: int) -> Resources:
    """One of `inputs` words: a LUT chooses among four bits."""
    if inputs == 1:
        return Resources()
    return Resources(lut=math.ceil(inputs / 4) * bits, ff=bits)


def _memory(depth: int, bits: int) -> Resources:
    """One read and one write port: registers, LUTs or block RAM, by size."""
    if depth == 1:
        return Resources(ff=bits)
    if depth * bits > _MEMORY_BITS_IN_LUTS:
        return Resources(bram36=_ramb18(depth, bits) / 2)
    # RAM32M16 holds 32 rows of 14 bits in 8 LUTs, RAM64M8 64 rows of 7.
    lut = 8 * bits / 14 if depth <= 32 else 8 * bits / 7 * math.ceil(depth / 64)
    return Resources(lut=math.ceil(lut), ff=bits)


def _fifo(depth: int, bits: int) -> Resources:
    """Registers, shift registers or block RAM, as Vitis HLS' defaults for FIFOs have it."""
    if depth <= _SRL_FIFO_DEPTH:
        return Resources(lut=bits + 12, ff=2 * bits + 8)
    if depth * bits <= _SRL_FIFO_BITS:
        return Resources(lut=bits * math.ceil(depth / 32) + 12, ff=16)
    return _bram_fifo(depth, bits)


def _bram_fifo(depth: int, bits: int) -> Resources:
    """A FIFO in block RAM, its output registered."""
    return Resources(lut=40, ff=bits + 40, bram36=_ramb18(depth, bits) / 2)


def _ramb18(depth: int, bits: int) -> int:
    """18-Kbit halves in their best shape."""
    return min(math.ceil(depth / rows) * math.ceil(bits / width) for rows, width in _RAMB18)
