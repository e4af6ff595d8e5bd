"""The board's rooms work where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires, version

import pytest

TORCHLESS = [
    "emamba.commands",
    "emamba.data",
    "emamba.engines",
    "emamba.evaluate",
    "emamba.package",
    "emamba_service.app",
    "emamba_client",
]


@pytest.mark.parametrize("module", TORCHLESS)
def test_imports_without_torch(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {module}"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)


def test_client_imports_neither_service_nor_core() -> None:
    code = (
        "import sys; sys.modules['emamba'] = sys.modules['emamba_service'] = None; "
        "import emamba_client.cli"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)


def test_the_three_distributions_have_one_version() -> None:
    versions = {version(name) for name in ("emamba", "emamba-service", "emamba-client")}
    assert len(versions) == 1
    assert f"emamba=={versions.pop()}" in (requires("emamba-service") or [])
