"""What is installed on a board: wheels, environment, systemd unit, and the page that tells how."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import venv
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from emamba_service.cli import cli
from emamba_service.settings import Settings, env_name, load_settings

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "deploy" / "board"
DOCS = (ROOT / "docs" / "board.md").read_text()
PROGRAM = "/opt/emamba/venv/bin/emamba-service"

# A script, in no package.
board_wheels = SimpleNamespace(**runpy.run_path(str(ROOT / "service/scripts/board_wheels.py")))


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> list[Path]:
    """Our wheels."""
    return board_wheels.build_own(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def index() -> None:
    """Skips where no package index answers."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "-"]
    done = subprocess.run(command, input="typer\n", text=True, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_every_dependency_has_a_wheel_for_the_board(own, python):
    lock = board_wheels.resolve(python, own)
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    assert pins["numpy"].startswith("1.26.")
    assert {"fastapi", "uvloop", "httptools", "pydantic-core", "orjson"} <= pins.keys()
    # Only Python 3.10 needs it: the board's markers hold, not those of this Python.
    assert ("exceptiongroup" in pins) == (python == "3.10")
    assert not {"torch", "safetensors", "pynq", "emamba", "emamba-service"} & pins.keys()
    assert lock.count("--hash=sha256:") >= len(pins)


def install(wheels: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(BOARD / "install.sh"), str(wheels)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_install_sees_pynq_and_leaves_its_environment_alone(tmp_path, own):
    image = tmp_path / "pynq-venv"
    venv.create(image, with_pip=False)
    site = next(image.glob("lib/python*/site-packages"))
    for name in ("pynq", "emamba"):  # an old one of ours there must lose
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("")
    before = sorted(path.name for path in site.iterdir())
    target = tmp_path / "board"

    done = install(own[0].parent, PYNQ_VENV=str(image), DESTDIR=str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in site.iterdir()) == before
    found = subprocess.run(
        [target / "opt/emamba/venv/bin/python", "-c", "import emamba, pynq\n"
         "print(emamba.__file__, pynq.__file__)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert found[0].startswith(str(target))
    assert found[1].startswith(str(site))
    drop_in = target / "etc/systemd/system/emamba.service.d/pynq.conf"
    assert drop_in.read_text() == f"[Service]\nReadWritePaths={site / 'pynq' / 'pl_server'}\n"

    settings = target / "etc/emamba/emamba.env"
    settings.write_text("EMAMBA_PORT=81\n")
    assert install(own[0].parent, PYNQ_VENV=str(image), DESTDIR=str(target)).returncode == 0
    assert settings.read_text() == "EMAMBA_PORT=81\n"


def test_install_says_what_is_missing(tmp_path):
    done = install(tmp_path, PYNQ_VENV=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr == (
        f"install.sh: {tmp_path}/none must be PYNQ's environment, but has no bin/python; "
        "set PYNQ_VENV\n"
    )
    done = install(tmp_path, PYNQ_VENV=sys.prefix, DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        f"install.sh: {tmp_path} must hold the wheels that 'make wheels' collects, but does not\n"
    )
    assert list(tmp_path.iterdir()) == []


def settings_of_unit() -> dict[str, str]:
    lines = (BOARD / "emamba.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_name_in_the_unit_is_a_setting():
    values = settings_of_unit()
    assert values.keys() <= {env_name(name) for name in Settings.model_fields}
    given = {name.removeprefix("EMAMBA_").lower(): value for name, value in values.items()}
    assert load_settings(given).engine == "board"


def test_unit_waits_longer_than_requests_may_take():
    unit = (BOARD / "emamba.service").read_text()
    stop_s = int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0])
    assert stop_s > Settings.model_fields["drain_timeout_s"].default
    assert f"ExecStart={PROGRAM}\n" in unit
    assert str(Settings.model_fields["board_lock"].default.parent) in unit


def test_systemd_understands_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze, of Debian's package systemd")
    unit = tmp_path / "emamba.service"
    unit.write_text((BOARD / "emamba.service").read_text().replace(PROGRAM, "/bin/true"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert "ProtectHouse" in done.stderr


def test_scripts_are_valid_shell():
    for name, shell in (("install.sh", "sh"), ("check_arm64.sh", "bash")):
        subprocess.run([shell, "-n", BOARD / name], check=True)


def calls() -> list[tuple[str, list[str]]]:
    """(command, options) of each call of the service in the page; "" where it is started."""
    found = []
    for line in fenced().replace("\\\n", " ").splitlines():
        program, _, rest = line.partition("bin/emamba-service")
        if rest or program != line:
            words = shlex.split(rest, comments=True)
            command = takewhile(lambda word: not word.startswith("-"), words)
            found.append((" ".join(command), [word for word in words if word.startswith("--")]))
    return found


def fenced() -> str:
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL))


def test_page_names_commands_and_options_that_exist():
    found = calls()
    assert {"", "doctor", "verify"} <= {command for command, _ in found}
    for command, options in found:
        text = CliRunner().invoke(cli, [*command.split(), "--help"], env={"COLUMNS": "200"}).stdout
        assert [option for option in options if option not in text] == []


def test_page_names_files_and_settings_that_exist():
    for path in re.findall(r"`?(deploy/board/[a-z0-9_.]+)", DOCS):
        assert (ROOT / path).is_file(), path
    for link in re.findall(r"\]\(([a-z./-]+\.md)", DOCS):
        assert (ROOT / "docs" / link).is_file(), link
    known = {env_name(name) for name in Settings.model_fields} | {"EMAMBA_CACHE"}
    named = set(re.findall(r"\bEMAMBA_[A-Z_]+", DOCS))
    assert named
    assert named <= known
