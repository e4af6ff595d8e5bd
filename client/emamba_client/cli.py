"""The command line `emamba-client`: results on stdout, one sentence on stderr when it fails."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from emamba_client import render
from emamba_client._arguments import DEFAULT_URL
from emamba_client._version import __version__
from emamba_client.batches import ask_in_batches
from emamba_client.bench.command import bench
from emamba_client.client import Client
from emamba_client.command_line import AsJson, Token, Url, bad_option, sentences, world
from emamba_client.inputs import Frames, read_frames
from emamba_client.live.command import live
from emamba_client.verify.command import verify

app = typer.Typer(
    help="Ask an eMamba inference service for human poses from radar points.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(live)
app.command()(bench)
app.command()(verify)


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
    with sentences():
        asked = read_frames(file, _stdin)
        with _client(context, url, token, asked.model, asked.version) as client:
            result = _ask(client, asked)
    if as_json:
        _print_json(result.raw)
    else:
        render.print_poses(Console(), result)


@app.command()
def models(
    context: typer.Context,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the models the service holds."""
    with sentences(), _client(context, url, token) as client:
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


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def _client(
    context: typer.Context,
    url: str,
    token: str | None,
    model: str | None = None,
    version: str | None = None,
) -> Client:
    there = world(context)
    try:
        return Client(
            url,
            model=model,
            version=version,
            token=token,
            transport=there.transport,
            sleep=there.sleep,
        )
    except (ValueError, ImportError) as error:
        raise bad_option(error) from error


def main() -> None:
    """Run the command line."""
    app()
