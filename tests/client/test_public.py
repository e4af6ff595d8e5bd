"""The public face: what is exported, and what the wheel carries."""

from __future__ import annotations

import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import emamba_client

CLIENT = Path(__file__).parents[2] / "client"


def test_exports_are_sorted_and_exist() -> None:
    def isort_order(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert emamba_client.__all__ == sorted(emamba_client.__all__, key=isort_order)
    assert all(hasattr(emamba_client, name) for name in emamba_client.__all__)


def test_exports_are_the_whole_face() -> None:
    modules = {"client", "errors", "results", "retry", "samples", "stream"}
    loaded = {"batches", "cli", "inputs", "render", "annotations", "radar", "sources", "live"}
    loaded |= {"bench", "verify", "recording", "command_line", "histogram"}
    public = {name for name in vars(emamba_client) if not name.startswith("_")}
    assert public - modules - loaded == set(emamba_client.__all__) - {"__version__"}


def test_version_is_the_installed_one() -> None:
    assert emamba_client.__version__ == version("emamba-client")


def test_every_error_is_a_client_error() -> None:
    errors = vars(emamba_client.errors).values()
    raised = [e for e in errors if isinstance(e, type) and issubclass(e, Exception)]
    assert all(issubclass(e, emamba_client.ClientError) for e in raised)
    tree = emamba_client.errors.__doc__ or ""
    assert all(f"{e.__name__} " in tree or f"{e.__name__}\n" in tree for e in raised)
    assert {e.__name__ for e in raised} <= set(emamba_client.__all__)


def test_wheel_carries_sample_and_its_licence(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="builds a wheel with hatchling")
    built = next(wheel.WheelBuilder(str(CLIENT)).build(directory=str(tmp_path)))
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    samples = {name.rpartition("/")[2] for name in names if "/samples/" in name}
    assert samples == {"__init__.py", "mars_sample.npz", "README.md", "LICENSE-MARS"}
    assert "emamba_client/py.typed" in names
    assert not [name for name in names if "make_sample" in name]
