"""Choose power-of-two scales by reconstruction error on real inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from emamba.config import Fixed, ModelConfig
from emamba.fixed.model import (
    STATE_SHIFT,
    activation_widths,
    added_operands,
    block_names,
)
from emamba.fixed.tables import TABLES
from emamba.model import EXP, SILU, EMamba, FloatNumerics, PiecewiseLinear
from emamba.quantise.convert import parameter_values
from emamba.quantise.numerics import ObservingNumerics

__all__ = ["best_format", "calibrate", "fit_tables", "observe"]

# delta * A never exceeds 0 and exp is 0 below -4: Q4.8 covers [-8, 8) finely enough for the 2**-7
# units of dA. Both are wired, not calibrated.
_WIRED = {"dA": Fixed(9, STATE_SHIFT), "dt_A": Fixed(12, 8)}


def best_format(values: Tensor, width: int) -> Fixed:
    """The format of `width` bits with the least squared error on `values`.

    Saturation and rounding weigh alike, so a rare outlier does not cost everything else a bit.
    """
    largest = float(values.abs().max())
    if largest == 0.0:
        return Fixed(width, width - 1)
    covering = width - 1 - int(torch.tensor(largest).log2().ceil())
    candidates = [Fixed(width, covering + extra) for extra in range(-1, 4)]
    return min(candidates, key=lambda fmt: _squared_error(values.double(), fmt))


def _squared_error(values: Tensor, fmt: Fixed) -> float:
    rounded = torch.floor(values / fmt.lsb + 0.5).clamp(-fmt.max_int, fmt.max_int) * fmt.lsb
    return float((rounded - values).square().mean())


@torch.no_grad()
def observe(model: EMamba, maps: Tensor, batch: int = 256) -> ObservingNumerics:
    """Samples of every number the model makes from normalised `maps`; leaves it with floats."""
    observer = ObservingNumerics()
    model.set_numerics(observer)
    for chunk in torch.split(maps, batch):
        model(chunk)
    model.set_numerics(FloatNumerics())
    return observer


def fit_tables(model: EMamba, maps: Tensor) -> None:
    """Put tables fitted to the model's own arguments, from normalised `maps`, in place of its SiLU
    and exp."""
    observer = observe(model, maps)
    for spec in (SILU, EXP):
        _, result = TABLES[spec.name]
        arguments = [observer.samples(f"{at}{result}.argument") for at in block_names(model.config)]
        table = PiecewiseLinear(spec)
        table.fit(torch.cat(arguments).cpu().numpy())
        model.tables[spec.name] = table.to(maps.device)


def calibrate(model: EMamba, maps: Tensor) -> dict[str, Fixed]:
    """Every format of the integer model, from float activations on normalised `maps`.

    Leaves the model with float numerics.
    """
    observer = observe(model, maps)
    formats = {name: best_format(value, 8) for name, value in parameter_values(model).items()}
    for name, width in activation_widths(model.config).items():
        kind = name.rpartition(".")[2]
        if kind not in ("h_wide", "dBu"):
            formats[name] = _WIRED.get(kind) or best_format(observer.samples(name), width)
    return _align(model.config, formats)


def _align(config: ModelConfig, formats: dict[str, Fixed]) -> dict[str, Fixed]:
    """Tie the state's formats together and keep added operands no finer than accumulators."""
    for at in block_names(config):
        state = Fixed(24, formats[at + "h"].frac + STATE_SHIFT)
        formats |= {at + "h_wide": state, at + "dBu": state}
    for operand, acc_frac in added_operands(config, formats):
        fmt = formats[operand]
        formats[operand] = Fixed(fmt.width, min(fmt.frac, acc_frac))
    return formats
