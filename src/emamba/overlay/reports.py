"""The vendor's reports as numbers: Vitis HLS synthesis, Vivado utilisation, timing and power.

Written for the formats of 2022.1 to 2025.2. A report without a number that is asked for raises
`ReportError`: a missing figure must not become a zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

__all__ = [
    "LoopReport",
    "PowerReport",
    "ReportError",
    "SynthesisReport",
    "TimingReport",
    "UtilizationReport",
    "read_power",
    "read_synthesis",
    "read_timing",
    "read_utilization",
]


class ReportError(ValueError):
    """A report that is missing, cut short or of an unknown format; the message names it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True)
class LoopReport:
    """One pipelined loop as scheduled: cycles between iterations, and from in to out of one."""

    module: str
    loop: str
    ii_cycles: int
    depth_cycles: int


@dataclass(frozen=True)
class SynthesisReport:
    """What Vitis HLS estimates: resources by our names, and every pipelined loop."""

    tool_version: str
    part: str
    target_period_ns: float
    estimated_period_ns: float
    used: dict[str, int]
    loops: tuple[LoopReport, ...]


@dataclass(frozen=True)
class UtilizationReport:
    """What a design takes of a device, by our names; half a BRAM counts."""

    tool_version: str
    used: dict[str, float]
    available: dict[str, float]

    def shares(self) -> dict[str, float]:
        """Used parts of what is there, 0..1; 0 of what the device has none of."""
        return {
            name: used / self.available[name] if used else 0.0 for name, used in self.used.items()
        }


@dataclass(frozen=True)
class TimingReport:
    """Worst slacks of setup (`wns_ns`) and hold (`whs_ns`), and every clock's period."""

    tool_version: str
    wns_ns: float
    whs_ns: float
    clk_period_ns: dict[str, float]


@dataclass(frozen=True)
class PowerReport:
    """Vivado's estimate, and how far it trusts its own inputs."""

    tool_version: str
    total_w: float
    dynamic_w: float
    static_w: float
    confidence: str


# Vitis HLS counts BRAMs of 18 Kib.
_SYNTHESIS_NAMES = {"LUT": "lut", "FF": "ff", "DSP": "dsp", "BRAM_18K": "bram18", "URAM": "uram"}
_UTILIZATION_NAMES = {
    "CLB LUTs": "lut",
    "CLB Registers": "ff",
    "DSPs": "dsp",
    "Block RAM Tile": "bram36",
    "URAM": "uram",
}


def read_synthesis(path: Path) -> SynthesisReport:
    """Read `csynth.xml`; raises `ReportError`."""
    try:
        root = ET.fromstring(_read(path))
    except ET.ParseError as error:
        raise ReportError(path, f"must be XML: {error}; run the synthesis again") from error

    def text(where: str) -> str:
        found = root.findtext(where)
        if found is None:
            raise ReportError(path, f"must hold {where}, but does not; expected is csynth.xml")
        return found.strip()

    estimates = "PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod"
    resources = "AreaEstimates/Resources/"
    return SynthesisReport(
        tool_version=text("ReportVersion/Version"),
        part=text("UserAssignments/Part"),
        target_period_ns=_number(path, text("UserAssignments/TargetClockPeriod")),
        estimated_period_ns=_number(path, text(estimates)),
        used={
            ours: int(_number(path, text(resources + theirs)))
            for theirs, ours in _SYNTHESIS_NAMES.items()
        },
        loops=tuple(_loops(path, root)),
    )


def _loops(path: Path, root: ET.Element) -> Iterator[LoopReport]:
    for module in root.iter("Module"):
        name = module.findtext("Name", "").strip()
        for summary in module.iter("SummaryOfLoopLatency"):
            for loop in summary.iter():
                ii, depth = loop.findtext("PipelineII"), loop.findtext("PipelineDepth")
                # Loops that are not pipelined have no II, or one of "undef".
                if ii is not None and depth is not None and ii.strip().isdigit():
                    label = loop.findtext("Name", loop.tag).strip()
                    yield LoopReport(name, label, int(ii), int(_number(path, depth)))


def read_utilization(path: Path) -> UtilizationReport:
    """Read `report_utilization`'s file; raises `ReportError`."""
    raw = _read(path)
    used, available = {}, {}
    header: list[str] = []
    for cells in _rows(raw):
        if cells[0] == "Site Type":
            header = cells
            continue
        name = _UTILIZATION_NAMES.get(cells[0].rstrip("*"))
        if name is not None and len(cells) == len(header) and name not in used:
            row = dict(zip(header, cells, strict=True))
            used[name] = _number(path, row["Used"])
            available[name] = _number(path, row["Available"])
    missing = [theirs for theirs, ours in _UTILIZATION_NAMES.items() if ours not in used]
    if missing:
        raise ReportError(path, f"must hold rows {', '.join(missing)}, but does not")
    return UtilizationReport(_tool_version(path, raw), used, available)


def read_timing(path: Path) -> TimingReport:
    """Read `report_timing_summary`'s file; raises `ReportError`."""
    raw = _read(path)
    slack = {}
    lines = iter(raw.splitlines())
    for line in lines:
        if line.split()[:2] == ["WNS(ns)", "TNS(ns)"]:
            names = re.split(r"\s{2,}", line.strip())
            next(lines, "")
            values = next(lines, "").split()
            slack = dict(zip(names, values, strict=False))
            break
    for name in ("WNS(ns)", "WHS(ns)"):
        if name not in slack:
            raise ReportError(path, f"must hold {name}, but does not; expected is a timing summary")
    clocks = re.findall(r"(?m)^\s*(\S+)\s+\{[\d. ]+\}\s+([\d.]+)\s+[\d.]+\s*$", raw)
    return TimingReport(
        tool_version=_tool_version(path, raw),
        wns_ns=_number(path, slack["WNS(ns)"]),
        whs_ns=_number(path, slack["WHS(ns)"]),
        clk_period_ns={name: float(period) for name, period in clocks},
    )


def read_power(path: Path) -> PowerReport:
    """Read `report_power`'s file; raises `ReportError`."""
    raw = _read(path)
    values = {cells[0]: cells[1] for cells in _rows(raw) if len(cells) == 2}
    names = ("Total On-Chip Power (W)", "Dynamic (W)", "Device Static (W)")
    for name in (*names, "Confidence Level"):
        if name not in values:
            raise ReportError(path, f"must hold {name!r}, but does not; expected is a power report")
    total, dynamic, static = (_number(path, values[name]) for name in names)
    return PowerReport(_tool_version(path, raw), total, dynamic, static, values["Confidence Level"])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise ReportError(path, f"cannot be read: {error.strerror}; build first") from error


def _rows(raw: str) -> Iterator[list[str]]:
    """The cells of every table row."""
    for line in raw.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def _tool_version(path: Path, raw: str) -> str:
    found = re.search(r"Tool Version\s*:\s*Vivado v\.(\S+)", raw)
    if found is None:
        raise ReportError(path, "must name its Tool Version, but does not; expected is Vivado's")
    return found[1]


def _number(path: Path, text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError as error:
        raise ReportError(path, f"must hold a number where it holds {text!r}") from error
