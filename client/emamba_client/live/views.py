"""How a session looks while it runs: a picture, a line a frame, JSON lines, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emamba_client._stream_wire import Hello
from emamba_client.live.braille import Braille
from emamba_client.live.session import Event, Step
from emamba_client.live.summary import Summary
from emamba_client.render import print_plain
from emamba_client.results import JOINTS

__all__ = ["JsonView", "LinesView", "PictureView", "QuietView", "View"]

_BONES = (
    *((0, 1), (1, 18), (18, 2), (2, 3)),
    *((18, 4), (4, 5), (5, 6), (18, 7), (7, 8), (8, 9)),
    *((0, 10), (10, 11), (11, 12), (12, 13), (0, 14), (14, 15), (15, 16), (16, 17)),
)
_COLUMNS, _ROWS = 40, 20
_DOTS_PER_M = 42.0
_MIDDLE_Z_M = -0.15
_LEAST_S = 1 / 15


class View(Protocol):
    """Shows a session; `summary` of its present state comes with each step."""

    def start(self, hello: Hello, what: str) -> None:
        """The session begins, with frames from `what`."""
        ...

    def step(self, step: Step, summary: Summary) -> None:
        """A frame was answered or refused."""
        ...

    def event(self, event: Event) -> None:
        """Something else happened."""
        ...

    def end(self, summary: Summary, more: list[str]) -> None:
        """The session is over; `more` are further sentences to tell."""
        ...


class LinesView:
    """A line a frame, for pipes and terminals that cannot do more."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, hello: Hello, what: str) -> None:
        """Say who computes."""
        print_plain(self._console, f"{what} to {hello.model} {hello.version} on {hello.engine}")

    def step(self, step: Step, summary: Summary) -> None:
        """Number, head and latency of a frame, or why it has none."""
        if step.answer.problem is not None:
            print_plain(self._console, f"{step.frame.number:6}  {step.answer.problem.detail}")
            return
        joints = step.answer.joints
        head = "" if joints is None else " ".join(f"{v:6.2f}" for v in joints[JOINTS.index("Head")])
        mae = "" if step.mae_cm is None else f"  MAE {step.mae_cm:5.1f} cm"
        print_plain(
            self._console,
            f"{step.frame.number:6}  head {head} m{mae}  {1000 * step.latency_s:6.1f} ms",
        )

    def event(self, event: Event) -> None:
        """One line."""
        print_plain(self._console, event.sentence)

    def end(self, summary: Summary, more: list[str]) -> None:
        """The summary's lines."""
        for line in [*summary.lines(), *more]:
            print_plain(self._console, line)


class QuietView(LinesView):
    """Events and the summary alone."""

    def step(self, step: Step, summary: Summary) -> None:
        """Nothing."""


class JsonView:
    """JSON, an object a line; the last has the summary."""

    def start(self, hello: Hello, what: str) -> None:
        """Who computes."""
        _json({"source": what, **vars(hello)})

    def step(self, step: Step, summary: Summary) -> None:
        """A frame's joints or problem."""
        answer = step.answer
        document: dict[str, Any] = {
            "number": step.frame.number,
            "latency_us": round(1e6 * step.latency_s, 1),
        }
        if answer.problem is not None:
            document["problem"] = vars(answer.problem)
        if answer.joints is not None:
            document["joints"] = answer.joints.tolist()
            document |= {"engine": answer.engine, "timing_us": answer.timing_us}
        if step.mae_cm is not None:
            document["mae_cm"] = step.mae_cm
        _json(document)

    def event(self, event: Event) -> None:
        """What happened."""
        _json({"event": event.sentence})

    def end(self, summary: Summary, more: list[str]) -> None:
        """The summary."""
        _json({"summary": summary.document(), "notes": more})


class PictureView:
    """The skeleton in dots and the figures beside it, in a terminal of 80 by 24."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._drawn_s = -1.0
        self._title = ""
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def start(self, hello: Hello, what: str) -> None:
        """Take the terminal."""
        self._title = f"{what} → {hello.model} {hello.version}"
        self._live.start()

    def step(self, step: Step, summary: Summary) -> None:
        """Draw, unless that was done just now."""
        now_s = self._clock()
        if now_s - self._drawn_s < _LEAST_S:
            return
        self._drawn_s = now_s
        self._live.update(self._screen(step, summary), refresh=True)

    def event(self, event: Event) -> None:
        """Show it in place of the picture until frames come again."""
        self._live.update(Text(event.sentence, style="yellow"), refresh=True)

    def end(self, summary: Summary, more: list[str]) -> None:
        """Give the terminal back, and tell the summary."""
        self._live.stop()
        LinesView(self._console).end(summary, more)

    def _screen(self, step: Step, summary: Summary) -> Table:
        table = Table(title=self._title, box=None, show_header=False, pad_edge=False)
        table.add_column(width=_COLUMNS)
        table.add_column(width=36)
        table.add_row(_picture(step), _figures(step, summary))
        return table


def _picture(step: Step) -> Text:
    """The skeleton from the radar's side, and the labels' dimmer behind it."""
    canvas = Braille(_COLUMNS, _ROWS)
    if step.frame.labels is not None:
        _draw(canvas, step.frame.labels, lambda _: "bright_black")
    if step.answer.joints is not None:
        _draw(canvas, step.answer.joints, _style)
    return canvas.text()


def _style(joint: int) -> str:
    name = JOINTS[joint]
    return "green" if name.endswith("Left") else "red" if name.endswith("Right") else "bold"


def _draw(canvas: Braille, joints: npt.NDArray[np.float64], style: Callable[[int], str]) -> None:
    middle_x_m = joints[0, 0]
    places = [
        (
            canvas.width / 2 + (x_m - middle_x_m) * _DOTS_PER_M,
            canvas.height / 2 - (z_m - _MIDDLE_Z_M) * _DOTS_PER_M,
        )
        for x_m, _, z_m in joints
    ]
    for start, end in _BONES:
        canvas.line(places[start], places[end], style(end))


def _figures(step: Step, summary: Summary) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bright_black")
    table.add_column(justify="right")
    rows = {
        "engine": step.answer.engine or "",
        "frame": f"{step.frame.number}",
        "answered": f"{summary.answered} of {summary.frames}",
        "rate": _unit(summary.rate_now_hz, "Hz"),
        "latency p50": _unit(summary.latency_ms(50), "ms"),
        "latency p99": _unit(summary.latency_ms(99), "ms"),
    }
    rows |= {f"  {stage}": f"{us:.0f} us" for stage, us in (step.answer.timing_us or {}).items()}
    if step.mae_cm is not None:
        rows["MAE"] = f"{step.mae_cm:.1f} cm, mean {summary.mae_cm:.1f}"
    for name in ("refused", "dropped", "lost"):
        if count := getattr(summary, name):
            rows[name] = f"[red]{count}[/red]"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.1f} {unit}"


def _json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document))
