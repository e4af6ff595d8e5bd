"""Kernels of the shipped image networks: C simulation, native engine and mirror on test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from csim import FULL, compile_kernel, load_kernel
from emamba.data import DataError
from emamba.engines import NativeEngine
from emamba.evaluate import in_batches, read_labelled
from emamba.export.presets import preset
from emamba.fixed import Mirror
from emamba.package import find_packages, load_package
from emamba.tasks import ImageTask

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
FOLDERS = [
    folder
    for folder in find_packages(ROOT / "models")
    if isinstance(load_package(folder).task, ImageTask)
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_test_images_give_equal_integers_everywhere(folder: Path) -> None:
    """All 10,000 of each network. A kernel compiles for a minute, so a sample is of random
    networks, in test_csim.py."""
    if not FULL:
        pytest.skip("takes minutes: make verify-kernels")
    package = load_package(folder)
    try:
        images = read_labelled(package.task, DATA, "test").inputs
    except DataError as error:
        pytest.skip(f"needs the data set: {error}")
    model, batch = package.model, package.encode(images)
    library = compile_kernel(
        model, preset("fast", model.config), flags=("-DEMAMBA_PLAIN_INTS",), optimise="-O2"
    )
    kernel = load_kernel(library, model)
    simulated = in_batches(lambda part: kernel.infer(part)[0], batch)
    np.testing.assert_array_equal(simulated, in_batches(Mirror(model).run, batch))
    native = NativeEngine(model, 1)
    np.testing.assert_array_equal(simulated, in_batches(native.run, batch))
    native.close()
