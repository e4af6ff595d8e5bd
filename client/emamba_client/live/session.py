"""One source and one stream: frames go out as they come, answers come back in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from emamba_client._stream_wire import Hello, StreamAnswer
from emamba_client.errors import (
    ClientError,
    ConnectionFailed,
    InvalidInput,
    ServiceError,
    TimedOut,
)
from emamba_client.live.summary import Summary
from emamba_client.sources import Source, SourceFrame
from emamba_client.stream import PoseStream

__all__ = ["Event", "Session", "Step"]

_LOOK_S = 0.2
# After the source's last frame, answers are waited for at most this long.
_LAST_ANSWERS_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0


@dataclass(frozen=True, eq=False)
class Step:
    """A frame with its answer, `latency_s` after the frame's last byte had come."""

    frame: SourceFrame
    answer: StreamAnswer
    latency_s: float

    @property
    def mae_cm(self) -> float | None:
        """Mean absolute error over the 57 coordinates against the labels, in cm, where there are
        any."""
        if self.answer.joints is None or self.frame.labels is None:
            return None
        return float(np.abs(self.answer.joints - self.frame.labels).mean() * 100)


@dataclass(frozen=True)
class Event:
    """Something to be told besides frames."""

    sentence: str


class Session:
    """Runs `source` through streams that `open_stream` opens; `summary` counts.

    A connection that is lost is opened again, for as long as it takes. The frames that were on
    their way are lost; a source that is not live waits meanwhile, and of a live one frames are
    lost. `count` bounds the frames that are sent.
    """

    def __init__(
        self,
        source: Source,
        open_stream: Callable[[], PoseStream],
        count: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.summary = Summary()
        self._source = source
        self._open_stream = open_stream
        self._count = count
        self._clock = clock
        self._stream: PoseStream | None = None
        self._pending: dict[int, SourceFrame] = {}
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._closed = threading.Event()
        self._failure: ClientError | None = None
        self._sender = threading.Thread(target=self._send_all, name="source", daemon=True)

    def open(self) -> Hello:
        """Connect for the first time; raises a `ClientError` where that is impossible."""
        hello = self._connect()
        self._sender.start()
        return hello

    def steps(self) -> Iterator[Step | Event]:
        """What comes, until the source has ended and is answered; raises its failure then."""
        ended_s: float | None = None
        while True:
            if not self._sender.is_alive():
                ended_s = ended_s or self._clock()
                late = self._clock() - ended_s > _LAST_ANSWERS_S
                if not self._pending or late or self._stream is None:
                    break
            try:
                yield from self._receive()
            except (ConnectionFailed, ServiceError) as error:
                yield from self._reconnect(error)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End source and stream; what is still on its way is counted as lost."""
        self._closed.set()
        self._connected.set()
        self._source.close()
        if self._sender.is_alive():
            self._sender.join(2 * _LOOK_S)
        self._disconnect()
        self.summary.source = self._source.counts()

    def _receive(self) -> Iterator[Step | Event]:
        stream = self._stream
        if stream is None:
            raise ConnectionFailed("the stream is closed")
        try:
            answer = stream.receive(_LOOK_S)
        except TimedOut:
            return
        now_s = self._clock()
        with self._lock:
            frame = self._pending.pop(answer.sequence, None)
            if answer.dropped_from is not None:
                dropped = [n for n in self._pending if answer.dropped_from <= n <= answer.sequence]
                self.summary.dropped += len(dropped) + (frame is not None)
                for number in dropped:
                    del self._pending[number]
        if frame is not None and answer.dropped_from is None:
            step = Step(frame, answer, now_s - frame.received_s)
            self.summary.add(step.answer, step.latency_s, step.mae_cm, now_s)
            yield step

    def _send_all(self) -> None:
        """The source's thread."""
        try:
            for frame in self._source:
                self.summary.frames += 1
                while not self._send(frame):
                    if self._source.is_live or self._closed.is_set():
                        self.summary.lost += 1
                        break
                    self._connected.wait(_LOOK_S)
                if self._count is not None and self.summary.frames >= self._count:
                    self._source.close()
                    break
        except ClientError as error:
            self._failure = error

    def _send(self, frame: SourceFrame) -> bool:
        """Whether `frame` is on its way, or counted as lost or refused."""
        with self._lock:
            stream = self._stream
            if stream is None:
                return False
            # Under the lock, so that the answer does not come before the frame is known.
            sequence = stream.next_sequence
            self._pending[sequence] = frame
        try:
            if frame.kind == "features":
                stream.send_features(frame.values)
            else:
                stream.send_points(frame.values, frame.labels)
        except InvalidInput as error:
            # Nothing has been sent, and nothing would be the next time.
            with self._lock:
                del self._pending[sequence]
            self.summary.refuse(str(error))
        except ClientError:
            with self._lock:
                return self._pending.pop(sequence, None) is None
        return True

    def _connect(self) -> Hello:
        stream = self._open_stream()
        with self._lock:
            self._stream = stream
        self._connected.set()
        return stream.hello

    def _disconnect(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
            self.summary.lost += len(self._pending)
            self._pending.clear()
        if stream is not None:
            stream.close()

    def _reconnect(self, error: ClientError) -> Iterator[Event]:
        self._connected.clear()
        self._disconnect()
        pause_s = _FIRST_PAUSE_S
        while not self._closed.is_set():
            yield Event(f"{error}; trying again in {pause_s:g} s")
            if self._closed.wait(pause_s):
                return
            try:
                hello = self._connect()
            except ClientError as again:
                # Also what would end a first attempt: a name may stay taken for some seconds.
                error = again
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            self.summary.reconnected += 1
            yield Event(f"connected again to {hello.model} {hello.version} on {hello.engine}")
            return
