"""Reads power and temperature at an interval, in a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from emamba_service.telemetry.energy import EnergyCounter, Window, mean_power
from emamba_service.telemetry.power import find_board, find_rails, read_power_w
from emamba_service.telemetry.rails import GROUPS, Board, Group
from emamba_service.telemetry.temperature import find_temperatures, read_temperature_c

__all__ = ["GAP_INTERVALS", "LAG_S", "LEAST_INTERVAL_S", "Reading", "Sampler"]

# An INA226 averages over 9 ms (ina2xx-adc) or 35 ms (ina2xx); readings closer than that may be one
# and the same, and their count would promise a precision that is not there.
LEAST_INTERVAL_S = 0.05
# A reading is of a conversion that ended up to 35 ms ago and began 35 ms before that.
LAG_S = 0.07
# After so many intervals without a reading, what was read last is stale.
GAP_INTERVALS = 5
_STOP_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """What one sweep over the sensors gave; what was not measured is absent.

    `time_s` is the sampler's clock. `energy_j` counts from the sampler's first sweep and holds the
    rails of `power_w`. A group is there if all of its rails are.
    """

    time_s: float
    power_w: Mapping[str, float]
    energy_j: Mapping[str, float]
    group_power_w: Mapping[Group, float]
    temperature_c: Mapping[str, float]


class Sampler:
    """Sweeps over the sensors under `sysfs` every `interval_s`, and keeps `history_s` of them.

    Sensors are looked for once, here. `board` is what the device tree says unless given; without a
    rail map for it there are no rails and no warning. The board's rails without a sensor are listed
    in one warning; a sensor that fails later is said once, and is absent until it answers again.
    Without any sensor everything stays empty and `start` starts nothing.
    """

    def __init__(
        self,
        sysfs: Path,
        interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        board: Board | None = None,
        history_s: float = 600.0,
    ) -> None:
        if not LEAST_INTERVAL_S <= interval_s < math.inf:
            raise ValueError(
                f"interval_s must be >= {LEAST_INTERVAL_S:g}, for readings that are independent, "
                f"but is {interval_s:g}"
            )
        self.board = board or find_board(sysfs)
        self._interval_s = interval_s
        self._clock = clock
        self._rails = _find_rails(sysfs, self.board)
        self._temperatures = {
            sensor: partial(read_temperature_c, stem)
            for sensor, stem in find_temperatures(sysfs).items()
        }
        self._energy = EnergyCounter(GAP_INTERVALS * interval_s)
        self._last: Reading | None = None
        self._history: deque[tuple[float, Mapping[Group, float]]] = deque(
            maxlen=math.ceil(history_s / interval_s)
        )
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin sweeping; raises `RuntimeError` if it has begun already."""
        if self._thread is not None:
            raise RuntimeError("the sampler must be stopped to be started, but is running")
        if self._rails or self._temperatures:
            # Its own event: a thread that was left behind must not come back to life.
            self._stopping = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="telemetry", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End sweeping. A driver that hangs in a read is left behind after some seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)
            self._thread = None

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def sample(self) -> Reading:
        """Sweep once, now; what the thread does at every interval."""
        time_s = self._clock()
        power_w = self._answers("rail", self._rails)
        temperature_c = self._answers("temperature", self._temperatures)
        groups_w = _group_sums(self.board, power_w)
        with self._lock:
            self._energy.add(time_s, power_w)
            energy_j = {rail: self._energy.energy_j[rail] for rail in power_w}
            self._last = Reading(time_s, power_w, energy_j, groups_w, temperature_c)
            self._history.append((time_s, groups_w))
            return self._last

    def snapshot(self) -> Reading | None:
        """The last sweep; None before the first and once it is stale."""
        last = self._last
        if last is None or self._clock() - last.time_s > GAP_INTERVALS * self._interval_s:
            return None
        return last

    def window(self, start_s: float, end_s: float) -> dict[Group, Window]:
        """Mean power by group between two times of the sampler's clock.

        Takes the readings that began to be averaged after `start_s` (`LAG_S`) and came by `end_s`.
        A group is absent where fewer than two readings hold all of its rails.
        """
        if self.board is None:
            return {}
        with self._lock:
            inside = [sums for at_s, sums in self._history if start_s + LAG_S <= at_s <= end_s]
        windows = {
            group: mean_power(
                [sums[group] for sums in inside if group in sums], self.board.quantisation_w(group)
            )
            for group in GROUPS
        }
        return {group: window for group, window in windows.items() if window}

    def group_energy_j(self, reading: Reading) -> dict[Group, float]:
        """A reading's energy by group, of the groups whose rails are all in it."""
        return _group_sums(self.board, reading.energy_j)

    def _run(self, stopping: threading.Event) -> None:
        while True:
            try:
                self.sample()
            except Exception as error:
                self._say_once("telemetry", error)
            if stopping.wait(self._interval_s):
                return

    def _answers(self, kind: str, sensors: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        """What the sensors give, without those that fail."""
        answers = {}
        for name, read in sensors.items():
            try:
                answers[name] = read()
            except (OSError, ValueError) as error:
                self._say_once(f"{kind} {name}", error)
        return answers

    def _say_once(self, what: str, error: Exception) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("%s cannot be read and is left out until it can: %s", what, error)


def _find_rails(sysfs: Path, board: Board | None) -> dict[str, Callable[[], float]]:
    """How to read each rail that has a sensor; says which of the board's have none."""
    if board is None:
        return {}
    paths = find_rails(sysfs, board)
    missing = [f"{rail.name} ({rail.designator})" for rail in board.rails if rail.name not in paths]
    if missing:
        _log.warning(
            "the %s has %d rails with a sensor, but %d have none in %s: %s; they and the sums that "
            "need them are left out; check the kernel log for ina226 and the device tree",
            *(board.name, len(board.rails), len(missing), sysfs / "class/hwmon"),
            ", ".join(missing),
        )
    rails = {rail.name: rail for rail in board.rails}
    return {name: partial(read_power_w, path, rails[name]) for name, path in paths.items()}


def _group_sums(board: Board | None, of_rail: Mapping[str, float]) -> dict[Group, float]:
    """Sums over the groups whose rails are all there, to the sixth decimal as the rails are."""
    if board is None:
        return {}
    names = {group: [rail.name for rail in board.group_rails(group)] for group in GROUPS}
    return {
        group: round(math.fsum(of_rail[name] for name in rails), 6)
        for group, rails in names.items()
        if of_rail.keys() >= set(rails)
    }
