"""Live sources: pace, files, standard input, datagrams, and a radar at pseudo-terminals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import socket
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emamba_client import InvalidInput, RadarError, sample_frames
from emamba_client.sources.files import FileSource
from emamba_client.sources.replay import ReplaySource
from emamba_client.sources.serial import SerialSource
from emamba_client.sources.stdin import StdinSource
from emamba_client.sources.udp import UdpSource
from radar_streams import packet, sample_packets

FRAMES = sample_frames(subject=1, movement=1)[:5]
SOON_S = 10


def first(source, count: int):
    """The first frames, with the source closed afterwards."""
    frames = []
    for frame in source:
        frames.append(frame)
        if len(frames) == count:
            source.close()
    return frames


def test_replay_keeps_its_pace_and_starts_over():
    begun = time.perf_counter()
    frames = first(ReplaySource(FRAMES, hz=100), 12)
    assert 0.1 < time.perf_counter() - begun < 1
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_array_equal(frames[7].values, FRAMES[2].points)
    np.testing.assert_array_equal(frames[7].labels, FRAMES[2].labels)
    assert [f.number for f in ReplaySource(FRAMES, hz=1000, loop=False)] == list(range(5))


def test_waiting_source_can_be_closed_from_another_thread():
    source = ReplaySource(FRAMES, hz=0.01)
    threading.Timer(0.2, source.close).start()
    begun = time.perf_counter()
    assert len(list(source)) == 1
    assert time.perf_counter() - begun < 2


def write(path: Path) -> Path:
    """The frames as a file of the suffix's form."""
    points = [frame.points for frame in FRAMES]
    labels = np.stack([frame.labels.T.reshape(57) for frame in FRAMES])
    maps = np.zeros((5, 64, 5), np.float32)
    for row, values in zip(maps, points, strict=True):
        row[: len(values)] = values
    numbers = np.arange(7, 12)
    if path.name == "maps.npz":
        np.savez(path, features=maps.reshape(5, 8, 8, 5), labels=labels, frame=numbers)
    elif path.suffix == ".npz":
        counts = [len(values) for values in points]
        arrays = {"points": np.concatenate(points), "counts": counts, "labels": labels}
        np.savez(path, frame=numbers, time_s=numbers / 100, **arrays)
    elif path.suffix == ".npy":
        np.save(path, maps.reshape(5, 8, 8, 5))
    elif path.suffix == ".bin":
        path.write_bytes(b"".join(packet(n, p) for n, p in zip(numbers, points, strict=True)))
    else:
        rows = [
            {"number": int(n), "time_s": n / 100, "points": f.points.tolist()}
            | {"labels": f.labels.tolist(), "joints": None}
            for n, f in zip(numbers, FRAMES, strict=True)
        ]
        if path.suffix == ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet  # noqa: PLC0415

            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif path.suffix == ".json":
            path.write_text(json.dumps([row["points"] for row in rows]))
        else:
            path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("name", "has_numbers", "has_labels"),
    [
        ("run.npz", True, True),
        ("maps.npz", True, True),
        ("run.jsonl", True, True),
        ("run.parquet", True, True),
        ("run.bin", True, False),
        ("run.npy", False, False),
        ("run.json", False, False),
    ],
)
def test_files_are_played(tmp_path, name, has_numbers, has_labels):
    source = FileSource(write(tmp_path / name), hz=1000)
    frames = list(source)
    assert len(frames) == 5
    assert [f.number for f in frames] == list(range(7, 12) if has_numbers else range(5))
    for frame, expected in zip(frames, FRAMES, strict=True):
        values = frame.values
        if frame.kind == "features":
            values = values.reshape(64, 5)[: len(expected.points)]
        np.testing.assert_array_equal(values, expected.points)
        if has_labels:
            np.testing.assert_array_equal(frame.labels, expected.labels)
    assert not any(source.counts().values())


def test_client_s_own_sample_is_a_file(tmp_path):
    from importlib.resources import as_file, files  # noqa: PLC0415

    with as_file(files("emamba_client.samples") / "mars_sample.npz") as path:
        frames = list(FileSource(path, hz=10_000))
    assert len(frames) == 240
    np.testing.assert_array_equal(frames[3].labels, sample_frames()[3].labels)


def test_file_is_played_at_its_own_times_and_over_and_over(tmp_path):
    begun = time.perf_counter()
    assert len(list(FileSource(write(tmp_path / "run.npz")))) == 5
    assert 0.035 < time.perf_counter() - begun < 1
    begun = time.perf_counter()
    frames = first(FileSource(write(tmp_path / "run.npz"), hz=1000, loop=True), 101)
    assert 0.1 < time.perf_counter() - begun < 1  # 20 rounds without a pause between them
    assert [frame.number for frame in frames] == list(range(101))


def test_what_is_no_frame_of_a_file_is_counted(tmp_path):
    lines = tmp_path / "run.jsonl"
    lines.write_text('{"points": []}\n[[1, 2, 3, 4, 5]]\n')
    assert FileSource(lines).counts() == {"empty": 1}
    capture = tmp_path / "run.dat"
    without_points = packet(2, np.zeros((0, 5)))
    capture.write_bytes(
        b"end" + packet(1, FRAMES[0].points) + without_points + packet(4, FRAMES[1].points)
    )
    source = FileSource(capture, hz=1000)
    assert [frame.number for frame in source] == [1, 4]
    assert source.counts() == {
        "lost": 1,
        "damaged": 0,
        "empty": 1,
        "without_side_info": 0,
        "skipped_bytes": 3,
    }
    capture.write_bytes(
        b"".join(packet(n, FRAMES[0].points, side_info=False) for n in range(1, 11))
    )
    with pytest.raises(InvalidInput, match=r"run\.dat: .* set the first value of guiMonitor to 1"):
        FileSource(capture)


def test_labels_keep_their_precision(tmp_path):
    labels = np.random.default_rng(1).normal(size=(19, 3))
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps({"points": [[1, 2, 3, 4, 5]], "labels": labels.tolist()}))
    (frame,) = FileSource(path)
    np.testing.assert_array_equal(frame.labels, labels)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.npz", None, "cannot be read (No such file or directory)"),
        ("x.mat", b"", "must be one of .jsonl, .npz, "),
        ("x.npz", b"PK", "it is not a whole .npz archive"),
        ("x.jsonl", b'{"points": []}', "must hold at least one frame with points"),
        ("x.jsonl", b'{"points": [[1, 2]]}', "line 1: points must have shape [n, 5], not [1, 2]"),
        ("x.jsonl", b"\n{", "line 2: a frame must be a JSON object or list of points"),
        ("x.jsonl", b'{"points": [[1, 2, 3, 4, NaN]]}', "line 1: points must be an array of fin"),
        ("x.jsonl", b'{"points": [[1,2,3,4,5]], "labels": [[0, 0, 0]]}', "shape [19, 3]"),
        ("x.jsonl", b"[[1,2,3,4,1" + b"0" * 400 + b"]]", "line 1: points must be a rectangular ar"),
        ("x.jsonl", b'{"points": [[1,2,3,4,5]], "time_s": 1' + b"0" * 400 + b"}", "time_s must be"),
        ("x.jsonl", b'{"points": [[1,2,3,4,5]], "number": -1}', "number must be an integer in 0.."),
        ("x.bin", b"nothing of a radar's", "must hold at least one frame with points"),
        ("x.parquet", b"nothing", "cannot be read ("),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        FileSource(path)
    assert str(refused.value).startswith(str(path))
    assert sentence in str(refused.value)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[io.BufferedReader, io.FileIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", 0) as sink:
        yield source, sink


def test_standard_input_takes_lines():
    rows = FRAMES[0].points.tolist()
    with pipe() as (stream, sink):
        sink.write(
            json.dumps({"number": 3, "points": rows}).encode()
            + b"\nrubbish\n\n"
            + json.dumps(rows).encode()
            + b'\n{"points": []}\n'
            + json.dumps(rows).encode()
        )
        sink.close()
        source = StdinSource(stream)
        frames = list(source)
    assert [frame.number for frame in frames] == [3, 4, 5]
    for frame in frames:
        np.testing.assert_array_equal(frame.values, FRAMES[0].points)
    assert source.counts() == {"damaged": 1, "empty": 1}


def test_line_without_an_end_is_not_kept_and_its_rest_is_no_frame():
    frame = b"[[1, 2, 3, 4, 5]]\n"
    with pipe() as (stream, sink):
        source = StdinSource(stream)
        threading.Thread(
            target=lambda: (sink.write(b" " * 3_000_000), sink.write(frame * 2), sink.close()),
            daemon=True,
        ).start()
        assert len(list(source)) == 1
    assert source.counts() == {"damaged": 1, "empty": 0}


def test_lines_and_datagrams_that_are_no_frames_do_not_end_a_source():
    bad = [
        b"1",
        b'"x"',
        b"null",
        b"{}",
        b"\xff",
        b"[" * 60_000,
        b"[[1,2,3,4,1" + b"0" * 400 + b"]]",
    ]
    good = b"[[1, 2, 3, 4, 5]]"
    with pipe() as (stream, sink):
        threading.Thread(
            target=lambda: (sink.write(b"\n".join([*bad, good])), sink.close()), daemon=True
        ).start()
        lines = StdinSource(stream)
        assert len(list(lines)) == 1
    assert lines.counts()["damaged"] == len(bad)
    datagrams = UdpSource("127.0.0.1", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in [*bad, good]:
            sender.sendto(datagram, datagrams.address)
    assert len(first(datagrams, 1)) == 1
    assert datagrams.counts()["damaged"] == len(bad)


def test_standard_input_takes_a_radar_s_bytes():
    with pipe() as (stream, sink):
        for _, data in sample_packets(4):
            sink.write(data)
        sink.close()
        assert [frame.number for frame in StdinSource(stream)] == [1, 2, 3, 4]


def test_standard_input_can_be_closed():
    with pipe() as (stream, _):
        source = StdinSource(stream)
        threading.Timer(0.2, source.close).start()
        assert list(source) == []


def test_datagrams_are_frames():
    source = UdpSource("127.0.0.1", 0)
    rows = FRAMES[0].points.tolist()
    datagrams = [
        json.dumps(rows).encode(),
        b"rubbish",
        packet(70, FRAMES[1].points),
        packet(72, FRAMES[2].points)[:100],
        packet(72, FRAMES[2].points)[100:],
        json.dumps({"number": 9, "points": rows}).encode(),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, source.address)
    frames = first(source, 4)
    assert [frame.number for frame in frames] == [0, 70, 72, 9]
    counts = source.counts()
    assert (counts["damaged"], counts["lost"]) == (1, 1)


def test_address_that_cannot_be_listened_on_is_refused():
    with pytest.raises(InvalidInput, match="--udp must be an address of this machine"):
        UdpSource("192.0.2.1", 9000)
    with pytest.raises(InvalidInput, match=r"\(bind\(\): port must be 0-65535\.\)"):
        UdpSource("127.0.0.1", 70_000)


CONFIGURATION = "% a comment\nsensorStop\nguiMonitor -1 1 0 0 0 0 0\n\nsensorStart\n"


class FakeRadar:
    """A radar's ends of two pseudo-terminals: answers commands, and sends what it is told to."""

    def __init__(self, answers: dict[str, bytes] | None = None) -> None:
        self.commands: list[str] = []
        self._answers = answers or {}
        self._cli, cli = os.openpty()
        self._data, data = os.openpty()
        tty.setraw(cli)
        tty.setraw(data)
        self.cli_port, self.data_port = os.ttyname(cli), os.ttyname(data)
        self._slaves = [cli, data]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._data, data[:1024]) :]

    def say(self, answer: bytes) -> None:
        os.write(self._cli, answer)
        # A terminal's bytes come a little later than they are written.
        select.select([self._slaves[0]], [], [], SOON_S)

    def unplug(self) -> None:
        for descriptor in (self._data, *self._slaves):
            os.close(descriptor)
        self._slaves = []

    def _listen(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while True:
                *lines, rest = (rest + os.read(self._cli, 1024)).split(b"\n")
                for line in lines:
                    command = line.decode()
                    self.commands.append(command)
                    answer = self._answers.get(command.split()[0], b"Done\n")
                    os.write(self._cli, line + b"\n" + answer + b"mmwDemo:/>")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "radar.cfg"
    path.write_text(CONFIGURATION)
    return path


def test_radar_is_configured_read_and_stopped(configuration):
    radar = FakeRadar()
    source = SerialSource(radar.data_port, radar.cli_port, configuration)
    assert radar.commands == []
    packets = sample_packets(60)
    stream = b"end of another packet" + b"".join(data for _, data in packets[:30])
    stream += b"".join(data for _, data in packets[32:])
    threading.Thread(target=radar.send, args=(stream,), daemon=True).start()
    frames = first(source, 58)
    assert [frame.number for frame in frames] == [*range(1, 31), *range(33, 61)]
    for frame in frames:
        np.testing.assert_array_equal(frame.values, packets[frame.number - 1][0])
    assert source.counts() == {
        "lost": 2,
        "damaged": 0,
        "empty": 0,
        "without_side_info": 0,
        "skipped_bytes": 21,
    }
    begun = ["sensorStop", "guiMonitor -1 1 0 0 0 0 0", "sensorStart"]
    assert radar.commands == [*begun, "sensorStop"]


def test_radar_that_refuses_a_command_is_told(configuration):
    radar = FakeRadar({"guiMonitor": b"Error -1\n"})
    with pytest.raises(RadarError) as refused:
        list(SerialSource(radar.data_port, radar.cli_port, configuration))
    assert str(refused.value) == (
        "the radar must answer Done to 'guiMonitor -1 1 0 0 0 0 0', but answered "
        "'guiMonitor -1 1 0 0 0 0 0 Error -1 mmwDemo:/>'"
    )


def test_what_came_before_a_command_is_not_its_answer(configuration):
    radar = FakeRadar()
    source = SerialSource(radar.data_port, radar.cli_port, configuration)
    radar.say(b"Error of a run before\n")
    radar.send(packet(1, FRAMES[0].points))
    assert [frame.number for frame in first(source, 1)] == [1]


def test_radar_that_is_closed_while_it_is_configured_is_stopped(configuration):
    radar = FakeRadar()
    source = SerialSource(radar.data_port, radar.cli_port, configuration)
    source.close()
    assert list(source) == []
    assert radar.commands == ["sensorStop"]


def test_unplugged_radar_is_told():
    radar = FakeRadar()
    source = SerialSource(radar.data_port)
    radar.send(packet(1, FRAMES[0].points))
    frames = iter(source)
    assert next(frames).number == 1
    radar.unplug()
    with pytest.raises(RadarError, match=r"was lost .*is it still plugged in"):
        next(frames)


def test_radar_without_intensities_is_told():
    radar = FakeRadar()
    source = SerialSource(radar.data_port)
    data = b"".join(packet(n, FRAMES[0].points, side_info=False) for n in range(12))
    threading.Thread(target=radar.send, args=(data,), daemon=True).start()
    with pytest.raises(RadarError, match="set the first value of guiMonitor to 1"):
        list(source)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("guiMonitor 1 0 0 0 0 0\n", "must end with sensorStart"),
        ("sensorStart", "must have guiMonitor with 1 for detected objects, .* no guiMonitor"),
        ("guiMonitor 2 0 0 0 0 0\nsensorStart", "but has 2"),
        ("guiMonitor -1 0 1 0 0 0 0\nsensorStart", "but has 0"),
        ("größer", "it is not plain text"),
    ],
)
def test_configurations_that_would_give_no_poses_are_refused(tmp_path, text, sentence):
    path = tmp_path / "radar.cfg"
    path.write_text(text)
    with pytest.raises(RadarError, match=sentence):
        SerialSource("/dev/null", "/dev/null", path)


def test_ports_that_are_none_are_refused_with_those_there_are(configuration):
    with pytest.raises(RadarError, match=r"cannot be opened \(No such file or directory\); the p"):
        SerialSource("/dev/nothing", "/dev/nothing", configuration)
    with pytest.raises(RadarError, match="--cli-port and --config must be given together"):
        SerialSource("/dev/nothing", "/dev/nothing")
