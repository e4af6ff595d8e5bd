"""`emamba-client live`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional, TypeVar

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console

from emamba_client._arguments import DEFAULT_URL
from emamba_client.command_line import Token, Url, World, bad_option, sentence, sentences, world
from emamba_client.errors import ClientError
from emamba_client.live.session import Event, Session, Step
from emamba_client.live.views import JsonView, LinesView, PictureView, QuietView, View
from emamba_client.recording import Recorded, Recorder, open_recorder
from emamba_client.samples import sample_frames
from emamba_client.sources import Source
from emamba_client.sources.files import FileSource
from emamba_client.sources.replay import ReplaySource
from emamba_client.sources.serial import SerialSource
from emamba_client.sources.stdin import StdinSource
from emamba_client.sources.udp import UdpSource
from emamba_client.stream import PoseStream

__all__ = ["live"]

T = TypeVar("T")


class SourceName(str, Enum):
    """Where frames come from."""

    replay = "replay"
    file = "file"
    serial = "serial"
    stdin = "stdin"
    udp = "udp"


class ViewName(str, Enum):
    """Where they are shown."""

    terminal = "terminal"
    web = "web"
    json = "json"
    none = "none"


def live(
    context: typer.Context,
    *,
    source: Annotated[SourceName, typer.Option(help="Where frames come from.")] = SourceName.replay,
    file: Annotated[
        Optional[Path],  # noqa: UP045 - evaluated by Typer
        typer.Option(help="Recording of --source file."),
    ] = None,
    data_port: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Serial port of --source serial that frames come from."),
    ] = None,
    cli_port: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Serial port that the radar takes commands from."),
    ] = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Commands to start the radar with, a .cfg file."),
    ] = None,
    udp: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where --source udp listens.")
    ] = "127.0.0.1:9000",
    subject: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=4, help="Of the replay, only this subject's frames."),
    ] = None,
    movement: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=10, help="Of the replay, only this movement's frames."),
    ] = None,
    hz: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.01, max=1000, help="Frames per second of a replay or file; 10, or as recorded."
        ),
    ] = None,
    count: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Stop after so many frames."),
    ] = None,
    loop: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="Start over at the end; a replay does, a file does not."),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Model to ask; the service's default."),
    ] = None,
    version: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Version of the model; the latest."),
    ] = None,
    publish: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Name under which others may watch, on the page too."),
    ] = None,
    view: Annotated[
        ViewName, typer.Option(help="A picture here, the service's page, JSON lines, or nothing.")
    ] = ViewName.terminal,
    record: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Keep frames and joints: a .jsonl, .npz or .parquet file."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a recording that exists.")] = False,
) -> None:
    """Send a live source's frames to the service, and show or record the poses.

    Ends with a summary: at the source's end, after --count frames, or with Ctrl-C.
    """
    there = world(context)
    if view is ViewName.web:
        publish = publish or "live"
    with sentences():
        recorder = open_recorder(record, overwrite) if record else None
        given = _Given(file, data_port, cli_port, config, udp, subject, movement, hz, loop)
        opened = _source(source, there, given)
        session = Session(
            opened, _opener(url, token, model, version, publish, opened), count, there.clock
        )
        shown = _view(view, there)
        with _interruptible():
            _run(session, shown, recorder, opened, _page(there, url, publish, view))
    if recorder is not None:
        full = ", which is all that it takes" if recorder.is_full else ""
        there_is = f"{recorder.frames} frames recorded in {record}{full}"
        typer.echo(there_is if recorder.frames else f"{record} is not written: no frame", err=True)


@dataclass(frozen=True)
class _Given:
    """The options that sources take."""

    file: Path | None
    data_port: str | None
    cli_port: str | None
    config: Path | None
    udp: str
    subject: int | None
    movement: int | None
    hz: float | None
    loop: bool | None


def _source(name: SourceName, there: World, given: _Given) -> Source:
    """The source that the options name; raises `ClientError` or `typer.BadParameter`."""
    clock = there.clock
    if name is SourceName.replay:
        try:
            frames = sample_frames(given.subject, given.movement)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return ReplaySource(frames, given.hz or 10.0, given.loop is not False, clock)
    if name is SourceName.file:
        path = _needed(given.file, "--source file needs --file")
        return FileSource(path, given.hz, given.loop is True, clock)
    if name is SourceName.serial:
        port = _needed(given.data_port, "--source serial needs --data-port")
        return SerialSource(port, given.cli_port, given.config, clock)
    if name is SourceName.stdin:
        return StdinSource(sys.stdin.buffer, clock)
    host, _, port = given.udp.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter("--udp must be HOST:PORT, such as 127.0.0.1:9000")
    return UdpSource(host.strip("[]"), int(port), clock)


def _needed(value: T | None, otherwise: str) -> T:
    if value is None:
        raise typer.BadParameter(otherwise)
    return value


def _opener(
    url: str,
    token: str | None,
    model: str | None,
    version: str | None,
    publish: str | None,
    source: Source,
) -> Callable[[], PoseStream]:
    def opened() -> PoseStream:
        try:
            return PoseStream(
                url,
                model=model,
                version=version,
                token=token,
                publish=publish,
                when_full="drop" if source.is_live else "block",
            )
        except ClientError:
            raise
        except ValueError as error:
            raise bad_option(error) from error

    return opened


def _view(name: ViewName, there: World) -> View:
    if name is ViewName.json:
        return JsonView()
    console = Console()
    if name is not ViewName.terminal:
        return QuietView(console)
    if console.is_terminal and not console.is_dumb_terminal:
        return PictureView(console, there.clock)
    return LinesView(console)


def _page(there: World, url: str, publish: str | None, view: ViewName) -> Callable[[], None]:
    """What opens the page that watches, if it is wanted."""

    def opened() -> None:
        if view is ViewName.web:
            address = f"{url.rstrip('/')}/#watch={publish}"
            typer.echo(f"watch it on {address}", err=True)
            there.browse(address)

    return opened


def _run(
    session: Session,
    view: View,
    recorder: Recorder | None,
    source: Source,
    open_page: Callable[[], None],
) -> None:
    """Run to the end, however that comes about; raises what ended it too early."""
    hello = session.open()
    view.start(hello, source.name)
    failure: ClientError | None = None
    try:
        open_page()
        _show_all(session, view, recorder)
    except KeyboardInterrupt:
        pass
    except ClientError as error:
        failure = error
    finally:
        session.close()
        try:
            if recorder is not None:
                recorder.close()
        except ClientError as error:
            failure = failure or error
        view.end(session.summary, [sentence(failure)] if failure is not None else [])
    if failure is not None:
        raise failure


def _show_all(session: Session, view: View, recorder: Recorder | None) -> None:
    first_s: float | None = None
    for step in session.steps():
        if isinstance(step, Event):
            view.event(step)
            continue
        first_s = step.frame.received_s if first_s is None else first_s
        view.step(step, session.summary)
        if recorder is None or step.answer.joints is None or recorder.is_full:
            continue
        recorder.add(_recorded(step, step.answer.joints, first_s))
        if recorder.is_full:
            view.event(Event(f"the recording is full at {recorder.frames} frames"))


def _recorded(step: Step, joints: npt.NDArray[np.float64], first_s: float) -> Recorded:
    frame = step.frame
    return Recorded(
        frame.kind,
        frame.values,
        frame.number,
        frame.received_s - first_s,
        joints,
        frame.labels,
        1e6 * step.latency_s,
        step.answer.engine,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a session as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
