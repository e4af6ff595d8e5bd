"""The build's steps, with a recording in the place of the vendor's tools; and its manifest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from emamba.overlay import (
    ManifestError,
    OverlayError,
    Tools,
    baseline,
    build_overlay,
    drift,
    load_manifest,
)
from emamba.package import Package, load_package

ROOT = Path(__file__).resolve().parents[2]
REPORTS = Path(__file__).with_name("reports") / "2025.2"
IP = Path("kernel/solution/impl/ip")


@pytest.fixture(scope="module")
def package() -> Package:
    return load_package(ROOT / "models" / "mars" / "1")


@dataclass
class Recording:
    """Tools that leave the files which the vendor's would, and remember how they were called."""

    on_path: set[str]
    status: int = 0
    leaves: bool = True
    commands: list[list[str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def tools(self) -> Tools:
        def find(name: str) -> str | None:
            return f"/tools/{name}" if name in self.on_path else None

        return Tools(find=find, run=self._run, say=self.said.append)

    def _run(self, command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> int:
        assert settings["EMAMBA_OUT"] == str(folder)
        self.commands.append(list(command))
        if self.leaves and command[-1].endswith("hls.tcl"):
            assert (Path(settings["EMAMBA_EXPORT"]) / "ip.cpp").is_file()
            self._leave(folder / IP / "component.xml", b"<component/>")
            report = (REPORTS / "csynth.xml").read_bytes()
            self._leave(folder / "kernel/solution/syn/report/csynth.xml", report)
        elif self.leaves:
            assert (Path(settings["EMAMBA_IP"]) / "component.xml").is_file()
            for name in ("utilization.rpt", "timing_summary.rpt", "power.rpt"):
                shutil.copy(REPORTS / name, folder)
            self._leave(folder / "emamba.bit", b"bit")
            self._leave(folder / "emamba.hwh", b"hwh")
        return self.status

    def _leave(self, path: Path, raw: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    @property
    def scripts(self) -> list[str]:
        return [Path(command[-1]).name for command in self.commands]


@pytest.fixture
def recording() -> Recording:
    return Recording({"vitis-run", "vivado"})


def test_builds_from_package_to_manifest(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    path = build_overlay(package, "small", tmp_path, recording.tools())
    assert path == tmp_path / "manifest.json"
    hls, vivado = recording.commands
    assert hls[:-1] == ["/tools/vitis-run", "--mode", "hls", "--tcl"]
    assert vivado[:-1] == ["/tools/vivado", "-mode", "batch", "-source"]
    assert recording.scripts == ["hls.tcl", "build.tcl"]
    document = load_manifest(tmp_path)
    assert document["config_hash"] == package.model.config_hash
    assert document["preset"] == "small"
    assert document["tools"] == {"vitis_hls": "2025.2", "vivado": "2025.2"}
    assert document["clock_hz"] == 200_000_000
    assert document["wns_ns"] == 0.187
    assert document["utilization"]["dsp"] == {"used": 312.0, "share": 0.1238}
    assert document["power"]["total_w"] == 4.213
    assert [stage["ii_cycles"] for stage in document["stages"]] == [1, 2]
    assert document["files"]["emamba.bit"] == hashlib.sha256(b"bit").hexdigest()
    grouped = {"power", "stages", "utilization", "kernel", "clock_hz", "wns_ns", "whs_ns"}
    assert set(document["obtained"]) == grouped <= set(document)


def test_a_tapped_build_says_so_and_is_another_kernel(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    def built(tap: str | None) -> dict[str, Any]:
        path = build_overlay(package, "small", tmp_path, recording.tools(), tap)
        return json.loads(path.read_text())

    plain, tapped = built(None), built("u_0")
    assert (plain["tap"], tapped["tap"]) == (None, "u_0")
    assert recording.scripts[2] == "hls.tcl"
    with pytest.raises(ManifestError, match="must have one tap, but have None and 'u_0'"):
        drift(baseline(plain), tapped)
    del plain["tap"]
    assert drift(baseline(plain), built(None)) == []


def test_older_tools_have_another_command(package: Package, tmp_path: Path) -> None:
    recording = Recording({"vitis_hls", "vivado"})
    build_overlay(package, "small", tmp_path, recording.tools())
    assert recording.commands[0][:-1] == ["/tools/vitis_hls", "-f"]


def test_a_second_build_runs_nothing(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    build_overlay(package, "small", tmp_path, recording.tools())
    build_overlay(package, "small", tmp_path, recording.tools())
    assert recording.scripts == ["hls.tcl", "build.tcl"]
    assert {"hls: up to date", "vivado: up to date"} <= set(recording.said)


def test_another_folding_runs_everything(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    build_overlay(package, "small", tmp_path, recording.tools())
    build_overlay(package, "fast", tmp_path, recording.tools())
    assert recording.scripts[2] == "hls.tcl"


def test_a_lost_product_runs_its_step_again(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    build_overlay(package, "small", tmp_path, recording.tools())
    (tmp_path / "vivado" / "emamba.bit").unlink()
    build_overlay(package, "small", tmp_path, recording.tools())
    assert recording.scripts == ["hls.tcl", "build.tcl", "build.tcl"]


def test_a_failed_step_is_run_again_and_earlier_ones_are_kept(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    build_overlay(package, "small", tmp_path, recording.tools())
    (tmp_path / "vivado" / "inputs.sha256").unlink()
    recording.status = 1
    message = (
        f"vivado must exit with 0, not 1; see {tmp_path / 'vivado' / 'log.txt'}, mend it and build "
        "again: earlier steps are kept"
    )
    with pytest.raises(OverlayError, match=f"^{re.escape(message)}$"):
        build_overlay(package, "small", tmp_path, recording.tools())
    recording.status = 0
    build_overlay(package, "small", tmp_path, recording.tools())
    assert recording.scripts == ["hls.tcl", "build.tcl", "build.tcl", "build.tcl"]


def test_a_step_that_leaves_nothing_fails(
    package: Package, recording: Recording, tmp_path: Path
) -> None:
    recording.leaves = False
    message = (
        f"hls must leave {tmp_path / 'hls' / IP / 'component.xml'}, but did not; see "
        f"{tmp_path / 'hls' / 'log.txt'}"
    )
    with pytest.raises(OverlayError, match=f"^{re.escape(message)}$"):
        build_overlay(package, "small", tmp_path, recording.tools())


@pytest.mark.parametrize(
    ("on_path", "missing"),
    [
        (set(), "vitis-run (or, before 2024.2, vitis_hls) and vivado"),
        ({"vivado"}, "vitis-run (or, before 2024.2, vitis_hls)"),
        ({"vitis_hls"}, "vivado"),
    ],
)
def test_missing_tools_are_named_and_what_is_ready_is_kept(
    package: Package, tmp_path: Path, on_path: set[str], missing: str
) -> None:
    message = (
        f"{missing} must be on PATH: install Vitis and Vivado, 2022.1 to 2025.2, then "
        "`source <install>/Vitis/<version>/settings64.sh` and "
        "`source <install>/Vivado/<version>/settings64.sh` (from 2025.1 on "
        "`<install>/<version>/Vitis/settings64.sh`) and build again; what they would start "
        f"from is in {tmp_path / 'export'}"
    )
    with pytest.raises(OverlayError, match=f"^{re.escape(message)}$"):
        build_overlay(package, "small", tmp_path, Recording(on_path).tools())
    assert (tmp_path / "export" / "ip.cpp").is_file()
    assert (tmp_path / "export" / "hls_config.cfg").is_file()


def test_a_manifest_holds_its_files(package: Package, recording: Recording, tmp_path: Path) -> None:
    build_overlay(package, "small", tmp_path, recording.tools())
    (tmp_path / "emamba.bit").write_bytes(b"another")
    message = (
        f"{tmp_path / 'emamba.bit'}: must be the file that manifest.json names, but is missing or "
        "another; copy bitstream, hand-off and manifest together"
    )
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        load_manifest(tmp_path)


@pytest.fixture
def document(package: Package, recording: Recording, tmp_path: Path) -> dict[str, Any]:
    return json.loads(build_overlay(package, "small", tmp_path, recording.tools()).read_text())


def test_an_equal_build_has_not_drifted(document: dict[str, Any]) -> None:
    assert drift(baseline(document), document) == []


def test_drift_is_said_in_sentences(document: dict[str, Any]) -> None:
    base = json.loads(json.dumps(baseline(document)))
    document["utilization"]["lut"]["used"] *= 1.2
    document["utilization"]["dsp"]["used"] -= 1
    document["power"]["total_w"] = float("nan")
    document["stages"][1]["ii_cycles"] = 3
    document["wns_ns"] = -0.1
    assert drift(base, document) == [
        "lut must be within 5 % of 41216, but is 49459.2 (+20.0 %)",
        "dsp must be within 0 % of 312, but is 311 (-0.3 %)",
        "total_w must be within 10 % of 4.213, but is nan (+nan %)",
        "every loop must start an iteration each 2 cycles, but one takes 3",
        "wns_ns must not be negative, but is -0.1",
    ]


def test_different_kernels_are_not_compared(document: dict[str, Any]) -> None:
    base = baseline(document)
    message = (
        "baseline and build must have one preset, but have 'small' and 'fast'; compare with the "
        "baseline of the same kernel"
    )
    with pytest.raises(ManifestError, match=f"^{re.escape(message)}$"):
        drift(base, document | {"preset": "fast"})
