"""The sampler over written trees, with a clock that the test sets and with its thread."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emamba_service.telemetry import Reading, Sampler

# Reading it at its beginning gives EIO.
FAILS = Path("/proc/self/mem")


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def _fail(path: Path) -> None:
    path.unlink()
    path.symlink_to(FAILS)


def _wait_for(condition: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + 20
    while not (result := condition()) and time.monotonic() < end_s:
        time.sleep(0.01)
    return result


@pytest.mark.parametrize("shape", ["iio_tree", "ina226_tree"])
def test_a_whole_board(
    shape: str, request: pytest.FixtureRequest, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = Sampler(request.getfixturevalue(shape)().root, 0.2, clock=clock)
    reading = sampler.sample()
    assert reading.time_s == 100.0
    assert len(reading.power_w) == 18
    assert reading.group_power_w == {"pl_core": 2.899, "pl": 4.36, "ps": 2.311}
    assert set(reading.energy_j.values()) == {0.0}
    assert set(reading.temperature_c) == {"ps", "remote", "pl"}
    assert _warnings(caplog) == []


def test_energy_adds_up_between_sweeps(iio_tree: Callable[..., Any], clock: Any) -> None:
    tree = iio_tree()
    sampler = Sampler(tree.root, 0.5, clock=clock)
    sampler.sample()
    clock.now_s += 0.5
    tree.power["VCCINT"].write_text("4000000\n")
    reading = sampler.sample()
    assert reading.energy_j["VCCINT"] == (2.812 + 4.0) / 2 * 0.5
    assert reading.energy_j["MGTRAVTT"] == 0.0


def test_five_intervals_are_no_gap_for_energy_and_six_are(
    iio_tree: Callable[..., Any], clock: Any
) -> None:
    sampler = Sampler(iio_tree().root, 0.5, clock=clock)
    sampler.sample()
    clock.now_s += 2.5
    assert sampler.sample().energy_j["VCCINT"] == 2.812 * 2.5
    clock.now_s += 3.0
    assert sampler.sample().energy_j["VCCINT"] == 2.812 * 2.5


def test_missing_sensors_take_their_sums_along_and_are_said_once(
    iio_tree: Callable[..., Any], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree = iio_tree(without=("VCCAUX", "MGTRAVTT", "VCCOPS3"))
    sampler = Sampler(tree.root, 0.2, clock=clock)
    reading = [sampler.sample() for _ in range(3)][-1]
    assert len(reading.power_w) == 15
    assert reading.group_power_w == {"pl_core": 2.899}
    [warning] = _warnings(caplog)
    assert "3 have none in" in warning
    assert ": VCCAUX (u80), MGTRAVTT (u86), VCCOPS3 (u15); they and the sums" in warning


def test_a_board_whose_kernel_has_no_driver_says_so(
    laptop_tree: Any, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    laptop_tree.device_tree()
    sampler = Sampler(laptop_tree.root, 0.2, clock=clock)
    assert sampler.sample() == Reading(100.0, {}, {}, {}, {})
    [warning] = _warnings(caplog)
    assert warning.startswith("the zcu102 has 18 rails with a sensor, but 18 have none in")


@pytest.mark.skipif(not FAILS.exists(), reason="needs a file whose reading gives EIO")
def test_a_sensor_that_fails_is_absent_until_it_answers(
    iio_tree: Callable[..., Any], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree = iio_tree()
    sampler = Sampler(tree.root, 1.0, clock=clock)
    sampler.sample()
    _fail(tree.power["VCCINT"])
    for _ in range(3):
        clock.now_s += 1.0
        reading = sampler.sample()
    assert "VCCINT" not in reading.power_w
    assert "VCCINT" not in reading.energy_j
    assert set(reading.group_power_w) == {"ps"}
    assert reading.energy_j["VCCBRAM"] == pytest.approx(3 * 0.087, rel=1e-12)  # summed in steps
    [warning] = _warnings(caplog)
    assert warning.startswith("rail VCCINT cannot be read and is left out until it can: [Errno 5]")
    tree.power["VCCINT"].unlink()
    tree.power["VCCINT"].write_text("2000000\n")
    for _ in range(2):
        clock.now_s += 1.0
        reading = sampler.sample()
    assert reading.energy_j["VCCINT"] == 2.0  # of the last second alone
    assert len(_warnings(caplog)) == 1


def test_a_sensor_that_vanishes_or_talks_garbage_is_absent(
    ina226_tree: Callable[..., Any], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree = ina226_tree()
    sampler = Sampler(tree.root, 0.2, clock=clock)
    shutil.rmtree(tree.power["VCCAUX"].parent)
    tree.power["VCCOPS"].write_text("\n")
    (tree.root / "bus/iio/devices/iio:device3/in_temp7_raw").write_text("0\n")
    reading = [sampler.sample() for _ in range(2)][-1]
    assert len(reading.power_w) == 16
    assert set(reading.group_power_w) == {"pl_core"}
    assert set(reading.temperature_c) == {"remote", "pl"}
    assert [warning.split(" cannot")[0] for warning in _warnings(caplog)] == [
        "rail VCCAUX",
        "rail VCCOPS",
        "temperature ps",
    ]


def test_a_laptop_has_nothing_and_says_nothing(
    laptop_tree: Any, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = threading.active_count()
    with Sampler(laptop_tree.root, 0.2, clock=clock) as sampler:
        assert threading.active_count() == before
        assert sampler.sample() == Reading(100.0, {}, {}, {}, {})
        assert sampler.window(0.0, 200.0) == {}
    assert caplog.records == []


def test_a_root_that_is_not_there_is_a_machine_without_sensors(tmp_path: Path, clock: Any) -> None:
    assert Sampler(tmp_path / "none", 0.2, clock=clock).sample() == Reading(100.0, {}, {}, {}, {})


def test_a_stale_sweep_is_no_snapshot(iio_tree: Callable[..., Any], clock: Any) -> None:
    sampler = Sampler(iio_tree().root, 0.25, clock=clock)
    assert sampler.snapshot() is None
    reading = sampler.sample()
    clock.now_s += 1.25
    assert sampler.snapshot() is reading
    clock.now_s += 0.25
    assert sampler.snapshot() is None


def _sweep(sampler: Sampler, tree: Any, clock: Any, powers_uw: list[int]) -> None:
    """One sweep a second, with these powers of VCCINT."""
    for power_uw in powers_uw:
        tree.power["VCCINT"].write_text(f"{power_uw}\n")
        sampler.sample()
        clock.now_s += 1.0


def test_windows(iio_tree: Callable[..., Any], clock: Any) -> None:
    tree = iio_tree()
    tree.power["VCCBRAM"].write_text("0\n")
    sampler = Sampler(tree.root, 1.0, clock=clock)
    _sweep(sampler, tree, clock, [1_000_000, 2_000_000, 4_000_000, 3_000_000, 9_000_000])
    # 100 is before the start and what came at 101 was averaged in part before it.
    window = sampler.window(100.95, 103.0)["pl_core"]
    assert (window.mean_w, window.count) == (3.5, 2)
    window = sampler.window(100.9, 103.0)["pl_core"]
    assert (window.mean_w, window.count) == (3.0, 3)
    # The variance of 2, 4, 3 over 3, and the rounding of both rails.
    assert window.standard_error_w**2 == pytest.approx(
        1 / 3 + (0.03125**2 + 0.0125**2) / 12, rel=1e-12
    )
    assert set(sampler.window(100.9, 103.0)) == {"pl_core", "pl", "ps"}
    assert sampler.window(103.5, 104.5) == {}
    assert sampler.window(200.0, 300.0) == {}


def test_windows_pass_over_what_was_not_measured(iio_tree: Callable[..., Any], clock: Any) -> None:
    tree = iio_tree()
    tree.power["VCCBRAM"].write_text("0\n")
    sampler = Sampler(tree.root, 1.0, clock=clock)
    _sweep(sampler, tree, clock, [1_000_000, -1, 3_000_000])
    windows = sampler.window(99.0, 110.0)
    assert (windows["pl_core"].mean_w, windows["pl_core"].count) == (2.0, 2)
    assert windows["ps"].count == 3


def test_history_is_bounded(iio_tree: Callable[..., Any], clock: Any) -> None:
    tree = iio_tree()
    sampler = Sampler(tree.root, 1.0, clock=clock, history_s=3.0)
    _sweep(sampler, tree, clock, [1_000_000] * 9)
    assert sampler.window(0.0, 1000.0)["ps"].count == 3


@pytest.mark.parametrize("interval_s", [0.049, 0.0, -1.0, float("nan"), float("inf")])
def test_intervals_that_repeat_readings_are_refused(interval_s: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"interval_s must be >= 0\.05, for readings that are"):
        Sampler(tmp_path, interval_s)


def test_the_thread_sweeps_until_it_is_stopped(iio_tree: Callable[..., Any]) -> None:
    before = set(threading.enumerate())
    sampler = Sampler(iio_tree().root, 0.05)
    with sampler:
        with pytest.raises(RuntimeError, match="must be stopped to be started"):
            sampler.start()
        first = _wait_for(sampler.snapshot)
        assert _wait_for(lambda: sampler.window(0.0, time.monotonic()))
    sampler.stop()
    assert sampler.sample().time_s > first.time_s
    assert set(threading.enumerate()) <= before


def test_the_thread_outlives_an_error_and_says_it_once(
    iio_tree: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([OSError("no clock"), OSError("no clock")])

    def clock() -> float:
        for failure in failures:
            raise failure
        return time.monotonic()

    with Sampler(iio_tree().root, 0.05, clock=clock) as sampler:
        assert _wait_for(lambda: sampler.window(0.0, time.monotonic()))
    assert _warnings(caplog) == [
        "telemetry cannot be read and is left out until it can: no clock",
    ]


def test_a_stopped_sampler_starts_again(iio_tree: Callable[..., Any]) -> None:
    sampler = Sampler(iio_tree().root, 0.05)
    for _ in range(2):
        sampler.start()
        start_s = time.monotonic()
        assert _wait_for(lambda start_s=start_s: sampler.window(start_s, time.monotonic()))
        sampler.stop()
