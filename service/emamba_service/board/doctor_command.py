"""`emamba-service doctor`: is this board ready, and if not, what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Optional

import typer

from emamba_service.board.doctor import Finding, Surroundings, examine
from emamba_service.options import fail, with_settings
from emamba_service.settings import SettingsError, load_settings

__all__ = ["doctor"]


@with_settings
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
    **given: Optional[str],  # noqa: UP045 - evaluated by Typer
) -> None:
    """Check what a board needs, and say how to mend it; the board is not touched.

    Exit code: 0 where nothing fails (warnings may remain), 1 where something does, 2 for a setting
    that cannot be used.
    """
    try:
        settings = load_settings({key: text for key, text in given.items() if text is not None})
    except SettingsError as error:
        fail(str(error), 2)
    around = context.find_object(Surroundings) or Surroundings.here()
    findings = examine(around, settings)
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        typer.echo(report(findings))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def report(findings: Sequence[Finding]) -> str:
    """A line for each finding, below it what to do, and the sum at the end."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.mend:
            lines.append(f"{'':<{width + 6}}  -> {finding.mend}")
    counts = {state: sum(f.state == state for f in findings) for state in ("ok", "warn", "fail")}
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    return "\n".join(lines)
