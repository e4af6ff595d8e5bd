"""Random integer models of any shape of the family, for tests."""

from __future__ import annotations

import numpy as np

from emamba.config import Fixed, ModelConfig
from emamba.fixed import IntegerModel
from emamba.fixed.model import STATE_SHIFT, activation_widths, block_names, tensor_shapes
from emamba.fixed.tables import derive_table
from emamba.tasks import PoseTask

MARS_CONFIG = ModelConfig(
    input_height=8,
    input_width=8,
    input_channels=5,
    n_outputs=57,
    d_model=20,
    n_layer=2,
    d_state=8,
    d_conv=4,
    expand=2,
    dt_rank=2,
    patch=2,
    head_width=24,
)


def random_formats(config: ModelConfig, rng: np.random.Generator) -> dict[str, Fixed]:
    """Formats whose operands align, with scales near those of trained models."""
    formats = {
        name: Fixed(width, int(rng.integers(3, 6)) if width == 8 else width - 5)
        for name, width in activation_widths(config).items()
    }
    formats["residual"] = Fixed(16, int(rng.integers(7, 10)))
    for at in block_names(config):
        h = int(rng.integers(4, 9))
        formats |= {
            at + "h": Fixed(17, h),
            at + "h_wide": Fixed(24, h + STATE_SHIFT),
            at + "dBu": Fixed(24, h + STATE_SHIFT),
            at + "dA": Fixed(9, 7),
            at + "dt_A": Fixed(12, 8),
        }
    for name in tensor_shapes(config):
        weight = not name.endswith((".bias", ".beta", ".D"))
        formats[name] = Fixed(8, int(rng.integers(6, 9)) if weight else int(rng.integers(2, 5)))
    return formats


def random_model(config: ModelConfig, seed: int) -> IntegerModel:
    """A model with random weights over the full int8 range."""
    rng = np.random.default_rng(seed)
    formats = random_formats(config, rng)
    tensors = {
        name: rng.integers(-127, 128, shape).astype(np.int8)
        for name, shape in tensor_shapes(config).items()
    }
    tables = {}
    for at in block_names(config):
        tensors[at + "A"] = -np.abs(tensors[at + "A"])
        for kind, x, y in (("silu", "z", "gate"), ("exp", "dt_A", "dA")):
            tables[at + kind] = derive_table(
                kind, *table_lines(kind), formats[at + x], formats[at + y]
            )
    return IntegerModel(config, formats, tensors, tables)


def table_lines(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    knots = np.linspace(-7, 7, 18) if kind == "silu" else np.linspace(-4, 1, 12)
    values = knots / (1 + np.exp(-knots)) if kind == "silu" else np.exp(knots)
    slope = np.diff(values) / np.diff(knots)
    intercept = values[:-1] - slope * knots[:-1]
    above = (1.0, 0.0) if kind == "silu" else (0.0, values[-1])
    return knots, np.r_[0, slope, above[0]], np.r_[0, intercept, above[1]]


def pose_task() -> PoseTask:
    """A task with plausible normalisation constants."""
    return PoseTask(
        input_offset=(0.0, 1.7, 0.3, 0.0, 3.0),
        input_scale=(0.67, 0.5, 0.67, 0.5, 1.0),
        output_offset=tuple(0.01 * i for i in range(57)),
        output_scale=tuple(0.1 + 0.001 * i for i in range(57)),
    )
