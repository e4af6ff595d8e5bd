"""The commands: what they print, where, and how they fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from emamba.tasks.mars import feature_map
from emamba_client import JOINTS, Client, __version__, batches, sample_frames
from emamba_client.cli import app
from emamba_client.command_line import World

POINTS = sample_frames()[100].points
UNREACHABLE = (
    "error: cannot connect to http://127.0.0.1:8000 (refused); start the service with "
    "`make serve`, or give its address with --url\n"
)
Run = Callable[..., Result]


@pytest.fixture
def run(service: httpx.BaseTransport, fake_time: Any) -> Run:
    """Run a command against the real service, or a replaced network."""

    def run(*args: str, network: Any = service, stdin: bytes | None = None) -> Result:
        world = World(network, fake_time.clock, fake_time.sleep)
        return CliRunner().invoke(app, list(args), obj=world, input=stdin)

    return run


@pytest.fixture
def points_file(tmp_path: Path) -> str:
    np.save(tmp_path / "points.npy", POINTS)
    return str(tmp_path / "points.npy")


def network(outcome: Any) -> httpx.MockTransport:
    def handler(request: httpx.Request) -> httpx.Response:
        if isinstance(outcome, type):
            raise outcome("refused", request=request)
        return outcome

    return httpx.MockTransport(handler)


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80 and "\x1b" not in text


def test_pose_prints_a_table(run: Run, points_file: str, client: Client) -> None:
    result = run("pose", points_file)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"model mars 2 on mirror, \d+ us in the service", lines[0])
    assert lines[1].split() == ["joint", "x", "m", "y", "m", "z", "m"]
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == list(JOINTS)
    printed = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(printed, client.pose(POINTS).pose.array(), atol=0.00051)
    assert fits(result.stdout)


def test_pose_prints_the_services_json(run: Run, points_file: str, client: Client) -> None:
    result = run("pose", points_file, "--json")
    document = json.loads(result.stdout)
    assert document["poses"] == client.pose(POINTS).raw["poses"]
    assert set(document) == {"model", "version", "engine", "poses", "timing_us"}


def test_pose_of_every_kind_of_file(run: Run, tmp_path: Path, points_file: str) -> None:
    features = feature_map(POINTS)
    np.savez(tmp_path / "a.npz", features=features)
    (tmp_path / "a.json").write_text(json.dumps({"points": POINTS.tolist()}))
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(repr, r)) for r in POINTS.tolist()))
    files = [points_file, *(str(tmp_path / name) for name in ("a.npz", "a.json", "a.csv"))]
    answers = [json.loads(run("pose", file, "--json").stdout)["poses"] for file in files]
    assert answers == [answers[0]] * 4


def test_pose_reads_stdin(run: Run) -> None:
    text = json.dumps({"points": POINTS.tolist(), "version": "1"}).encode()
    result = run("pose", "-", stdin=text)
    assert result.exit_code == 0
    assert result.stdout.startswith("model mars 1 on mirror")


def test_pose_of_many_frames(run: Run, tmp_path: Path) -> None:
    maps = np.stack([feature_map(frame.points) for frame in sample_frames()[:3]])
    np.save(tmp_path / "a.npy", maps)
    result = run("pose", str(tmp_path / "a.npy"))
    assert [line for line in result.stdout.splitlines() if line.startswith("frame")] == [
        "frame 1 of 3",
        "frame 2 of 3",
        "frame 3 of 3",
    ]
    assert result.stdout.count("SpineShoulder") == 3
    assert len(json.loads(run("pose", str(tmp_path / "a.npy"), "--json").stdout)["poses"]) == 3


def test_pose_splits_many_frames_into_requests(run: Run, tmp_path: Path, answering: Any) -> None:
    np.save(tmp_path / "a.npy", np.ones((600, 8, 8, 5), np.float32))
    result = run("pose", str(tmp_path / "a.npy"), "--json", network=answering.transport)
    assert (result.exit_code, result.stderr) == (0, "")
    assert answering.frames == [256, 256, 88]
    document = json.loads(result.stdout)
    assert set(document) == {"model", "version", "engine", "poses", "timing_us"}
    heads_x_m = [pose["joints"][3]["x_m"] for pose in document["poses"]]
    assert heads_x_m == [*range(256), *range(256), *range(88)]
    assert document["timing_us"] == {
        "preprocess": 3,
        "quantise": 6,
        "queue": 0,
        "engine": 9,
        "postprocess": 12,
        "total": 31.5,
    }
    lines = run("pose", str(tmp_path / "a.npy"), network=answering.transport).stdout.splitlines()
    assert lines[0] == "model mars 1 on mirror, 32 us in the service"
    assert [line for line in lines if line.startswith("frame")][-1] == "frame 600 of 600"


def test_frames_of_several_requests_have_the_poses_of_one(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [frame.points for frame in sample_frames()[:5]]
    monkeypatch.setattr(batches, "FRAMES_PER_REQUEST", 2)
    assert batches.ask_in_batches(client, frames).poses == client.poses(frames).poses


def test_engines_of_several_requests_are_all_named(
    run: Run, tmp_path: Path, answering: Any
) -> None:
    answering.engines = ["board", "native", "board"]
    answering.stages = [{"pack": 61.5, "kernel": 4.0}, {}, {"pack": 60.0, "guard": 99.0}]
    np.save(tmp_path / "a.npy", np.ones((600, 8, 8, 5), np.float32))
    result = run("pose", str(tmp_path / "a.npy"), network=answering.transport)
    assert result.stdout.splitlines()[:2] == [
        "model mars 1 on board, native, 32 us in the service",
        "in the engine: pack 122, kernel 4, guard 99 us",
    ]
    document = json.loads(
        run("pose", str(tmp_path / "a.npy"), "--json", network=answering.transport).stdout
    )
    assert document["engine"] == "board, native"
    assert document["timing_us"]["engine_stages"] == {"pack": 121.5, "kernel": 4.0, "guard": 99.0}
    assert document["timing_us"]["engine"] == 9


def test_frames_of_two_models_are_refused(run: Run, tmp_path: Path, answering: Any) -> None:
    answering.versions = ["1", "2"]
    np.save(tmp_path / "a.npy", np.ones((300, 8, 8, 5), np.float32))
    result = run("pose", str(tmp_path / "a.npy"), network=answering.transport)
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "error: all frames must be answered by one model, but it changed between two requests; "
        "ask again\n",
    )


def test_no_frames_are_for_the_service_to_judge(run: Run) -> None:
    result = run("pose", "-", stdin=b'{"frames": []}')
    assert result.exit_code == 1
    assert result.stderr == (
        "error: the service answered 422 Request object is wrong: "
        "frames must be an array of at least 1 frame, but is an empty one\n"
    )


def test_body_that_is_too_large_is_told_with_one_advice(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([np.full((64, 5), 1 / 3).tolist()] * 50))
    result = run("pose", str(tmp_path / "a.json"))
    assert (result.exit_code, result.stderr) == (
        1,
        "error: the service answered 413 Body too large: the body must be at most 200000 bytes; "
        "send less at once\n",
    )


def test_models_are_listed(run: Run) -> None:
    result = run("models")
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "model",
        "version",
        "engine",
        "parameters",
        "INT8",
        "bytes",
        "package",
        "SHA-256",
    ]
    assert [line.split()[:3] for line in lines[1:]] == [["mars", v, "mirror"] for v in "12"]
    assert fits(result.stdout)
    document = json.loads(run("models", "--json").stdout)
    assert [model["version"] for model in document["models"]] == ["1", "2"]


def test_no_joint_is_at_minus_zero(run: Run, points_file: str, answer: dict[str, Any]) -> None:
    answer["poses"][0]["joints"][3]["x_m"] = -0.0004
    result = run("pose", points_file, network=network(httpx.Response(200, json=answer)))
    assert result.stdout.splitlines()[5].split() == ["Head", "0.000", "3.000", "0.500"]


def test_unreachable_service(run: Run, points_file: str) -> None:
    for command in (["pose", points_file], ["models"]):
        result = run(*command, network=network(httpx.ConnectError))
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", UNREACHABLE)


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (
            httpx.ReadTimeout,
            "error: no answer from http://127.0.0.1:8000 in time (refused); "
            "ask for fewer frames, or look at the service's log\n",
        ),
        (
            httpx.Response(503, json={"title": "Service is busy", "detail": "all 66 taken"}),
            "error: the service answered 503 Service is busy: all 66 taken; try again later\n",
        ),
        (
            httpx.Response(413, json={"title": "Body too large"}),
            "error: the service answered 413 Body too large; send fewer frames or points\n",
        ),
        (
            httpx.Response(503, json={"title": "Busy", "detail": "66 taken; try again after 1 s"}),
            "error: the service answered 503 Busy: 66 taken; try again after 1 s\n",
        ),
        (
            httpx.Response(200, text="<html>"),
            "error: the answer must be JSON, but cannot be read as such\n",
        ),
        (
            httpx.Response(404, json={"title": "No\nsuch", "detail": "\troute"}),
            "error: the service answered 404 No such: route\n",
        ),
    ],
)
def test_failures_are_one_sentence(run: Run, points_file: str, outcome: Any, sentence: str) -> None:
    result = run("pose", points_file, network=network(outcome))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", sentence)


def test_bad_file_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    result = run("pose", str(tmp_path / "a.npz"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tmp_path / 'a.npz'} cannot be read (")
    assert result.stderr.count("\n") == 1


def test_what_the_service_refuses(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    result = run("pose", str(tmp_path / "a.npy"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the service answered 422 ")
    assert result.stderr.endswith("frame 0: points[0] must be 5 numbers, but has 4 values\n")


@pytest.mark.parametrize(
    "args",
    [
        ["nothing"],
        ["pose"],
        ["pose", "a.npy", "--url", "nowhere"],
        ["live", "--hz", "0"],
        ["live", "--count", "0"],
        ["live", "--subject", "5"],
        ["live", "--subject", "4", "--movement", "1"],
        ["live", "--source", "camera"],
        ["live", "--source", "file"],
        ["live", "--source", "serial"],
        ["live", "--source", "udp", "--udp", "9000"],
        ["live", "--url", "nowhere"],
        ["models", "--what"],
    ],
)
def test_usage_errors(run: Run, tmp_path: Path, args: list[str]) -> None:
    np.save(tmp_path / "a.npy", POINTS)
    result = run(*(str(tmp_path / a) if a == "a.npy" else a for a in args))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: " in result.stderr


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"emamba-client {__version__}\n")


def test_program_without_stdin() -> None:
    program = Path(sys.executable).parent / "emamba-client"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" pose - <&-', program],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: stdin cannot be read (")


def test_program_without_a_service() -> None:
    """The installed program, with a port nobody listens on: no traceback."""
    done = subprocess.run(
        [Path(sys.executable).parent / "emamba-client", "models", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: cannot connect to http://127\.0\.0\.1:9 \(.*\); start the service with "
        r"`make serve`, or give its address with --url\n",
        done.stderr,
    )
