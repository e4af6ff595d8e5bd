"""What serving costs, beside other servers and under overload, on this machine.

    .venv/bin/python -m bench.serving [cpu|opponents|overload ...] [--json FILE]

Client and server share the machine. `-m bench.serving.soak` is the long run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from bench.serving import cpu, opponents, overload
from bench.serving.machine import machine


class Part(str, Enum):
    """What can be measured by itself."""

    CPU = "cpu"
    OPPONENTS = "opponents"
    OVERLOAD = "overload"


def main(
    parts: Annotated[list[Part] | None, typer.Argument(help="All unless given.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    seconds: Annotated[int, typer.Option(min=1, help="Of each turn.")] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the parts there; others in it stay.")
    ] = None,
) -> None:
    """Measure, print, and write the figures."""

    def say(what: str) -> None:
        typer.echo(what, err=True)

    measured: dict[Part, Callable[[], Any]] = {
        Part.CPU: lambda: cpu.measure(rounds, seconds, say),
        Part.OPPONENTS: lambda: opponents.measure(rounds, seconds, say),
        Part.OVERLOAD: lambda: overload.measure(4.0 * seconds, say),
    }
    report: dict[str, Any] = {
        "obtained": "measured, client and server on the same machine",
        "machine": machine(),
        "rounds": rounds,
        "seconds": seconds,
    }
    report |= {part.value: measured[part]() for part in parts or Part}
    typer.echo(json.dumps(report, indent=1))
    if json_file is not None:
        before = json.loads(json_file.read_text()) if json_file.exists() else {}
        json_file.write_text(json.dumps(before | report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
