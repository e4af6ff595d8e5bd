"""The command line `emamba-client`: results on stdout, one sentence on stderr when it fails."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Optional

import httpx
import typer
from rich.console import Console

from emamba_client import render
from emamba_client._arguments import DEFAULT_URL
from emamba_client._version import __version__
from emamba_client.batches import ask_in_batches
from emamba_client.client import Client
from emamba_client.errors import (
    ClientError,
    ConnectionFailed,
    Overloaded,
    ServiceError,
    TimedOut,
    TooLarge,
)
from emamba_client.inputs import Frames, read_frames
from emamba_client.replay import Step, Summary, replay
from emamba_client.samples import sample_frames

app = typer.Typer(
    help="Ask an eMamba inference service for human poses from radar points.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Url = Annotated[str, typer.Option(help="Address of the service.")]
Token = Annotated[
    Optional[str],  # noqa: UP045 - evaluated by Typer
    typer.Option(
        envvar="EMAMBA_TOKEN",
        help="Bearer token of a service that demands one; the environment keeps it out of ps.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True)
class World:
    """What stands between the commands and the world; tests pass another as click's `obj`."""

    transport: httpx.BaseTransport | None = None
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emamba-client {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command()
def pose(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help=".npy or .npz (features or points), .json (as on the wire), .csv "
            "(x,y,z,doppler,intensity), or - for JSON on stdin.",
        ),
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Print the joints of the frames in FILE, in metres.

    More than 256 frames are sent as several requests; their answers are joined, and the times of
    each stage added up.
    """
    with _sentences():
        asked = read_frames(file, _stdin)
        with _client(context, url, token, asked.model, asked.version) as client:
            result = _ask(client, asked)
    if as_json:
        _print_json(result.raw)
    else:
        render.print_poses(Console(), result)


@app.command(name="replay")
def replay_sample(
    context: typer.Context,
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    hz: Annotated[float, typer.Option(min=0.01, max=1000, help="Frames per second.")] = 10,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many frames; all of the sample if not given.")
    ] = None,
    subject: Annotated[
        int | None, typer.Option(min=1, max=4, help="Only frames of this subject.")
    ] = None,
    movement: Annotated[
        int | None, typer.Option(min=1, max=10, help="Only frames of this movement.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stream the sample's frames and compare the joints with the Kinect's labels."""
    try:
        frames = sample_frames(subject, movement)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    world = _world(context)
    show, summary = render.Replay(Console(), as_json), Summary()
    with _sentences(), _client(context, url, token) as client:
        steps = replay(
            client,
            frames,
            count=count or len(frames),
            hz=hz,
            clock=world.clock,
            sleep=world.sleep,
        )
        _play(steps, show, summary)


@app.command()
def models(
    context: typer.Context,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the models the service holds."""
    with _sentences(), _client(context, url, token) as client:
        found = client.models()
    if as_json:
        _print_json({"models": [model.raw for model in found]})
    else:
        render.print_models(Console(), found)


def _stdin() -> bytes:
    return sys.stdin.buffer.read()


def _ask(client: Client, asked: Frames) -> render.AnyResult:
    if asked.kind == "points":
        return client.pose(asked.values)
    if asked.kind == "features":
        return client.pose_features(asked.values)
    return ask_in_batches(client, asked.values)


def _play(steps: Iterator[Step], show: render.Replay, summary: Summary) -> None:
    """Show each step as it comes; Ctrl-C and errors end with the summary of what was done."""
    try:
        with show:
            for step in steps:
                summary.add(step)
                show.step(step, summary)
    except KeyboardInterrupt:
        pass
    finally:
        show.summary(summary)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def _world(context: typer.Context) -> World:
    return context.obj if isinstance(context.obj, World) else World()


def _client(
    context: typer.Context,
    url: str,
    token: str | None,
    model: str | None = None,
    version: str | None = None,
) -> Client:
    world = _world(context)
    try:
        return Client(
            url,
            model=model,
            version=version,
            token=token,
            transport=world.transport,
            sleep=world.sleep,
        )
    except (ValueError, ImportError) as error:  # a bad address or token; a proxy httpx cannot use
        hint = "--token" if str(error).startswith("token ") else "--url"
        raise typer.BadParameter(str(error), param_hint=hint) from error


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn the client's errors into one sentence on stderr and exit code 1."""
    try:
        yield
    except ClientError as error:
        typer.echo(f"error: {_sentence(error)}{_cure(error)}", err=True)
        raise typer.Exit(1) from error


def _sentence(error: ClientError) -> str:
    return " ".join(str(error).split())


def _cure(error: ClientError) -> str:
    """What to do; nothing where the service says so itself, after a semicolon."""
    if isinstance(error, ServiceError) and ";" in error.problem.detail:
        return ""
    if isinstance(error, ConnectionFailed):
        return "; start the service with `make serve`, or give its address with --url"
    if isinstance(error, TimedOut):
        return "; ask for fewer frames, or look at the service's log"
    if isinstance(error, Overloaded):
        return "; try again later"
    if isinstance(error, TooLarge):
        return "; send fewer frames or points"
    return ""


def main() -> None:
    """Run the command line."""
    app()
