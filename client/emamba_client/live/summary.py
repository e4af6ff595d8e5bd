"""What a live session has measured so far."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from emamba_client._stream_wire import StreamAnswer
from emamba_client.histogram import Histogram

__all__ = ["Summary"]

_RATE_S = 5.0
_PERCENTS = (50, 95, 99)


class Summary:
    """Counts of frames by what became of them, latencies, errors, engines.

    Once the session is over, frames = answered + refused + dropped + lost.
    """

    def __init__(self) -> None:
        self.frames = self.answered = self.refused = self.dropped = self.lost = 0
        self.reconnected = 0
        self.last_problem: str | None = None
        self.latency = Histogram()
        self.engines: Counter[str] = Counter()
        self.source: dict[str, int] = {}
        self._stages_us: dict[str, float] = {}
        self._timed = 0
        self._mae_cm = 0.0
        self._labelled = 0
        self._first_s: float | None = None
        self._last_s = 0.0
        self._recent_s: deque[float] = deque()

    def add(
        self, answer: StreamAnswer, latency_s: float, mae_cm: float | None, now_s: float
    ) -> None:
        """One more frame has been answered, or refused, at `now_s` of the session's clock."""
        if answer.problem is not None:
            self.refuse(answer.problem.detail)
            return
        self.answered += 1
        self.latency.add(max(0.0, latency_s))
        self._first_s = now_s if self._first_s is None else self._first_s
        self._last_s = now_s
        self._recent_s.append(now_s)
        while now_s - self._recent_s[0] > _RATE_S:
            self._recent_s.popleft()
        if answer.engine is not None:
            self.engines[answer.engine] += 1
        if answer.timing_us is not None:
            self._timed += 1
            for stage, microseconds in answer.timing_us.items():
                self._stages_us[stage] = self._stages_us.get(stage, 0.0) + microseconds
        if mae_cm is not None:
            self._labelled += 1
            self._mae_cm += mae_cm

    def refuse(self, why: str) -> None:
        """One more frame cannot be answered."""
        self.refused += 1
        self.last_problem = why

    @property
    def rate_hz(self) -> float | None:
        """Answers per second over all; None before the second."""
        span_s = self._last_s - self._first_s if self._first_s is not None else 0.0
        return (self.answered - 1) / span_s if span_s > 0 else None

    @property
    def rate_now_hz(self) -> float | None:
        """Answers per second over the last five seconds; None before the second."""
        if len(self._recent_s) < 2 or self._recent_s[-1] == self._recent_s[0]:
            return None
        return (len(self._recent_s) - 1) / (self._recent_s[-1] - self._recent_s[0])

    @property
    def mae_cm(self) -> float | None:
        """Mean absolute error over the frames with labels, in cm."""
        return self._mae_cm / self._labelled if self._labelled else None

    @property
    def stages_us(self) -> dict[str, float]:
        """Mean microseconds of each of the service's stages."""
        return {stage: total / self._timed for stage, total in self._stages_us.items()}

    def latency_ms(self, percent: float) -> float | None:
        """Milliseconds from a frame's last byte to its answer."""
        seconds = self.latency.percentile(percent)
        return None if seconds is None else 1000 * seconds

    def document(self) -> dict[str, Any]:
        """Everything, for JSON; None where nothing was measured."""
        return {
            "frames": self.frames,
            "answered": self.answered,
            "refused": self.refused,
            "dropped": self.dropped,
            "lost": self.lost,
            "reconnected": self.reconnected,
            "last_problem": self.last_problem,
            "source": self.source,
            "engines": dict(self.engines),
            "rate_hz": self.rate_hz,
            "latency_ms": {f"p{percent}": self.latency_ms(percent) for percent in _PERCENTS},
            "stages_us": self.stages_us,
            "mae_cm": self.mae_cm,
        }

    def lines(self) -> list[str]:
        """The same in words."""
        said = [f"{self.answered} of {self.frames} frames answered"]
        if self.rate_hz is not None:
            said[0] += f" at {self.rate_hz:.1f} Hz"
        failed = {name: getattr(self, name) for name in ("refused", "dropped", "lost")}
        said += [f"{n} {name}" for name, n in failed.items() if n]
        if self.reconnected:
            said.append(f"connected again {self.reconnected} times")
        lines = [", ".join(said)]
        if self.last_problem is not None:
            lines.append(f"last refusal: {self.last_problem}")
        if counted := ", ".join(f"{name} {n}" for name, n in self.source.items() if n):
            lines.append(f"source: {counted}")
        if self.answered:
            lines += self._measured()
        return lines

    def _measured(self) -> list[str]:
        times = ", ".join(f"p{percent} {self.latency_ms(percent):.1f}" for percent in _PERCENTS)
        lines = [f"latency {times} ms, from a frame's last byte to its answer"]
        if self._timed:
            stages = ", ".join(f"{stage} {us:.0f}" for stage, us in self.stages_us.items())
            lines.append(f"in the service, mean: {stages} us")
        if self.engines:
            lines.append("engine " + ", ".join(f"{name}: {n}" for name, n in self.engines.items()))
        if self.mae_cm is not None:
            lines.append(f"MAE vs labels {self.mae_cm:.2f} cm")
        return lines
