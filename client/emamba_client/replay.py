"""Play recorded frames to a service at the radar's pace, and measure the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from emamba_client.client import Client
from emamba_client.results import PoseResult
from emamba_client.samples import SampleFrame


@dataclass(frozen=True)
class Step:
    """One frame played: sent at `sent_s` on the caller's clock, answered `latency_s` later."""

    index: int
    frame: SampleFrame
    result: PoseResult
    sent_s: float
    latency_s: float

    @property
    def mae_cm(self) -> float:
        """Mean absolute error over the 57 coordinates against the Kinect's labels, in cm."""
        return float(np.abs(self.result.pose.array() - self.frame.labels).mean() * 100)


@dataclass
class Summary:
    """What a replay measured so far."""

    _sent_s: list[float] = field(default_factory=list)
    _latencies_s: list[float] = field(default_factory=list)
    _maes_cm: list[float] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Count one more frame."""
        self._sent_s.append(step.sent_s)
        self._latencies_s.append(step.latency_s)
        self._maes_cm.append(step.mae_cm)

    @property
    def frames(self) -> int:
        """How many frames were answered."""
        return len(self._sent_s)

    @property
    def rate_hz(self) -> float | None:
        """Frames sent per second; None before the second frame."""
        if self.frames < 2:
            return None
        span_s = self._sent_s[-1] - self._sent_s[0]
        return (self.frames - 1) / span_s if span_s > 0 else None

    @property
    def mae_cm(self) -> float:
        """Mean absolute error over all frames and coordinates, in cm."""
        return float(np.mean(self._maes_cm))

    def latency_ms(self, percentile: float) -> float:
        """Milliseconds from sending to the parsed answer, at this percentile."""
        return float(np.percentile(self._latencies_s, percentile) * 1000)


def replay(
    client: Client,
    frames: Sequence[SampleFrame],
    *,
    count: int,
    hz: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Step]:
    """Send `count` of `frames`, starting over at their end, and yield each with its answer.

    Frame i is due i / `hz` seconds after the first; a late frame is sent at once and the
    following keep their times. Raises the client's errors.
    """
    start_s = clock()
    for index in range(count):
        frame = frames[index % len(frames)]
        sleep(max(0.0, start_s + index / hz - clock()))
        sent_s = clock()
        result = client.pose(frame.points)
        yield Step(index, frame, result, sent_s, clock() - sent_s)
