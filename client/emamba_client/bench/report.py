"""What a run has measured, as JSON and as a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from emamba_client._version import __version__
from emamba_client.bench.load import Load, Plan, Request
from emamba_client.render import print_plain

__all__ = ["document", "print_table"]

SCHEMA = 1
PERCENTS = (50, 90, 95, 99, 99.9)
_BUSY = 0.8


def document(load: Load, plan: Plan, request: Request, command: Sequence[str]) -> dict[str, Any]:
    """Everything, with units in the names; docs/bench.md describes it."""
    measured = load.measured
    span_s = measured.span_s
    percentiles = {
        f"p{percent:g}": _us(measured.latency.percentile(percent)) for percent in PERCENTS
    }
    answered = measured.answered
    return {
        "schema": SCHEMA,
        "command": list(command),
        "mode": "closed" if plan.rate_hz is None else "open",
        "arrivals": None if plan.rate_hz is None else plan.arrivals,
        "connections": plan.connections,
        "frames_per_request": request.frames,
        "seconds": span_s,
        "offered_hz": plan.rate_hz,
        "answered_hz": answered / span_s if span_s else None,
        "frames_hz": answered * request.frames / span_s if span_s else None,
        "sent": measured.sent,
        "answered": answered,
        "late": measured.late if plan.deadline_s is not None else None,
        "unsent": measured.unsent,
        "refused": dict(+measured.refused),
        "failed": dict(+measured.failed),
        "latency_us": percentiles
        | {
            "max": _us(measured.latency.max_s if answered else None),
            "mean": _us(measured.latency.mean_s),
        },
        "stages_us": {stage: total / answered for stage, total in measured.stages_us.items()},
        "engines": dict(measured.engines),
        "models": dict(measured.models),
        "loader": {
            "cpu_share": load.cpu_s / (span_s + plan.warmup_s) if span_s else None,
            "client": __version__,
            "httpx": httpx.__version__,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
    }


def print_table(console: Console, run: dict[str, Any]) -> None:
    """The same for people, within 80 columns."""
    print_plain(console, _title(run))
    table = Table(box=None, pad_edge=False)
    for name in run["latency_us"]:
        table.add_column(name, justify="right")
    table.add_row(*("" if us is None else f"{us:,.0f}" for us in run["latency_us"].values()))
    console.print(table)
    for line in _lines(run):
        print_plain(console, line)


def _title(run: dict[str, Any]) -> str:
    rate = "" if run["answered_hz"] is None else f" at {run['answered_hz']:,.1f}/s"
    offered = "" if run["offered_hz"] is None else f", {run['offered_hz']:g}/s offered"
    return (
        f"{run['mode']} loop, {run['connections']} connections: {run['answered']} of "
        f"{run['sent']} requests answered{rate}{offered}; latency in us:"
    )


def _lines(run: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("refused", "failed"):
        lines += [f"{name}: {count} times {why}" for why, count in run[name].items()]
    if run["late"]:
        lines.append(f"late: {run['late']}")
    if run["unsent"]:
        lines.append(f"unsent: {run['unsent']}, due before the end, but every connection waited")
    if run["stages_us"]:
        stages = ", ".join(f"{stage} {us:.0f}" for stage, us in run["stages_us"].items())
        lines.append(f"in the service, mean us: {stages}")
    if run["engines"]:
        lines.append(f"engine {', '.join(run['engines'])}; model {', '.join(run['models'])}")
    if run["mode"] == "closed":
        lines.append("a closed loop hides the waiting of requests that it did not send meanwhile")
    share = run["loader"]["cpu_share"]
    if share is not None and share > _BUSY:
        lines.append(
            f"the loader itself took {share:.0%} of a processor: these figures are its own; "
            "load from several machines, or with larger batches"
        )
    return lines


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e6 * seconds, 1)
