"""A board whose golden frames come out wrong: what names the bits opens it nevertheless."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emamba.engines import MirrorEngine
from emamba.package import load_package
from emamba_service.cli import cli
from emamba_service.shadow_files import Reproducer

MODELS = Path(__file__).parents[1] / "one_model"
pytestmark = pytest.mark.skipif(find_spec("pynq") is None, reason="needs pynq")


@pytest.mark.parametrize(("faults", "code"), [("weight_flip:1", 1), ("", 0)])
def test_reproduce_runs_on_a_board_that_is_wrong_from_the_start(tmp_path, faults, code):
    package = load_package(MODELS / "mars" / "1")
    batch = np.random.default_rng(0).integers(-99, 99, (2, 8, 8, 5)).astype(np.int8)
    expected = MirrorEngine(package.model).run(batch)
    about = {"model": "mars", "version": "1", "package_sha256": package.sha256}
    about |= {"engine": "emulator", "time": "2031-01-02T03:04:05+00:00", "service": "9.9"}
    path = tmp_path / "kept.npz"
    path.write_bytes(Reproducer(batch, expected, expected ^ np.int16(1), about).to_bytes())
    result = CliRunner().invoke(
        cli,
        ["reproduce", str(path), "--models", str(MODELS)],
        env={"EMAMBA_EMULATOR_FAULTS": faults},
    )
    assert (result.exit_code, result.stderr) == (code, "")
    differs = re.search(r"^run 1 of 1: \d+ of 114 outputs differ", result.stdout, re.MULTILINE)
    assert bool(differs) == bool(faults)


@pytest.mark.parametrize(("faults", "code"), [("weight_flip:1", 1), ("", 0)])
def test_verify_runs_on_a_board_that_is_wrong_from_the_start(faults, code):
    result = CliRunner().invoke(
        cli,
        ["verify", "--engine", "emulator", "--models", str(MODELS), "--json"],
        env={"EMAMBA_EMULATOR_FAULTS": faults},
    )
    report = json.loads(result.stdout)
    assert result.exit_code == report["exit_code"] == code
    assert bool(report["comparison"]["first"]) == bool(faults)
    assert report["ran"]["engine"]["options"]["emulator_faults"] == (faults or "not set")
