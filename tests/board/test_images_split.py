"""Test images through an emulated board with an image network's own bitstream."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from board.parts import open_driver
from emamba.compiler import Compiler, cache_folder
from emamba.evaluate import in_batches
from emamba.overlay import emulated_overlay
from emamba.simulated import build_simulation
from shipped_images import FOLDERS, whole_test_split

PRESET = "fast"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_the_test_split_gives_the_mirrors_bits(folder: Path, tmp_path: Path) -> None:
    """All 10,000 of each network."""
    pynq = pytest.importorskip("pynq", reason="needs pynq")
    model, batch = whole_test_split(folder)
    library = build_simulation(model.config, PRESET, Compiler.find(), cache_folder())
    overlay = emulated_overlay(model, PRESET, tmp_path / "overlay")
    device = importlib.import_module("emamba_service.emulator.device").EmulatedDevice(library)
    pynq.Device.active_device = device
    opened = open_driver(device, model, overlay)
    outputs = in_batches(lambda part: opened.driver.infer(part).outputs, batch)
    np.testing.assert_array_equal(outputs, in_batches(opened.mirror.run, batch))
    opened.host.close()
    device.close()
