from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the [train] extra: make train-env")

import numpy as np
import torch

from emamba.config import Fixed
from emamba.model import EXP, SILU, EMamba, PiecewiseLinear
from emamba.quantise import calibrate, observe
from random_models import MARS_CONFIG


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def maps() -> torch.Tensor:
    """64 normalised frames with values such as real ones have."""
    return torch.randn(64, *MARS_CONFIG.input_shape)


def approximated(maps: torch.Tensor) -> EMamba:
    """A network as training leaves it: tables fitted to its own arguments."""
    network = EMamba(MARS_CONFIG)
    observer = observe(network, maps)
    for name, spec, stage in (("silu", SILU, "gate"), ("exp", EXP, "dA")):
        table = PiecewiseLinear(spec)
        table.fit(observer.samples(f"blocks.0.{stage}.argument").numpy().astype(np.float32))
        network.tables[name] = table
    return network


@pytest.fixture
def calibrated(maps: torch.Tensor) -> tuple[EMamba, dict[str, Fixed]]:
    network = approximated(maps)
    return network, calibrate(network, maps)
