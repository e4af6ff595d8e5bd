"""The page in Chromium: from a radar's bytes to joints drawn, viewers, weight, first paint.

    .venv/bin/python -m bench.page [--json FILE] [--pictures DIR] [--fresh-clone]

Service, client and browser share one machine. A frame is marked by the intensity of its first
point, which the page shows; its time counts from before its first byte is written to the
pseudo-terminal until the page has drawn it for the first time.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from bench.serving.machine import machine
from bench.serving.processes import ROOT, Server, product, running
from playwright.sync_api import Browser, Page, sync_playwright
from websockets.asyncio.client import connect

from emamba_client import sample_frames

sys.path.insert(0, str(ROOT / "tests"))
from radar_streams import packet

__all__ = ["main"]

_HZ = 20.0
_VIEWERS = 30
_CPU_SLOWDOWN = 4
_SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_CLIENT = "from emamba_client.cli import main; main()"
# Keeps when each frame was drawn, by its mark.
_WATCH = """import('/page/main.js').then(({ shown }) => {
  window.drawn = {};
  const look = () => {
    if (shown.frame) window.drawn[shown.frame.points[0][4]] = shown.drawn_ms;
    setTimeout(look, 2);
  };
  look();
})"""

# Done once more than so many frames have been shown.
_MOVING = """(frames) => import('/page/main.js').then(({ shown }) => new Promise((done) => {
  const look = () => shown.frame?.sequence > frames ? done(performance.now()) : setTimeout(look, 5);
  look();
}))"""


def main(
    seconds: Annotated[float, typer.Option(min=5, help="Of each turn.")] = 30.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it there too.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Write the documentation's too.")] = None,
    only_pictures: Annotated[bool, typer.Option(help="Measure nothing.")] = False,
    fresh_clone: Annotated[bool, typer.Option(help="Time `make serve` in one.")] = False,
) -> None:
    """Measure and print."""
    with _browser() as browser:
        if only_pictures and pictures is not None:
            with running("service, engine native", product("--engine", "native")) as server:
                _take_pictures(browser, server, pictures)
            return
        if fresh_clone:
            figures = {"machine": machine(), "fresh_clone": _fresh_clone(browser)}
        else:
            figures = _measure(browser, seconds, pictures)
    text = json.dumps(figures, indent=1)
    typer.echo(text)
    if json_file is not None:
        before = json.loads(json_file.read_text()) if json_file.exists() else {}
        json_file.write_text(json.dumps(before | figures, indent=1) + "\n")


def _measure(browser: Browser, seconds: float, pictures: Path | None) -> dict[str, Any]:
    with running("service, engine native", product("--engine", "native")) as server:
        if pictures is not None:
            _take_pictures(browser, server, pictures)
        return {
            "machine": machine(),
            "chromium": browser.version,
            "radar_to_page": {
                "as_it_is": _radar_to_page(browser, server, seconds, "no-preference"),
                "without_smoothing": _radar_to_page(browser, server, seconds, "reduce"),
            },
            "drawing": [_drawing(browser, server, speed) for speed in ("1", "10")],
            "viewers": _viewers(server, seconds),
            "first_visit": _first_visit(browser, server),
        }


@contextmanager
def _browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        raise typer.BadParameter("chromium must be installed, but is not: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_SWITCHES)
        yield browser
        browser.close()


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@contextmanager
def _client(server: Server, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`emamba-client live`, until the block ends."""
    command = [
        sys.executable,
        "-c",
        _CLIENT,
        "live",
        "--url",
        _url(server),
        "--view",
        "none",
        *words,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def _wait_until_published(server: Server, name: str) -> None:
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        streams = httpx.get(f"{_url(server)}/v1/streams").json()["streams"]
        if any(stream["name"] == name for stream in streams):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{name} must be published within 20 s, but is not")


def _radar_to_page(browser: Browser, server: Server, seconds: float, motion: Any) -> dict[str, Any]:
    """Milliseconds from a packet's first byte on the pseudo-terminal to its joints drawn."""
    radar, port = os.openpty()
    tty.setraw(port)
    context = browser.new_context(reduced_motion=motion)
    words = ("--source", "serial", "--data-port", os.ttyname(port), "--publish", "radar")
    with _client(server, *words):
        _wait_until_published(server, "radar")
        page = context.new_page()
        page.goto(f"{_url(server)}/#watch=radar")
        page.wait_for_selector("#notice:has-text('no frame has come yet')")
        page.evaluate(_WATCH)
        written = _write_packets(radar, seconds)
        time.sleep(1)
        drawn = {int(mark): ms / 1000 for mark, ms in page.evaluate("window.drawn").items()}
        offset_s, error_s = _clock_offset(page)
    context.close()
    os.close(radar)
    took_ms = [
        1000 * (drawn[mark] - offset_s - at_s) for mark, at_s in written.items() if mark in drawn
    ]
    return {
        "frames": len(written),
        "drawn": len(took_ms),
        "hz": _HZ,
        **{f"p{p}_ms": round(float(np.percentile(took_ms, p)), 2) for p in (50, 95, 99)},
        "max_ms": round(max(took_ms), 2),
        "clock_error_ms": round(1000 * error_s, 2),
    }


def _write_packets(radar: int, seconds: float) -> dict[int, float]:
    """Wall time before the first byte of each packet, by mark."""
    frames = sample_frames()
    written: dict[int, float] = {}
    start_s = time.perf_counter()
    for index in range(int(seconds * _HZ)):
        points = frames[index % len(frames)].points.copy()
        mark = 1000 + index
        points[0, 4] = mark
        data = packet(index, points)
        time.sleep(max(0.0, start_s + index / _HZ - time.perf_counter()))
        written[mark] = time.time()
        while data:
            data = data[os.write(radar, data) :]
    return written


def _clock_offset(page: Page) -> tuple[float, float]:
    """The page's clock less ours in seconds, and how far off that can be."""
    best = (0.0, float("inf"))
    for _ in range(50):
        before_s = time.time()
        there_s = page.evaluate("performance.timeOrigin + performance.now()") / 1000
        after_s = time.time()
        if after_s - before_s < 2 * best[1]:
            best = (there_s - (before_s + after_s) / 2, (after_s - before_s) / 2)
    return best


def _drawing(browser: Browser, server: Server, speed: str) -> dict[str, Any]:
    """Pictures a second that the screen gets, while the replay runs so many times as fast."""
    page = browser.new_page()
    page.goto(_url(server))
    page.select_option("#speed", speed)
    page.evaluate(_MOVING, 20)
    frames, pictures, took_ms = page.evaluate(
        """import('/page/main.js').then(({ shown }) => new Promise((done) => {
          const [first, begun] = [shown.frame.sequence, performance.now()];
          let pictures = 0;
          let [before, look] = [shown.drawings, () => {
            pictures += shown.drawings > before;
            before = shown.drawings;
            const took = performance.now() - begun;
            if (took > 5000) done([shown.frame.sequence - first, pictures, took]);
            else requestAnimationFrame(look);
          }];
          requestAnimationFrame(look);
        }))"""
    )
    page.close()
    return {
        "frames_hz": round(1000 * frames / took_ms, 1),
        "pictures_hz": round(1000 * pictures / took_ms, 1),
    }


def _viewers(server: Server, seconds: float) -> dict[str, Any]:
    """Viewers of one replay: what each has missed, and what the service took."""
    with _client(server, "--hz", str(_HZ), "--publish", "replay"):
        _wait_until_published(server, "replay")
        before_s, begun_s = server.cpu_s(), time.perf_counter()
        # Playwright has an event loop in this thread.
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(asyncio.run, _watch_all(server, seconds)).result()
        took_s = time.perf_counter() - begun_s
        main_s, engine_s = (a - b for a, b in zip(server.cpu_s(), before_s, strict=True))
        metrics = httpx.get(f"{_url(server)}/metrics").text
    dropped = [line for line in metrics.splitlines() if 'outcome="dropped"' in line]
    return {
        "viewers": _VIEWERS,
        "hz": _HZ,
        "frames_seen": sum(len(one) for one in seen),
        "frames_missed": sum(one[-1] - one[0] + 1 - len(one) for one in seen),
        "frames_dropped_by_the_service": sum(float(line.split()[-1]) for line in dropped),
        "main_cpu_percent": round(100 * main_s / took_s, 1),
        "engine_cpu_percent": round(100 * engine_s / took_s, 1),
    }


async def _watch_all(server: Server, seconds: float) -> list[list[int]]:
    return await asyncio.gather(*(_watch(server, seconds) for _ in range(_VIEWERS)))


async def _watch(server: Server, seconds: float) -> list[int]:
    """Sequence numbers that one viewer has seen."""
    query = "points=true&labels=true&timing=true"
    url = f"{_url(server).replace('http', 'ws')}/v1/pose/watch/replay?{query}"
    seen = []
    async with connect(url, compression=None) as viewer:
        await viewer.recv()
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            seen.append(json.loads(await viewer.recv())["sequence"])
    return seen


def _first_visit(browser: Browser, server: Server) -> dict[str, Any]:
    """Bytes and times until a skeleton moves, with an empty cache and a slowed-down processor."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": _CPU_SLOWDOWN})
    session.send("Network.enable")
    urls: dict[str, str] = {}
    sizes: dict[str, float] = {}

    def came(event: dict[str, Any]) -> None:
        urls[event["requestId"]] = event["response"]["url"]

    def loaded(event: dict[str, Any]) -> None:
        sizes[urls[event["requestId"]]] = event["encodedDataLength"]

    session.on("Network.responseReceived", came)
    session.on("Network.loadingFinished", loaded)
    page.goto(_url(server))
    moving_ms = page.evaluate(_MOVING, 1)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    replay = sum(size for url, size in sizes.items() if "/replay/" in url)
    api = sum(size for url, size in sizes.items() if "/v1/" in url)
    return {
        "cpu_slowdown": _CPU_SLOWDOWN,
        "page_bytes": sum(sizes.values()) - replay - api,
        "replay_bytes": replay,
        "first_contentful_paint_ms": round(paint, 1),
        "second_frame_ms": round(moving_ms, 1),
    }


def _fresh_clone(browser: Browser) -> dict[str, float]:
    """Seconds from `make serve` in a new clone to a skeleton that moves."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        begun_s = time.perf_counter()
        process = subprocess.Popen(
            ["make", "serve", "PORT=0"],
            cwd=clone,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("eMamba service "))
            served_s = time.perf_counter() - begun_s
            page = browser.new_page()
            page.goto(line.split()[-1])
            page.evaluate(_MOVING, 5)
            moving_s = time.perf_counter() - begun_s
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
    return {"served_s": round(served_s, 1), "moving_s": round(moving_s, 1)}


def _take_pictures(browser: Browser, server: Server, folder: Path) -> None:
    """The documentation's pictures."""
    for name, width, height, scheme in (
        ("page-desktop", 1280, 800, "light"),
        ("page-dark", 1280, 800, "dark"),
        ("page-phone", 390, 844, "light"),
    ):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        page = context.new_page()
        page.goto(_url(server))
        page.wait_for_selector("#summary:not(:empty)")
        page.screenshot(path=folder / f"{name}.png", full_page=True)
        context.close()


if __name__ == "__main__":
    typer.run(main)
