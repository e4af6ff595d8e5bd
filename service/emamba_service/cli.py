"""`emamba-service`: start the service, or one of the commands around it."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from typing import Annotated, Any, Optional

import orjson
import typer
from fastapi import FastAPI
from prometheus_client import disable_created_metrics

from emamba.engines import EngineError
from emamba.package import PackageError
from emamba_service import __version__
from emamba_service.app import create_app
from emamba_service.auth_command import token
from emamba_service.board.doctor_command import doctor
from emamba_service.fleet_command import fleet
from emamba_service.logs import configure
from emamba_service.options import fail, with_settings
from emamba_service.schemas import EXAMPLES
from emamba_service.server import listen, serve
from emamba_service.service import Service
from emamba_service.settings import (
    Settings,
    SettingsError,
    load_settings,
    misspelt,
    option_name,
)
from emamba_service.shadow_command import reproduce
from emamba_service.verify import verify_command

__all__ = ["cli", "main"]

_log = logging.getLogger(__name__)

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
cli.command()(reproduce)
cli.command("verify")(verify_command)
cli.command()(doctor)
cli.command()(fleet)
cli.add_typer(token, name="token")


def main() -> None:
    """Entry point of the `emamba-service` command."""
    # Of the whole process, and so not for `create_app` to do.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    cli()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emamba-service {__version__}")
        raise typer.Exit()


@cli.callback(invoke_without_command=True)
@with_settings
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    **given: Optional[str],  # noqa: UP045 - evaluated by Typer
) -> None:
    """Serve the packages of a folder over HTTP until Ctrl-C or SIGTERM."""
    del version
    if context.invoked_subcommand is not None:
        _check_order(context, context.invoked_subcommand)
        return
    try:
        settings = load_settings({key: text for key, text in given.items() if text is not None})
    except SettingsError as error:
        fail(str(error), 2)
    configure(settings)
    for sentence in misspelt(os.environ):
        _log.warning(sentence)
    try:
        listener = listen(settings)
    except (OSError, UnicodeError) as error:
        fail(f"cannot listen on {settings.host} port {settings.port}: {_reason(error)}", 1)
    service = Service(settings)
    try:
        with listener:
            serve(service, listener, lambda: _greet(service, listener))
    except SettingsError as error:
        fail(str(error), 2)
    except (PackageError, EngineError) as error:
        fail(str(error), 1)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    app: FastAPI = create_app(Settings.model_construct())
    typer.echo(json.dumps(app.openapi(), indent=2))


def _check_order(context: typer.Context, command: str) -> None:
    """Refuse a setting that would serve and do nothing for `command`."""
    for name in Settings.model_fields:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            fail(f"{option_name(name)} must follow the command, but comes before {command}", 2)


def _greet(service: Service, listener: socket.socket) -> None:
    """Print where the service listens, what it serves, and a command to try."""
    settings = service.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if settings.tls_certificate is None else "https"
    url = f"{scheme}://{host}:{listener.getsockname()[1]}"
    lines = [f"eMamba service {__version__} on {url}"]
    for model in service.models:
        package, engine = model.package, model.lane.info
        lines.append(
            f"{package.name} version {package.version}, engine {engine.name}: {engine.description}"
        )
    if coming := service.models.loading:
        lines.append(f"being loaded: {', '.join(' '.join(key) for key in coming)}")
    body: Any = orjson.dumps(EXAMPLES["points"]["value"]).decode()
    lines.append(f"curl -s {url}/v1/pose -H 'Content-Type: application/json' -d '{body}'")
    typer.echo("\n".join(lines))
    sys.stdout.flush()


def _reason(error: OSError | UnicodeError) -> str:
    """Why a host and port cannot be bound; a name that is none has no positive `errno`."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return "there is no such host; give an address of this machine, such as 127.0.0.1"
