"""docs/telemetry.md against the rail map and the metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from emamba_service.telemetry import Sampler, TelemetryCollector
from emamba_service.telemetry.rails import ZCU102, Rail

PAGE = (Path(__file__).parents[3] / "docs/telemetry.md").read_text()


def _row(rail: Rail) -> str:
    shunt, step = f"{rail.shunt_ohms * 1e3:g} mOhm", f"{rail.power_step_w * 1e3:g} mW"
    place = f"{rail.bus.name} {rail.address:#x}"
    return f"| {rail.name} | {rail.designator} | {place} | {shunt} | {step} | {rail.group} |"


def test_the_table_is_the_rail_map() -> None:
    rows = re.findall(r"^\| \w+ \| u\d+ \|.*$", PAGE, re.MULTILINE)
    assert rows == [_row(rail) for rail in ZCU102.rails]


def test_channels_and_rounding_are_the_rail_map_s() -> None:
    channels = {rail.bus.channel: rail.bus.name for rail in ZCU102.rails}
    text = " ".join(PAGE.split())
    assert f"Channel 0 is {channels[0]}, channel 1 {channels[1]}" in text
    milliwatts = ZCU102.quantisation_w("pl_core") * 1e3
    assert f"rounding is {milliwatts:.1f} mW, for a difference {milliwatts * 2**0.5:.1f} mW" in text


def test_all_metrics_are_listed(laptop_tree: Any) -> None:
    collector = TelemetryCollector(Sampler(laptop_tree.root, 0.2))
    names = {m.name + "_total" * (m.type == "counter") for m in collector.describe()}
    assert set(re.findall(r"^\| `(emamba_\w+)`", PAGE, re.MULTILINE)) == names
