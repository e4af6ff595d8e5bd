"""docker-compose.yml: as the specification has it, and of files that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "service" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_validates_against_the_compose_specification():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(ROOT / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_service_mounts_what_there_is_and_is_kept_small(name):
    service = COMPOSE["services"][name]
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert (ROOT / source).exists(), volume
            assert mode == ["ro"], "what is mounted from the repository is not written to"
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    # The service's own is in its image.
    assert "healthcheck" in service or "HEALTHCHECK" in DOCKERFILE
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), "reached from this machine alone"
    assert "build" in service or re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])


def _inside(name: str, path: str) -> Path:
    """The repository's file that is `path` in a service's container."""
    mounts = [volume.split(":")[:2] for volume in COMPOSE["services"][name]["volumes"]]
    (found,) = (
        ROOT / source / PurePosixPath(path).relative_to(target)
        for source, target in mounts
        if source.startswith(".") and PurePosixPath(path).is_relative_to(target)
    )
    return found


@pytest.mark.parametrize("name", ["prometheus", "prometheus-boards"])
def test_prometheus_finds_its_configuration_and_keeps_within_bounds(name):
    options = dict(option[2:].split("=") for option in COMPOSE["services"][name]["command"])
    config = yaml.safe_load(_inside(name, options.pop("config.file")).read_text())
    assert config["rule_files"] == ["rules/*.yml"]
    assert _inside(name, "/etc/prometheus/boards").is_dir()
    assert options.pop("storage.tsdb.path") == "/prometheus"
    assert options == {"storage.tsdb.retention.time": "15d", "storage.tsdb.retention.size": "2GB"}


@pytest.mark.parametrize("name", ["grafana", "grafana-boards"])
def test_grafana_finds_dashboards_and_prometheus(name):
    service = COMPOSE["services"][name]
    home = _inside(name, service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.is_file()
    provisioning = _inside(name, "/etc/grafana/provisioning")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "emamba.yml").read_text())[
        "providers"
    ]
    assert _inside(name, provider["options"]["path"]) == home.parent
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (behind,) = service["depends_on"]
    networks = COMPOSE["services"][behind].get("networks", {"default": {"aliases": []}})
    assert "prometheus" in [behind, *networks["default"]["aliases"]]


def test_nobody_can_change_anything_in_grafana():
    for name in ("grafana", "grafana-boards"):
        environment = COMPOSE["services"][name]["environment"]
        assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
        # Without this, admin with the password admin.
        assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_profile_board_starts_no_service_of_its_own():
    board = {
        name for name, one in COMPOSE["services"].items() if "board" in one.get("profiles", ())
    }
    assert board == {"prometheus-boards", "grafana-boards"}
    for name in board:
        assert set(COMPOSE["services"][name]["depends_on"]) <= board


def test_no_secret_is_in_the_file():
    text = (ROOT / "docker-compose.yml").read_text().lower()
    assert "password" not in text
    assert "token" not in text
