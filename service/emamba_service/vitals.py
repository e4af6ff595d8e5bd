"""What the page shows beside the skeleton: the service's state now, in one small document.

Counters are totals and go with `clock_s`: whoever asks twice has rates. What is not measured is
absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emamba_service.telemetry import Sampler

if TYPE_CHECKING:
    from emamba_service.service import Service

__all__ = ["vitals"]


def vitals(service: Service) -> dict[str, Any]:
    """What `/v1/vitals` says of `service`; raises `NotReadyError` while it loads or stops."""
    service.inference.check_open()
    document: dict[str, Any] = {
        "clock_s": round(service.clock(), 6),
        "models": [
            {
                **model.state(),
                "frames": model.statistics.frames,
                "waiting": model.scheduler.waiting,
            }
            for model in service.models
        ],
        "streams": service.streams.count,
        "viewers": service.streams.viewers,
    }
    if service.shadow is not None:
        document["shadow"] = service.shadow.counts()
    return document | _measured(service.sampler)


def _measured(sampler: Sampler | None) -> dict[str, Any]:
    reading = sampler.snapshot() if sampler is not None else None
    if sampler is None or reading is None:
        return {}
    members = {
        "power_w": dict(reading.group_power_w),
        "energy_j": sampler.group_energy_j(reading),
        "temperature_c": dict(reading.temperature_c),
    }
    return {name: values for name, values in members.items() if values}
