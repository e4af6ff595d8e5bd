"""The package we ship: its size, its promises, its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.data import read_mars
from emamba.engines import open_engine
from emamba.evaluate import in_batches, pose_report
from emamba.fixed import Mirror, check_bounds, interval_bounds
from emamba.package import Package, find_packages, load_package
from golden.make import golden_path, stage_hashes

ROOT = Path(__file__).resolve().parents[2]
FOLDER = find_packages(ROOT / "models")[-1]
PARAMETERS = 17_229


@pytest.fixture(scope="module")
def package() -> Package:
    return load_package(FOLDER)


@pytest.fixture(scope="module")
def golden(package: Package) -> dict[str, Any]:
    with np.load(golden_path(package)) as archive:
        header = json.loads(str(archive["header"]))
        return {**header, "input": archive["input"], "output": archive["output"]}


def test_it_fits_the_papers_size(package: Package) -> None:
    assert package.model.n_parameters <= PARAMETERS
    assert package.model.int8_bytes <= 17_300


def test_no_accumulator_can_overflow(package: Package) -> None:
    check_bounds(package.model)
    for bound in interval_bounds(package.model):
        assert bound.bits <= bound.width, bound


def test_decay_is_a_decay(package: Package) -> None:
    """exp of an argument that is never above 0 lies in 0..1, in units of 2**-7."""
    for name, table in package.model.tables.items():
        if name.endswith("exp"):
            dA = table.evaluate(np.arange(-table.x_format.max_int, 1))
            assert dA.min() >= 0, name
            assert dA.max() <= 128, name
            assert np.all(np.diff(dA) >= 0), name


def test_golden_vectors_are_of_this_package(package: Package, golden: dict[str, Any]) -> None:
    assert (golden["magic"], golden["version"]) == ("emamba-golden", 1)
    remedy = f"run: .venv/bin/python tests/golden/make.py {FOLDER.relative_to(ROOT)}"
    assert golden["package_sha256"] == package.sha256, remedy
    assert golden["config_hash"] == package.model.config_hash, remedy


def test_every_stage_gives_its_golden_numbers(package: Package, golden: dict[str, Any]) -> None:
    np.testing.assert_array_equal(Mirror(package.model).run(golden["input"]), golden["output"])
    assert stage_hashes(package, golden["input"]) == golden["stages"]


def test_real_frames_seldom_saturate(package: Package, golden: dict[str, Any]) -> None:
    """Tolerance: scales are chosen by squared error, which lets outliers go."""
    trace = Mirror(package.model).trace(golden["input"][:59])
    for name, count in trace.saturated.items():
        assert count <= 0.02 * trace.seen[name], name


def test_accuracy_is_what_the_package_says(package: Package, mars_data: Path) -> None:
    """The bars: MAE <= 5.50 cm, RMSE within 0.10 cm of the float twin's."""
    split = read_mars(mars_data, "test")
    engine = open_engine("mirror", package.model)
    outputs = in_batches(engine.run, package.encode(split.features))
    report = pose_report(package.decode(outputs), split)
    stated = package.accuracy
    assert report["frames"] == stated["frames"] == 7984
    assert report["mae_cm"] == pytest.approx(stated["mirror"]["mae_cm"], abs=1e-3)
    assert report["rmse_cm"] == pytest.approx(stated["mirror"]["rmse_cm"], abs=1e-3)
    assert report["mae_cm"] <= 5.50
    assert abs(report["rmse_cm"] - stated["float"]["rmse_cm"]) <= 0.10
    assert "rebuilt from the official radar CSVs" in stated["split"]
