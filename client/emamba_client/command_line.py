"""What the commands share: whom to ask, the world they act in, and one sentence for what fails."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Optional

import httpx
import typer

from emamba_client.errors import (
    ClientError,
    ConnectionFailed,
    Overloaded,
    ServiceError,
    TimedOut,
    TooLarge,
)

__all__ = ["AsJson", "Token", "Url", "World", "bad_option", "sentence", "sentences", "world"]

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
    browse: Callable[[str], bool] = webbrowser.open


def world(context: typer.Context) -> World:
    """The world of a command: the real one, unless a test gives another."""
    return context.obj if isinstance(context.obj, World) else World()


def bad_option(error: ValueError | ImportError) -> typer.BadParameter:
    """A bad address or token, or a proxy that httpx cannot use, as the option's error."""
    hint = "--token" if str(error).startswith("token ") else "--url"
    return typer.BadParameter(str(error), param_hint=hint)


@contextmanager
def sentences() -> Iterator[None]:
    """Turn the client's errors into one sentence on stderr and exit code 1."""
    try:
        yield
    except ClientError as error:
        typer.echo(f"error: {sentence(error)}", err=True)
        raise typer.Exit(1) from error


def sentence(error: ClientError) -> str:
    """What has failed, and what to do."""
    return " ".join(str(error).split()) + _cure(error)


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
