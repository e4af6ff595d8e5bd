"""The service on an emulated board, as a process: answers, faults, readiness, metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.fixed import Mirror
from emamba.package import Package
from emamba.tasks.mars import JOINTS, feature_map

pytest.importorskip("pynq", reason="needs pynq")

ROOT = Path(__file__).resolve().parents[2]
POINTS = [[-0.31, 1.92, 0.48, 0.0, 31.0], [0.12, 1.87, -0.22, -0.18, 44.0]]


class Service:
    """A running server: its address, and answers of its routes."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> tuple[int, Any]:
        return self._answer(urllib.request.Request(self.url + path))

    def pose(self, frames: int = 1) -> tuple[int, Any]:
        body = json.dumps({"frames": [{"points": POINTS}] * frames}).encode()
        headers = {"Content-Type": "application/json"}
        return self._answer(urllib.request.Request(self.url + "/v1/pose", body, headers))

    def metrics(self) -> str:
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    @staticmethod
    def _answer(request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@contextmanager
def serving(*options: str) -> Iterator[Service]:
    """A server on a free port; it must leave with 0 when told to."""
    command = [
        Path(sys.executable).parent / "emamba-service",
        "--engine",
        "emulator",
        "--port",
        "0",
    ]
    environment = {name: text for name, text in os.environ.items() if "EMAMBA_" not in name}
    with subprocess.Popen(
        [*command, "--models", ROOT / "tests" / "one_model", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"on (http://\S+)", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        service = Service(found[1])
        until = time.monotonic() + 30
        while time.monotonic() < until and not reachable(service):
            time.sleep(0.05)
        try:
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest


def reachable(service: Service) -> bool:
    try:
        service.get("/health/live")
    except urllib.error.URLError:
        return False
    return True


def expected(package: Package) -> list[list[float]]:
    batch = package.encode(feature_map(np.array(POINTS))[None])
    joints: list[list[float]] = package.decode(Mirror(package.model).run(batch))[0].tolist()
    return joints


def joints_of(pose: dict[str, Any]) -> list[list[float]]:
    assert [joint["name"] for joint in pose["joints"]] == list(JOINTS)
    return [[joint["x_m"], joint["y_m"], joint["z_m"]] for joint in pose["joints"]]


def test_poses_come_from_the_emulator_with_the_times_of_its_stages(mars: Package) -> None:
    with serving() as service:
        status, answer = service.pose(3)
        assert (status, answer["engine"]) == (200, "emulator")
        assert [joints_of(pose) for pose in answer["poses"]] == [expected(mars)] * 3
        stages = answer["timing_us"]["engine_stages"]
        assert set(stages) == {"pack", "transfer", "kernel", "unpack", "guard"}
        assert 0 < stages["kernel"] < 100
        status, ready = service.get("/health/ready")
        assert (status, ready["ready"], ready["engines"][0]["state"]) == (200, True, "ready")


def test_under_faults_every_answer_is_right_or_a_refusal(mars: Package) -> None:
    faults = "output_flip:0.02,weight_flip:0.02,dma_error:0.005"
    with serving("--emulator-faults", faults, "--fallback", "none") as service:
        answers = [service.pose(2) for _ in range(60)]
        right = [answer for status, answer in answers if status == 200]
        assert len(right) >= 50
        for answer in right:
            assert [joints_of(pose) for pose in answer["poses"]] == [expected(mars)] * 2
        refused = [answer for status, answer in answers if status != 200]
        assert all(answer["type"] == "/problems/engine-unavailable" for answer in refused)
        assert re.search(r'emamba_board_faults_total{kind="transport"} [1-9]', service.metrics())
        assert re.search(r'emamba_board_mended_total{step="reset"} [1-9]', service.metrics())


def test_a_lost_board_is_degraded_and_says_so(mars: Package) -> None:
    with serving("--emulator-faults", "overlay_gone@900,wrong_identity:1@1") as service:
        engines = {service.pose()[1]["engine"] for _ in range(40)}
        assert engines == {"emulator", "native"}
        status, ready = service.get("/health/ready")
        assert (status, ready["engines"][0]["state"]) == (200, "degraded")
        assert "the board is out of use" in ready["engines"][0]["reason"]
        assert 'state="degraded",version="1"} 1.0' in service.metrics()


def test_a_lost_board_without_fallback_is_not_ready(mars: Package) -> None:
    options = ("--emulator-faults", "overlay_gone@900,wrong_identity:1@1", "--fallback", "none")
    with serving(*options) as service:
        statuses = [service.pose()[0] for _ in range(60)]
        assert set(statuses) == {200, 503}
        # Once lost, it stays so: no answer in between.
        assert statuses == sorted(statuses)
        status, problem = service.get("/health/ready")
        assert (status, problem["type"]) == (503, "/problems/not-ready")
        assert "the board is out of use" in problem["detail"]
