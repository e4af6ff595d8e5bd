"""The shipped image networks, and all test images as each takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from emamba.data import DataError
from emamba.evaluate import read_labelled
from emamba.fixed import IntegerModel
from emamba.package import find_packages, load_package
from emamba.tasks import ImageTask
from verify_depth import FULL

__all__ = ["FOLDERS", "whole_test_split"]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
FOLDERS = [
    folder
    for folder in find_packages(ROOT / "models")
    if isinstance(load_package(folder).task, ImageTask)
]


def whole_test_split(folder: Path) -> tuple[IntegerModel, npt.NDArray[np.int8]]:
    """A package's network and its 10,000 frames; skips the test where they are not asked for, or
    not there."""
    if not FULL:
        pytest.skip("takes minutes, as its kernel compiles: make verify-kernels verify-board")
    package = load_package(folder)
    try:
        images = read_labelled(package.task, DATA, "test").inputs
    except DataError as error:
        pytest.skip(f"needs the data set: {error}")
    return package.model, package.encode(images)
