"""The Dockerfile's own steps, run as a script in a clean folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "service" / "Dockerfile").read_text().replace("\\\n", " ")
STEPS = [
    (match[1], match[2].strip()) for match in re.finditer(r"^([A-Z]+) +(.+)$", TEXT, re.MULTILINE)
]
POINTS = [[-0.31, 1.92, 0.48, 0.0, 31.0], [0.12, 1.87, -0.22, -0.18, 44.0]]


def arguments(instruction: str) -> list[str]:
    return [argument for name, argument in STEPS if name == instruction]


def settings() -> dict[str, str]:
    """What ENV sets."""
    return dict(word.split("=", 1) for words in arguments("ENV") for word in shlex.split(words))


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """The folder that WORKDIR stands for, after every COPY and every RUN that needs no root."""
    app = tmp_path_factory.mktemp("image") / "app"
    app.mkdir()
    subprocess.run([sys.executable, "-m", "venv", app / "venv"], check=True)
    path = f"{app / 'venv' / 'bin'}:{os.environ['PATH']}"
    for name, argument in STEPS:
        if name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                _copy(ROOT / source, app / target, target.endswith("/"))
        elif name == "RUN" and not argument.startswith("apt-get"):
            done = subprocess.run(
                argument,
                shell=True,
                cwd=app,
                env={"PATH": path, "HOME": str(app)} | _pip(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return app


def _pip() -> dict[str, str]:
    """How this machine's pip finds packages; an image's has its own ways."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def _copy(source: Path, target: Path, into: bool) -> None:
    assert source.exists(), source
    if source.is_dir():
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(source, target, ignore=ignore)
    else:
        shutil.copy(source, target / source.name if into else target)


@pytest.fixture(scope="module")
def url(image, tmp_path_factory) -> Iterator[str]:
    """The address of what CMD starts."""
    (command,) = [json.loads(argument) for argument in arguments("CMD")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("run")
    # As docker run -e would; the folders are this machine's.
    environment = settings() | {
        "PATH": f"{image / 'venv' / 'bin'}:/usr/bin:/bin",
        "EMAMBA_PORT": str(port),
        "EMAMBA_CACHE": str(folder / "cache"),
        "EMAMBA_SHADOW_FOLDER": str(folder / "shadow"),
    }
    log = folder / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=image, env=environment, stdout=file, stderr=file) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{url}/health/ready").is_success:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
        process.terminate()
        assert process.wait(20) == 0


def test_image_answers_a_pose(url):
    answer = httpx.post(f"{url}/v1/pose", json={"points": POINTS}).json()
    assert len(answer["poses"][0]["joints"]) == 19
    engine = "native" if shutil.which("c++") or shutil.which("g++") else "mirror"
    assert answer["engine"] == engine


def test_health_check_is_what_the_service_answers(url, image):
    (check,) = arguments("HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    environment = {"PATH": str(image / "venv" / "bin")}

    def status(port: str) -> int:
        given = environment | {"EMAMBA_PORT": port}
        return subprocess.run(command, env=given, capture_output=True, check=False).returncode

    assert status(url.rpartition(":")[2]) == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert status(str(silent.getsockname()[1])) == 1
    assert "or 8000)" in command[-1]
    assert arguments("EXPOSE") == ["8000"]


def test_folders_that_the_service_writes_to_are_its_users_and_of_memory_in_compose():
    folders = {settings()["EMAMBA_CACHE"], str(Path(settings()["EMAMBA_SHADOW_FOLDER"]).parent)}
    (made,) = re.findall(r"install -d -o nobody -g nogroup (.+)", TEXT)
    assert set(made.split()) == folders
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["emamba"]
    assert compose["read_only"]
    assert folders <= {mount.split(":")[0] for mount in compose["tmpfs"]}


def test_everything_that_is_copied_gets_past_dockerignore():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    sources = {source for argument in arguments("COPY") for source in argument.split()[:-1]}
    assert {line[1:] for line in lines if line.startswith("!")} == sources


def test_image_runs_as_nobody_and_from_a_named_version():
    assert arguments("USER") == ["nobody"]
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", base)
