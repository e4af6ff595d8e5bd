"""Engines that tell their stages, answer through another, recover or fail; sensors."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from emamba.engines import EngineError, EngineStatus
from emamba.fixed import IntegerModel
from emamba_service.app import create_app
from emamba_service.errors import PROBLEM_JSON
from emamba_service.metrics import STAGES

AWAY = "board must answer within 0.5 s, but did not; it is being reset, try again"
MARS = {"model": "mars", "version": "10"}


@pytest.fixture
def made_up(calling, settings, engines):
    """Starts a service on made-up engines; nothing is checked unless asked for."""

    def start(**changes):
        changes = {"shadow_fraction": 0} | changes
        return calling(create_app(settings(**changes), engine_factory=engines))

    return start


def test_answer_names_who_computed_it(made_up, engines, points):
    with made_up() as service:
        assert service.pose({"points": points}).json()["engine"] == "board"
        engines.latest.computed_by = "native"
        assert service.pose({"points": points}).json()["engine"] == "native"


def test_stages_of_the_engine_are_told_in_order_and_observed(made_up, engines, points):
    with made_up() as service:
        engines.latest.stages_s = {"kernel": 25e-6, "pack": 12.34e-6, "secret": 1.0}
        timing = service.pose({"points": points}).json()["timing_us"]
        assert list(timing) == [*STAGES, "total", "engine_stages"]
        assert list(timing["engine_stages"].items()) == [("pack", 12.3), ("kernel", 25.0)]
        name = "emamba_stage_duration_seconds_count"
        stages = ("pack", "kernel", "transfer", "secret")
        assert [service.sample(name, model="mars", stage=s) for s in stages] == [1, 1, None, None]


def test_engine_that_cannot_answer_now_is_a_503_with_its_sentence(made_up, engines, points, caplog):
    with made_up() as service:
        engines.latest.refusal = AWAY
        answer = service.pose({"points": points})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == PROBLEM_JSON
        assert answer.json() == {
            "type": "/problems/engine-unavailable",
            "title": "Engine cannot answer now",
            "status": 503,
            "detail": AWAY,
        }
        assert service.sample("emamba_errors_total", kind="engine-unavailable") == 1
        assert service.sample("emamba_frames_total", **MARS) is None
        engines.latest.refusal = None
        assert service.pose({"points": points}).status_code == 200
    assert caplog.text == ""


def report(version: str, state: str = "ready", reason: str = "") -> dict[str, str]:
    about = {"model": "mars", "version": version, "engine": "board"}
    return about | {"state": state, "reason": reason}


def test_degraded_engine_stays_ready_and_is_shown(made_up, engines, points):
    reason = "native answers in its place: 3 resets did not help; power the board off and on"
    with made_up() as service:
        ready = {"ready": True, "engines": [report("9"), report("10")]}
        assert service.get("/health/ready").json() == ready
        engines.latest.status = EngineStatus("degraded", reason)
        engines.latest.computed_by = "native"
        answer = service.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json()["engines"] == [report("9"), report("10", "degraded", reason)]
        assert service.pose({"points": points}).json()["engine"] == "native"
        summary = service.get("/v1/models/mars").json()
        assert (summary["engine"], summary["engine_state"]) == ("board", "degraded")
        assert summary["engine_reason"] == reason


@pytest.mark.parametrize("state", ["recovering", "failed"])
@pytest.mark.parametrize("version", ["9", "10"])
def test_engine_that_nobody_replaces_ends_readiness(made_up, engines, state, version):
    with made_up() as service:
        engine = engines.of(version)
        engine.status = EngineStatus(state, "a transfer did not end within 0.5 s")
        answer = service.get("/health/ready")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        problem = answer.json()
        assert problem["type"] == "/problems/not-ready"
        assert problem["detail"] == (
            f"engine board of mars {version} must be ready, but is {state}: "
            "a transfer did not end within 0.5 s"
        )
        assert report(version, state, engine.status.reason) in problem["engines"]
        engine.status = EngineStatus()
        assert service.get("/health/ready").status_code == 200


def test_state_of_every_engine_is_a_metric(made_up, engines):
    def states(service, version: str) -> dict[str, float | None]:
        labels = {"model": "mars", "version": version}
        every = get_args(get_type_hints(EngineStatus)["state"])
        samples = {s: service.sample("emamba_engine_state", state=s, **labels) for s in every}
        return {state: value for state, value in samples.items() if value != 0}

    with made_up() as service:
        assert states(service, "10") == {"ready": 1}
        engines.latest.status = EngineStatus("failed", "its clock stands still")
        assert (states(service, "9"), states(service, "10")) == ({"ready": 1}, {"failed": 1})
    assert set(states(service, "10").values()) == {None}


def test_engines_are_closed_if_one_of_them_does_not_open(calling, settings, engines):
    calls = itertools.count()

    def second_refuses(name: str, model: IntegerModel):
        if next(calls) == 1:
            raise EngineError("the board holds one model only")
        return engines(name, model)

    app = create_app(settings(), engine_factory=second_refuses)
    with pytest.raises(EngineError, match="one model only"), calling(app):
        pass
    assert [engine.closed for engine in engines.opened] == [True]


def write_sensor(sysfs: Path) -> None:
    """The temperature sensor as AMD's kernel shows it, at 50 degC."""
    device = sysfs / "bus" / "iio" / "devices" / "iio:device0"
    device.mkdir(parents=True)
    for part, text in (("raw", "42209"), ("offset", "-36058"), ("scale", "8.1275")):
        (device / f"in_temp0_ps_temp_{part}").write_text(text)


def test_sensors_are_metrics_while_the_service_runs(made_up, tmp_path):
    write_sensor(tmp_path)
    with made_up(sysfs=tmp_path, power_interval_s=0.05) as service:
        name, labels = "emamba_temperature_celsius", {"sensor": "ps"}
        deadline = time.monotonic() + 10
        while (celsius := service.sample(name, **labels)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # else this thread would keep the sampler's from the interpreter
        assert celsius == pytest.approx(50, abs=0.1)
    assert service.sample(name, **labels) is None


def test_interval_of_0_reads_no_sensor(made_up, tmp_path):
    write_sensor(tmp_path)
    with made_up(sysfs=tmp_path, power_interval_s=0) as service:
        assert "emamba_temperature" not in service.get("/metrics").text
