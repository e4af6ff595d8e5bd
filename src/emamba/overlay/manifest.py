"""`manifest.json`: what a bitstream was built from, and how it came out.

Every group of figures says how it was obtained. A baseline is a manifest's figures with a tolerance
each; `drift` says in sentences where another build differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emamba.export.interface import INTERFACE
from emamba.overlay.reports import PowerReport, SynthesisReport, TimingReport, UtilizationReport

__all__ = [
    "SCHEMA_VERSION",
    "ManifestError",
    "Reports",
    "baseline",
    "drift",
    "load_manifest",
    "manifest",
    "sha256_of",
]

SCHEMA_VERSION = 1
# The kernel's clock comes out of the clocking wizard.
_KERNEL_CLOCK = "clk_out1"
_OBTAINED = {
    "clock_hz": "reported by Vivado after routing",
    "wns_ns": "reported by Vivado after routing",
    "whs_ns": "reported by Vivado after routing",
    "utilization": "reported by Vivado after routing, whole design",
    "power": "estimated by Vivado from default activity",
    "kernel": "estimated by Vitis HLS",
    "stages": "scheduled by Vitis HLS",
}
# What a driver goes by.
_NEEDED = ("config_hash", "files", "interface_version", "preset")
# Parts of the baseline's value; placement differs a little from run to run and tool to tool.
_TOLERANCE = {"lut": 0.05, "ff": 0.05, "dsp": 0.0, "bram36": 0.05, "uram": 0.0, "total_w": 0.10}


class ManifestError(ValueError):
    """A manifest or baseline that does not say what it must, or files that are not its own."""


@dataclass(frozen=True)
class Reports:
    """The four reports of one build."""

    synthesis: SynthesisReport
    utilization: UtilizationReport
    timing: TimingReport
    power: PowerReport


def manifest(export: Mapping[str, Any], reports: Reports, folder: Path) -> dict[str, Any]:
    """The manifest of `emamba.bit` and `emamba.hwh` in `folder`; `export` is `export.json`."""
    kept = ("package", "package_sha256", "config_hash", "preset", "tap", "kernel_source_sha256")
    return {
        "schema_version": SCHEMA_VERSION,
        "board": "zcu102",
        "part": INTERFACE.part,
        "interface_version": export["interface_version"],
        **{name: export[name] for name in kept},
        "tools": {
            "vitis_hls": reports.synthesis.tool_version,
            "vivado": reports.timing.tool_version,
        },
        "clock_hz": _clock_hz(reports.timing),
        "wns_ns": reports.timing.wns_ns,
        "whs_ns": reports.timing.whs_ns,
        "utilization": {
            name: {"used": used, "share": round(reports.utilization.shares()[name], 4)}
            for name, used in reports.utilization.used.items()
        },
        "power": {
            "total_w": reports.power.total_w,
            "dynamic_w": reports.power.dynamic_w,
            "static_w": reports.power.static_w,
            "confidence": reports.power.confidence,
        },
        "kernel": reports.synthesis.used,
        "stages": [
            {
                "module": loop.module,
                "loop": loop.loop,
                "ii_cycles": loop.ii_cycles,
                "depth_cycles": loop.depth_cycles,
            }
            for loop in reports.synthesis.loops
        ],
        "obtained": _OBTAINED,
        "files": {name: sha256_of(folder / name) for name in ("emamba.bit", "emamba.hwh")},
    }


def _clock_hz(timing: TimingReport) -> float:
    periods = [ns for name, ns in timing.clk_period_ns.items() if name.startswith(_KERNEL_CLOCK)]
    if len(periods) != 1:
        raise ManifestError(
            f"the timing summary must have one clock {_KERNEL_CLOCK}*, but has "
            f"{sorted(timing.clk_period_ns)}; was it the block design of bd.tcl?"
        )
    return round(1e9 / periods[0])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read `manifest.json` in `folder` and check the files beside it; raises `ManifestError`."""
    path = folder / "manifest.json"
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}; build the overlay first") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: schema_version must be {SCHEMA_VERSION}, not {version!r}; build again"
        )
    missing = [name for name in _NEEDED if name not in document]
    if missing:
        raise ManifestError(f"{path}: must have {', '.join(missing)}, but has not; build again")
    for name, digest in document["files"].items():
        file = folder / name
        if not file.is_file() or sha256_of(file) != digest:
            raise ManifestError(
                f"{file}: must be the file that manifest.json names, but is missing or another; "
                "copy bitstream, hand-off and manifest together"
            )
    return dict(document)


def baseline(document: Mapping[str, Any]) -> dict[str, Any]:
    """What later builds of the same kernel are compared with: figures and their tolerances."""
    figures = _figures(document)
    return {
        "preset": document["preset"],
        "tap": document.get("tap"),
        "config_hash": document["config_hash"],
        "tools": document["tools"],
        "figures": {
            name: {"value": value, "tolerance": _TOLERANCE[name]} for name, value in figures.items()
        },
        "worst_ii_cycles": _worst_ii_cycles(document),
    }


def _figures(document: Mapping[str, Any]) -> dict[str, float]:
    figures = {name: row["used"] for name, row in document["utilization"].items()}
    return figures | {"total_w": document["power"]["total_w"]}


def _worst_ii_cycles(document: Mapping[str, Any]) -> int:
    return max((stage["ii_cycles"] for stage in document["stages"]), default=1)


def drift(base: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """A sentence for each figure outside its tolerance, empty where there is none.

    Raises `ManifestError` if the two are of different kernels.
    """
    for name in ("preset", "tap", "config_hash"):
        if base.get(name) != document.get(name):
            raise ManifestError(
                f"baseline and build must have one {name}, but have {base.get(name)!r} and "
                f"{document.get(name)!r}; compare with the baseline of the same kernel"
            )
    figures = _figures(document)
    sentences = []
    for name, wanted in base["figures"].items():
        value, got = wanted["value"], figures[name]
        # Not `abs(...) > tolerance`: a NaN must be reported too.
        if not abs(got - value) <= wanted["tolerance"] * value:
            share = "" if value == 0 else f" ({100 * (got - value) / value:+.1f} %)"
            sentences.append(
                f"{name} must be within {100 * wanted['tolerance']:g} % of {value:g}, "
                f"but is {got:g}{share}"
            )
    if _worst_ii_cycles(document) > base["worst_ii_cycles"]:
        sentences.append(
            f"every loop must start an iteration each {base['worst_ii_cycles']} cycles, but one "
            f"takes {_worst_ii_cycles(document)}"
        )
    wns_ns = document["wns_ns"]
    if not wns_ns >= 0:
        sentences.append(f"wns_ns must not be negative, but is {wns_ns:g}")
    return sentences
