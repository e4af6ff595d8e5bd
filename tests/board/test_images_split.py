"""Test images through an emulated board with an image network's own bitstream."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest

from board.parts import open_driver
from emamba.compiler import Compiler, cache_folder
from emamba.data import DataError
from emamba.evaluate import in_batches, read_labelled
from emamba.overlay import emulated_overlay
from emamba.package import find_packages, load_package
from emamba.simulated import build_simulation
from emamba.tasks import ImageTask

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
FULL = os.environ.get("EMAMBA_VERIFY") == "full"
PRESET = "fast"
FOLDERS = [
    folder
    for folder in find_packages(ROOT / "models")
    if isinstance(load_package(folder).task, ImageTask)
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_the_test_split_gives_the_mirrors_bits(folder: Path, tmp_path: Path) -> None:
    """All 10,000 of each network; its kernel compiles for a minute."""
    pynq = pytest.importorskip("pynq", reason="needs pynq")
    if not FULL:
        pytest.skip("takes minutes: make verify-board")
    package = load_package(folder)
    try:
        images = read_labelled(package.task, DATA, "test").inputs
    except DataError as error:
        pytest.skip(f"needs the data set: {error}")
    model, batch = package.model, package.encode(images)
    library = build_simulation(model.config, PRESET, Compiler.find(), cache_folder())
    overlay = emulated_overlay(model, PRESET, tmp_path / "overlay")
    device = importlib.import_module("emamba_service.emulator.device").EmulatedDevice(library)
    pynq.Device.active_device = device
    opened = open_driver(device, model, overlay)
    outputs = in_batches(lambda part: opened.driver.infer(part).outputs, batch)
    np.testing.assert_array_equal(outputs, in_batches(opened.mirror.run, batch))
    opened.host.close()
    device.close()
