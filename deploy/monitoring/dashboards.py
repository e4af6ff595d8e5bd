"""Writes the two Grafana dashboards: `python deploy/monitoring/dashboards.py`, after a change.

Here a panel is a few lines, of which those that matter can be seen; Grafana's JSON has ten times as
many.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["DASHBOARDS", "Dashboard", "Panel", "render"]

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "emamba-prometheus"}
_COLUMNS = 24
_HEIGHT = 8
# What every series is chosen by, and what those of a model are.
_I = 'instance=~"$instance"'
_M = f'{_I}, model=~"$model"'
_INFER = f'{_I}, route=~"/v1/pose|/v1/classify|/v2/.*infer"'
_RATE = "[$__rate_interval]"
# Of an information that is 1, the labels are what there is to see.
_LABELS_ALONE = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}


@dataclass(frozen=True)
class Panel:
    """`queries` map a legend to PromQL; `says` is what the number is and how it was got."""

    title: str
    says: str
    unit: str
    queries: dict[str, str]
    kind: Literal["timeseries", "heatmap", "stat", "table"] = "timeseries"
    width: int = 8
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A page of panels, laid out from left to right."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def _rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}{_RATE}))"


def _quantile(share: float, metric: str, labels: str, by: str = "le") -> str:
    return f"histogram_quantile({share}, {_rate(metric, labels, by)})"


_REQUESTS = "emamba_request_duration_seconds"
_STAGES = "emamba_stage_duration_seconds"

INFERENCE = Dashboard(
    "emamba-inference",
    "eMamba inference",
    (
        Panel(
            "Requests",
            "Answered requests a second, by route. Measured.",
            "reqps",
            {"{{route}}": _rate(f"{_REQUESTS}_count", _I, "route")},
        ),
        Panel(
            "Frames",
            "Frames answered a second, by who computed them. Measured.",
            "cps",
            {
                "{{model}} {{version}} {{engine}}": _rate(
                    "emamba_frames_total", _M, "model, version, engine"
                )
            },
        ),
        Panel(
            "Errors",
            "Requests a second that were answered with 4xx or 5xx. Measured.",
            "reqps",
            {"{{status}}": _rate(f"{_REQUESTS}_count", f'{_I}, status=~"[45].."', "status")},
        ),
        Panel(
            "Outcomes",
            "What became of requests with a valid input, a second. Measured.",
            "reqps",
            {"{{outcome}}": _rate("emamba_inferences_total", _M, "outcome")},
            stacked=True,
        ),
        Panel(
            "Problems",
            "Problems answered a second, by kind; docs/service.md explains each. Measured.",
            "reqps",
            {"{{kind}}": _rate("emamba_errors_total", _I, "kind")},
        ),
        Panel(
            "Latency",
            "Time of inference requests, from their headers to the end of their answer. Measured.",
            "s",
            {
                f"p{round(share * 100)}": _quantile(share, f"{_REQUESTS}_bucket", _INFER)
                for share in (0.5, 0.95, 0.99)
            },
        ),
        Panel(
            "Latency heat map",
            "Inference requests by how long they took. Measured.",
            "s",
            {"{{le}}": f"sum by (le) (increase({_REQUESTS}_bucket{{{_INFER}}}{_RATE}))"},
            kind="heatmap",
            width=12,
        ),
        Panel(
            "p99 by stage",
            "One of 100 requests takes longer in this stage. Measured; kernel is the board's own "
            "count, and modelled where the engine is an emulator.",
            "s",
            {"{{stage}}": _quantile(0.99, f"{_STAGES}_bucket", _M, "le, stage")},
            width=12,
        ),
        Panel(
            "p50 by stage",
            "Half of the requests take longer in this stage. Measured; kernel as above.",
            "s",
            {"{{stage}}": _quantile(0.5, f"{_STAGES}_bucket", _M, "le, stage")},
        ),
        Panel(
            "Mean time by stage",
            "Where the time of a request goes; parts of engine left out. Measured.",
            "s",
            {
                "{{stage}}": "sum by (stage) (rate({0}_sum{{{1}}}{2})) / "
                "sum by (stage) (rate({0}_count{{{1}}}{2}))".format(
                    _STAGES,
                    f'{_M}, stage=~"preprocess|queue|quantise|engine|postprocess"',
                    _RATE,
                )
            },
            stacked=True,
        ),
        Panel(
            "Frames a batch",
            "Frames that the engine computed at a time, on average. Measured.",
            "short",
            {
                "{{model}}": _rate("emamba_batch_frames_sum", _M, "model")
                + " / "
                + _rate("emamba_batch_frames_count", _M, "model")
            },
        ),
        Panel(
            "Queue",
            "Requests that wait for an engine, and those that wait or are computed. Measured.",
            "short",
            {
                "waiting {{model}} {{version}}": f"emamba_queue_depth{{{_M}}}",
                "waiting or computed": f"emamba_pending_requests{{{_I}}}",
            },
        ),
        Panel(
            "Connections",
            "Open connections, streams and viewers of streams. Measured.",
            "short",
            {
                "connections": f"emamba_connections{{{_I}}}",
                "streams": f"emamba_streams{{{_I}}}",
                "viewers": f"emamba_viewers{{{_I}}}",
            },
        ),
        Panel(
            "Stream frames",
            "Frames of WebSocket streams a second, by what became of them. Measured.",
            "cps",
            {"{{outcome}}": _rate("emamba_stream_frames_total", _I, "outcome")},
        ),
    ),
)

HARDWARE = Dashboard(
    "emamba-hardware",
    "eMamba hardware",
    (
        Panel(
            "Power by rail",
            "Power of each rail that has a sensor. Measured by the board's INA226.",
            "watt",
            {"{{rail}}": f"emamba_rail_power_watts{{{_I}}}"},
            width=12,
        ),
        Panel(
            "Power by group",
            "Sums over groups of rails; pl includes pl_core. Measured.",
            "watt",
            {"{{group}}": f"emamba_group_power_watts{{{_I}}}"},
            width=12,
        ),
        Panel(
            "Energy an inference",
            "Energy of the rails measured, divided by the frames answered: it includes what the "
            "board takes when idle. pl_core is VCCINT and VCCBRAM, the accelerator. Measured.",
            "joule",
            {
                f"{name} {{{{instance}}}}": _rate(
                    "emamba_rail_energy_joules_total", _I + labels, "instance"
                )
                + " / "
                + _rate("emamba_frames_total", _I, "instance")
                for name, labels in (("all rails", ""), ("pl_core", ', group="pl_core"'))
            },
        ),
        Panel(
            "Temperature",
            "Measured by the device's own sensors.",
            "celsius",
            {"{{sensor}}": f"emamba_temperature_celsius{{{_I}}}"},
        ),
        Panel(
            "Mismatches",
            "Shadow checks whose answer was not the mirror's, since the service began; must be 0. "
            "Measured.",
            "short",
            {
                "{{instance}}": "sum by (instance) (emamba_shadow_checks_total"
                f'{{{_M}, result="mismatch"}})'
            },
            kind="stat",
        ),
        Panel(
            "Shadow checks",
            "Requests computed again by the mirror, a second, by what came of it. Measured.",
            "reqps",
            {"{{result}}": _rate("emamba_shadow_checks_total", _M, "result")},
        ),
        Panel(
            "Engine restarts",
            "Processes of engines started anew since the service began. Measured.",
            "short",
            {"{{instance}}": f"emamba_engine_restarts_total{{{_I}}}"},
            kind="stat",
        ),
        Panel(
            "Scraped",
            "1 where a service answers Prometheus, else 0; whatever is chosen above. Measured.",
            "short",
            {"{{instance}}": 'up{job=~"emamba|boards"}'},
            kind="stat",
        ),
        Panel(
            "Engine state",
            "The state that each model's engine is in now.",
            "short",
            {
                "{{instance}} {{model}} {{version}} {{state}}": "max by (instance, model, "
                f"version, state) (emamba_engine_state{{{_M}}}) == 1"
            },
            kind="table",
        ),
        Panel(
            "Board faults",
            "Faults of boards by kind, and what mended them, since the service began. Counted.",
            "short",
            {
                "{{kind}}": f"sum by (kind) (emamba_board_faults_total{{{_I}}})",
                "mended by {{step}}": f"sum by (step) (emamba_board_mended_total{{{_I}}})",
            },
        ),
        Panel(
            "Models in use",
            "Each loaded model, its engine and its package's hash.",
            "short",
            {
                "{{instance}} {{model}} {{version}}": "max by (instance, model, version, engine, "
                f"package_sha256) (emamba_model_info{{{_M}}})"
            },
            kind="table",
            width=12,
        ),
        Panel(
            "Overlay in use",
            "The bitstream on each board; of an emulator, the folding of its kernel.",
            "short",
            {
                "{{instance}} {{preset}}": "max by (instance, engine, preset, config_hash, "
                f"bitstream_sha256) (emamba_overlay_info{{{_I}}})"
            },
            kind="table",
            width=12,
        ),
    ),
)

DASHBOARDS = (INFERENCE, HARDWARE)


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(dashboard.panels, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        panels.append(_panel(panel, number, {"h": _HEIGHT, "w": panel.width, "x": x, "y": y}))
        x += panel.width
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["emamba"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                _variable("instance", "label_values(emamba_build_info, instance)"),
                _variable("model", f"label_values(emamba_model_info{{{_I}}}, model)"),
            ]
        },
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in {"stat", "table"}
    heat = panel.kind == "heatmap"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
            "format": "table" if panel.kind == "table" else "heatmap" if heat else "time_series",
        }
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.says,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {"calculate": False, "yAxis": {"unit": panel.unit}} if heat else {},
        "targets": targets,
        "transformations": [_LABELS_ALONE] if panel.kind == "table" else [],
    }


def main() -> None:
    """Write both files."""
    for dashboard in DASHBOARDS:
        name = dashboard.uid.removeprefix("emamba-")
        (FOLDER / f"{name}.json").write_text(render(dashboard))


if __name__ == "__main__":
    main()
