"""What a board's user may get wrong: one sentence each, with the cure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from emamba.engines import EngineError
from emamba.fixed import IntegerModel
from emamba.overlay import emulated_overlay, open_overlay
from emamba.package import Package
from emamba_service.board.engines import open_engine_for
from emamba_service.board.host import PynqHost, check_board, forget_metadata
from emamba_service.board.owner import BoardOwner
from emamba_service.board.ports import BoardError
from emamba_service.settings import Settings
from random_models import MARS_CONFIG, random_model

needs_pynq = pytest.mark.skipif(find_spec("pynq") is None, reason="needs pynq")


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    return random_model(MARS_CONFIG, 3)


@pytest.fixture
def real_overlay(model: IntegerModel, tmp_path: Path) -> Path:
    """Files of an overlay that does not say that it is emulated."""
    folder = emulated_overlay(model, "fast", tmp_path / "overlay").path
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"emulated": False}))
    return folder


def refusal(name: str, model: IntegerModel, **settings: Any) -> str:
    """The sentence with which an engine does not open."""
    with pytest.raises(EngineError) as caught:
        open_engine_for(Settings(**settings))(name, model)
    return str(caught.value)


def test_a_board_needs_an_overlay(model: IntegerModel) -> None:
    assert refusal("board", model) == (
        "board: an overlay must be named, but is not; build one with make overlay and name its "
        "folder with --overlay or EMAMBA_OVERLAY, or use --engine emulator"
    )


def test_a_board_needs_a_real_overlay(model: IntegerModel, tmp_path: Path) -> None:
    overlay = emulated_overlay(model, "fast", tmp_path).path
    assert refusal("board", model, overlay=overlay) == (
        f"board: {overlay} must hold a bitstream, but is an overlay for emulated boards; "
        "build one with make overlay, or use --engine emulator"
    )


def test_a_board_needs_an_overlay_of_its_model(mars: Package, tmp_path: Path) -> None:
    small = random_model(mars.model.config.__class__(**_other_sizes(mars)), 1)
    overlay = emulated_overlay(small, "fast", tmp_path).path
    says = refusal("board", mars.model, overlay=overlay)
    assert says == (
        f"board: overlay and model must have one config hash, but the overlay {overlay} has "
        f"{small.config_hash[:16]} and the model {mars.model.config_hash[:16]}; "
        "choose the overlay built for this model, or build it"
    )


def _other_sizes(package: Package) -> dict[str, Any]:
    return package.model.config.to_json() | {"d_state": 4}


def test_a_truncated_bitstream_is_refused_before_pynq(
    model: IntegerModel, real_overlay: Path
) -> None:
    bitstream = real_overlay / "emamba.bit"
    bitstream.write_bytes(bitstream.read_bytes()[:-1])
    assert refusal("board", model, overlay=real_overlay) == (
        f"board: {bitstream}: must hold 64 bytes of configuration, but ends after 63; "
        "copy the overlay again"
    )


def test_an_unreadable_manifest_is_refused(model: IntegerModel, real_overlay: Path) -> None:
    (real_overlay / "manifest.json").write_text("{")
    says = refusal("board", model, overlay=real_overlay)
    assert says.startswith(f"board: {real_overlay / 'manifest.json'}: cannot be read: ")
    assert says.endswith("; build the overlay first")


@pytest.mark.skipif(find_spec("pynq") is not None, reason="pynq is installed")
@pytest.mark.parametrize("name", ["board", "emulator"])
def test_without_pynq_the_extra_is_named(
    model: IntegerModel, real_overlay: Path, name: str
) -> None:
    assert refusal(name, model, overlay=real_overlay) == (
        f"{name}: pynq must be installed, but is not; pip install 'emamba-service[board]', or on "
        "a PYNQ image deploy/board/install.sh (docs/board.md); --engine native needs no board"
    )


@needs_pynq
def test_without_xrt_the_variable_is_named() -> None:
    with pytest.raises(BoardError) as caught:
        check_board(environment={}, euid=0)
    assert str(caught.value) == (
        "XILINX_XRT must be set before pynq is imported, but is not; "
        "on a PYNQ image set XILINX_XRT=/usr (docs/board.md)"
    )


_AS_NOBODY = """
from emamba_service.board.host import check_board
from emamba_service.board.ports import BoardError
try:
    check_board({"XILINX_XRT": "/usr"}, euid=1000)
except BoardError as error:
    print(error)
"""


@needs_pynq
def test_without_root_the_unit_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        "pynq needs root to reach a board's registers, but this is another user; "
        "start as root, for instance by the systemd unit of docs/board.md"
    )


@needs_pynq
def test_pynq_imported_too_early_is_said() -> None:
    code = "import pynq\n" + _AS_NOBODY
    environment = {name: text for name, text in os.environ.items() if name != "XILINX_XRT"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == (
        "XILINX_XRT must be set before pynq is imported, but pynq was imported without it; "
        "set XILINX_XRT=/usr and start again"
    )


def test_a_second_owner_is_told_of_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "board.lock"
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from emamba_service.board.owner import BoardOwner\n"
        f"owner = BoardOwner(Path({str(lock)!r}))\nprint('mine', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        with pytest.raises(EngineError) as caught:
            BoardOwner(lock)
        assert str(caught.value) == (
            f"the board must have one owner, but process {first.pid} holds {lock}; "
            "stop that process first"
        )
        first.kill()
    with BoardOwner(lock):
        assert lock.read_text() == f"{os.getpid()}\n"
    assert lock.read_text() == ""


def test_a_lock_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    lock = tmp_path / "none" / "board.lock"
    with pytest.raises(EngineError) as caught:
        BoardOwner(lock)
    assert str(caught.value) == (
        f"the lock {lock} must be writable, but No such file or directory; "
        "run as root, or name another with --board-lock"
    )


def test_what_pynq_remembers_is_forgotten(tmp_path: Path) -> None:
    stale = [tmp_path / "_current_metadata.pkl", tmp_path / "global_pl_state_.json"]
    kept = tmp_path / "device.py"
    for path in (*stale, kept):
        path.write_text("")
    forget_metadata(tmp_path)
    assert [path.exists() for path in (*stale, kept)] == [False, False, True]
    forget_metadata(tmp_path)


def test_what_cannot_be_forgotten_is_said(tmp_path: Path) -> None:
    stale = tmp_path / "_current_metadata.pkl"
    stale.mkdir()
    with pytest.raises(BoardError, match=r"must be removable, for pynq would read it instead of"):
        forget_metadata(tmp_path)


def test_metadata_of_another_design_is_refused(
    new_device: Callable[[], Any], overlay_folder: Path
) -> None:
    """As pynq does when it finds its cache instead of the hand-off."""
    device = new_device()
    read = device.get_bitfile_metadata

    def stale(bitfile_name: str, partial: bool = False) -> Any:
        metadata = read(bitfile_name, partial)
        parser = type("Stale", (), {})()
        for name in dir(metadata):
            if not name.startswith("_"):
                setattr(parser, name, getattr(metadata, name))
        parser.ip_dict = {
            name: dict(metadata.ip_dict[name]) | {"phys_addr": 0x8000_0000}
            for name in metadata.ip_dict
        }
        return parser

    device.get_bitfile_metadata = stale
    host = PynqHost(open_overlay(overlay_folder), device, device.time)
    with pytest.raises(BoardError) as caught:
        host.configure()
    assert str(caught.value) == (
        "pynq must find axi_dma_0 at 0xa0000000, but finds it at 0x80000000; "
        "is its metadata cache another design's?"
    )


def test_importing_the_service_imports_no_pynq() -> None:
    code = (
        "import sys\nsys.modules['pynq'] = None\n"
        "import emamba_service.cli, emamba_service.board.engines, emamba_service.emulator\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
