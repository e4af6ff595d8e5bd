"""A kernel that answers with a stage is compared with that stage, and stages name what is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emamba.engines import EngineError, EngineInfo, EngineStatus, Recorded
from emamba.export.golden import stage_of_stream
from emamba.fixed import IntegerModel, Mirror
from emamba.overlay import emulated_overlay
from emamba_service.board.answer import Answer
from emamba_service.cli import cli
from emamba_service.verify.localise import how_to_localise
from emamba_service.verify.verdict import verify


class Tapped:
    """Answers as a kernel tapped at `tap` would that has computed with `model`."""

    def __init__(self, model: IntegerModel, tap: str | None) -> None:
        self._mirror = Mirror(model)
        self._answer = Answer.of(model.config, tap)
        self.info = EngineInfo("emulator", "made up")
        self.status = EngineStatus()
        self.calls = 0
        self.closed = False

    def record(self, batch: np.ndarray) -> Recorded:
        self.calls += 1
        return Recorded(self._answer.expected(self._mirror, batch), self.info.name)

    def close(self) -> None:
        self.closed = True


def negated(model: IntegerModel, tensor: str, rows: slice = slice(None)) -> IntegerModel:
    """The model with other weights in one place."""
    changed = model.tensors[tensor].copy()
    changed[rows] = -changed[rows]
    return dataclasses.replace(model, tensors=model.tensors | {tensor: changed})


@pytest.fixture
def taps(package) -> list[str]:
    """All streams but the outputs, in pipeline order."""
    return [stream.name for stream in stage_of_stream(package.model.config)][:-1]


def test_a_tapped_stage_is_compared_alone(request_for, bench, package):
    engine = Tapped(package.model, "B_1")
    report = verify(request_for(tap="B_1"), bench(engine))
    assert (report.verdict, report.comparison.compared) == ("equal", 60)
    assert report.summary == "All 60 frames equal the mirror in stage blocks.1.B, bit for bit."
    reason = "the kernel answers with a stage, not with outputs"
    assert (report.accuracy.engine, report.accuracy.mirror) == (None, None)
    assert report.accuracy.reason == report.speed.reason == report.energy.reason == reason
    assert report.speed.rows == []
    assert engine.calls == 8
    assert engine.closed


def test_a_wrong_stage_is_named_with_its_integers(request_for, bench, package, frames):
    class Wrong(Tapped):
        def record(self, batch):
            recorded = super().record(batch)
            recorded.outputs[:, [70, 71]] += np.int16(2)
            return recorded

    report = verify(request_for(tap="z_0", hint="here"), bench(Wrong(package.model, "z_0")))
    comparison = report.comparison
    z = Mirror(package.model).trace(frames.batch[:1]).stages["blocks.0.z"]
    assert report.summary == "60 of 60 compared frames differ from the mirror in stage blocks.0.z."
    first = comparison.first[0]
    assert (first.frame, first.stage, first.index, first.differing) == (0, "blocks.0.z", 70, 2)
    assert (first.expected, first.got) == (z.flat[70], z.flat[70] + 2)
    assert first.asked_again == "same"
    assert (comparison.map, comparison.localised, comparison.localise) == (None, [], "here")


def test_an_interrupted_tapped_run_goes_on(request_for, bench, package, tmp_path):
    class Interrupted(Tapped):
        def record(self, batch):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().record(batch)

    request = request_for(tap="u_0", out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        verify(request, bench(Interrupted(package.model, "u_0")))
    report = verify(request, bench(Tapped(package.model, "u_0")))
    assert (report.exit_code, report.ran.resumed_frames) == (0, 24)


@pytest.mark.parametrize(
    ("tensor", "rows", "stream", "stage"),
    [
        ("patch_embed.weight", slice(None), "residual_0", "patch_embed"),
        ("blocks.0.norm.gamma", slice(None), "norm_0", "blocks.0.norm"),
        ("blocks.0.in_proj.weight", slice(40, None), "z_0", "blocks.0.z"),
        ("blocks.0.conv1d.weight", slice(None), "u_0", "blocks.0.u"),
        ("blocks.1.x_proj.weight", slice(2, 10), "B_1", "blocks.1.B"),
        ("blocks.1.out_proj.weight", slice(None), "residual_2", "blocks.1.out_proj"),
        ("head.fc1.weight", slice(None), "hidden", "head.hidden"),
        ("head.fc2.weight", slice(None), "output", "output"),
    ],
)
def test_the_first_stage_that_a_wrong_weight_reaches_is_named(
    request_for, bench, package, taps, tensor, rows, stream, stage
):
    loaded = negated(package.model, tensor, rows)
    opened: list[str] = []

    def open_tapped(tap):
        opened.append(tap)
        return Tapped(loaded, tap)

    world = bench(Tapped(loaded, None), open_tapped=open_tapped)
    comparison = verify(request_for(hint="ask the taps"), world).comparison
    found = comparison.localised
    assert [f.frame for f in found] == [d.frame for d in comparison.first]
    assert {(f.stream, f.stage) for f in found} == {(stream, stage)}
    assert all(f.expected != f.got and f.differing > 0 for f in found)
    assert comparison.localise == ""
    assert opened == taps[: taps.index(stream) + 1 if stream in taps else None]


def test_frames_are_right_once_asked_again(request_for, bench, package, altered, taps):
    """As after a torn transfer."""
    kept = []

    def alter(call, recorded):
        outputs = recorded.outputs.copy()
        outputs[0] += np.int16(call == 1)
        return dataclasses.replace(recorded, outputs=outputs)

    def open_tapped(tap):
        kept.append(Tapped(package.model, tap))
        return kept[-1]

    comparison = verify(request_for(), bench(altered(alter), open_tapped=open_tapped)).comparison
    assert [d.asked_again for d in comparison.first] == ["right"]
    assert comparison.localised == []
    assert comparison.localise.startswith("Every stage was right for frame 80, asked again: ")
    assert len(kept) == len(taps)
    assert all(engine.closed for engine in kept)


def test_nothing_is_looked_for_without_a_difference(request_for, bench, package):
    def open_tapped(tap):
        raise AssertionError("opened")

    report = verify(request_for(), bench(Tapped(package.model, None), open_tapped=open_tapped))
    assert report.exit_code == 0


def test_a_search_that_cannot_go_on_says_where(request_for, bench, package):
    loaded = negated(package.model, "head.fc1.weight")

    def open_tapped(tap):
        if tap == "skip_0":
            raise EngineError("needs a C++17 compiler")
        return Tapped(loaded, tap)

    report = verify(request_for(), bench(Tapped(loaded, None), open_tapped=open_tapped))
    assert report.exit_code == 1
    assert report.comparison.localised == []
    assert report.comparison.localise == (
        "The search stopped at stream skip_0: needs a C++17 compiler."
    )


def test_each_engine_has_its_way(package, taps):
    def said(engine: str, tap: str | None = None) -> str:
        return how_to_localise(engine, Path("models/mars/1"), "fast", package.model.config, tap)

    assert said("emulator") == "To find the stage, run again with --localise."
    assert said("native").startswith("Engine native answers with outputs only; --engine emulator ")
    assert said("board", "skip_0").startswith(
        "Streams before skip_0, in order: residual_0, norm_0."
    )
    every = f"for tap in {' '.join(taps)}; do "
    assert (
        f"{every}emamba build overlay models/mars/1 --preset fast --tap $tap "
        "--out build/overlay-mars-fast-$tap; done." in said("board")
    )
    assert (
        f"{every}emamba-service verify --engine board --overlay build/overlay-mars-fast-$tap "
        "|| break; done." in said("board")
    )


@pytest.fixture
def tapped_overlay(models_dir, package, tmp_path) -> Path:
    return emulated_overlay(package.model, "fast", tmp_path / "overlay", "u_0").path


@pytest.mark.parametrize(
    ("engine", "arguments", "reason"),
    [
        (
            "mirror",
            ("--tap", "u_0"),
            "need --engine emulator or board, for mirror answers with out",
        ),
        ("native", ("--localise",), "need --engine emulator or board, for native answers with out"),
        ("emulator", ("--tap", "v_0"), "a tap must be one of residual_0, norm_0,"),
        ("emulator", ("--tap", "u_0", "--localise"), "--localise must begin with a kernel that"),
        ("emulator", ("--tap", "x_0", "--overlay"), "answers with, u_0, not x_0; leave it out"),
        ("board", ("--localise", "--overlay"), "answers with outputs, not with u_0; leave out"),
    ],
)
def test_taps_that_cannot_be_asked_end_with_2(
    models_dir, tapped_overlay, engine, arguments, reason
):
    arguments += (str(tapped_overlay),) if "--overlay" in arguments else ()
    common = ("verify", "--engine", engine, "--models", str(models_dir), "--version", "9")
    result = CliRunner().invoke(cli, [*common, *arguments])
    assert result.exit_code == 2
    assert reason in result.stderr.replace("\n", " ")
