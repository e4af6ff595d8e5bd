from __future__ import annotations

from pathlib import Path

import pytest

from emamba.package import write_package
from random_models import MARS_CONFIG, pose_task, random_model

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def mars_data() -> Path:
    """The real MARS splits; tests that need them are skipped where they are missing."""
    if not (SHARED_DATA / "mars_test.npz").exists():
        pytest.skip(f"real MARS data not found in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def package_folder(tmp_path: Path) -> Path:
    """A package with random weights."""
    model = random_model(MARS_CONFIG, 0)
    return write_package(tmp_path / "models", "mars", "1", model, pose_task(), {"seed": 0}, {})
