"""Kernels that answer with a stage: through driver, board and verification, never to serving."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from board.parts import frames_of
from emamba.compiler import Compiler, cache_folder
from emamba.engines import EngineError, EngineInfo
from emamba.export import kernel_sources
from emamba.export.golden import stage_of_stream
from emamba.export.presets import preset
from emamba.export.sources import kernel_root
from emamba.fixed import IntegerModel, Mirror
from emamba.overlay import emulated_overlay
from emamba.package import Package
from emamba.simulated import build_simulation
from emamba_service.board.answer import Answer
from emamba_service.board.bare import BareBoard
from emamba_service.board.board import Board, Limits, Loadable
from emamba_service.board.engines import open_engine_for
from emamba_service.board.host import PynqHost
from emamba_service.board.ports import BoardError
from emamba_service.cli import cli
from emamba_service.settings import Settings
from emamba_service.verify.frames import golden_set
from emamba_service.verify.verdict import Bench, Request, verify

ROOT = Path(__file__).resolve().parents[2]
PRESET = "fast"
# A stage of many tokens, padded; a stage of one.
TAPS = ("B_1", "hidden")
needs_pynq = pytest.mark.skipif(find_spec("pynq") is None, reason="needs pynq")


@pytest.fixture
def open_board(mars: Package, tmp_path: Path) -> Iterator[Callable[..., Board]]:
    """Opens boards of mars/1 with kernels from `root`, each on an emulated device of its own."""
    pytest.importorskip("pynq", reason="needs pynq")
    # Imports pynq.
    emulated = importlib.import_module("emamba_service.emulator.device")

    def make(loadable: Loadable, root: Path | None = None) -> Board:
        tap, config = loadable.tap, mars.model.config
        library = build_simulation(config, PRESET, Compiler.find(), cache_folder(), tap, root)
        overlay = emulated_overlay(mars.model, PRESET, tmp_path / f"overlay-{tap}", tap)
        device = emulated.EmulatedDevice(library)
        stack.callback(device.close)
        host = PynqHost(overlay, device, device.time)
        board = Board(host, loadable, Limits(transfer_frames=8, timeout_s=0.02))
        stack.callback(board.close)
        return board

    with ExitStack() as stack:
        yield make


def bare(board: Board, loadable: Loadable) -> BareBoard:
    return BareBoard(board, loadable, EngineInfo("emulator", "under test"), board.close)


def constants(config_header: str) -> dict[str, str]:
    return dict(re.findall(r"constexpr int (ANSWER_\w+) = (\d+);", config_header))


def test_an_answers_sizes_are_the_kernels(mars: Package) -> None:
    config = mars.model.config
    folding = preset(PRESET, config)
    for stream, stage in stage_of_stream(config).items():
        tap = None if stage == "output" else stream.name
        answer = Answer.of(config, tap)
        header = kernel_sources(config, folding, tap)["emamba/config.hpp"]
        sizes = {"ANSWER_TOKENS": str(answer.tokens), "ANSWER_COUNT": str(answer.count)}
        assert constants(header) == sizes
        assert answer.stage == stage


@pytest.mark.parametrize("tap", TAPS)
def test_a_tapped_board_gives_the_mirrors_stage(
    open_board: Callable[..., Board], mars: Package, tap: str
) -> None:
    loadable = Loadable(mars.model, tap)
    board = bare(open_board(loadable), loadable)
    batch = frames_of(mars.model, 27)  # four transfers
    integers = board.record(batch).outputs
    expected = Mirror(mars.model).trace(batch).stages[loadable.answer.stage]
    np.testing.assert_array_equal(integers, expected.reshape(27, -1))
    assert integers.dtype == np.int16


def test_a_tapped_board_is_tested_by_its_stage(
    open_board: Callable[..., Board], mars: Package
) -> None:
    loadable = Loadable(mars.model, "B_1")
    loadable.expected[0, 0] ^= 1
    with pytest.raises(BoardError, match="golden frames must give the mirror's integers"):
        open_board(loadable)


@pytest.mark.parametrize("name", ["board", "emulator"])
@needs_pynq
def test_serving_refuses_a_tapped_overlay(mars: Package, tmp_path: Path, name: str) -> None:
    overlay = emulated_overlay(mars.model, PRESET, tmp_path / "overlay", "u_0").path
    with pytest.raises(EngineError) as caught:
        open_engine_for(Settings(overlay=overlay))(name, mars.model)
    assert str(caught.value) == (
        f"{name}: the overlay {overlay} must answer with outputs, but answers with the stream u_0; "
        "name one built without --tap: what answers with a stream is for emamba-service verify "
        "alone"
    )


@pytest.fixture
def verified(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The report of `emamba-service verify` on the emulator, with these options."""

    def run(*arguments: str) -> dict[str, Any]:
        common = (
            "verify",
            "--engine",
            "emulator",
            "--models",
            str(ROOT / "tests" / "one_model"),
            "--json",
        )
        result = CliRunner().invoke(cli, [*common, *arguments])
        assert result.stdout, result.stderr
        report: dict[str, Any] = json.loads(result.stdout)
        assert result.exit_code == report["exit_code"]
        return report

    return run


@needs_pynq
@pytest.mark.parametrize("tap", TAPS)
def test_verify_compares_the_tapped_stage(
    verified: Callable[..., dict[str, Any]], mars: Package, tmp_path: Path, tap: str
) -> None:
    stage = Answer.of(mars.model.config, tap).stage
    summary = f"All 16 frames equal the mirror in stage {stage}, bit for bit."
    report = verified("--tap", tap)
    assert (report["verdict"], report["summary"]) == ("equal", summary)
    assert report["ran"]["engine"]["options"]["tap"] == tap
    overlay = emulated_overlay(mars.model, PRESET, tmp_path / "overlay", tap).path
    assert verified("--overlay", str(overlay))["summary"] == summary


@pytest.fixture
def wrong_kernels(tmp_path: Path) -> Path:
    """A copy of the kernels whose normalisation takes its bias away instead of adding it."""
    folder = tmp_path / "hls"
    shutil.copytree(kernel_root(), folder, ignore=shutil.ignore_patterns("generated"))
    path = folder / "include" / "emamba" / "range_norm.hpp"
    text, right = path.read_text(), "+ p.beta[at.nf][pe]"
    assert text.count(right) == 1
    path.write_text(text.replace(right, "- p.beta[at.nf][pe]"))
    return folder


def test_a_fault_in_a_kernel_is_localised(
    open_board: Callable[..., Board], mars: Package, wrong_kernels: Path
) -> None:
    opened: list[str] = []

    def open_wrong(tap: str | None) -> BareBoard:
        loadable = Loadable(mars.model, tap, tested=False)
        return bare(open_board(loadable, wrong_kernels), loadable)

    def open_tapped(tap: str) -> BareBoard:
        opened.append(tap)
        return open_wrong(tap)

    bench = Bench(
        open_engine=lambda name, model: open_wrong(None),
        progress=lambda what, done, of: None,
        open_tapped=open_tapped,
    )
    frames = golden_set(mars.model.config)
    report = verify(Request(mars, "emulator", frames, speed_s=0.01), bench)
    comparison = report.comparison
    assert (report.verdict, report.exit_code) == ("different", 1)
    assert opened == ["residual_0", "norm_0"]
    assert len(comparison.localised) == len(comparison.first) == 5
    wrong = _with_other_beta(mars.model)
    for found, difference in zip(comparison.localised, comparison.first, strict=True):
        assert found.frame == difference.frame
        assert (found.stream, found.stage) == ("norm_0", "blocks.0.norm")
        frame = frames.batch[found.frame : found.frame + 1]
        must, is_now = (
            Mirror(model).trace(frame).stages["blocks.0.norm"].ravel()
            for model in (mars.model, wrong)
        )
        assert (found.expected, found.got) == (must[found.index], is_now[found.index])
        assert found.differing == np.count_nonzero(must != is_now)


def _with_other_beta(model: IntegerModel) -> IntegerModel:
    """The model that the faulty kernel computes."""
    beta = {name: -t for name, t in model.tensors.items() if name.endswith("norm.beta")}
    return dataclasses.replace(model, tensors=model.tensors | beta)


def test_a_wrong_kernel_opens_for_verification_only(
    open_board: Callable[..., Board], mars: Package, wrong_kernels: Path
) -> None:
    with pytest.raises(BoardError, match="golden frames must give the mirror's integers"):
        open_board(Loadable(mars.model), wrong_kernels)
    loadable = Loadable(mars.model, tested=False)
    assert open_board(loadable, wrong_kernels).status.state == "ready"
