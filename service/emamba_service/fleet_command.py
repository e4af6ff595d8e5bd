"""`emamba-service fleet`: HAProxy and Prometheus for a list of boards."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from emamba_service.fleet import (
    BoardsError,
    Proxy,
    discovery_json,
    haproxy_config,
    parse_address,
    read_boards,
)
from emamba_service.options import fail

__all__ = ["fleet"]

_USAGE, _STOPPED = 2, 1
_MAX_RETRIED_BODY_BYTES = 1024 * 1024


def fleet(
    boards: Annotated[Path, typer.Argument(help="The list: name and host:port, one board a line.")],
    out: Annotated[Path, typer.Option(help="Folder that the two files are written to.")],
    bind: Annotated[str, typer.Option(help="Address that clients use; * is every one.")] = (
        Proxy.bind
    ),
    status: Annotated[str, typer.Option(help="Address of metrics and status page.")] = Proxy.status,
    handover: Annotated[
        str, typer.Option(help="Address by which a reload hands over what it knows of streams.")
    ] = Proxy.handover,
    socket: Annotated[Path, typer.Option(help="Socket for HAProxy's commands.")] = Proxy.socket,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045 - evaluated by Typer
        typer.Option(help="Certificate chain and key in one PEM file: clients speak HTTPS."),
    ] = None,
    requests_per_board: Annotated[
        int, typer.Option(min=1, max=65536, help="Requests at one board at a time; others wait.")
    ] = Proxy.requests_per_board,
    retried_body_bytes: Annotated[
        int,
        typer.Option(
            min=1024,
            max=_MAX_RETRIED_BODY_BYTES,
            help="Largest body that is sent again where a board fails.",
        ),
    ] = Proxy.retried_body_bytes,
) -> None:
    """Write haproxy.cfg and boards.json, for HAProxy and Prometheus, from a list of boards.

    Exit code: 0 once both are written, 1 where they cannot be, 2 for a list or option that cannot
    be used.
    """
    proxy = Proxy(
        bind, status, handover, socket, certificate, requests_per_board, retried_body_bytes
    )
    try:
        _check(proxy)
        listed = read_boards(boards)
    except BoardsError as error:
        fail(str(error), _USAGE)
    comment = f"Written by: {_command(boards, out, proxy)}"
    files = {
        "haproxy.cfg": haproxy_config(listed, proxy, comment),
        "boards.json": discovery_json(listed),
    }
    try:
        for name, text in files.items():
            _replace(out / name, text)
    except OSError as error:
        fail(f"cannot write to {out}: {error.strerror}", _STOPPED)
    count = f"{len(listed)} {'board' if len(listed) == 1 else 'boards'}"
    typer.echo(f"{count}: {', '.join(str(out / name) for name in files)}")


def _check(proxy: Proxy) -> None:
    """Raise `BoardsError` for an option that HAProxy would not understand, or as something else."""
    addresses = {
        "--bind": proxy.bind,
        "--status": proxy.status,
        "--handover": proxy.handover,
    }
    for option, address in addresses.items():
        try:
            parse_address("0.0.0.0" + address[1:] if address.startswith("*:") else address)
        except BoardsError as error:
            raise BoardsError(f"{option}: {error}") from error
    for option, path in (("--socket", proxy.socket), ("--certificate", proxy.certificate)):
        if path is not None and not (path.is_absolute() and shlex.quote(str(path)) == str(path)):
            raise BoardsError(
                f"{option} must be a whole path without spaces or quotes, but is {str(path)!r}"
            )


def _command(boards: Path, out: Path, proxy: Proxy) -> str:
    """The command that writes this again; options that have their default are left out."""
    words = ["emamba-service", "fleet", str(boards), "--out", str(out)]
    values: dict[str, Any] = vars(proxy)
    for name, value in values.items():
        if value != getattr(Proxy, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    os.replace(beside, path)
