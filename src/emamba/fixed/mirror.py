"""The mirror: a package's integers, run stage by stage in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.fixed import stages
from emamba.fixed.arithmetic import Ints, Requantiser
from emamba.fixed.model import IntegerModel, block_names
from emamba.fixed.stages import Parameter

__all__ = ["Mirror", "Trace", "check_batch"]

# Frames are independent; this many at a time bound the memory of a large batch.
_CHUNK = 128


@dataclass(frozen=True)
class Trace:
    """Every stage's integers for one batch, by format name, and how many values saturated.

    The residual stream is traced after each stage that writes it: `patch_embed` and
    `blocks.<i>.out_proj`.
    """

    stages: dict[str, Ints]
    saturated: dict[str, int]
    seen: dict[str, int]


class Mirror:
    """Runs an `IntegerModel`; stateless between calls and safe to share between threads."""

    def __init__(self, model: IntegerModel) -> None:
        self.model = model
        self._q = Requantiser(model.formats)
        self._parameters = {
            name: Parameter(tensor.astype(np.int32), model.formats[name].frac)
            for name, tensor in model.tensors.items()
        }

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """int8 (b, height, width, channels) in format `input` -> int16 (b, n_outputs).

        Raises `ValueError` for another shape or dtype, or for -128, which no format holds.
        """
        check_batch(batch, self.model.config)
        outputs = np.empty((len(batch), self.model.config.n_outputs), np.int16)
        for start in range(0, len(batch), _CHUNK):
            frames = slice(start, start + _CHUNK)
            *_, (_, outputs[frames]) = self._stages(batch[frames].astype(np.int32), self._q)
        return outputs

    def trace(self, batch: npt.NDArray[np.int8]) -> Trace:
        """`run`, keeping every stage's result and counting saturations."""
        check_batch(batch, self.model.config)
        q = Requantiser(self.model.formats, counting=True)
        results = dict(self._stages(batch.astype(np.int32), q))
        return Trace(results, dict(q.saturated), dict(q.seen))

    def _stages(self, maps: Ints, q: Requantiser) -> Iterator[tuple[str, Ints]]:
        """Each stage's name and result, in pipeline order; the last is the output."""
        config, formats, p = self.model.config, self.model.formats, self._parameters
        tokens = stages.patches(maps, config.patch)
        x = stages.patch_embed(
            tokens, formats["input"], p["patch_embed.weight"], p["patch_embed.bias"], q
        )
        yield "patch_embed", x
        for prefix in block_names(config):
            for name, value in self._block(x, prefix, q):
                x = value
                yield prefix + name, value
        fc1, fc2 = (
            (p[f"head.{layer}.weight"], p[f"head.{layer}.bias"]) for layer in ("fc1", "fc2")
        )
        flat, hidden, output = stages.head(x, fc1, fc2, q)
        yield from (("head.input", flat), ("head.hidden", hidden), ("output", output))

    def _block(self, residual: Ints, at: str, q: Requantiser) -> Iterator[tuple[str, Ints]]:
        """One block's stages; the last is the new residual stream."""
        f, p, tables = self.model.formats, self._parameters, self.model.tables
        norm = stages.range_norm(
            residual, p[f"{at}norm.gamma"], p[f"{at}norm.beta"], q, at + "norm"
        )
        yield "norm", norm
        x, z = stages.in_proj(norm, f[at + "norm"], p[f"{at}in_proj.weight"], q, at)
        yield from (("x", x), ("z", z))
        u = stages.conv1d(
            x, f[at + "x"], p[f"{at}conv1d.weight"], p[f"{at}conv1d.bias"], q, at + "u"
        )
        yield "u", u
        dt, B, C = stages.x_proj(
            u, f[at + "u"], p[f"{at}x_proj.weight"], self.model.config.dt_rank, q, at
        )
        yield from (("dt", dt), ("B", B), ("C", C))
        delta = stages.dt_proj(
            dt, f[at + "dt"], p[f"{at}dt_proj.weight"], p[f"{at}dt_proj.bias"], q, at + "delta"
        )
        yield "delta", delta
        scan = stages.ScanInputs(u, delta, B, C)
        y, h = stages.selective_scan(scan, p[at + "A"], p[at + "D"], tables[at + "exp"], q, at)
        yield from (("h", h), ("y", y))
        g = stages.gate(y, z, tables[at + "silu"], q, at)
        yield "g", g
        yield "out_proj", stages.out_proj(g, f[at + "g"], p[f"{at}out_proj.weight"], residual, q)


def check_batch(batch: npt.NDArray[np.int8], config: ModelConfig) -> None:
    """Raise `ValueError` unless `batch` is what an engine takes: shape, dtype, symmetric range."""
    if batch.dtype != np.int8 or batch.ndim != 4 or batch.shape[1:] != config.input_shape:
        raise ValueError(
            f"batch must be int8 [n, {', '.join(map(str, config.input_shape))}], "
            f"not {batch.dtype} {list(batch.shape)}"
        )
    if batch.size and int(batch.min()) < -127:
        raise ValueError("batch must lie in -127..127, but holds -128")
