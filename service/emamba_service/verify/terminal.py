"""The report on a terminal, and progress while it is made."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from emamba_service.verify.figures import (
    ASKED_AGAIN,
    TITLES,
    celsius,
    centimetres,
    energy_mj,
    facts,
    micros,
    per_second,
    place_numbers,
    watts,
    whose_speed,
)
from emamba_service.verify.schema import Classes, PoseErrors, Report

__all__ = ["ProgressDisplay", "print_report"]

_STYLES = {"equal": "bold green", "different": "bold red", "incomplete": "bold yellow"}
_LINE_EVERY_S = 5.0


class ProgressDisplay:
    """Bars on a terminal; elsewhere a line for each step, and more every five seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_s: dict[str, float] = {}

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        """`done` of `of` steps of `what` are done."""
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=of)
            self._bars.update(self._tasks[what], completed=done, total=of)
            return
        now_s = time.monotonic()
        if done == of or now_s - self._last_s.get(what, -_LINE_EVERY_S) >= _LINE_EVERY_S:
            self._last_s[what] = now_s
            print(f"{what}: {done:,} of {of:,}", file=sys.stderr, flush=True)


def print_report(report: Report, console: Console) -> None:
    """The verdict first and last, between them what it rests on."""
    _print_verdict(report, console)
    for table in (
        _differences(report),
        _stages(report),
        _missing(report),
        _accuracy(report),
        _speed(report),
        _energy(report),
        _temperatures(report),
    ):
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    for note in _notes(report):
        console.print(escape(note), style="dim", highlight=False)
    console.print()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(report, hash_digits=16):
        table.add_row(escape(name), escape(value))
    console.print(table)
    console.print()
    _print_verdict(report, console)


def _print_verdict(report: Report, console: Console) -> None:
    style = _STYLES[report.verdict]
    title = TITLES[report.verdict].upper()
    console.print(f"[{style}]{title}[/] {escape(report.summary)}", highlight=False)


def _table(title: str, *columns: str, text_columns: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text_columns else "right")
    return table


def _differences(report: Report) -> Table | None:
    comparison = report.comparison
    if not comparison.first:
        return None
    shown = f"first {len(comparison.first)} of {comparison.mismatches:,} differing frames"
    table = _table(
        shown.capitalize(),
        *("stage", "asked again", "frame", "index", "expected", "got", "differing"),
        text_columns=2,
    )
    for d in comparison.first:
        table.add_row(d.stage, ASKED_AGAIN[d.asked_again], *place_numbers(d))
    return table


def _stages(report: Report) -> Table | None:
    localised = report.comparison.localised
    if not localised:
        return None
    table = _table(
        "First differing stage",
        *("stage", "stream", "frame", "index", "expected", "got", "differing"),
        text_columns=2,
    )
    for found in localised:
        table.add_row(escape(found.stage), escape(found.stream), *place_numbers(found))
    return table


def _missing(report: Report) -> Table | None:
    if not report.comparison.problems:
        return None
    table = _table("Missing frames", "reason", "from frame", "frames")
    for problem in report.comparison.problems:
        table.add_row(escape(problem.reason), str(problem.first_frame), str(problem.frames))
    return table


def _accuracy(report: Report) -> Table | None:
    accuracy = report.accuracy
    if accuracy.mirror is None:
        return None
    both = (("engine", accuracy.engine), ("mirror", accuracy.mirror))
    if isinstance(accuracy.mirror, Classes):
        table = _table("Accuracy (measured)", "", "frames", "accuracy", "calibration error")
        for name, found in both:
            if isinstance(found, Classes):
                shares = (f"{found.accuracy:.4f}", f"{found.calibration_error:.4f}")
                table.add_row(name, f"{found.frames:,}", *shares)
        return table
    table = _table("Accuracy (measured)", "", "frames", "MAE (cm)", "RMSE (cm)")
    for name, errors in both:
        if isinstance(errors, PoseErrors):
            row = (f"{errors.frames:,}", centimetres(errors.mae_cm), centimetres(errors.rmse_cm))
            table.add_row(name, *row)
    return table


def _speed(report: Report) -> Table | None:
    speed = report.speed
    if not speed.rows:
        return None
    table = _table(
        f"Latency of a call (us) and throughput{whose_speed(report)}",
        *("stage", "batch", "p50", "p90", "p99", "max", "calls", "frames/s"),
    )
    for row in speed.rows:
        if len(row.latency_us) > 1:
            table.add_section()
        for stage, p in row.latency_us.items():
            ends = (f"{row.calls:,}", per_second(row.frames_per_s)) if stage == "total" else ()
            figures = map(micros, (p.p50, p.p90, p.p99, p.max))
            table.add_row(escape(stage), str(row.batch), *figures, *ends)
    return table


def _energy(report: Report) -> Table | None:
    if not report.energy.groups:
        return None
    table = _table(
        "Energy of an inference (measured)", "rails", "idle (W)", "loaded (W)", "energy (mJ)"
    )
    for name, group in report.energy.groups.items():
        table.add_row(
            escape(name),
            watts(group.idle_w, group.idle_standard_error_w),
            watts(group.loaded_w, group.loaded_standard_error_w),
            energy_mj(group),
        )
    return table


def _temperatures(report: Report) -> Table | None:
    start, end = report.temperatures_c.start, report.temperatures_c.end
    if not start and not end:
        return None
    table = _table("Temperatures (°C)", "sensor", "start", "end")
    for name in sorted(start.keys() | end.keys()):
        table.add_row(escape(name), celsius(start.get(name)), celsius(end.get(name)))
    return table


def _notes(report: Report) -> list[str]:
    """How figures were obtained, and why some are not there."""
    notes = [f"{part}: {how}" for part, how in report.obtained.items()]
    notes += [f"time of {stage}: {how}" for stage, how in report.speed.obtained.items()]
    reasons = (("accuracy", report.accuracy.reason), ("speed", report.speed.reason))
    partly = (report.accuracy.mirror, report.speed.rows)
    notes += [
        f"{part}: not all measured: {reason}"
        for (part, reason), some in zip(reasons, partly, strict=True)
        if reason and some
    ]
    return [*notes, *([report.comparison.localise] if report.comparison.localise else [])]
