"""`emamba-client bench`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional
from urllib.parse import urlencode

import numpy as np
import typer
from rich.console import Console

from emamba_client._arguments import (
    CONNECT_TIMEOUT_S,
    DEFAULT_URL,
    checked_token,
    checked_url,
    request_headers,
)
from emamba_client.bench.load import Load, Plan, Request
from emamba_client.bench.plot import check_plot, plot
from emamba_client.bench.report import document, print_table
from emamba_client.command_line import Token, Url, bad_option, sentences
from emamba_client.inputs import MAP_SHAPE
from emamba_client.samples import sample_frames

__all__ = ["bench"]

_TIMEOUT_S = 30.0


class Form(str, Enum):
    """How frames are sent."""

    json = "json"
    octets = "octets"


class Arrivals(str, Enum):
    """When requests of an open loop are due."""

    constant = "constant"
    poisson = "poisson"


def bench(
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    rate: Annotated[
        Optional[float],  # noqa: UP045 - evaluated by Typer
        typer.Option(
            min=0.01,
            max=1e6,
            help="Requests per second of an open loop; else it is closed.",
        ),
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Of an open loop: evenly, or at random as of many users.")
    ] = Arrivals.constant,
    seed: Annotated[int, typer.Option(help="Of the random arrivals.")] = 0,
    connections: Annotated[
        int, typer.Option(min=1, max=1024, help="Requests that may be on their way at once.")
    ] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long is measured.")] = 10.0,
    warmup_seconds: Annotated[float, typer.Option(min=0, help="Not measured before.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Frames per request.")] = 1,
    form: Annotated[
        Form, typer.Option(help="Points as JSON, or feature maps as float32.")
    ] = Form.json,
    deadline_ms: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, help="Count later answers as late."),
    ] = None,
    model: Annotated[Optional[str], typer.Option(help="The service's default.")] = None,  # noqa: UP045
    version: Annotated[Optional[str], typer.Option(help="The latest.")] = None,  # noqa: UP045
    json_file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--json", metavar="FILE", help="Write all figures to a file; - is stdout."),
    ] = None,
    plot_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plot", help="Draw percentiles and times, a .png or .svg."),
    ] = None,
) -> None:
    """Put a service under load with the sample's frames, and measure its answers.

    With --rate the load does not wait for answers, and latency counts from when a request was due.
    """
    plan = Plan(
        connections,
        seconds,
        warmup_seconds,
        rate,
        arrivals.value,
        seed,
        None if deadline_ms is None else deadline_ms / 1000,
    )
    request = _request(form, batch, {"model": model, "version": version})
    with sentences():
        if plot_file is not None:
            check_plot(plot_file)
        load = Load(plan, request, _options(url, token))
        # Ctrl-C ends the run, not the report.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(load.run())
        run = document(load, plan, request, sys.argv)
        _tell(run, json_file)
        if plot_file is not None and load.measured.answered:
            plot(plot_file, run, load.measured)
    if not load.measured.answered:
        raise typer.Exit(1)


def _options(url: str, token: str | None) -> dict[str, Any]:
    try:
        headers = request_headers(checked_token(token))
        timeout = (CONNECT_TIMEOUT_S, _TIMEOUT_S, _TIMEOUT_S, _TIMEOUT_S)
        return {"base_url": checked_url(url), "headers": headers, "timeout": timeout}
    except ValueError as error:
        raise bad_option(error) from error


def _request(form: Form, batch: int, named: dict[str, str | None]) -> Request:
    """The sample's frames in bodies of `batch`."""
    frames = sample_frames()
    batches = [
        [frames[(start + offset) % len(frames)].points for offset in range(batch)]
        for start in range(0, len(frames), batch)
    ]
    given = {key: value for key, value in named.items() if value is not None}
    if form is Form.json:
        documents = [
            given | {"frames": [{"points": points.tolist()} for points in one]} for one in batches
        ]
        bodies = tuple(json.dumps(one, separators=(",", ":")).encode() for one in documents)
        return Request("v1/pose", {"content-type": "application/json"}, bodies, batch)
    path = f"v1/pose?{urlencode(given)}" if given else "v1/pose"
    bodies = tuple(b"".join(_map(points) for points in one) for one in batches)
    return Request(path, {"content-type": "application/octet-stream"}, bodies, batch)


def _map(points: np.ndarray[Any, Any]) -> bytes:
    """A frame of the sample, whose points are sorted already, as a feature map's bytes."""
    padded = np.zeros((MAP_SHAPE[0] * MAP_SHAPE[1], MAP_SHAPE[2]), "<f4")
    padded[: len(points)] = points
    return padded.tobytes()


def _tell(run: dict[str, Any], json_file: str | None) -> None:
    text = json.dumps(run, indent=1)
    if json_file == "-":
        typer.echo(text)
        return
    print_table(Console(), run)
    if json_file is not None:
        Path(json_file).write_text(text + "\n")
