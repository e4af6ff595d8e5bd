"""The command line, and that docs, options and settings say the same."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emamba_service import __version__
from emamba_service.cli import cli
from emamba_service.emulator import KINDS
from emamba_service.errors import problem_types
from emamba_service.settings import (
    Settings,
    SettingsError,
    default_text,
    env_name,
    load_settings,
    misspelt,
    option_name,
)

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "service.md").read_text()


def run(*arguments: str, **env: str):
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200", **env})


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"emamba-service {__version__}\n")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_setting_is_an_option_and_documented(name):
    field = Settings.model_fields[name]
    row = f"| `{name}` | `{default_text(name)}` | {field.description} |"
    assert row in DOCS.splitlines()
    text = run("--help").stdout
    assert option_name(name) in text
    assert env_name(name) in text


def test_every_problem_is_documented():
    rows = [
        f"| `/problems/{p.kind}` | {p.status} | {p.title} | {p.example} |" for p in problem_types()
    ]
    assert [row for row in rows if row not in DOCS.splitlines()] == []


def test_every_route_is_documented():
    document = json.loads((ROOT / "service" / "openapi.json").read_text())
    routes = [f"`{m.upper()} {path}`" for path, ms in document["paths"].items() for m in ms]
    docs = DOCS + (ROOT / "docs" / "oip.md").read_text()
    assert [route for route in routes if route not in docs] == []


def test_documented_bodies_are_answered(service):
    bodies = re.findall(r"-d '(\{.*?\})'", DOCS, re.DOTALL)
    assert len(bodies) >= 2
    for body in bodies:
        assert service.pose(json.loads(body)).status_code == 200


def test_options_go_before_the_environment(monkeypatch):
    monkeypatch.setenv("EMAMBA_PORT", "81")
    monkeypatch.setenv("EMAMBA_MAX_QUEUE", "7")
    settings = load_settings({"port": "82"})
    assert (settings.port, settings.max_queue, settings.host) == (82, 7, "127.0.0.1")


def test_empty_variable_counts_as_absent(monkeypatch):
    monkeypatch.setenv("EMAMBA_OVERLAY", "")
    assert load_settings({}).overlay is None


def test_misspelt_variable_is_told(caplog):
    # A port in use: the command ends once it has read its settings.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run(EMAMBA_PORT=port, EMAMBA_MAX_QEUE="7", EMAMBA_TOKEN="emt_secret")
    assert result.exit_code == 1
    told = ("EMAMBA_MAX_QEUE", "EMAMBA_MAX_QUEUE"), ("EMAMBA_TOKEN", "EMAMBA_TOKENS")
    sentences = [
        f"{variable} is no setting and does nothing; {meant} is one" for variable, meant in told
    ]
    assert caplog.messages == sentences


def test_variables_of_others_are_not_told():
    platform = ["EMAMBA_SERVICE_HOST", "EMAMBA_SERVICE_PORT", "EMAMBA_PORT_8000_TCP"]
    assert misspelt([*platform, "EMAMBA_CACHE", "EMAMBA_URL", "EMAMBA_PORT", "MAX_QEUE"]) == []


def test_wrong_setting_is_named_with_its_reason():
    with pytest.raises(SettingsError) as wrong:
        load_settings({"max_queue": "0"})
    assert str(wrong.value) == (
        "--max-queue (EMAMBA_MAX_QUEUE): must be an integer in 1..65536, but is '0'"
    )


@pytest.mark.parametrize(
    ("arguments", "env", "reason"),
    [
        (
            ["--port", "http"],
            {},
            "--port (EMAMBA_PORT): must be an integer in 0..65535, but is 'http'",
        ),
        (
            [],
            {"EMAMBA_PORT": "70000"},
            "--port (EMAMBA_PORT): must be an integer in 0..65535, but is '70000'",
        ),
        (
            ["--max-points", "0"],
            {},
            "--max-points (EMAMBA_MAX_POINTS): must be an integer >= 1, but is '0'",
        ),
        (
            ["--host", ""],
            {},
            "--host (EMAMBA_HOST): must be text of at least 1 character, but is ''",
        ),
        (
            ["--read-timeout-s", "nan"],
            {},
            "--read-timeout-s (EMAMBA_READ_TIMEOUT_S): must be a finite number > 0 and <= 3600, "
            "but is 'nan'",
        ),
        (
            ["--request-timeout-s", "inf", "--max-queue", "x"],
            {},
            "--max-queue (EMAMBA_MAX_QUEUE): must be an integer in 1..65536, but is 'x'; "
            "--request-timeout-s (EMAMBA_REQUEST_TIMEOUT_S): must be a finite number > 0 and "
            "<= 3600, but is 'inf'",
        ),
        (
            [],
            {"EMAMBA_READ_TIMEOUT_S": "-1"},
            "--read-timeout-s (EMAMBA_READ_TIMEOUT_S): must be a finite number > 0 and <= 3600, "
            "but is '-1'",
        ),
        (
            ["--log-level", "loud"],
            {},
            "--log-level (EMAMBA_LOG_LEVEL): must be one of critical, error, warning, info, debug, "
            "but is 'loud'",
        ),
        (
            ["--shadow-trips-ready", "perhaps"],
            {},
            "--shadow-trips-ready (EMAMBA_SHADOW_TRIPS_READY): must be true or false, "
            "but is 'perhaps'",
        ),
        (
            ["--shadow-fraction", "2"],
            {},
            "--shadow-fraction (EMAMBA_SHADOW_FRACTION): must be a finite number in 0..1, "
            "but is '2'",
        ),
        (
            ["--power-interval-s", "0.01"],
            {},
            "--power-interval-s (EMAMBA_POWER_INTERVAL_S): must be 0 or a finite number in "
            "0.05..3600, but is '0.01'",
        ),
        (
            ["--guard", "some"],
            {},
            "--guard (EMAMBA_GUARD): must be one of every, canary, none, but is 'some'",
        ),
        (
            ["--engine", "abacus"],
            {},
            "--engine (EMAMBA_ENGINE): must be one of auto, native, mirror, board, emulator, "
            "but is 'abacus'",
        ),
        (
            ["--emulator-faults", "output_flip:2"],
            {},
            "--emulator-faults (EMAMBA_EMULATOR_FAULTS): must be comma-separated kind:rate, "
            "kind@after or kind:rate@after with a rate above 0 and at most 1, after a whole "
            f"number, and kind one of {', '.join(KINDS)}, but is 'output_flip:2'",
        ),
    ],
)
def test_wrong_setting_ends_the_command_with_2(arguments, env, reason):
    result = run(*arguments, **env)
    assert (result.exit_code, result.stderr) == (2, f"emamba-service: {reason}\n")


def test_option_before_a_command_is_refused():
    result = run("--models", "elsewhere", "openapi", EMAMBA_PORT="81")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "emamba-service: --models must follow the command, but comes before openapi\n"
    )


def test_unknown_option_ends_the_command_with_2():
    result = run("--prot", "80")
    assert result.exit_code == 2
    assert "No such option: --prot" in result.stderr


def fails(reason: str, *arguments: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (1, f"emamba-service: {reason}\n")


def test_start_without_packages_fails(tmp_path):
    fails(
        f"{tmp_path}: must hold a package <name>/<version>/model.json, but holds none",
        "--models",
        str(tmp_path),
    )


def test_start_with_a_damaged_package_fails(tmp_path, new_package):
    document = new_package(tmp_path, "1") / "model.json"
    document.write_text("{")
    result = run("--models", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"emamba-service: {document}: is not JSON: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("folder", ["mars/2", "venus/1"])
def test_start_with_a_package_in_anothers_folder_fails(tmp_path, new_package, folder):
    other = tmp_path / folder
    other.parent.mkdir(exist_ok=True)
    new_package(tmp_path, "1").rename(tmp_path / "moved")
    (tmp_path / "mars").mkdir(exist_ok=True)
    (tmp_path / "moved").rename(other)
    fails(
        f"{other}: must hold {folder.replace('/', ' ')}, but its model.json says mars 1; "
        "move the package to mars/1",
        *("--models", str(tmp_path)),
    )


def test_start_without_the_folder_of_packages_fails(tmp_path):
    (tmp_path / "file").touch()
    for name, came in (("nonexistent", "does not exist"), ("file", "is not one")):
        fails(
            f"{tmp_path / name}: must be a folder of packages, but {came}; "
            "name it with --models or EMAMBA_MODELS",
            *("--models", str(tmp_path / name)),
        )


def test_start_without_the_default_model_fails(models_dir):
    fails(
        f"{models_dir}: must hold the default model 'venus', but holds mars",
        *("--models", str(models_dir), "--default-model", "venus"),
    )


def test_start_on_a_taken_port_fails(models_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        fails(
            f"cannot listen on 127.0.0.1 port {port}: Address already in use",
            *("--models", str(models_dir), "--port", port),
        )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "two..dots", "1.2.3.4.5", "not::v6"])
def test_start_on_an_unknown_host_fails(models_dir, host):
    fails(
        f"cannot listen on {host} port 8000: there is no such host; "
        "give an address of this machine, such as 127.0.0.1",
        *("--models", str(models_dir), "--host", host),
    )


def test_openapi_command_prints_the_checked_in_document():
    assert run("openapi").stdout == (ROOT / "service" / "openapi.json").read_text()
