"""A pose model in two versions and an image model, tokens, and a server process with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emamba.package import write_package
from emamba_service.auth import new_token, write_tokens
from random_images import GREY_CONFIG, write_images
from random_models import MARS_CONFIG, pose_task, random_model


def write_pose(root: Path, version: str, seed: int) -> None:
    write_package(root, "mars", version, random_model(MARS_CONFIG, seed), pose_task(), {}, {})


def write_all(root: Path) -> Path:
    write_pose(root, "1", 1)
    write_pose(root, "2", 2)
    write_images(root, "digits", "1", GREY_CONFIG, seed=1)
    return root


@dataclass(frozen=True)
class Secrets:
    """A file of tokens, and a token of each kind."""

    file: Path
    infer: str
    admin: str


@dataclass(frozen=True)
class Server:
    """A running service."""

    url: str
    models: Path
    secrets: Secrets


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    infer, first = new_token("camera", ("infer",))
    admin, second = new_token("operator", ("infer", "admin"))
    write_tokens(file, [first, second])
    return Secrets(file, infer, admin)


@pytest.fixture(scope="session")
def oip_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mars 1 and 2, digits 1."""
    return write_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def maps() -> np.ndarray:
    """Three feature maps of plausible values."""
    rng = np.random.default_rng(5)
    return rng.uniform((-1, 0, -1, -1, 0), (1, 3, 1, 1, 50), (3, 8, 8, 5)).astype("<f4")


@pytest.fixture
def server(tmp_path: Path, secrets: Secrets) -> Iterator[Server]:
    """A server process that asks for tokens, and models of its own."""
    models = write_all(tmp_path / "models")
    options = ["--models", models, "--tokens", secrets.file, "--engine", "mirror", "--port", 0]
    command = [sys.executable, "-c", "from emamba_service.cli import main; main()"]
    process = subprocess.Popen(
        [*command, *map(str, options), "--log-level", "error", "--power-interval-s", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        yield Server(url, models, secrets)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
