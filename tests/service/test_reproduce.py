"""`emamba-service reproduce`: what it prints, how it exits, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emamba.engines import ENGINES, EngineInfo, MirrorEngine, Recorded
from emamba.fixed import IntegerModel
from emamba.package import Package, load_package
from emamba_service.cli import cli
from emamba_service.shadow_files import Reproducer


class WrongEngine(MirrorEngine):
    """Opened as `native`: gets two bits of one output wrong in every second run."""

    def __init__(self, model: IntegerModel) -> None:
        super().__init__(model)
        self.runs = 0

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("native", "wrong every second time")

    def run(self, batch: np.ndarray) -> np.ndarray:
        outputs = super().run(batch)
        self.runs += 1
        if self.runs % 2 == 0:
            outputs[0, 20] ^= 0b110
        return outputs

    def record(self, batch: np.ndarray) -> Recorded:
        return Recorded(self.run(batch), "native")


@pytest.fixture(autouse=True)
def _with_wrong_engine(monkeypatch):
    monkeypatch.setitem(ENGINES, "native", WrongEngine)


@pytest.fixture
def package(models_dir) -> Package:
    return load_package(models_dir / "mars" / "10")


@pytest.fixture
def kept(package) -> Reproducer:
    """Output 20 of frame 0 was wrong in bits 1 and 2, as computed by engine `native`."""
    batch = np.random.default_rng(0).integers(-99, 99, (2, 8, 8, 5)).astype(np.int8)
    expected = MirrorEngine(package.model).run(batch)
    got = expected.copy()
    got[0, 20] ^= 0b110
    about = {
        "model": "mars",
        "version": "10",
        "package_sha256": package.sha256,
        "engine": "native",
        "time": "2031-01-02T03:04:05+00:00",
        "service": "9.9",
    }
    return Reproducer(batch, expected, got, about)


@pytest.fixture
def reproduce(models_dir, tmp_path):
    """Runs the command on a reproducer: `reproduce(kept, "--runs", "2")`."""

    def run(kept: Reproducer, *options: str, **env: str):
        path = tmp_path / "kept.npz"
        path.write_bytes(kept.to_bytes())
        arguments = ["reproduce", str(path), "--models", str(models_dir), *options]
        return CliRunner().invoke(cli, arguments, env=env)

    return run


HEAD = "mars 10, found 2031-01-02T03:04:05+00:00 on engine native by emamba-service 9.9"


def difference(kept: Reproducer, what: str) -> list[str]:
    must, came = kept.expected[0, 20], kept.got[0, 20]
    return [
        f"{what}: 1 of 114 outputs differ, in 1 of 2 frames; bits 1, 2",
        f"  frame 0, output 20 (y of SpineMid): must be {must}, is {came}; bits 1, 2",
    ]


def test_engine_that_is_wrong_again_is_told_bit_by_bit(reproduce, kept):
    result = reproduce(kept, "--runs", "3")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        HEAD,
        *difference(kept, "then"),
        "mirror today: gives what it gave then",
        "engine native: wrong every second time",
        "run 1 of 3: no output differs",
        *difference(kept, "run 2 of 3"),
        "run 3 of 3: no output differs",
        "engine native differs from the mirror in 1 of 3 runs today",
    ]


def test_engine_that_agrees_today_exits_with_0(reproduce, kept):
    result = reproduce(kept)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == [
        "run 1 of 1: no output differs",
        "engine native gives the mirror's integers in 1 of 1 run today",
    ]


def test_engine_is_that_of_the_option_not_of_the_environment(reproduce, kept):
    assert "engine native gives" in reproduce(kept, EMAMBA_ENGINE="mirror").stdout
    assert "engine mirror gives" in reproduce(kept, "--engine", "mirror").stdout


def test_other_package_and_mirror_of_then_are_said(reproduce, kept, package):
    about = kept.about | {"package_sha256": "0123456789abcdef"}
    result = reproduce(replace(kept, expected=kept.expected + np.int16(1), about=about))
    lines = result.stdout.splitlines()
    assert lines[1] == f"package: {package.sha256[:12]} is another than that of then, 0123456789ab"
    at = next(at for at, line in enumerate(lines) if line.startswith("mirror today"))
    assert lines[at].startswith("mirror today, beside then: 114 of 114 outputs differ, in 2 of 2")
    assert lines[at + 11] == "  and 104 more"
    assert result.exit_code == 0


def refused(result, code: int, reason: str) -> None:
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"emamba-service: {reason}\n"


def test_engine_that_does_not_open_exits_with_3(reproduce, kept):
    result = reproduce(kept, "--engine", "board")
    assert result.exit_code == 3
    assert result.stderr.startswith("emamba-service: board: an overlay must be named, but is not; ")


def test_version_that_is_not_there_is_refused(reproduce, kept, models_dir):
    gone = replace(kept, about=kept.about | {"version": "11"})
    refused(reproduce(gone), 2, f"{models_dir}: must hold mars 11, but holds mars 9, mars 10")


def test_frames_of_another_shape_are_refused(reproduce, kept, tmp_path):
    other = replace(kept, batch=kept.batch[:, :4])
    refused(
        reproduce(other),
        2,
        f"{tmp_path / 'kept.npz'}: input (4, 8, 5) and 57 outputs must be those of mars 10, "
        "(8, 8, 5) and 57; name the folder of its package with --models",
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("--engine", "foo"),
            "--engine (EMAMBA_ENGINE): must be one of auto, native, mirror, board, emulator, "
            "but is 'foo'",
        ),
        (
            ("--emulator-preset", "huge"),
            "--emulator-preset (EMAMBA_EMULATOR_PRESET): must be one of fast, small, but is 'huge'",
        ),
        (
            ("--transfer-frames", "0"),
            "--transfer-frames (EMAMBA_TRANSFER_FRAMES): must be an integer in 1..4096, but is '0'",
        ),
    ],
)
def test_wrong_setting_is_refused(reproduce, kept, options, reason):
    refused(reproduce(kept, *options), 2, reason)


def test_faults_that_nobody_knows_are_refused(reproduce, kept):
    result = reproduce(kept, EMAMBA_EMULATOR_FAULTS="foo:1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--emulator-faults (EMAMBA_EMULATOR_FAULTS): must be " in result.stderr


def broken(kept: Reproducer, path: Path, kind: str) -> None:
    arrays = {"input": kept.batch, "expected": kept.expected, "got": kept.got, "about": "{}"}
    if kind == "text":
        path.write_text("text")
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, kept.batch)
    elif kind == "half":
        path.write_bytes(kept.to_bytes()[:900])
    elif kind != "missing":
        changes = {
            "no got": {"got": None},
            "floats": {"got": kept.got.astype(float)},
            "pickled": {"input": np.array([{}])},
            "flat": {"input": kept.batch[0, 0]},
            "none": {"input": kept.batch[:0], "expected": kept.got[:0], "got": kept.got[:0]},
            "uneven": {"got": kept.got[:1]},
            "no json": {"about": "{"},
            "a list": {"about": "[1]"},
            "no model": {},
        }
        chosen = {k: v for k, v in (arrays | changes[kind]).items() if v is not None}
        np.savez(path, **chosen)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file or directory"),
        (
            "text",
            ": must be an .npz that a shadow check has kept, but it is no .npz, or no whole one",
        ),
        (
            "one array",
            ": must be an .npz that a shadow check has kept, but it is no .npz, or no whole one",
        ),
        (
            "half",
            ": must be an .npz that a shadow check has kept, but it is no .npz, or no whole one",
        ),
        ("no got", "but an array is missing (got is not a file in the archive)"),
        ("floats", "but got must be int16, not float64"),
        ("pickled", "but Object arrays cannot be loaded when allow_pickle=False"),
        ("flat", "but input has the shape (8, 5), expected (2, 57)"),
        ("none", "but input has the shape (0, 8, 8, 5), expected (0, 57)"),
        ("uneven", "but 2 frames, expected (2, 57) and got (1, 57) disagree"),
        ("no json", "but about is not JSON"),
        ("a list", "but about must say model"),
        ("no model", "but about must say model"),
    ],
)
def test_what_is_no_reproducer_is_refused_in_one_line(kept, tmp_path, kind, reason):
    path = tmp_path / "broken.npz"
    broken(kept, path, kind)
    result = CliRunner().invoke(cli, ["reproduce", str(path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"emamba-service: {path}: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
