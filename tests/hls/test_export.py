"""`emamba export hls`, `emamba build native`, the testbench, and the checked-in kernels."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import csim
from emamba.export import export_hls, kernel_sources
from emamba.export.image import ImageError, image_crc, weights_image
from emamba.export.presets import PRESETS, preset
from emamba.fixed import IntegerModel
from emamba.fixed.tables import IntegerTable
from emamba.package import Package, load_package
from random_models import MARS_CONFIG, random_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mars() -> Package:
    return load_package(ROOT / "models" / "mars" / "1")


def emamba(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "emamba"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", PRESETS)
def test_the_checked_in_kernels_are_what_export_writes(mars: Package, name: str) -> None:
    folder, config = ROOT / "hls" / "generated" / f"mars-{name}", mars.model.config
    for path, text in kernel_sources(config, preset(name, config)).items():
        assert (folder / path).read_text() == text, f"run emamba export hls --preset {name}"


def test_export_is_complete_and_repeatable(mars: Package, tmp_path: Path) -> None:
    out = tmp_path / "kernel"
    result = emamba("export", "hls", ROOT / "models/mars/1", "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert json.loads((out / "export.json").read_text()) == record
    for name, digest in record["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert record["package_sha256"] == mars.sha256
    assert record["config_hash"] == mars.model.config_hash
    assert export_hls(mars, "fast", tmp_path / "again") == record


def test_an_unknown_preset_is_one_line() -> None:
    result = emamba("export", "hls", ROOT / "models/mars/1", "--preset", "huge", "--out", "x")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "huge" in result.stderr
    assert "fast" in result.stderr


def test_build_native_says_what_it_has_built() -> None:
    result = emamba("build", "native", ROOT / "models/mars/1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("native: kernels compiled for this machine's CPU by ")


def test_the_image_is_the_same_for_every_folding(mars: Package, tmp_path: Path) -> None:
    crcs = {export_hls(mars, name, tmp_path / name)["weights_crc"] for name in PRESETS}
    assert crcs == {image_crc(weights_image(mars.model))}


def test_a_table_that_kernels_cannot_hold_is_refused() -> None:
    model = random_model(MARS_CONFIG, 0)
    silu = model.tables["blocks.0.silu"]
    rows = 40
    long = IntegerTable(
        "silu",
        np.arange(rows - 1, dtype=np.int32),
        np.zeros(rows, np.int32),
        np.zeros(rows, np.int32),
        silu.x_format,
        silu.y_format,
    )
    odd = IntegerModel(
        model.config, model.formats, model.tensors, model.tables | {"blocks.0.silu": long}
    )
    with pytest.raises(ImageError, match="silu must have at most 32 rows in use, not 40"):
        weights_image(odd)


@pytest.mark.parametrize("tap", ["residual_0", "u_scan_0", "B_1", "hidden"])
def test_a_tapped_kernel_answers_with_that_stage(mars: Package, tmp_path: Path, tap: str) -> None:
    export_hls(mars, "small", tmp_path, tap)
    root = csim.kernel_root()
    program = tmp_path / "testbench"
    csim.run_compiler(
        "-std=c++17", "-O0", "-w", *csim.PLAIN, "-DEMAMBA_SIMULATE", f"-I{tmp_path}",
        f"-I{root / 'include'}", f"-I{root / 'host'}", str(tmp_path / "top.cpp"),
        str(root / "test" / "testbench.cpp"), "-o", str(program),
    )  # fmt: skip
    assert csim.run_program(program, tmp_path) == "16 frames, 30 sections: equal\n"


def test_an_unknown_tap_is_one_line(tmp_path: Path) -> None:
    result = emamba("export", "hls", ROOT / "models/mars/1", "--tap", "spline", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("emamba: a tap must be one of residual_0, norm_0,")
    assert result.stderr.endswith("hidden; not 'spline'\n")


def test_make_check_passes_and_a_changed_vector_fails(mars: Package, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    export_hls(mars, "fast", tmp_path)
    command = ["make", "-s", "-C", str(ROOT / "hls"), "check", f"EXPORT={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "16 frames, 30 sections: equal\n"), done.stderr
    golden = tmp_path / "golden.bin"
    raw = bytearray(golden.read_bytes())
    raw[-4] ^= 1
    golden.write_bytes(raw)
    with pytest.raises(RuntimeError, match=r"answer\[\d+\]: must be -?\d+, not -?\d+"):
        csim.run_program(tmp_path / "testbench-plain", tmp_path)
    raw[8] = 9
    golden.write_bytes(raw)
    with pytest.raises(RuntimeError, match="has version 9, this needs 1; run `emamba export hls`"):
        csim.run_program(tmp_path / "testbench-plain", tmp_path)
    golden.unlink()
    with pytest.raises(RuntimeError, match="cannot be read; run `emamba export hls`"):
        csim.run_program(tmp_path / "testbench-plain", tmp_path)


def test_the_wheel_carries_the_sources(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="builds a wheel with hatchling")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(built).namelist())
    for folder in ("include/emamba", "native", "host", "test"):
        for path in (ROOT / "hls" / folder).glob("*.[hc]*"):
            assert f"emamba/hls/{folder}/{path.name}" in names


def test_an_overlay_without_the_tools_says_what_to_install(tmp_path: Path) -> None:
    if shutil.which("vivado") is not None:
        pytest.skip("Vivado is installed here")
    result = emamba("build", "overlay", ROOT / "models/mars/1", "--out", tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "settings64.sh" in result.stderr
    assert (tmp_path / "export" / "top.cpp").exists()
