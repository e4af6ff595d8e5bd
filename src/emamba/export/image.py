"""The weights image: every parameter and table of a model as the words that the kernels load.

Sections follow the pipeline; each stage keeps its own and hands on the rest (`hls/include/emamba/
chain.hpp`). The image does not depend on how a kernel is folded. Layout: docs/kernels.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.fixed.intervals import ACC_WIDTH, SCAN_ACC_WIDTH
from emamba.fixed.model import UNIT_FRAC, IntegerModel, block_names
from emamba.fixed.tables import SLOPE_FRAC, IntegerTable

__all__ = [
    "TABLE_ROWS",
    "ImageError",
    "Words",
    "image_crc",
    "image_words",
    "table_arguments",
    "weights_image",
]

Words = npt.NDArray[np.uint64]
# Rows a table may have; shorter ones are padded.
TABLE_ROWS = 32


class ImageError(ValueError):
    """A model that the kernels cannot hold, although the mirror can."""


def weights_image(model: IntegerModel) -> Words:
    """All sections, 64-bit words in loading order; raises `ImageError` for too long a table."""
    return np.concatenate(list(_Sections(model).all()))


def image_words(config: ModelConfig) -> int:
    """Words of the weights image of any model of `config`."""
    c = config
    patch_embed = 1 + _byte_words(c.d_model * c.patch_dim) + _acc_words(c.d_model)
    block = {
        "range_norm": 1 + _byte_words(c.d_model) + _acc_words(c.d_model),
        "in_proj": 1 + _byte_words(2 * c.d_inner * c.d_model),
        "conv1d": 1 + c.d_conv * _byte_words(c.d_inner) + _acc_words(c.d_inner),
        "x_proj": 1 + _byte_words((c.dt_rank + 2 * c.d_state) * c.d_inner),
        "dt_proj": 1 + _byte_words(c.d_inner * c.dt_rank) + _acc_words(c.d_inner),
        "selective_scan": 1
        + TABLE_ROWS
        + c.d_inner * _byte_words(c.d_state)
        + _byte_words(c.d_inner),
        "gate": 1 + TABLE_ROWS,
        "out_proj": 1 + _byte_words(c.d_model * c.d_inner),
    }
    head_fc1 = 1 + c.n_tokens * _byte_words(c.head_width * c.d_model) + _acc_words(c.head_width)
    head_fc2 = 1 + _byte_words(c.n_outputs * c.head_width) + _acc_words(c.n_outputs)
    return patch_embed + c.n_layer * sum(block.values()) + head_fc1 + head_fc2


def image_crc(image: Words) -> int:
    """CRC-32 of the image's bytes, little-endian: what the kernels' `weights_crc` reads."""
    return zlib.crc32(image.astype("<u8").tobytes())


def table_arguments(kind: str, table: IntegerTable) -> npt.NDArray[np.int64]:
    """Arguments that the kernels tabulate, in order: SiLU's rise from the least, exp's fall from 0.

    exp's argument `delta * A` is never above 0.
    """
    top = table.x_format.max_int
    return -np.arange(top + 1) if kind == "exp" else np.arange(-top, top + 1)


class _Sections:
    def __init__(self, model: IntegerModel) -> None:
        self._model = model
        self._frac = {name: fmt.frac for name, fmt in model.formats.items()}

    def all(self) -> Iterator[Words]:
        frac = self._frac
        acc = frac["input"] + frac["patch_embed.weight"]
        yield _shifts(acc - frac["residual"])
        yield from self._matrix("patch_embed", acc)
        for at in block_names(self._model.config):
            yield from self._block(at)
        yield from self._head()

    def _block(self, at: str) -> Iterator[Words]:
        yield from self._range_norm(at)
        acc = self._acc(at + "norm", at + "in_proj.weight")
        yield _shifts(*(acc - self._frac[at + name] for name in ("x", "z")))
        yield _bytes(self._model.tensors[at + "in_proj.weight"])
        yield from self._conv1d(at)
        acc = self._acc(at + "u", at + "x_proj.weight")
        yield _shifts(*(acc - self._frac[at + name] for name in ("dt", "B", "C")))
        yield _bytes(self._model.tensors[at + "x_proj.weight"])
        acc = self._acc(at + "dt", at + "dt_proj.weight")
        yield _shifts(acc - self._frac[at + "delta"])
        yield from self._matrix(at + "dt_proj", acc)
        yield from self._scan(at)
        yield _shifts(
            self._acc(at + "y", at + "gate") - self._frac[at + "g"], self._table_shift(at + "silu")
        )
        yield _table("silu", self._model.tables[at + "silu"])
        acc = self._acc(at + "g", at + "out_proj.weight")
        residual = self._frac["residual"]
        yield _shifts(acc - residual, residual - acc)
        yield _bytes(self._model.tensors[at + "out_proj.weight"])

    def _range_norm(self, at: str) -> Iterator[Words]:
        acc = UNIT_FRAC + self._frac[at + "norm.gamma"]
        yield _shifts(acc - self._frac[at + "norm"])
        yield _bytes(self._model.tensors[at + "norm.gamma"])
        yield self._aligned(at + "norm.beta", acc)

    def _conv1d(self, at: str) -> Iterator[Words]:
        acc = self._acc(at + "x", at + "conv1d.weight")
        yield _shifts(acc - self._frac[at + "u"])
        for tap in self._model.tensors[at + "conv1d.weight"].T:
            yield _bytes(tap)
        yield self._aligned(at + "conv1d.bias", acc)

    def _scan(self, at: str) -> Iterator[Words]:
        frac = self._frac
        y = self._acc(at + "C", at + "h_wide")
        yield _shifts(
            self._acc(at + "delta", at + "A") - frac[at + "dt_A"],
            self._acc(at + "delta", at + "u", at + "B") - frac[at + "dBu"],
            y - frac[at + "y"],
            self._table_shift(at + "exp"),
            self._acc(at + "D", at + "u") - y,
            widths=(ACC_WIDTH, ACC_WIDTH, SCAN_ACC_WIDTH, ACC_WIDTH, SCAN_ACC_WIDTH),
        )
        yield _table("exp", self._model.tables[at + "exp"])
        for channel in self._model.tensors[at + "A"]:
            yield _bytes(channel)
        yield _bytes(self._model.tensors[at + "D"])

    def _head(self) -> Iterator[Words]:
        config, frac = self._model.config, self._frac
        acc = self._acc("head.input", "head.fc1.weight")
        yield _shifts(frac["residual"] - frac["head.input"], acc - frac["head.hidden"])
        weight = self._model.tensors["head.fc1.weight"]
        for token in np.split(weight, config.n_tokens, axis=1):
            yield _bytes(token)
        yield self._aligned("head.fc1.bias", acc)
        acc = self._acc("head.hidden", "head.fc2.weight")
        yield _shifts(acc - frac["output"])
        yield from self._matrix("head.fc2", acc)

    def _acc(self, *names: str) -> int:
        """Fractional bits of a product of these formats."""
        return sum(self._frac[name] for name in names)

    def _matrix(self, layer: str, acc: int) -> Iterator[Words]:
        yield _bytes(self._model.tensors[f"{layer}.weight"])
        yield self._aligned(f"{layer}.bias", acc)

    def _aligned(self, name: str, acc: int) -> Words:
        """An operand that is added to an accumulator, shifted to its fraction beforehand."""
        return _accs(self._model.tensors[name].astype(np.int64) << (acc - self._frac[name]))

    def _table_shift(self, name: str) -> int:
        table = self._model.tables[name]
        return table.x_format.frac + SLOPE_FRAC - table.y_format.frac


def _byte_words(count: int) -> int:
    return -(-count // 8)


def _acc_words(count: int) -> int:
    return -(-count // 2)


def _bytes(values: npt.NDArray[np.int8]) -> Words:
    return _packed(np.ascontiguousarray(values, np.int8).tobytes())


def _accs(values: npt.NDArray[np.int64]) -> Words:
    return _packed(values.astype("<i4").tobytes())


def _shifts(*shifts: int, widths: Sequence[int] = ()) -> Words:
    """Signed bytes, positive to the right; `widths` are the accumulators', 32 bits by default.

    A left shift by an accumulator's width or more can only be one of zeros (its bound says so),
    and one bit less does as well.
    """
    most = np.array(widths or [ACC_WIDTH] * len(shifts)) - 1
    return _packed(np.clip(np.array(shifts), -most, most).astype(np.int8).tobytes())


def _packed(raw: bytes) -> Words:
    return np.frombuffer(raw + bytes(-len(raw) % 8), "<u8").astype(np.uint64)


def _table(kind: str, table: IntegerTable) -> Words:
    """A word a row that holds arguments: their number, slope and intercept; padded with zeros."""
    arguments = table_arguments(kind, table)
    row = np.searchsorted(table.breakpoints, arguments, side="right")
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    counts = np.diff(starts, append=len(arguments))
    if len(starts) > TABLE_ROWS:
        raise ImageError(f"{kind} must have at most {TABLE_ROWS} rows in use, not {len(starts)}")
    used = row[starts]
    words = np.zeros(TABLE_ROWS, np.uint64)
    words[: len(used)] = (
        counts.astype(np.uint64)
        | (table.slope[used].astype(np.int64) & 0xFFFF).astype(np.uint64) << np.uint64(16)
        | (table.intercept[used].astype(np.int64) & 0xFFFFFFFF).astype(np.uint64) << np.uint64(32)
    )
    return words
