"""The board's sensors, as a verification asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emamba_service.telemetry.sampler import LEAST_INTERVAL_S, Sampler
from emamba_service.verify.energy import Power, PowerMeter

__all__ = ["Sensors", "open_sensors"]

_DEFAULT_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Sensors:
    """`meter` is None where no group of rails can be read; `no_power` then says so."""

    meter: PowerMeter | None
    no_power: str
    temperatures: Callable[[], Mapping[str, float]]


@contextmanager
def open_sensors(sysfs: Path, interval_s: float, window_s: float) -> Iterator[Sensors]:
    """Sample what is found under `sysfs` every `interval_s`, keeping windows of `window_s`.

    An interval of 0, which turns the service's telemetry off, becomes 0.2 s.
    """
    sampler = Sampler(
        sysfs,
        max(interval_s or _DEFAULT_INTERVAL_S, LEAST_INTERVAL_S),
        history_s=2 * window_s + 60,
    )
    with sampler:
        found = bool(sampler.sample().group_power_w)
        yield Sensors(
            _SampledPower(sampler) if found else None,
            f"no power rails found under {sysfs}",
            lambda: sampler.sample().temperature_c,
        )


@dataclass(frozen=True)
class _SampledPower:
    sampler: Sampler

    def measure(self, seconds: float) -> Mapping[str, Power]:
        begin_s = time.monotonic()  # the sampler's clock
        time.sleep(seconds)
        windows = self.sampler.window(begin_s, time.monotonic())
        return {
            group: Power(window.mean_w, window.standard_error_w, window.count)
            for group, window in windows.items()
        }
