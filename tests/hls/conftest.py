from __future__ import annotations

import pytest

import csim


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    if csim.compiler() is None:
        pytest.skip("needs a C++ compiler; install g++")


@pytest.fixture
def vendor() -> None:
    """Skips where the vendor's headers are not installed."""
    if csim.vendor_types() is None:
        pytest.skip("needs ap_int.h; pip install -r requirements-dev.txt")
