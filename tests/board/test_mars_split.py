"""Real radar frames through the board engine, beside the mirror."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board.parts import open_driver
from emamba.data import DataError, read_mars
from emamba.overlay import open_overlay
from emamba.package import Package

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FULL = os.environ.get("EMAMBA_VERIFY") == "full"


def test_the_test_split_gives_the_mirrors_bits(
    new_device: Callable[[], Any], mars: Package, overlay_folder: Path
) -> None:
    """All 7,984 frames under `make verify-board`, every sixteenth otherwise."""
    try:
        split = read_mars(SHARED, "test")
    except DataError as error:
        pytest.skip(f"needs the MARS data: {error}")
    batch = mars.encode(split.features)[:: 1 if FULL else 16]
    opened = open_driver(new_device(), mars.model, open_overlay(overlay_folder))
    np.testing.assert_array_equal(opened.driver.infer(batch).outputs, opened.mirror.run(batch))
    opened.host.close()
