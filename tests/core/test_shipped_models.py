"""The packages we ship: their size, their promises, their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.data import DataError, read_mars
from emamba.engines import open_engine
from emamba.evaluate import class_report, in_batches, pose_report, read_labelled
from emamba.fixed import Mirror, check_bounds, interval_bounds
from emamba.package import Package, find_packages, load_package
from emamba.tasks import ImageTask
from golden.make import golden_path, stage_hashes
from verify_depth import FULL

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
FOLDERS = find_packages(ROOT / "models")
NAMES = [f"{folder.parent.name}-{folder.name}" for folder in FOLDERS]
IMAGES = [folder for folder in FOLDERS if isinstance(load_package(folder).task, ImageTask)]
MARS = ROOT / "models" / "mars" / "1"
MARS_PARAMETERS = 17_229
# The bars: accuracy of the integers, parameters.
BARS = {
    "fashion-mnist": (0.925, 60_000),
    "fashion-mnist-medium": (0.91, 24_000),
    "fashion-mnist-small": (0.90, 15_000),
    "cifar10": (0.82, 250_000),
    "cifar10-medium": (0.78, 100_000),
    "cifar10-small": (0.74, 42_000),
}


@pytest.fixture(scope="module", params=FOLDERS, ids=NAMES)
def package(request: pytest.FixtureRequest) -> Package:
    return load_package(request.param)


@pytest.fixture(scope="module")
def golden(package: Package) -> dict[str, Any]:
    with np.load(golden_path(package)) as archive:
        header = json.loads(str(archive["header"]))
        return {**header, "input": archive["input"], "output": archive["output"]}


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
    folder = f"models/{package.name}/{package.version}"
    remedy = f"run: .venv/bin/python tests/golden/make.py {folder}"
    assert golden["package_sha256"] == package.sha256, remedy
    assert golden["config_hash"] == package.model.config_hash, remedy


def test_every_stage_gives_its_golden_numbers(package: Package, golden: dict[str, Any]) -> None:
    np.testing.assert_array_equal(Mirror(package.model).run(golden["input"]), golden["output"])
    assert stage_hashes(package, golden["input"]) == golden["stages"]


def test_the_native_engine_gives_the_golden_outputs(
    package: Package, golden: dict[str, Any]
) -> None:
    engine = open_engine("native", package.model)
    np.testing.assert_array_equal(engine.run(golden["input"]), golden["output"])
    engine.close()


def test_mars_fits_the_papers_size() -> None:
    model = load_package(MARS).model
    assert model.n_parameters <= MARS_PARAMETERS
    assert model.int8_bytes <= 17_300


def test_real_radar_frames_seldom_saturate() -> None:
    """Tolerance: scales are chosen by squared error, which lets outliers go."""
    package = load_package(MARS)
    with np.load(golden_path(package)) as archive:
        trace = Mirror(package.model).trace(archive["input"][:59])
    for name, count in trace.saturated.items():
        assert count <= 0.02 * trace.seen[name], name


def test_mars_is_as_accurate_as_its_package_says(mars_data: Path) -> None:
    """The bars: MAE <= 5.50 cm, RMSE within 0.10 cm of the float twin's."""
    package = load_package(MARS)
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


@pytest.mark.parametrize("folder", IMAGES, ids=lambda folder: folder.parent.name)
class TestImages:
    def test_it_is_small_and_has_its_card(self, folder: Path) -> None:
        package = load_package(folder)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 300_000
        card = (folder / "README.md").read_text()
        assert f"| {package.accuracy['mirror']['accuracy']:.2%} |" in card
        assert f"{package.model.n_parameters:,} parameters" in card
        assert (folder / "confusion.png").exists()

    def test_it_meets_its_bar(self, folder: Path) -> None:
        package = load_package(folder)
        accuracy, parameters = BARS[package.name]
        found = package.accuracy
        assert found["mirror"]["accuracy"] >= accuracy
        assert package.model.n_parameters <= parameters
        assert found["mirror"]["accuracy"] >= found["float"]["accuracy"] - 0.005

    def test_test_images_give_the_mirrors_integers_and_the_stated_accuracy(
        self, folder: Path
    ) -> None:
        """The mirror on all 10,000 under EMAMBA_VERIFY=full, else on some."""
        package = load_package(folder)
        try:
            split = read_labelled(package.task, DATA, "test")
        except DataError as error:
            pytest.skip(f"needs the data set: {error}")
        engine = open_engine("native", package.model)
        batch = package.encode(split.inputs)
        outputs = in_batches(engine.run, batch)
        engine.close()
        some = slice(None, None, 1 if FULL else 400)
        np.testing.assert_array_equal(Mirror(package.model).run(batch[some]), outputs[some])
        report = class_report(package.decode(outputs), split)
        assert report["frames"] == package.accuracy["frames"] == 10_000
        for name in ("accuracy", "calibration_error"):
            assert report[name] == pytest.approx(package.accuracy["mirror"][name], abs=1e-9)
