"""`emamba-service`: start the service, or one of the commands around it."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, Optional

import orjson
import typer
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, disable_created_metrics

from emamba.engines import EngineError
from emamba.package import PackageError
from emamba_service import __version__
from emamba_service.app import create_app
from emamba_service.board.doctor_command import doctor
from emamba_service.board.engines import open_engine_for
from emamba_service.models import Models, load_models
from emamba_service.options import fail, with_settings
from emamba_service.schemas import EXAMPLES
from emamba_service.server import listen, serve
from emamba_service.settings import Settings, SettingsError, load_settings, option_name
from emamba_service.shadow_command import reproduce
from emamba_service.verify import verify_command

__all__ = ["cli", "main"]

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
cli.command()(reproduce)
cli.command("verify")(verify_command)
cli.command()(doctor)


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
    # The engines' metrics are shown with the application's.
    registry = CollectorRegistry()
    factory = open_engine_for(settings, registry)
    try:
        models = load_models(settings.models, settings.engine, settings.default_model, factory)
    except (PackageError, EngineError) as error:
        fail(str(error), 1)
    try:
        listener = listen(settings)
    except (OSError, UnicodeError) as error:
        models.close()
        fail(f"cannot listen on {settings.host} port {settings.port}: {_reason(error)}", 1)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(_greeting(f"http://{host}:{listener.getsockname()[1]}", models))
    sys.stdout.flush()
    serve(create_app(settings, registry=registry, models=models), settings, listener)


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


def _greeting(url: str, models: Models) -> str:
    lines = [f"eMamba service {__version__} on {url}"]
    for model in models:
        package, engine = model.package, model.engine.info
        lines.append(
            f"{package.name} version {package.version}, engine {engine.name}: {engine.description}"
        )
    body: Any = orjson.dumps(EXAMPLES["points"]["value"]).decode()
    lines.append(f"curl -s {url}/v1/pose -H 'Content-Type: application/json' -d '{body}'")
    return "\n".join(lines)


def _reason(error: OSError | UnicodeError) -> str:
    """Why a host and port cannot be bound; a name that is none has no positive `errno`."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return "there is no such host; give an address of this machine, such as 127.0.0.1"
