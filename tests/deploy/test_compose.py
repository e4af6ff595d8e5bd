"""docker-compose.yml: as the specification has it, and of files that there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
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
    assert service["mem_limit"]
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), "reached from this machine alone"
    assert "build" in service or ":" in service["image"], "an image has a version"


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
