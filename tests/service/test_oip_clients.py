"""The third-party clients, unmodified and in environments of their own, against a live service."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.fixed import Mirror
from emamba.package import load_package
from emamba_service.auth import new_token, write_tokens
from service.test_live import Live, finish, start

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "oip_clients"
UNAVAILABLE = 69


@pytest.fixture(scope="module")
def served(models_dir, tmp_path_factory) -> Iterator[tuple[Live, str]]:
    """A service that wants a token, and one that may do everything."""
    secret, token = new_token("ops", ("infer", "admin"))
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    write_tokens(file, [token])
    live = start(models_dir, tokens=file)
    yield live, secret
    finish(live)


@pytest.fixture(scope="module")
def expected(models_dir) -> np.ndarray:
    """The joints of the clients' frames, as the mirror and the package give them."""

    package = load_package(models_dir / "mars" / "10")
    x = np.random.default_rng(0).random((2, 8, 8, 5), np.float32)
    values = package.decode(Mirror(package.model).run(package.encode(x)))
    flat: np.ndarray = values.transpose(0, 2, 1).reshape(2, 57).astype(np.float32)
    return flat


def report_of(client: str, served: tuple[Live, str]) -> dict[str, Any]:
    """What a client's program prints."""
    live, secret = served
    program = PROGRAMS / f"with_{client}.py"
    done = subprocess.run(
        [
            str(ROOT / "service" / "scripts" / "with_client.sh"),
            *(sys.executable, client, "python", str(program)),
            *(live.url.removeprefix("http://"), secret),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == UNAVAILABLE:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_tritonclient(served, expected):
    report = report_of("tritonclient", served)
    assert report["live"] is report["ready"] is report["model_ready"] is True
    for joints in report["joints"]:
        np.testing.assert_array_equal(np.array(joints, np.float32), expected)
    assert report["server"] == "emamba-service"
    assert report["model"] == {
        "name": "mars",
        "versions": ["9", "10"],
        "platform": "emamba",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 8, 8, 5]}],
        "outputs": [{"name": "joints", "datatype": "FP32", "shape": [-1, 57]}],
    }
    assert report["max_batch_size"] == 256
    states = [(entry["version"], entry["state"]) for entry in report["index"]]
    assert states == [("9", "READY"), ("10", "READY")]
    assert {entry["state"] for entry in report["after_unload"]} == {"UNAVAILABLE"}
    assert [stats["version"] for stats in report["statistics"]["model_stats"]] == ["9", "10"]
    assert report["refused"] == "model must be one of mars, but is 'venus'"


def test_kserve(served, expected):
    report = report_of("kserve", served)
    assert report["live"] is report["ready"] is report["model_ready"] is True
    for joints in report["joints"]:
        np.testing.assert_array_equal(np.array(joints, np.float32), expected)
    assert "model must be one of mars, but is 'venus'" in report["refused"]
