"""The front command, as a stranger meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emamba import __version__
from emamba.commands import app
from emamba.package import load_package

runner = CliRunner()


def emamba(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emamba.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "mars_test.npz",
        features=rng.random((12, 8, 8, 5), np.float32),
        labels=rng.random((12, 57), np.float32),
        subject=np.ones(12, np.uint8),
        movement=np.full(12, 3, np.uint8),
    )
    return tmp_path


def test_version_and_help() -> None:
    assert runner.invoke(app, ["--version"]).output == f"emamba {__version__}\n"
    text = runner.invoke(app, ["--help"]).output
    for command in ("train", "evaluate", "compare", "package", "search", "ablate"):
        assert command in text


def test_evaluate_prints_one_object_alone_on_stdout(package_folder: Path, data: Path) -> None:
    result = emamba("evaluate", package_folder, "--data", data, "--engine", "mirror", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    package = load_package(package_folder)
    assert report["frames"] == 12
    assert report["engine"] == "mirror"
    assert report["package_sha256"] == package.sha256
    assert (report["parameters"], report["int8_bytes"]) == (17229, 17229)
    assert {"mae_cm", "rmse_cm", "per_axis", "per_joint", "per_subject", "per_movement"} <= set(
        report
    )
    assert report["data"] == "features rebuilt from the official radar CSVs"


def test_evaluate_prints_a_table(package_folder: Path, data: Path) -> None:
    text = runner.invoke(app, ["evaluate", str(package_folder), "--data", str(data)]).output
    for row in ("all", "axis z", "subject 1", "movement 3", "joint Head"):
        assert row in text


def test_inspect_shows_sizes_formats_and_the_overflow_proof(package_folder: Path) -> None:
    text = runner.invoke(app, ["package", "inspect", str(package_folder)]).output
    for part in ("mars/1", "17229", "blocks.1.out_proj.weight", "Overflow proof"):
        assert part in text
    about = json.loads(
        runner.invoke(app, ["package", "inspect", str(package_folder), "--json"]).output
    )
    assert about["accumulators"]["blocks.0.C h + D u -> blocks.0.y"]["width"] == 48
    assert about["formats"]["blocks.0.dt_A"] == "int12 Q4.8"


def test_mistakes_are_one_line_with_the_cure(package_folder: Path, data: Path) -> None:
    (package_folder / "weights.npz").write_bytes(b"")
    cases = [
        (["evaluate", package_folder, "--data", data], "SHA-256 must be the one in model.json"),
        (["evaluate", data, "--data", data], "model.json: does not exist"),
        (["package", "inspect", data / "no"], "model.json: does not exist"),
        (["evaluate", package_folder, "--data", data, "--split", "x"], "--split must be train"),
        (["evaluate", data / "no.safetensors", "--data", data], "emamba: "),
        (["train", "mars", "--data", data / "no", "--out", data / "run"], "emamba: "),
    ]
    for arguments, sentence in cases:
        result = emamba(*arguments)
        assert result.returncode == 1, arguments
        assert result.stderr.startswith("emamba: ")
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


def test_an_unknown_engine_is_named(package_folder: Path, data: Path) -> None:
    result = emamba("evaluate", package_folder, "--data", data, "--engine", "abacus")
    assert result.stderr == "emamba: engine must be one of auto, native, mirror; not 'abacus'\n"


def test_training_without_torch_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = "
        f"['emamba', 'train', 'mars', '--data', {str(tmp_path)!r}]; "
        "from emamba.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "run `make train-env`, or pip install -e '.[train]' in the checkout" in result.stderr


def test_the_core_needs_numpy_only() -> None:
    """Without the [cli] extra the numbers work and the command says what to install."""
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = None; "
        "import emamba.engines, emamba.evaluate, emamba.data; from emamba.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("emamba: the command needs ")
    assert "pip install -e '.[cli]'" in result.stderr
