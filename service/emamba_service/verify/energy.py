"""Energy of an inference: mean power over a long loaded window, less the idle one's."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emamba_service.verify.schema import Energy, GroupEnergy, Load
from emamba_service.verify.streaming import EngineStoppedError, Progress, Subject

__all__ = ["Power", "PowerMeter", "group_energy", "measure_energy", "not_measured"]


@dataclass(frozen=True)
class Power:
    """Mean power of one window, W, its standard error, W, and the samples behind it."""

    mean_w: float
    standard_error_w: float
    samples: int


class PowerMeter(Protocol):
    """Measures what power rails draw."""

    def measure(self, seconds: float) -> Mapping[str, Power]:
        """Mean power of each group of rails over the next `seconds`; absent groups are absent."""
        ...


@dataclass
class _Load:
    """Calls that a thread makes until it is told to stop."""

    subject: Subject
    batch: npt.NDArray[np.int8]
    stop: threading.Event = field(default_factory=threading.Event)
    calls_s: list[float] = field(default_factory=list)
    error: EngineStoppedError | None = None

    def run(self) -> None:
        """At least one call, then call after call; an engine's failure is kept for the caller."""
        try:
            while not self.calls_s or not self.stop.is_set():
                began = time.perf_counter()
                self.subject.record(self.batch)
                self.calls_s.append(time.perf_counter() - began)
        except EngineStoppedError as error:
            self.error = error

    @property
    def frames(self) -> int:
        return len(self.batch) * len(self.calls_s)

    @property
    def frames_per_s(self) -> float:
        return self.frames / sum(self.calls_s)

    @property
    def relative_error(self) -> float:
        """Standard error of the rate, as a share of it."""
        calls = np.asarray(self.calls_s)
        return float(calls.std() / calls.mean() / np.sqrt(len(calls)))


def measure_energy(
    subject: Subject,
    batch: npt.NDArray[np.int8],
    meter: PowerMeter,
    window_s: float,
    progress: Progress,
) -> Energy:
    """Two windows of `window_s`, idle and under calls of `batch`.

    The energy of an inference is (loaded - idle) W / (frames a second), for each group of rails
    that both windows have. Its uncertainty adds the standard errors of both powers and the rate.
    Raises `EngineStoppedError`.
    """
    progress("measuring idle power", 0, 1)
    idle = meter.measure(window_s)
    progress("measuring idle power", 1, 1)
    if not idle:
        return not_measured("no group of power rails could be read", window_s)
    progress("measuring power under load", 0, 1)
    with _loaded(_Load(subject, batch)) as load:
        loaded = meter.measure(window_s)
    progress("measuring power under load", 1, 1)
    if load.error is not None:
        raise load.error
    groups = {
        name: group_energy(idle[name], loaded[name], load.frames_per_s, load.relative_error)
        for name in idle
        if name in loaded
    }
    return Energy(
        groups=groups,
        window_s=window_s,
        load=Load(batch=len(batch), frames=load.frames, frames_per_s=round(load.frames_per_s, 1)),
        reason="" if groups else "no group of power rails could be read in both windows",
    )


def not_measured(reason: str, window_s: float) -> Energy:
    """No energy, and why."""
    return Energy(groups={}, window_s=window_s, load=None, reason=reason)


@contextmanager
def _loaded(load: _Load) -> Iterator[_Load]:
    thread = threading.Thread(target=load.run, name="emamba-load", daemon=True)
    thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        thread.join()


def group_energy(
    idle: Power, loaded: Power, frames_per_s: float, relative_error: float
) -> GroupEnergy:
    """Energy of one of `frames_per_s` frames, a rate known to `relative_error`."""
    above_w = loaded.mean_w - idle.mean_w
    error_w = math.hypot(loaded.standard_error_w, idle.standard_error_w, above_w * relative_error)
    return GroupEnergy(
        idle_w=round(idle.mean_w, 4),
        idle_standard_error_w=round(idle.standard_error_w, 5),
        loaded_w=round(loaded.mean_w, 4),
        loaded_standard_error_w=round(loaded.standard_error_w, 5),
        samples=loaded.samples,
        energy_mj=round(1000 * above_w / frames_per_s, 5),
        standard_uncertainty_mj=round(1000 * error_w / frames_per_s, 5),
    )
