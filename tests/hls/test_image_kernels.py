"""Kernels of the shipped image networks: C simulation, native engine and mirror on test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from csim import compile_kernel, load_kernel
from emamba.engines import NativeEngine
from emamba.evaluate import in_batches
from emamba.export.presets import preset
from emamba.fixed import Mirror
from shipped_images import FOLDERS, whole_test_split


@pytest.mark.parametrize(("name", "images"), [("fast", 10_000), ("small", 500)])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_test_images_give_equal_integers_everywhere(folder: Path, name: str, images: int) -> None:
    """All 10,000 of each network's `fast`; test_csim.py has the sample, random networks."""
    model, batch = whole_test_split(folder)
    batch = batch[:images]
    library = compile_kernel(
        model, preset(name, model.config), flags=("-DEMAMBA_PLAIN_INTS",), optimise="-O2"
    )
    kernel = load_kernel(library, model)
    simulated = in_batches(lambda part: kernel.infer(part)[0], batch)
    np.testing.assert_array_equal(simulated, in_batches(Mirror(model).run, batch))
    native = NativeEngine(model, 1)
    np.testing.assert_array_equal(simulated, in_batches(native.run, batch))
    native.close()
