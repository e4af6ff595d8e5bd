"""Dashboards and alerts, proven on a real Prometheus that scrapes a live service.

With pynq the service runs on the emulated board, so that what only boards have is there, too.
"""

from __future__ import annotations

import json
import math
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from debian_tools import debian_tool
from emamba_service.fleet import Board, discovery_json
from sysfs_trees import iio_tree

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PROMETHEUS = MONITORING / "prometheus"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
POINTS = [[-0.31, 1.92, 0.48, 0.0, 31.0], [0.12, 1.87, -0.22, -0.18, 44.0]]
# Without pynq there is no board, not even an emulated one.
ON_A_BOARD = find_spec("pynq") is not None
BOARD_METRICS = ("emamba_board_faults_total", "emamba_overlay_info")
# What Grafana puts in for its variables, for everything and for a choice, of which it makes a
# pattern. Four scrapes are the least that it takes rates over.
EVERYTHING = {"$__rate_interval": "20s", "$instance": ".*", "$model": ".*"}
ONE = EVERYTHING | {"$instance": "(lab-1)", "$model": "(mars)"}


def queries(dashboard: Path, variables: dict[str, str]) -> list[tuple[str, str]]:
    """Title and PromQL of every query of a dashboard, variables put in."""
    document = json.loads(dashboard.read_text())
    found = [
        (f"{panel['title']} ({target['legendFormat']})", target["expr"])
        for panel in document["panels"]
        for target in panel["targets"]
    ]
    for variable in document["templating"]["list"]:
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert query is not None
        found.append((f"${variable['name']}", f"group by ({query[2]}) ({query[1]})"))
    return [(f"{dashboard.stem}: {where}", _put_in(query, variables)) for where, query in found]


def _put_in(query: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        query = query.replace(name, value)
    assert "$" not in query, "a variable that this test does not know"
    return query


def rules() -> list[dict[str, Any]]:
    """Every alert, as it stands in the file."""
    groups = yaml.safe_load((PROMETHEUS / "rules" / "emamba.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def conditions() -> list[tuple[str, str]]:
    """Name and expression of every alert, without its threshold."""
    found = []
    for rule in rules():
        expression, thresholds = re.subn(r"\s(>|==)\s[\d.]+\s*$", "", rule["expr"])
        assert thresholds == 1, rule["alert"]
        found.append((rule["alert"], expression))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, url: str) -> Iterator[str]:
    """A process that answers `url`, until the end."""
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    if httpx.get(url).is_success:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[int]:
    """The port of a service that checks every answer, with the sensors of a ZCU102."""
    folder = tmp_path_factory.mktemp("service")
    iio_tree(folder / "sys")
    port = free_port()
    options: dict[str, Any] = {
        "engine": "auto",
        "port": port,
        "models": ROOT / "tests" / "one_model",
        "sysfs": folder / "sys",
        "shadow-fraction": 1,
        "shadow-folder": folder / "shadow",
        "log-level": "warning",
    }
    if ON_A_BOARD:
        options |= {"engine": "emulator", "emulator-faults": "dma_error@3"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-c", "from emamba_service.cli import main; main()", *words]
    with running(command, folder / "log", f"http://127.0.0.1:{port}/health/ready"):
        yield port


@pytest.fixture(scope="module")
def prometheus(service, tmp_path_factory) -> Iterator[str]:
    """The address of a Prometheus with our configuration, which scrapes the service often: as the
    one beside it, and as a board of the fleet's list."""
    program = debian_tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(PROMETHEUS, folder / "config")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "300ms", "evaluation_interval": "300ms"}
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "emamba")
    job["static_configs"] = [{"targets": [f"127.0.0.1:{service}"]}]
    (folder / "config" / "prometheus.yml").write_text(yaml.safe_dump(config))
    boards = discovery_json([Board("lab-1", "127.0.0.1", service, labels={"site": "lab"})])
    (folder / "config" / "boards" / "boards.json").write_text(boards)
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        str(program),
        f"--config.file={folder / 'config' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with running(command, folder / "log", f"{url}/-/ready"):
        deadline = time.monotonic() + 8
        address = f"http://127.0.0.1:{service}"
        while time.monotonic() < deadline:
            httpx.post(f"{address}/v1/pose", json={"points": POINTS})
            httpx.post(f"{address}/v1/pose", json={"points": []})
            httpx.post(f"{address}/v1/pose?timeout_us=1", json={"points": POINTS})
            time.sleep(0.02)
        yield url


def ask(prometheus: str, query: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series that has a number now."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    series = [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]
    return [(labels, value) for labels, value in series if not math.isnan(value)]


def test_dashboards_are_what_their_source_gives():
    source = runpy.run_path(str(MONITORING / "dashboards.py"))
    for dashboard in source["DASHBOARDS"]:
        name = dashboard.uid.removeprefix("emamba-")
        written = (MONITORING / "grafana" / "dashboards" / f"{name}.json").read_text()
        assert written == source["render"](dashboard), "run python deploy/monitoring/dashboards.py"


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own():
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
        assert len(places) == len(panels)
        for panel in panels:
            assert panel["description"]
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {
                "emamba-prometheus"
            }
    source = yaml.safe_load(
        (MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    assert source["datasources"][0]["uid"] == "emamba-prometheus"


@pytest.mark.parametrize("name", ["prometheus.yml", "boards.yml"])
def test_promtool_accepts_the_configuration(name):
    _promtool("check", "config", str(PROMETHEUS / name))


def test_promtool_accepts_the_alerts_and_what_they_do():
    _promtool("check", "rules", str(PROMETHEUS / "rules" / "emamba.yml"))
    _promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules()}
    assert {check["alertname"] for check in checks if check.get("exp_alerts")} == alerts
    assert {check["alertname"] for check in checks if not check.get("exp_alerts")} == alerts


def test_every_alert_has_a_severity_and_a_part_of_the_runbook():
    runbook = re.findall(
        r"^### (\w+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE
    )
    assert runbook == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("variables", [EVERYTHING, ONE], ids=["everything", "one board"])
def test_every_panel_and_alert_has_data(prometheus, variables):
    panels = [query for dashboard in DASHBOARDS for query in queries(dashboard, variables)]
    assert len(panels) > 35
    empty = [
        (where, query)
        for where, query in panels + conditions()
        if not ask(prometheus, query)
        and (ON_A_BOARD or not any(metric in query for metric in BOARD_METRICS))
    ]
    assert empty == []


def test_boards_of_the_fleets_list_are_called_by_their_names(prometheus):
    ((labels, value),) = ask(prometheus, 'up{job="boards"}')
    assert (labels["instance"], labels["site"], value) == ("lab-1", "lab", 1)


def test_promtool_finds_no_fault_with_the_names_of_metrics(service):
    text = httpx.get(f"http://127.0.0.1:{service}/metrics").text
    _promtool("check", "metrics", stdin=text)


def test_no_alert_fires_for_a_healthy_service(prometheus):
    rules = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    states = {rule["name"]: rule["state"] for group in rules for rule in group["rules"]}
    assert states.keys() == {alert for alert, _ in conditions()}
    # The traffic above is made of refusals by two thirds.
    healthy = {name: state for name, state in states.items() if name != "EmambaErrorRate"}
    assert set(healthy.values()) == {"inactive"}


def _promtool(*words: str, stdin: str | None = None) -> None:
    program = debian_tool("promtool")
    done = subprocess.run(
        [program, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
