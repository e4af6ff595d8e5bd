"""`emamba-service token`: make, list and revoke bearer tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from emamba_service.auth import SCOPES, Token, new_token, read_tokens, write_tokens
from emamba_service.options import fail
from emamba_service.settings import SettingsError

__all__ = ["token"]

token = typer.Typer(
    help="Make, list and revoke bearer tokens.", no_args_is_help=True, rich_markup_mode=None
)
_File = Annotated[
    Path,
    typer.Option("--file", envvar="EMAMBA_TOKENS", help="File of tokens, the setting --tokens."),
]
_Name = Annotated[str, typer.Argument(help="Who it is for; shown in logs.")]


@token.command()
def new(
    name: _Name,
    scope: Annotated[
        Optional[list[str]],  # noqa: UP045 - evaluated by Typer
        typer.Option(help="infer, admin; repeat for both. Default: infer."),
    ] = None,
    rate: Annotated[
        Optional[float],  # noqa: UP045 - evaluated by Typer
        typer.Option(help="Most requests a second; no limit unless given."),
    ] = None,
    file: _File = Path("tokens.json"),
) -> None:
    """Add a token to the file, and print it: once, since the file keeps its hash alone."""
    asked = tuple(known for known in SCOPES if known in (scope or ["infer"]))
    if unknown := next((one for one in scope or [] if one not in SCOPES), None):
        fail(f"--scope must be one of {', '.join(SCOPES)}, but is {unknown!r}", 2)
    tokens = _read(file) if file.exists() else []
    if any(kept.name == name for kept in tokens):
        fail(f"{file}: a name must be new, but {name!r} is there; revoke it first", 1)
    try:
        secret, made = new_token(name, asked, rate)
    except SettingsError as error:
        fail(str(error), 2)
    _write(file, [*tokens, made])
    typer.echo(secret)


@token.command("list")
def show(file: _File = Path("tokens.json")) -> None:
    """Print each token's name, scopes and rate."""
    for kept in _read(file):
        rate = "no limit" if kept.requests_per_s is None else f"{kept.requests_per_s:g} requests/s"
        typer.echo(f"{kept.name}  {' '.join(kept.scopes)}  {rate}")


@token.command()
def revoke(name: _Name, file: _File = Path("tokens.json")) -> None:
    """Remove a token; a running service forgets it within a second."""
    tokens = _read(file)
    left = [kept for kept in tokens if kept.name != name]
    if len(left) == len(tokens):
        known = ", ".join(kept.name for kept in tokens) or "none"
        fail(f"{file}: must hold {name!r}, but holds {known}", 1)
    _write(file, left)


def _read(file: Path) -> list[Token]:
    try:
        return read_tokens(file)
    except SettingsError as error:
        fail(str(error), 1)


def _write(file: Path, tokens: list[Token]) -> None:
    try:
        write_tokens(file, tokens)
    except OSError as error:
        fail(f"{file}: cannot be written: {error.strerror}", 1)
