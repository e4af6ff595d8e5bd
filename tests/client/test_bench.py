"""`emamba-client bench`: whose time is measured, and what is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from emamba_client.bench.load import Load, Measured, Plan, Request, due_times
from emamba_client.cli import app
from service.test_live import Live, finish, start

MODELS = Path(__file__).parents[1] / "one_model"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    service = start(MODELS)
    yield service
    finish(service)


def bench(url: str, *words: str):
    command = ["bench", "--url", url, "--seconds", "0.5", "--warmup-seconds", "0.1", *words]
    return CliRunner().invoke(app, command)


def test_closed_loop_is_measured_and_told(live):
    result = bench(live.url, "--connections", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("closed loop, 2 connections: ")
    assert lines[1].split() == ["p50", "p90", "p95", "p99", "p99.9", "max", "mean"]
    assert "in the service, mean us: preprocess " in result.stdout
    assert "engine mirror; model mars 1" in result.stdout
    assert "a closed loop hides the waiting" in result.stdout


@pytest.mark.parametrize("form", ["json", "octets"])
def test_open_loop_tells_everything_as_json(live, form, tmp_path):
    path, picture = tmp_path / "run.json", tmp_path / "run.svg"
    words = ("--rate", "40", "--form", form, "--batch", "3", "--deadline-ms", "10000")
    words += ("--json", str(path), "--plot", str(picture), "--model", "mars")
    result = bench(live.url, *words)
    assert result.exit_code == 0, result.output
    run = json.loads(path.read_text())
    assert (run["schema"], run["mode"], run["arrivals"]) == (1, "open", "constant")
    assert run["sent"] == run["answered"] == 20
    assert (run["unsent"], run["late"], run["refused"], run["failed"]) == (0, 0, {}, {})
    assert run["frames_hz"] == pytest.approx(3 * run["answered_hz"])
    assert run["offered_hz"] == 40
    assert run["engines"] == {"mirror": 20}
    assert run["models"] == {"mars 1": 20}
    latency_us = run["latency_us"]
    assert 0 < latency_us["p50"] <= latency_us["p99"] <= latency_us["max"]
    assert 0 < run["stages_us"]["engine"] < run["stages_us"]["total"]
    assert 0 < run["loader"]["cpu_share"] < 1
    assert picture.read_text().startswith("<?xml")
    assert json.loads(bench(live.url, "--json", "-").stdout)["mode"] == "closed"


class SlowAt:
    """A server that answers at once, but for one stall of `stall_s`."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self.count = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.count += 1
            if self.count == 10:
                time.sleep(self.stall_s)  # the whole server stands still
            body = b'{"engine": "none", "model": "m", "version": "1", "timing_us": {}}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def measure(self, plan: Plan) -> Load:
        def caught(*streams) -> asyncio.Task:
            return asyncio.ensure_future(self._quietly(*streams))

        server = await asyncio.start_server(caught, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load = Load(plan, Request("", {}, (b"{}",), 1), {"base_url": f"http://127.0.0.1:{port}"})
        await asyncio.to_thread(asyncio.run, load.run())
        server.close()
        return load

    async def _quietly(self, reader, writer) -> None:
        try:
            await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def test_stall_of_a_server_is_in_the_open_loop_s_latency():
    """A stall of 0.3 s at 200 requests/s delays about 60 of 200 requests, 0.15 s on average; a
    closed loop of one connection sees one late answer."""
    opened = asyncio.run(SlowAt(0.3).measure(Plan(4, 1.0, 0.0, 200)))
    closed = asyncio.run(SlowAt(0.3).measure(Plan(1, 1.0, 0.0)))
    late = opened.measured.latency.percentile(85)
    assert late is not None
    assert late > 0.1
    hidden = closed.measured.latency.percentile(85)
    assert hidden is not None
    assert hidden < 0.1
    assert closed.measured.latency.max_s > 0.25


def test_what_could_not_be_sent_is_counted():
    load = asyncio.run(SlowAt(1.0).measure(Plan(1, 0.5, 0.0, 100)))
    assert load.measured.unsent > 30
    assert load.measured.sent + load.measured.unsent == 50


def test_refusals_and_failures_are_told(live):
    result = bench(live.url, "--model", "venus", "--rate", "20")
    assert result.exit_code == 1
    assert "refused: 10 times 404 " in result.stdout
    result = bench("http://127.0.0.1:9", "--rate", "20")
    assert result.exit_code == 1
    assert "failed: 10 times ConnectError" in result.stdout


def frames(live) -> int:
    models = httpx.get(f"{live.url}/v1/vitals").json()["models"]
    return sum(model["frames"] for model in models)


def test_ctrl_c_ends_the_run_but_not_the_report(live):
    command = "from emamba_client.cli import main; main()"
    options = ("--url", live.url, "--seconds", "60", "--warmup-seconds", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", command, "bench", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    before = frames(live)
    while frames(live) < before + 100:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("closed loop, 8 connections: ")


def test_schedules():
    constant = list(itertools.islice(due_times(10, "constant", 0), 4))
    assert constant == pytest.approx([0, 0.1, 0.2, 0.3])
    poisson = list(itertools.islice(due_times(100, "poisson", 7), 5000))
    assert poisson == list(itertools.islice(due_times(100, "poisson", 7), 5000))
    assert poisson[-1] / 5000 == pytest.approx(0.01, rel=0.1)


def test_single_times_are_kept_up_to_a_bound():
    measured = Measured()
    for number in range(100_000):
        measured.add(number, 0.001, None)
    assert 5_000 <= len(measured.points) <= 10_000


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--plot", "a.jpg"], 1),
        (["--rate", "0"], 2),
        (["--form", "xml"], 2),
        (["--token", "a b"], 2),
    ],
)
def test_usage_errors(live, words, code):
    assert bench(live.url, *words).exit_code == code
