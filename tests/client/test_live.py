"""`emamba-client live` before the real service: as a process, and its parts in this one."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner
from websockets.sync.client import connect

from emamba_client import Client, InvalidInput, PoseStream, RadarError, sample_frames
from emamba_client.cli import app
from emamba_client.command_line import World
from emamba_client.live.braille import Braille
from emamba_client.live.session import Event, Session, Step
from emamba_client.live.views import PictureView
from emamba_client.recording import Recorded, open_recorder
from emamba_client.sources import SourceFrame
from emamba_client.sources.files import FileSource
from emamba_client.sources.replay import ReplaySource
from radar_streams import packet
from service.test_live import Live, finish, start

MODELS = Path(__file__).parents[1] / "one_model"
FRAMES = sample_frames(movement=6)[:8]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    service = start(MODELS)
    yield service
    finish(service)


def run(live: Live, *words: str, world: World | None = None):
    return CliRunner().invoke(app, ["live", "--url", live.url, *words], obj=world)


def begin(live: Live, *words: str, **options: object) -> subprocess.Popen[str]:
    command = "from emamba_client.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, "live", "--url", live.url, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_lines_tell_each_frame_and_the_end_sums_up(live):
    result = run(live, "--count", "4", "--hz", "100", "--movement", "6")
    assert (result.exit_code, result.stderr) == (0, "")
    first, *lines = result.stdout.splitlines()
    assert first == "replay to mars 1 on mirror"
    row = r" +{i}  head +-?\d\.\d\d +\d\.\d\d +\d\.\d\d m  MAE +\d+\.\d cm +\d+\.\d ms"
    for index, line in enumerate(lines[:4]):
        assert re.fullmatch(row.format(i=index), line)
    assert re.fullmatch(r"4 of 4 frames answered at \d+\.\d Hz", lines[4])
    assert re.fullmatch(r"latency p50 .* ms, from a frame's last byte to its answer", lines[5])
    assert lines[6].startswith("in the service, mean: preprocess ")
    assert lines[7] == "engine mirror: 4"
    assert re.fullmatch(r"MAE vs labels \d+\.\d\d cm", lines[8])
    assert max(map(len, lines)) < 110


def test_json_lines_have_what_the_service_answers(live):
    result = run(live, "--count", "3", "--hz", "100", "--movement", "6", "--view", "json")
    hello, *steps, last = map(json.loads, result.stdout.splitlines())
    assert hello == {
        "source": "replay",
        "model": "mars",
        "version": "1",
        "engine": "mirror",
        "window": 64,
    }
    with Client(live.url) as client:
        for step, frame in zip(steps, FRAMES, strict=False):
            joints = client.pose(frame.points).pose.array()
            assert step["joints"] == joints.tolist()
            assert step["mae_cm"] == pytest.approx(100 * np.abs(joints - frame.labels).mean())
    summary = last["summary"]
    assert (summary["frames"], summary["answered"], summary["lost"]) == (3, 3, 0)
    assert summary["engines"] == {"mirror": 3}
    assert summary["mae_cm"] == pytest.approx(np.mean([step["mae_cm"] for step in steps]))


def test_ctrl_c_and_sigterm_end_with_the_summary(live):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = begin(live, "--hz", "50")
        assert process.stdout is not None
        for _ in range(6):
            process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert re.search(r"^\d+ of \d+ frames answered at ", out, re.MULTILINE)


def test_standard_input_and_datagrams_are_live_sources(live):
    lines = "\n".join(json.dumps({"points": frame.points.tolist()}) for frame in FRAMES)
    process = begin(live, "--source", "stdin", stdin=subprocess.PIPE)
    out, err = process.communicate(lines + "\nrubbish\n", timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "8 of 8 frames answered" in out
    assert "source: damaged 1" in out
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = begin(live, "--source", "udp", "--udp", f"127.0.0.1:{port}", "--count", "3")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(400):
            if process.poll() is not None:
                break
            sender.sendto(packet(number, FRAMES[0].points), ("127.0.0.1", port))
            time.sleep(0.05)
    out, _ = process.communicate(timeout=20)
    assert "3 of 3 frames answered" in out


def test_page_is_opened_on_what_is_published(live):
    opened = []

    def browse(address: str) -> bool:
        opened.append(address)
        url = live.url.replace("http", "ws") + "/v1/pose/watch/live?points=true&labels=true"
        with connect(url) as viewer:
            viewer.recv(10)
            opened.append(json.loads(viewer.recv(10)))
        return True

    words = ("--view", "web", "--count", "30", "--hz", "30", "--movement", "6")
    result = run(live, *words, world=World(browse=browse))
    assert result.exit_code == 0
    assert opened[0] == f"{live.url}/#watch=live"
    assert f"watch it on {live.url}/#watch=live" in result.stderr
    at = opened[1]["sequence"] - 1
    np.testing.assert_array_equal(np.float32(opened[1]["points"]), FRAMES[at].points)
    np.testing.assert_array_equal(opened[1]["labels"], FRAMES[at].labels)


@pytest.mark.parametrize("suffix", ["jsonl", "npz", "parquet"])
def test_recordings_are_played_again(live, tmp_path, suffix):
    path = tmp_path / f"run.{suffix}"
    words = ("--count", "5", "--hz", "50", "--movement", "6", "--view", "none", "--record")
    result = run(live, *words, str(path))
    assert result.exit_code == 0
    assert result.stderr == f"5 frames recorded in {path}\n"
    frames = list(FileSource(path, hz=1000))
    for frame, sample in zip(frames, FRAMES[:5], strict=True):
        np.testing.assert_array_equal(frame.values, sample.points)
        np.testing.assert_allclose(frame.labels, sample.labels, rtol=0, atol=1e-7)  # float32
    again = tmp_path / f"again.{suffix}"
    words = ("--source", "file", "--file", str(path), "--hz", "100", "--record", str(again))
    assert run(live, *words).exit_code == 0
    if suffix == "npz":
        with np.load(path) as one, np.load(again) as other:
            for name in ("points", "counts", "joints", "labels", "frame"):
                np.testing.assert_array_equal(one[name], other[name])
            assert one["joints"].shape == (5, 19, 3)
    if suffix == "jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["number"] for line in lines] == list(range(5))
        assert lines[0]["time_s"] == 0
        assert lines[0]["engine"] == "mirror"
    result = run(live, "--record", str(path))
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {path} must not exist yet, but does; give --overwrite to replace it\n"
    )


def test_feature_maps_are_recorded_too(live, tmp_path):
    np.save(tmp_path / "maps.npy", np.ones((3, 8, 8, 5), np.float32))
    words = ("--source", "file", "--file", str(tmp_path / "maps.npy"), "--hz", "100")
    assert run(live, *words, "--record", str(tmp_path / "run.npz")).exit_code == 0
    with np.load(tmp_path / "run.npz") as data:
        assert data["features"].shape == (3, 8, 8, 5)
        assert "labels" not in data.files


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("run.csv", "--record must be a .jsonl, .npz or .parquet file, but is "),
        ("nowhere/run.npz", "must be a folder to write to, but is none"),
    ],
)
def test_recordings_that_cannot_be_are_refused_first(live, tmp_path, name, sentence):
    result = run(live, "--record", str(tmp_path / name))
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr


def recorded(**changes: object) -> Recorded:
    values = np.ones((1, 5), np.float32)
    frame = Recorded("points", values, 0, 0.0, np.zeros((19, 3)), None, 1.0, "mirror")
    return replace(frame, **changes)


def test_recorder_has_a_bound(tmp_path):
    recorder = open_recorder(tmp_path / "run.npz", False, most_kept=3)
    for number in range(5):
        recorder.add(recorded(number=number))
    assert (recorder.frames, recorder.is_full) == (3, True)
    recorder.close()
    with np.load(tmp_path / "run.npz") as data:
        np.testing.assert_array_equal(data["frame"], [0, 1, 2])
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1, "as readable as any other file"


def test_recorder_of_arrays_takes_one_kind_of_frames(tmp_path):
    recorder = open_recorder(tmp_path / "run.npz", False)
    recorder.add(recorded())
    with pytest.raises(InvalidInput, match=r"record into a \.jsonl file"):
        recorder.add(recorded(kind="features", values=np.ones((8, 8, 5), np.float32)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_told_after_the_summary(live, tmp_path):
    (tmp_path / "run.jsonl").symlink_to("/dev/full")
    words = ("--count", "3", "--hz", "100", "--overwrite", "--record", str(tmp_path / "run.jsonl"))
    result = run(live, *words)
    assert result.exit_code == 1
    assert " frames answered" in result.stdout
    assert result.stderr.startswith("error: ")
    assert "run.jsonl cannot be written (No space left on device)" in result.stderr


@pytest.mark.parametrize("suffix", ["jsonl", "npz"])
def test_recording_is_left_alone_where_nothing_comes_to_replace_it(tmp_path, suffix):
    path = tmp_path / f"run.{suffix}"
    path.write_bytes(b"old")
    words = ["live", "--url", "http://127.0.0.1:9", "--overwrite", "--record", str(path)]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert path.read_bytes() == b"old"
    words = ["live", "--url", "http://127.0.0.1:9", "--record", str(tmp_path / f"new.{suffix}")]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_no_service_is_one_sentence():
    words = ["live", "--url", "http://127.0.0.1:9"]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: cannot connect to http://127.0.0.1:9 ")
    assert "start the service with `make serve`" in result.stderr


class Failing:
    """A source that fails after two frames."""

    name = "serial"
    is_live = True

    def __iter__(self) -> Iterator[SourceFrame]:
        yield from list(ReplaySource(FRAMES[:2], 100, False))
        time.sleep(0.3)
        raise RadarError("the radar was lost")

    def close(self) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {"lost": 3}


def test_failing_source_is_told_after_what_came(live):
    session = Session(Failing(), lambda: PoseStream(live.url), None, time.perf_counter)
    session.open()
    steps = []
    with pytest.raises(RadarError, match="the radar was lost"):
        steps += list(session.steps())
    session.close()
    assert session.summary.answered == 2
    assert "source: lost 3" in session.summary.lines()


def test_frames_that_are_refused_are_counted(live):
    points = FRAMES[0].points.copy()
    points[0, 0] = 500
    source = ReplaySource([FRAMES[0], FRAMES[1]], 50, False)
    bad = SourceFrame("points", points, 1, time.perf_counter())
    frames = iter([*source, bad])

    class Some(Failing):
        def __iter__(self) -> Iterator[SourceFrame]:
            yield from frames

    session = Session(Some(), lambda: PoseStream(live.url), None, time.perf_counter)
    session.open()
    assert len(list(session.steps())) == 3
    session.close()
    summary = session.summary
    assert (summary.answered, summary.refused, summary.lost) == (2, 1, 0)
    assert summary.last_problem is not None
    assert "points must lie within 100 m" in summary.last_problem


def test_frames_that_cannot_be_sent_are_refused_here(live, tmp_path):
    points = np.concatenate([frame.points for frame in FRAMES[:2]])
    points[0, 0] = np.nan
    np.savez(tmp_path / "run.npz", points=points, counts=[len(f.points) for f in FRAMES[:2]])
    words = ("--source", "file", "--file", str(tmp_path / "run.npz"), "--hz", "50")
    result = run(live, *words, "--view", "none")
    assert result.exit_code == 0
    assert "1 of 2 frames answered, 1 refused" in result.stdout
    assert "last refusal: points must hold finite numbers, not NaN or infinity" in result.stdout


def test_message_that_is_too_large_ends_its_connection_alone():
    live = start(MODELS, max_message_bytes=8192)
    large = SourceFrame("points", np.ones((600, 5), np.float32), 1, time.perf_counter())
    small = list(ReplaySource(FRAMES[:3], 20, False))

    class Some(Failing):
        is_live = False

        def __iter__(self) -> Iterator[SourceFrame]:
            yield from [small[0], large]
            time.sleep(1)
            yield from small[1:]

    session = Session(Some(), lambda: PoseStream(live.url), None, time.perf_counter)
    try:
        session.open()
        events = [step.sentence for step in session.steps() if isinstance(step, Event)]
    finally:
        session.close()
        finish(live)
    assert any("trying again" in event for event in events)
    summary = session.summary
    assert summary.frames == summary.answered + summary.lost == 4
    assert summary.answered >= 2


def test_session_goes_on_after_the_service_came_back():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    live = start(MODELS, port=port)
    source = ReplaySource(FRAMES, 50)
    session = Session(source, lambda: PoseStream(live.url), None, time.perf_counter)
    events, after = [], 0
    try:
        session.open()
        for step in session.steps():
            if isinstance(step, Event):
                events.append(step.sentence)
                continue
            if session.summary.answered == 5:
                live.stop(signal.SIGTERM)
                finish(live)
                threading.Thread(target=lambda: start_again(port)).start()
            after += bool(events)
            if after == 10:
                break
    finally:
        session.close()
        for again in AGAIN:
            finish(again)
    assert events[0].endswith("trying again in 0.25 s")
    assert events[-1] == "connected again to mars 1 on mirror"
    summary = session.summary
    assert summary.reconnected == 1
    assert summary.frames == summary.answered + summary.lost
    assert "connected again 1 times" in summary.lines()[0]


AGAIN: list[Live] = []


def start_again(port: int) -> None:
    AGAIN.append(start(MODELS, port=port))


def test_picture_fits_a_terminal(live):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24, color_system=None)
    session = Session(
        ReplaySource(FRAMES, 50, False), lambda: PoseStream(live.url), None, time.perf_counter
    )
    view = PictureView(console, time.perf_counter)
    view.start(session.open(), "replay")
    for step in session.steps():
        assert isinstance(step, Step)
        view.step(step, session.summary)
    view.event(Event("something has happened"))
    session.close()
    view.end(session.summary, ["and more"])
    screens = re.split(r"\x1b\[[?\d;]*[a-zA-Z]|\r", out.getvalue())
    text = "\n".join(screens)
    picture, _, _ = text.partition("8 of 8 frames answered")
    assert max(map(len, picture.splitlines())) <= 80
    for words in ("replay → mars 1", "engine", "latency p50", "MAE", "something has happened"):
        assert words in text
    assert any("\u2801" <= character <= "\u28ff" for character in text)
    assert text.rstrip().endswith("and more")


def test_dots_are_where_they_should_be():
    canvas = Braille(2, 1)
    canvas.line((0, 0), (3, 0), "red")
    canvas.dot(0, 3, "")
    canvas.dot(-1, 0, "")
    canvas.dot(4, 4, "")
    assert canvas.text().plain == "\u2849\u2809"
