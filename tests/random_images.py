"""Random image classifiers, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emamba.config import ModelConfig
from emamba.package import write_package
from emamba.tasks import ImageTask
from random_models import random_model

GREY_CONFIG = ModelConfig(
    input_height=8,
    input_width=8,
    input_channels=1,
    n_outputs=10,
    d_model=12,
    n_layer=1,
    d_state=4,
    d_conv=3,
    expand=2,
    dt_rank=1,
    patch=2,
    head_width=16,
)
RGB_CONFIG = ModelConfig(
    input_height=8,
    input_width=12,
    input_channels=3,
    n_outputs=4,
    d_model=12,
    n_layer=1,
    d_state=4,
    d_conv=3,
    expand=2,
    dt_rank=1,
    patch=4,
    head_width=16,
)


def image_task(config: ModelConfig, seed: int = 0) -> ImageTask:
    """A task with plausible constants, whose classes are called class-0, class-1 and so on."""
    rng = np.random.default_rng(seed)
    channels, count = config.input_channels, config.n_outputs
    return ImageTask(
        shape=config.input_shape,
        classes=tuple(f"class-{number}" for number in range(count)),
        input_offset=tuple(rng.uniform(0.3, 0.6, channels).tolist()),
        input_scale=tuple(rng.uniform(0.2, 0.4, channels).tolist()),
        output_offset=tuple(rng.normal(0, 1, count).tolist()),
        output_scale=tuple(rng.uniform(0.05, 0.1, count).tolist()),
        temperature=1.5,
    )


def write_images(root: Path, name: str, version: str, config: ModelConfig, seed: int = 0) -> Path:
    """An image package with random weights."""
    task = image_task(config, seed)
    return write_package(root, name, version, random_model(config, seed), task, {"seed": seed}, {})
