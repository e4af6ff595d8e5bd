"""Power, energy and temperature as Prometheus metrics; what is not measured has no series."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from emamba_service.telemetry.sampler import Reading, Sampler

__all__ = ["TelemetryCollector"]

_NOTHING = Reading(0.0, {}, {}, {}, {})


class TelemetryCollector(Collector):
    """Gives the sampler's last sweep; nothing of one that is stale."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._group_of = {
            rail.name: rail.group for rail in (sampler.board.rails if sampler.board else ())
        }

    def describe(self) -> Iterator[Metric]:
        """The metrics without series, for the registry to know their names."""
        return self._metrics(_NOTHING)

    def collect(self) -> Iterator[Metric]:
        """The metrics that have series now."""
        reading = self._sampler.snapshot() or _NOTHING
        return (metric for metric in self._metrics(reading) if metric.samples)

    def _metrics(self, reading: Reading) -> Iterator[Metric]:
        power = GaugeMetricFamily(
            "emamba_rail_power_watts",
            "Power of one of the rails measured.",
            labels=["rail", "group"],
        )
        for rail, power_w in reading.power_w.items():
            power.add_metric([rail, self._group_of[rail]], power_w)
        yield power
        groups = GaugeMetricFamily(
            "emamba_group_power_watts",
            "Sum over a group of the rails measured, not the board's power; pl includes pl_core.",
            labels=["group"],
        )
        for group, power_w in reading.group_power_w.items():
            groups.add_metric([group], power_w)
        yield groups
        energy = CounterMetricFamily(
            "emamba_rail_energy_joules",
            "Energy of one of the rails measured, without the times at which it was not.",
            labels=["rail", "group"],
        )
        for rail, energy_j in reading.energy_j.items():
            energy.add_metric([rail, self._group_of[rail]], energy_j)
        yield energy
        temperature = GaugeMetricFamily(
            "emamba_temperature_celsius", "Temperature of the chip.", labels=["sensor"]
        )
        for sensor, celsius in reading.temperature_c.items():
            temperature.add_metric([sensor], celsius)
        yield temperature
