"""What the commands share: an option for every setting, and one line for what goes wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, NoReturn, Optional

import typer

from emamba_service.settings import Settings, default_text, env_name, option_name

__all__ = ["fail", "with_settings"]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command(..., **settings)` with one option for each field of `Settings`.

    The command gets the text of each option or environment variable, or None.
    """
    own = [
        p
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.kind != p.VAR_KEYWORD
    ]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Optional[str],  # noqa: UP045 - evaluated by Typer
                typer.Option(
                    option_name(name),
                    envvar=env_name(name),
                    help=f"{field.description} Default: {default_text(name)}.",
                    metavar="VALUE",
                    show_default=False,
                ),
            ],
        )
        for name, field in Settings.model_fields.items()
    ]
    signature = inspect.Signature([*own, *options])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ |= {option.name: option.annotation for option in options}
    return command


def fail(reason: str, code: int) -> NoReturn:
    """End the command with `reason` on standard error."""
    typer.echo(f"emamba-service: {reason}", err=True)
    raise typer.Exit(code)
