"""`emamba-service verify` from its options to its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emamba_service.cli import cli
from emamba_service.verify.schema import Report
from made_up_mars import write_data

ROOT = Path(__file__).parents[3]
SHARED_DATA = ROOT.parent / "shared" / "data"


def run(models: Path, *arguments: str, engine: str = "mirror", **env: str):
    common = ("verify", "--engine", engine, "--models", str(models))
    return CliRunner().invoke(cli, [*common, *arguments], env={"COLUMNS": "120", **env})


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mars") / "data"
    write_data(folder)
    return folder


def test_golden_vectors_without_data(models_dir):
    result = run(models_dir, "--json", "--version", "9")
    report = Report.model_validate_json(result.stdout)
    assert (result.exit_code, report.verdict) == (0, "equal")
    assert report.ran.data.source == "golden vectors"
    assert report.comparison.frames == 16
    assert report.accuracy.reason == "the frames have no labels"
    assert (report.ran.package.name, report.ran.package.version) == ("mars", "9")


def test_data_with_labels(models_dir, data, tmp_path):
    out = tmp_path / "out"
    result = run(models_dir, "--data", str(data), "--frames", "20", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("EQUAL All 20 frames equal the mirror, bit for bit.\n")
    assert "comparing: 20 of 20" in result.stderr
    report = Report.model_validate_json((out / "report.json").read_text())
    assert report.ran.package.version == "10"
    assert report.accuracy.engine.frames == 20
    assert report.ran.data.sha256.keys() == {"mars_test.npz"}
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def test_data_without_labels(models_dir, data):
    path = data / "mars_train_s1_radar_only.npz"
    report = json.loads(run(models_dir, "--data", str(path), "--json").stdout)
    assert report["verdict"] == "equal"
    assert report["accuracy"]["engine"] is None


def test_engine_comes_from_the_environment(models_dir, data):
    arguments = ("verify", "--models", str(models_dir), "--json")
    result = CliRunner().invoke(cli, arguments, env={"EMAMBA_ENGINE": "mirror"})
    assert json.loads(result.stdout)["ran"]["engine"]["name"] == "mirror"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--split", "all"), "--split must be one of train, validate, test, not 'all'"),
        (("--model", "venus"), "must hold a package venus/<version>, but holds none"),
        (("--version", "7"), "must hold version 7, but holds 9, 10"),
        (("--data", "nowhere"), "must hold mars_test.npz or feature/featuremap_test.npy"),
        (("--frames", "0"), "--frames"),
        (("--batch", "5000"), "--batch"),
        (("--energy-window", "0"), "--energy-window"),
        (("--bord",), "--bord"),
    ],
)
def test_wrong_usage_ends_with_2(models_dir, arguments, reason):
    result = run(models_dir, *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_damaged_package_ends_with_2(tmp_path, new_package):
    (new_package(tmp_path, "1") / "weights.npz").write_bytes(b"")
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "weights.npz: SHA-256 must be the one in model.json" in result.stderr


def test_data_without_a_frame_ends_with_2(models_dir, tmp_path):
    np.savez(tmp_path / "none.npz", features=np.zeros((0, 8, 8, 5), np.float32))
    result = run(models_dir, "--data", str(tmp_path / "none.npz"))
    assert result.exit_code == 2
    assert "must hold a frame, but holds none" in result.stderr


def test_folder_of_another_run_ends_with_2(models_dir, tmp_path):
    (tmp_path / "journal.jsonl").write_text("{}\n")
    result = run(models_dir, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "choose another folder with --out" in result.stderr


@pytest.mark.parametrize(
    ("engine", "env", "reason"),
    [
        (
            "foo",
            {},
            "--engine (EMAMBA_ENGINE): must be one of auto, native, mirror, board, emulator, "
            "but is 'foo'",
        ),
        (
            "emulator",
            {"EMAMBA_EMULATOR_FAULTS": "foo:1"},
            "--emulator-faults (EMAMBA_EMULATOR_FAULTS): must be ",
        ),
        (
            "emulator",
            {"EMAMBA_EMULATOR_PRESET": "huge"},
            "--emulator-preset (EMAMBA_EMULATOR_PRESET): must be one of fast, small, but is 'huge'",
        ),
    ],
)
def test_settings_with_wrong_values_end_with_2(models_dir, engine, env, reason):
    result = run(models_dir, engine=engine, **env)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr


def test_engine_that_does_not_open_ends_with_3(models_dir):
    result = run(models_dir, engine="board")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "board: an overlay must be named, but is not" in result.stderr


def test_interrupt_ends_with_130_and_the_same_command_goes_on(models_dir, data, tmp_path):
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-c", "from emamba_service.cli import main; main()", "verify"),
        *("--engine", "mirror", "--models", str(models_dir), "--data", str(data)),
        *("--frames", "160", "--batch", "1", "--out", str(out)),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        journal = out / "journal.jsonl"
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"interrupted; the same command goes on with {out}" in said
    again = ("--data", str(data), "--frames", "160", "--batch", "1", "--out", str(out))
    assert run(models_dir, *again).exit_code == 0
    report = Report.model_validate_json((out / "report.json").read_text())
    assert report.comparison.compared == 160
    assert 2 <= report.ran.resumed_frames < 160


@pytest.mark.skipif(
    not (SHARED_DATA / "mars_test.npz").exists(), reason="needs ../shared/data/mars_test.npz"
)
def test_shipped_model_on_real_frames():
    arguments = ("--data", str(SHARED_DATA), "--model", "mars", "--version", "1")
    result = run(
        ROOT / "tests" / "one_model", *arguments, "--frames", "500", "--json", engine="auto"
    )
    report = Report.model_validate_json(result.stdout)
    assert (result.exit_code, report.comparison.compared) == (0, 500)
    assert report.accuracy.engine == report.accuracy.mirror
    assert report.accuracy.engine.rmse_cm == pytest.approx(6.97, abs=0.5)  # 500 of 7,984 frames
