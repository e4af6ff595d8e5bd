"""Counts and times of one model version, as Triton's statistics extension shows them.

https://github.com/triton-inference-server/server (docs/protocol/extension_statistics.md)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["ModelStatistics"]

# Batch sizes with a count of their own; larger ones are counted with the last.
_MOST_SIZES = 1024


class _Duration:
    """How often, and nanoseconds in all."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)

    def document(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class ModelStatistics:
    """Of the event loop's thread. `wall_clock` gives seconds since 1970.

    `frames` are those answered.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._last_inference_ms = 0
        self.frames = 0
        self._executions = 0
        self._success = _Duration()
        self._fail = _Duration()
        self._queue = _Duration()
        self._input = _Duration()
        self._infer = _Duration()
        self._output = _Duration()
        # By frames of a batch: input, infer, output.
        self._batches: dict[int, tuple[_Duration, _Duration, _Duration]] = {}

    def record_success(
        self,
        frames: int,
        *,
        queue_s: float,
        preprocess_s: float,
        infer_s: float,
        postprocess_s: float,
    ) -> None:
        """A request of `frames` frames has been answered."""
        self.frames += frames
        self._last_inference_ms = int(self._wall_clock() * 1e3)
        self._success.add(queue_s + preprocess_s + infer_s + postprocess_s)
        self._queue.add(queue_s)
        self._input.add(preprocess_s)
        self._infer.add(infer_s)
        self._output.add(postprocess_s)

    def record_failure(self, seconds: float) -> None:
        """A request has not been answered."""
        self._fail.add(seconds)

    def record_batch(self, frames: int, *, input_s: float, infer_s: float, output_s: float) -> None:
        """The engine has computed `frames` frames at a time."""
        self._executions += 1
        size = min(frames, _MOST_SIZES)
        stages = self._batches.get(size)
        if stages is None:
            stages = self._batches[size] = (_Duration(), _Duration(), _Duration())
        stages[0].add(input_s)
        stages[1].add(infer_s)
        stages[2].add(output_s)

    def document(self) -> dict[str, Any]:
        """The extension's members, name and version apart."""
        nothing = _Duration().document()
        return {
            "last_inference": self._last_inference_ms,
            "inference_count": self.frames,
            "execution_count": self._executions,
            "inference_stats": {
                "success": self._success.document(),
                "fail": self._fail.document(),
                "queue": self._queue.document(),
                "compute_input": self._input.document(),
                "compute_infer": self._infer.document(),
                "compute_output": self._output.document(),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": stages[0].document(),
                    "compute_infer": stages[1].document(),
                    "compute_output": stages[2].document(),
                }
                for size, stages in sorted(self._batches.items())
            ],
        }
