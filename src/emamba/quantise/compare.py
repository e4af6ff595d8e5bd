"""A float network and its integer twin, stage by stage on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emamba.edges import quantise
from emamba.fixed import IntegerModel, Mirror
from emamba.fixed.model import activation_widths, block_names
from emamba.model import EMamba, FloatNumerics
from emamba.model.fused import Fusion

__all__ = ["StageError", "compare_stages"]


@dataclass(frozen=True)
class StageError:
    """How far the mirror's stage is from the float network's, over all values of all frames.

    `relative_error` is the root mean square difference over the root mean square of the float
    values; `saturated` is the share of values that met the format's end.
    """

    stage: str
    format: str
    relative_error: float
    saturated: float


class _Keeping(FloatNumerics):
    """Keeps every activation, by name, in the order of calls."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Tensor]] = {}

    def activation(self, name: str, value: Tensor) -> Tensor:
        self.kept.setdefault(name, []).append(value)
        return value

    def fusion(self, block: str, tables: nn.ModuleDict) -> Fusion | None:
        return None

    def table(self, name: str, function: nn.Module, x: Tensor) -> Tensor:
        return self.activation(name, super().table(name, function, x))


@torch.no_grad()
def compare_stages(
    network: EMamba, model: IntegerModel, maps: npt.NDArray[np.float64]
) -> list[StageError]:
    """Errors of every stage on normalised `maps` (n, height, width, channels).

    Errors add up along the pipeline: each stage is fed by the one before, not by the float's.
    """
    numerics = _Keeping()
    network.set_numerics(numerics)
    network(torch.from_numpy(maps).to(network.patch_embed.weight.dtype))
    network.set_numerics(FloatNumerics())
    trace = Mirror(model).trace(quantise(maps, model.formats["input"]).astype(np.int8))
    exact = _by_stage(numerics.kept, model)
    errors = []
    for stage, integers in trace.stages.items():
        name = stage if stage in model.formats else "residual"
        fmt = model.formats[name]
        want = exact[stage].double().numpy()
        difference = integers.reshape(want.shape) * fmt.lsb - want
        relative = float(np.sqrt(np.square(difference).mean() / np.square(want).mean()))
        share = trace.saturated.get(name, 0) / max(trace.seen.get(name, 0), 1)
        errors.append(StageError(stage, str(fmt), relative, share))
    return errors


def _by_stage(kept: dict[str, list[Tensor]], model: IntegerModel) -> dict[str, Tensor]:
    """Float values by the mirror's stage names; of a state, the last."""
    stages = {name: kept[name][-1] for name in activation_widths(model.config)}
    writers = ["patch_embed", *(at + "out_proj" for at in block_names(model.config))]
    return stages | dict(zip(writers, kept["residual"], strict=True))
