"""Speed, energy and the sensors behind them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from emamba.engines import EngineError
from emamba_service.verify.energy import Power, group_energy
from emamba_service.verify.sensors import open_sensors
from emamba_service.verify.verdict import verify


class Meter:
    """Two windows as given, each after a moment in which a load can run."""

    def __init__(self, idle: dict[str, Power], loaded: dict[str, Power]) -> None:
        self._windows = [idle, loaded]
        self.asked_s: list[float] = []

    def measure(self, seconds: float) -> dict[str, Power]:
        self.asked_s.append(seconds)
        time.sleep(0.05)
        return self._windows.pop(0)


def test_speed_of_every_batch_size_and_stage(request_for, bench, altered):
    stages = {"kernel": 0.25, "pack": 0.5}
    engine = altered(lambda call, r: replace(r, stages_s=stages))
    speed = verify(request_for(), bench(engine)).speed
    assert [row.batch for row in speed.rows] == [1, 8, 64, 256]
    for row in speed.rows:
        assert row.calls >= 3
        assert row.latency_us["kernel"].p50 == row.latency_us["kernel"].max == 250_000
        total = row.latency_us["total"]
        assert 0 < total.p50 <= total.p90 <= total.p99 <= total.max
        assert row.frames_per_s >= row.batch / (total.max * 1e-6) * 0.999
    assert speed.obtained["total"] == "measured: wall time of the call"
    assert speed.reason == ""


@pytest.mark.parametrize(
    ("name", "how"), [("board", "counted by the kernel"), ("emulator", "modelled")]
)
def test_kernel_times_say_how_they_were_obtained(request_for, bench, altered, name, how):
    engine = altered(lambda call, r: replace(r, stages_s={"kernel": 1.0}), name)
    report = verify(request_for(), bench(engine))
    assert report.exit_code == 0
    assert report.speed.obtained["kernel"].startswith(how)
    assert ("not of a board" in report.obtained["speed"]) == (name == "emulator")


def test_energy_is_power_above_idle_by_the_rate(request_for, bench, altered):
    meter = Meter(
        {"pl": Power(1.0, 0.03, 40), "ps": Power(2.0, 0.01, 40)},
        {"pl": Power(1.5, 0.04, 50), "vanished": Power(1.0, 0.1, 50)},
    )
    energy = verify(request_for(), bench(altered(), meter=meter)).energy
    assert meter.asked_s == [1.0, 1.0]
    assert energy.groups.keys() == {"pl"}
    group, rate = energy.groups["pl"], energy.load.frames_per_s
    assert energy.load.frames >= energy.load.batch == 8
    assert group.energy_mj == pytest.approx(500 / rate, rel=1e-3)
    assert (group.idle_w, group.loaded_w, group.samples) == (1.0, 1.5, 50)


def test_uncertainty_adds_both_powers_and_the_rate():
    idle, loaded = Power(1.0, 0.02, 40), Power(2.0, 0.03, 50)
    group = group_energy(idle, loaded, frames_per_s=500.0, relative_error=0.06)
    assert group.energy_mj == 2.0
    assert group.standard_uncertainty_mj == pytest.approx(0.14)  # 2 * (2^2 + 3^2 + 6^2)^0.5 / 100


def test_without_rails_energy_is_not_measured(request_for, bench, altered):
    report = verify(request_for(), bench(altered(), no_power="no power rails found under /sys"))
    assert report.energy.groups == {}
    assert report.energy.load is None
    assert report.obtained["energy"] == "not measured: no power rails found under /sys"


def test_an_engine_that_stops_under_load_is_incomplete(request_for, bench, altered):
    rails = {"pl": Power(1.0, 0.1, 4)}
    loading = []

    def alter(call, recorded):
        if loading:
            raise EngineError("brown-out")
        return recorded

    class Watched(Meter):
        def measure(self, seconds):
            window = super().measure(seconds)
            loading.append(True)
            return window

    report = verify(request_for(), bench(altered(alter), meter=Watched(rails, rails)))
    assert report.exit_code == 3
    assert report.energy.reason == "engine mirror stopped under load: brown-out"


def test_temperatures_at_start_and_end(request_for, bench, altered):
    readings = iter([{"pl": 40.04, "ps": 41.0}, {"pl": 43.96}])
    report = verify(request_for(), bench(altered(), temperatures=lambda: next(readings)))
    assert report.temperatures_c.start == {"pl": 40.0, "ps": 41.0}
    assert report.temperatures_c.end == {"pl": 44.0}
    assert report.obtained["temperatures_c"] == "measured: sensors of the board"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_machine_without_sensors_has_no_meter(tmp_path):
    with open_sensors(tmp_path, 0, 1.0) as sensors:
        assert sensors.meter is None
        assert sensors.no_power == f"no power rails found under {tmp_path}"
        assert sensors.temperatures() == {}


def test_rails_of_a_board_are_metered(tmp_path):
    write(tmp_path / "firmware/devicetree/base/compatible", "xlnx,zynqmp-zcu102\0xlnx,zynqmp\0")
    for number, designator in enumerate(("u79", "u81")):
        write(tmp_path / f"class/hwmon/hwmon{number}/name", f"ina226_{designator}\n")
        write(tmp_path / f"class/hwmon/hwmon{number}/power1_input", "1500000\n")
    for part, value in (("raw", "40000"), ("offset", "-36058"), ("scale", "7.771514892")):
        write(tmp_path / f"bus/iio/devices/iio:device3/in_temp2_pl_temp_{part}", value)
    with open_sensors(tmp_path, 0.05, 1.0) as sensors:
        power = sensors.meter.measure(0.4)
        assert sensors.temperatures() == {"pl": pytest.approx(30.635, abs=0.01)}
    assert power.keys() == {"pl_core"}
    assert power["pl_core"].mean_w == pytest.approx(3.0)
    assert power["pl_core"].samples >= 2
