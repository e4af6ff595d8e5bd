"""Reports as two ends of the tools' range write them, and what is said of those that are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emamba.overlay.reports import (
    LoopReport,
    ReportError,
    read_power,
    read_synthesis,
    read_timing,
    read_utilization,
)

REPORTS = Path(__file__).with_name("reports")
VERSIONS = ("2022.1", "2025.2")


@pytest.mark.parametrize("version", VERSIONS)
def test_synthesis(version: str) -> None:
    report = read_synthesis(REPORTS / version / "csynth.xml")
    assert report.tool_version == version
    assert report.part == "xczu9eg-ffvb1156-2-e"
    assert (report.target_period_ns, report.estimated_period_ns) == (5.0, 3.612)
    assert report.used == {"lut": 39102, "ff": 48211, "dsp": 310, "bram18": 41, "uram": 0}
    scan = "selective_scan_stage_0_Pipeline_selective_scan"
    assert report.loops == (
        LoopReport("gate_stage_0_Pipeline_gate", "gate", 1, 14),
        LoopReport(scan, "selective_scan", 2, 27),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_utilization(version: str) -> None:
    report = read_utilization(REPORTS / version / "utilization.rpt")
    assert report.tool_version == version
    assert report.used == {"lut": 41216, "ff": 52037, "bram36": 24.5, "uram": 0, "dsp": 312}
    assert report.available["dsp"] == 2520
    shares = report.shares()
    assert shares["lut"] == 41216 / 274080
    assert shares["uram"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_timing(version: str) -> None:
    report = read_timing(REPORTS / version / "timing_summary.rpt")
    assert report.tool_version == version
    assert (report.wns_ns, report.whs_ns) == (0.187, 0.010)
    assert report.clk_period_ns == {"clk_pl_0": 10.0, "clk_out1_emamba_clk_wiz_0_0": 5.0}


@pytest.mark.parametrize("version", VERSIONS)
def test_power(version: str) -> None:
    report = read_power(REPORTS / version / "power.rpt")
    assert report.tool_version == version
    assert (report.total_w, report.dynamic_w, report.static_w) == (4.213, 3.489, 0.724)
    assert report.confidence == "Low"


BROKEN = [
    (
        read_synthesis, "csynth.xml", "<DSP>310</DSP>", "",
        "must hold AreaEstimates/Resources/DSP, but does not; expected is csynth.xml",
    ),
    (
        read_synthesis, "csynth.xml", "<LUT>39102</LUT>", "<LUT>undef</LUT>",
        "must hold a number where it holds 'undef'",
    ),
    (
        read_utilization, "utilization.rpt", "| DSPs ", "| Others ",
        "must hold rows DSPs, but does not",
    ),
    (
        read_timing, "timing_summary.rpt", "WNS(ns)", "worst",
        "must hold WNS(ns), but does not; expected is a timing summary",
    ),
    (
        read_timing, "timing_summary.rpt", "      0.187 ", "      NA    ",
        "must hold a number where it holds 'NA'",
    ),
    (
        read_power, "power.rpt", "Dynamic (W)", "Dynamic",
        "must hold 'Dynamic (W)', but does not; expected is a power report",
    ),
    (
        read_power, "power.rpt", "Tool Version", "Tool",
        "must name its Tool Version, but does not; expected is Vivado's",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("read", "name", "old", "new", "reason"), BROKEN)
def test_a_missing_figure_is_no_zero(
    tmp_path: Path, read: Callable[[Path], Any], name: str, old: str, new: str, reason: str
) -> None:
    text = (REPORTS / VERSIONS[0] / name).read_text()
    assert old in text
    path = tmp_path / name
    path.write_text(text.replace(old, new))
    with pytest.raises(ReportError, match=f"^{re.escape(f'{path}: {reason}')}$"):
        read(path)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    path = tmp_path / "power.rpt"
    message = f"{path}: cannot be read: No such file or directory; build first"
    with pytest.raises(ReportError, match=f"^{re.escape(message)}$"):
        read_power(path)
