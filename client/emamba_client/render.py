"""How results look on a terminal and in a pipe, within 80 columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from emamba_client.replay import Step, Summary
from emamba_client.results import Joint, ModelInfo, Pose, PoseResult, PosesResult

AnyResult = PoseResult | PosesResult


def print_poses(console: Console, result: AnyResult) -> None:
    """Print who answered, and a table of joints in metres for each frame."""
    poses = result.poses if isinstance(result, PosesResult) else (result.pose,)
    total_us = result.timing_us.get("total")
    took = "" if total_us is None else f", {total_us:.0f} us in the service"
    _print_plain(console, f"model {result.model} {result.version} on {result.engine}{took}")
    if result.engine_stages_us:
        stages = ", ".join(f"{name} {us:.0f}" for name, us in result.engine_stages_us.items())
        _print_plain(console, f"in the engine: {stages} us")
    for index, pose in enumerate(poses):
        if len(poses) > 1:
            _print_plain(console, f"frame {index + 1} of {len(poses)}")
        console.print(_pose_table(pose))


def print_models(console: Console, models: Sequence[ModelInfo]) -> None:
    """Print one row per model."""
    table = _table()
    for name in ("model", "version", "engine"):
        table.add_column(name, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("INT8 parameter bytes", justify="right")
    table.add_column("package SHA-256")
    for model in models:
        numbers = (str(model.parameters), str(model.int8_bytes), model.package_sha256[:12])
        table.add_row(model.name, model.version, model.engine, *numbers)
    console.print(table)


class Replay:
    """Shows a replay: a live table on a terminal, a line per frame in a pipe, or JSON lines."""

    def __init__(self, console: Console, as_json: bool) -> None:
        self._console = console
        self._json = as_json
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal and not as_json:
            self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Replay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def step(self, step: Step, summary: Summary) -> None:
        """Show one answered frame."""
        if self._json:
            typer.echo(json.dumps(_step_json(step)))
        elif self._live:
            self._live.update(_live_table(step, summary), refresh=True)
        else:
            _print_plain(self._console, _step_line(step))

    def summary(self, summary: Summary) -> None:
        """Show what the whole replay measured; nothing where no frame was answered."""
        if not summary.frames:
            return
        if self._json:
            typer.echo(json.dumps({"summary": _summary_json(summary)}))
        else:
            _print_plain(self._console, _summary_text(summary))


def _print_plain(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _pose_table(pose: Pose) -> Table:
    table = _table()
    table.add_column("joint")
    for axis in ("x m", "y m", "z m"):
        table.add_column(axis, justify="right", min_width=7)
    for joint in pose.joints:
        table.add_row(joint.name, *_metres(joint, 3))
    return table


def _live_table(step: Step, summary: Summary) -> Table:
    """Two joints to a row, so that the table fits a terminal of 80 by 24."""
    table = Table(title=_live_title(step), caption=_live_caption(step, summary), box=None)
    for _ in range(2):
        table.add_column("joint", min_width=13)
        for axis in ("x m", "y m", "z m"):
            table.add_column(axis, justify="right", min_width=5)
    joints = step.result.pose.joints
    cells = [(joint.name, *_metres(joint, 2)) for joint in joints]
    half = (len(cells) + 1) // 2
    right = [*cells[half:], *[()] * (2 * half - len(cells))]
    for one, other in zip(cells[:half], right, strict=True):
        table.add_row(*one, *other)
    return table


def _live_title(step: Step) -> str:
    frame = step.frame
    return f"subject {frame.subject}, movement {frame.movement}, radar frame {frame.number}"


def _live_caption(step: Step, summary: Summary) -> str:
    return (
        f"frame {step.index + 1}: MAE vs Kinect labels {step.mae_cm:.1f} cm "
        f"(so far {summary.mae_cm:.1f}), {step.latency_s * 1000:.1f} ms"
    )


def _step_line(step: Step) -> str:
    frame = step.frame
    x_m, y_m, z_m = _metres(step.result.pose["Head"], 2)
    return (
        f"{step.index + 1:4} S{frame.subject} M{frame.movement:<2} frame {frame.number:5}  "
        f"head {x_m:>5} {y_m:>5} {z_m:>5} m  "
        f"MAE {step.mae_cm:5.1f} cm {step.latency_s * 1000:6.1f} ms"
    )


def _step_json(step: Step) -> dict[str, Any]:
    frame = step.frame
    return {
        "index": step.index,
        "subject": frame.subject,
        "movement": frame.movement,
        "frame": frame.number,
        "joints": step.result.raw["poses"][0]["joints"],
        "mae_cm": step.mae_cm,
        "latency_ms": step.latency_s * 1000,
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    return {
        "frames": summary.frames,
        "rate_hz": summary.rate_hz,
        "latency_p50_ms": summary.latency_ms(50),
        "latency_p95_ms": summary.latency_ms(95),
        "mae_cm": summary.mae_cm,
    }


def _summary_text(summary: Summary) -> str:
    frames = "frame" if summary.frames == 1 else "frames"
    rate = "" if summary.rate_hz is None else f" at {summary.rate_hz:.1f} Hz"
    return (
        f"{summary.frames} {frames}{rate}, latency p50 {summary.latency_ms(50):.1f} ms, "
        f"p95 {summary.latency_ms(95):.1f} ms\n"
        f"MAE vs Kinect labels {summary.mae_cm:.2f} cm"
    )


def _metres(joint: Joint, digits: int) -> list[str]:
    """Return x, y and z as text; adding 0.0 turns a rounded -0.0 into 0.0."""
    values = (joint.x_m, joint.y_m, joint.z_m)
    return [f"{round(value, digits) + 0.0:.{digits}f}" for value in values]
