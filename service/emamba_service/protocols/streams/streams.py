"""WebSockets of pose streams and their viewers; docs/stream.md is the reference."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import orjson
from starlette.types import Message, Scope
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from emamba.tasks import PoseTask
from emamba_service.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotReadyError,
    ServiceError,
    TooManyStreamsError,
    problem_response,
)
from emamba_service.inference import Ask, Inference
from emamba_service.metrics import Metrics
from emamba_service.models import LoadedModel
from emamba_service.protocols.request import check_query
from emamba_service.protocols.streams.channel import Channel, Viewer
from emamba_service.protocols.streams.session import Session, WhenFull
from emamba_service.protocols.streams.wire import (
    MAX_SEQUENCE,
    Ack,
    Frame,
    StreamError,
    answer_message,
    problem_message,
    read_message,
)
from emamba_service.settings import Settings
from emamba_service.web import parse_query

__all__ = ["Streams"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STREAM_QUERY = frozenset(
    {"model", "version", "when_full", "resumable", "session", "acknowledged", "publish", "timing"}
)
_WATCH_QUERY = frozenset({"points", "labels", "timing"})
_TRUTHS = ("true", "false")
# Pages cannot send headers with a WebSocket; a token comes as a subprotocol beside the real one.
_PROTOCOL = "emamba.v1"
_TOKEN_PROTOCOL = "emamba.token."
_GOING_AWAY, _POLICY, _FAILED, _RESTART = 1001, 1008, 1011, 1012
_STOPPING = "the service is stopping; connect to another instance"
_TAKEN_OVER = "the session goes on in another connection"
# A close frame's reason has room for 123 bytes.
_REASON_BYTES = 123


@dataclass(eq=False)
class _Stream:
    """A session, what computes it, and the connection that it has now, if it has one."""

    id: str
    client: str
    loaded: LoadedModel
    session: Session
    is_resumable: bool
    is_timed: bool
    channel: Channel | None
    # Set when there may be frames to compute, answers to send, or room for a frame.
    frames: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    worker: asyncio.Task[None] | None = None
    connection: asyncio.Task[None] | None = None
    forgetting: asyncio.TimerHandle | None = None


class Streams:
    """Every stream and every viewer. Of one event loop.

    `admit(authorization, scope)` gives the client's name or raises `ServiceError`. `viewers` are
    the connections that watch.
    """

    def __init__(
        self,
        inference: Inference,
        metrics: Metrics,
        settings: Settings,
        clock: Callable[[], float],
        admit: Callable[[str | None, Scope], str],
    ) -> None:
        self._inference = inference
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._admit = admit
        self._streams: dict[str, _Stream] = {}
        self._channels: dict[str, Channel] = {}
        self.viewers = 0
        self._draining = False
        frames = metrics.stream_frames
        self._answered, self._dropped, self._refused = (
            frames.labels(outcome) for outcome in ("answered", "dropped", "refused")
        )

    @property
    def count(self) -> int:
        """Streams that are open or can be resumed."""
        return len(self._streams)

    def listing(self) -> list[dict[str, Any]]:
        """The published streams, by name."""
        return [
            {"name": channel.name, "viewers": len(channel.viewers), **channel.about}
            for _, channel in sorted(self._channels.items())
        ]

    async def pose(self, websocket: WebSocket) -> None:
        """Serve one connection of a stream."""
        try:
            stream = self._open(websocket)
        except ServiceError as error:
            await _deny(websocket, error, self._metrics)
            return
        # Before anything is awaited: a connection that this one takes over ends meanwhile.
        stream.connection = asyncio.current_task()
        # For proxies, which must lead a resumed stream back to this service.
        told = [(b"emamba-session", stream.id.encode())] if stream.is_resumable else []
        await websocket.accept(_subprotocol(websocket), told)
        self._metrics.streams.inc()
        code, reason = _GOING_AWAY, "the connection has been lost"
        try:
            await websocket.send_text(self._hello(stream))
            code, reason = await self._converse(websocket, stream)
        except (WebSocketDisconnect, OSError):
            pass
        except asyncio.CancelledError:
            code, reason = _POLICY, _TAKEN_OVER
            if self._draining:
                code, reason = _RESTART, _STOPPING
        finally:
            self._metrics.streams.dec()
            self._leave(stream, resumable=code in {_GOING_AWAY, _RESTART})
        await _close(websocket, code, reason)

    async def watch(self, websocket: WebSocket) -> None:
        """Show a published stream to one viewer."""
        try:
            channel, viewer = self._watched(websocket)
        except ServiceError as error:
            await _deny(websocket, error, self._metrics)
            return
        await websocket.accept(_subprotocol(websocket))
        channel.viewers.add(viewer)
        self.viewers += 1
        self._metrics.viewers.inc()
        listening = asyncio.create_task(_until_gone(websocket, viewer))
        try:
            await websocket.send_text(
                orjson.dumps({"channel": channel.name, **channel.about}).decode()
            )
            while (message := await viewer.next()) is not None:
                await websocket.send_text(message)
        except (WebSocketDisconnect, OSError, RuntimeError):
            pass
        finally:
            listening.cancel()
            channel.viewers.discard(viewer)
            self.viewers -= 1
            self._metrics.viewers.dec()
        await _close(websocket, _GOING_AWAY, "the stream has ended")

    async def drain(self) -> None:
        """Take no more frames, send the answers to those there are, and close with 1012."""
        self._draining = True
        connections = [s.connection for s in self._streams.values() if s.connection is not None]
        workers = [s.worker for s in self._streams.values() if s.worker is not None]
        for stream in self._streams.values():
            stream.answers.set()
        if connections:
            _, late = await asyncio.wait(connections, timeout=self._settings.drain_timeout_s)
            for connection in late:
                connection.cancel()
        for worker in workers:
            worker.cancel()
        for channel in self._channels.values():
            channel.end()
        for stream in list(self._streams.values()):
            self._forget(stream)

    def _open(self, websocket: WebSocket) -> _Stream:
        """The stream that a connection asks for, new or known; raises `ServiceError`."""
        _check_origin(websocket)
        client = self._admit(_authorization(websocket), websocket.scope)
        if self._draining:
            raise NotReadyError(_STOPPING)
        query = _query(websocket, _STREAM_QUERY)
        if "session" in query:
            return self._resume(client, query)
        loaded = self._inference.get(query.get("model"), query.get("version"))
        if not isinstance(loaded.package.task, PoseTask):
            raise InvalidRequestError(
                f"model {loaded.package.name} must be a pose model, but is of kind "
                f"{loaded.package.task.kind}"
            )
        if len(self._streams) >= self._settings.max_streams:
            limit = self._settings.max_streams
            raise TooManyStreamsError(
                f"all {limit} streams are taken; try again after 1 s", limit=limit
            )
        resumable, timed = _is_true(query, "resumable"), _is_true(query, "timing")
        when_full = cast(WhenFull, _choice(query, "when_full", "block", ("block", "drop")))
        channel = self._publish(query.get("publish"), loaded)
        session = Session(self._settings.stream_window, when_full, resumable)
        stream = _Stream(
            secrets.token_urlsafe(16), client, loaded, session, resumable, timed, channel
        )
        stream.worker = asyncio.create_task(self._work(stream))
        self._streams[stream.id] = stream
        return stream

    def _resume(self, client: str, query: dict[str, str]) -> _Stream:
        if others := query.keys() - {"session", "acknowledged"}:
            raise InvalidRequestError(
                f"a session must be resumed with session and acknowledged alone, "
                f"but with {min(others)}"
            )
        stream = self._streams.get(query["session"])
        if stream is None or stream.client != client or not stream.is_resumable:
            raise InvalidRequestError(
                "session must be that of a resumable stream of yours whose connection was lost at "
                f"most {self._settings.stream_resume_s:g} s ago, but is not; begin a new one"
            )
        text = query.get("acknowledged", "0")
        if not (text.isascii() and text.isdigit() and int(text[:17]) <= MAX_SEQUENCE):
            raise InvalidRequestError("acknowledged must be a sequence number")
        try:
            stream.session.reconnect(int(text))
        except StreamError as error:
            raise InvalidRequestError(str(error)) from error
        if stream.forgetting is not None:
            stream.forgetting.cancel()
            stream.forgetting = None
        if stream.connection is not None:
            # The client knows better than we that its connection is lost.
            stream.connection.cancel()
        return stream

    def _publish(self, name: str | None, loaded: LoadedModel) -> Channel | None:
        if name is None:
            return None
        if not _NAME.fullmatch(name):
            raise InvalidRequestError(f"publish must match {_NAME.pattern}")
        if name in self._channels:
            raise InvalidRequestError(f"publish must be a free name, but {name!r} is published")
        package = loaded.package
        about = {"model": package.name, "version": package.version}
        self._channels[name] = channel = Channel(name, about)
        return channel

    def _watched(self, websocket: WebSocket) -> tuple[Channel, Viewer]:
        _check_origin(websocket)
        self._admit(_authorization(websocket), websocket.scope)
        query = _query(websocket, _WATCH_QUERY)
        wants = frozenset(member for member in _WATCH_QUERY if _is_true(query, member))
        channel = self._channels.get(websocket.path_params["name"])
        if channel is None:
            known = ", ".join(sorted(self._channels)) or "none"
            raise InvalidRequestError(f"the stream must be one that is published: {known}")
        if self.viewers >= self._settings.max_viewers:
            limit = self._settings.max_viewers
            raise TooManyStreamsError(
                f"all {limit} places for viewers are taken; try again after 1 s", limit=limit
            )
        return channel, Viewer(wants)

    def _hello(self, stream: _Stream) -> str:
        package = stream.loaded.package
        hello: dict[str, Any] = {
            "model": package.name,
            "version": package.version,
            "engine": stream.loaded.lane.info.name,
            "window": self._settings.stream_window,
            "received": stream.session.received,
        }
        if stream.is_resumable:
            hello["session"] = stream.id
            hello["resume_s"] = self._settings.stream_resume_s
        return orjson.dumps(hello).decode()

    async def _converse(self, websocket: WebSocket, stream: _Stream) -> tuple[int, str]:
        """Read and write until the connection ends; the close code and reason to end it with."""
        writing = asyncio.create_task(self._write(websocket, stream))
        reading = asyncio.create_task(self._read(websocket, stream))
        try:
            await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
            first = reading if reading.done() else writing
            return first.result()
        finally:
            for task in (writing, reading):
                task.cancel()
            await asyncio.wait({writing, reading})

    async def _read(self, websocket: WebSocket, stream: _Stream) -> tuple[int, str]:
        session, mine = stream.session, stream.connection
        while True:
            while not session.has_room:
                stream.room.clear()
                await stream.room.wait()
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", _GOING_AWAY))
            if stream.connection is not mine:
                return _POLICY, _TAKEN_OVER
            try:
                self._take(session, message)
            except StreamError as error:
                return _POLICY, str(error)
            stream.frames.set()

    def _take(self, session: Session, message: Message) -> None:
        content = message.get("bytes")
        what = read_message(
            message["text"] if content is None else content, self._settings.max_points
        )
        if isinstance(what, Ack):
            session.acknowledge(what.sequence)
        elif not self._draining:
            session.take(what)

    async def _write(self, websocket: WebSocket, stream: _Stream) -> tuple[int, str]:
        session, mine = stream.session, stream.connection
        # Another connection that has taken over sends what is left; nothing may be taken from it.
        while stream.connection is mine:
            has_sent = False
            while stream.connection is mine and (answer := session.next_answer()) is not None:
                has_sent = True
                if isinstance(answer.message, str):
                    await websocket.send({"type": "websocket.send", "text": answer.message})
                else:
                    await websocket.send({"type": "websocket.send", "bytes": answer.message})
            if self._draining and session.is_over:
                return _RESTART, _STOPPING
            if has_sent:
                # That has made room for further answers. Else, worker and writer would wake each
                # other without end.
                stream.frames.set()
            stream.answers.clear()
            await stream.answers.wait()
        return _POLICY, _TAKEN_OVER

    async def _work(self, stream: _Stream) -> None:
        """Compute what waits, all of it together, as long as the session lives."""
        session = stream.session
        while True:
            frames = session.next_frames(self._settings.max_batch)
            if frames:
                session.answer(frames, await self._compute(stream, frames))
                self._count_dropped(session)
                stream.answers.set()
                stream.room.set()
            else:
                # A frame may have been answered as dropped meanwhile.
                stream.answers.set()
                stream.frames.clear()
                await stream.frames.wait()

    async def _compute(self, stream: _Stream, frames: list[Frame]) -> list[bytes | str]:
        """A message for each of `frames`."""
        maps = [frame.map for frame in frames if frame.map is not None]
        joints: list[Any] = []
        computed: dict[str, Any] = {}
        failure: ServiceError | None = None
        if maps:
            try:
                ask = Ask(stream.client, self._clock())
                answered = await self._inference.run(stream.loaded, np.stack(maps), ask)
                joints = list(answered.values)
                if stream.is_timed or stream.channel is not None:
                    computed = {"engine": answered.engine, "timing_us": answered.timing_us}
            except ServiceError as error:
                failure = error
        poses = iter(joints)
        messages = []
        for frame in frames:
            if (why := frame.error or failure) is not None:
                self._refused.inc()
                messages.append(problem_message(frame, why))
                continue
            one = next(poses)
            self._answered.inc()
            messages.append(answer_message(frame, one, computed if stream.is_timed else {}))
            if stream.channel is not None and stream.channel.viewers:
                stream.channel.publish(frame, one, computed)
        return messages

    def _count_dropped(self, session: Session) -> None:
        self._dropped.inc(session.dropped)
        session.dropped = 0

    def _leave(self, stream: _Stream, resumable: bool) -> None:
        """A connection is over: forget its stream, now or later."""
        if stream.connection is not asyncio.current_task():
            return
        stream.connection = None
        if stream.is_resumable and resumable and not self._draining:
            loop = asyncio.get_running_loop()
            stream.forgetting = loop.call_later(
                self._settings.stream_resume_s, self._forget, stream
            )
        else:
            self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        if self._streams.pop(stream.id, None) is None:
            return
        if stream.forgetting is not None:
            stream.forgetting.cancel()
        if stream.worker is not None:
            stream.worker.cancel()
        if stream.channel is not None:
            stream.channel.end()
            self._channels.pop(stream.channel.name, None)


async def _until_gone(websocket: WebSocket, viewer: Viewer) -> None:
    """End `viewer` once its connection has ended; what it sends is not read further."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
    viewer.end()


async def _deny(websocket: WebSocket, error: ServiceError, metrics: Metrics) -> None:
    """Answer an opening handshake with a problem, where the server can, else close with 1008."""
    metrics.errors.labels(error.kind).inc()
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(problem_response(error))
    else:
        await websocket.close(_POLICY, _short(error.detail))


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    if websocket.application_state is not WebSocketState.DISCONNECTED:
        # The other end may have gone before.
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
            await websocket.close(code, _short(reason))


def _check_origin(websocket: WebSocket) -> None:
    """Raise `ForbiddenError` for a page of another site: browsers let any open a WebSocket."""
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host")
    if origin is not None and urlsplit(origin).netloc != host:
        raise ForbiddenError(
            "a page must come from this service to open its streams, "
            f"but comes from {origin[:64]!r}"
        )


def _authorization(websocket: WebSocket) -> str | None:
    """The header, or what a page sends in its place."""
    for protocol in websocket.scope["subprotocols"]:
        if protocol.startswith(_TOKEN_PROTOCOL):
            return f"Bearer {protocol.removeprefix(_TOKEN_PROTOCOL)}"
    return websocket.headers.get("authorization")


def _subprotocol(websocket: WebSocket) -> str | None:
    return _PROTOCOL if _PROTOCOL in websocket.scope["subprotocols"] else None


def _short(reason: str) -> str:
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")


def _query(websocket: WebSocket, known: frozenset[str]) -> dict[str, str]:
    return check_query(parse_query(websocket.scope["query_string"]), sorted(known))


def _is_true(query: dict[str, str], key: str) -> bool:
    return _choice(query, key, "false", _TRUTHS) == "true"


def _choice(query: dict[str, str], key: str, default: str, among: tuple[str, ...]) -> str:
    value = query.get(key, default)
    if value not in among:
        raise InvalidRequestError(f"{key} must be one of {', '.join(among)}, but is {value[:64]!r}")
    return value
