"""`emamba-client verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import httpx
import typer

from emamba_client._arguments import DEFAULT_URL, request_headers
from emamba_client._wire import network_error
from emamba_client.client import Client
from emamba_client.command_line import AsJson, Token, Url, bad_option, sentences
from emamba_client.sources.files import read_points
from emamba_client.verify.compare import Difference, check_same_package, compare, made_frames
from emamba_client.verify.mirror import LocalModel
from emamba_client.verify.ways import WAYS, Asked, Service

__all__ = ["verify"]

_TIMEOUT_S = 60.0


def verify(
    *,
    package: Annotated[
        Path, typer.Option(help="The package that the service is to compute.")
    ] = Path("models/mars/1"),
    url: Url = DEFAULT_URL,
    token: Token = None,
    frames: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="Random frames besides sample and edges."),
    ] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the random frames.")] = 0,
    file: Annotated[
        Optional[Path],  # noqa: UP045 - evaluated by Typer
        typer.Option(help="A recording to send in their place."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a service with the mirror on this machine, bit for bit, on every way there is.

    Exit code 1 where one number differs.
    """
    with sentences():
        local = LocalModel(package)
        points = read_points(file) if file else made_frames(frames, seed)
        try:
            with Client(url, token=token) as client:
                models = client.models()
        except ValueError as error:
            raise bad_option(error) from error
        check_same_package(local, models)
        asked = Asked(points, local.maps(points))
        expected = local.joints(asked.maps)
        differences: list[Difference] = []
        try:
            with httpx.Client(
                base_url=url, headers=request_headers(token), timeout=_TIMEOUT_S
            ) as http:
                service = Service(http, url, token, local.name, local.version)
                for way in WAYS:
                    difference = compare(way.name, way.ask(service, asked), expected)
                    differences += [difference] if difference else []
                    if not as_json:
                        _tell(way.name, len(points), difference)
        except httpx.RequestError as error:
            raise network_error(error, url) from error
    if as_json:
        typer.echo(json.dumps(_document(local, len(points), differences), indent=1))
    if differences:
        raise typer.Exit(1)


def _tell(way: str, frames: int, difference: Difference | None) -> None:
    if difference is None:
        typer.echo(f"{way}: {frames} frames, bit for bit equal")
    else:
        typer.echo(str(difference))


def _document(local: LocalModel, frames: int, differences: list[Difference]) -> dict[str, Any]:
    return {
        "model": local.name,
        "version": local.version,
        "package_sha256": local.sha256,
        "frames": frames,
        "ways": [way.name for way in WAYS],
        "equal": not differences,
        "differences": [vars(difference) for difference in differences],
    }
