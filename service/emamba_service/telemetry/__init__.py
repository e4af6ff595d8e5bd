"""Power and temperature of the board, read from sysfs; docs/telemetry.md."""

from __future__ import annotations

from emamba_service.telemetry.collector import TelemetryCollector
from emamba_service.telemetry.energy import Window
from emamba_service.telemetry.sampler import Reading, Sampler

__all__ = ["Reading", "Sampler", "TelemetryCollector", "Window"]
