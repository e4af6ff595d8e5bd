"""Latency and throughput of an engine, measured by batch size."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from emamba_service.verify.schema import Percentiles, Speed, SpeedRow
from emamba_service.verify.streaming import EngineStoppedError, Progress, Subject

__all__ = ["BATCHES", "batch_of", "measure_speed"]

BATCHES = (1, 8, 64, 256)
_LEAST_CALLS = 3
_WALL = "measured: wall time of the call"
_STAGES = "measured by the driver on this CPU"
_OBTAINED = {
    ("board", "kernel"): "counted by the kernel: register cycles, divided by its clock",
    ("emulator", "kernel"): "modelled: cycles of the simulated kernel, divided by its clock",
    ("emulator", "transfer"): "modelled: the emulated board's time, less the kernel's",
}


def batch_of(frames: npt.NDArray[np.int8], size: int, start: int = 0) -> npt.NDArray[np.int8]:
    """`size` frames from `start` on, beginning again after the last."""
    return frames.take(range(start, start + size), axis=0, mode="wrap")


def measure_speed(
    subject: Subject,
    frames: npt.NDArray[np.int8],
    seconds: float,
    progress: Progress,
    batches: Sequence[int] = BATCHES,
) -> Speed:
    """Call after call of each batch size for `seconds` each, at least three, after one more.

    Where the engine stops, the batch sizes before are kept and `reason` says why.
    """
    rows: list[SpeedRow] = []
    reason = ""
    try:
        for done, batch in enumerate(batches):
            progress("measuring speed", done, len(batches))
            rows.append(_measure(subject, frames, batch, seconds))
        progress("measuring speed", len(batches), len(batches))
    except EngineStoppedError as error:
        batch = batches[len(rows)]
        reason = (
            f"engine {subject.name} stopped while its speed was measured at {batch} "
            f"{'frame' if batch == 1 else 'frames'} a call: {error}"
        )
    stages = {stage for row in rows for stage in row.latency_us}
    return Speed(
        rows=rows,
        obtained={stage: _obtained(stage, subject.name) for stage in sorted(stages)},
        reason=reason,
    )


def _obtained(stage: str, engine: str) -> str:
    return _WALL if stage == "total" else _OBTAINED.get((engine, stage), _STAGES)


def _measure(
    subject: Subject, frames: npt.NDArray[np.int8], batch: int, seconds: float
) -> SpeedRow:
    times_s: dict[str, list[float]] = defaultdict(list)
    subject.record(batch_of(frames, batch))  # warms caches and makes buffers of this size
    end = time.perf_counter() + seconds
    while len(times_s["total"]) < _LEAST_CALLS or time.perf_counter() < end:
        given = batch_of(frames, batch, batch * len(times_s["total"]))
        began = time.perf_counter()
        answer = subject.record(given)
        times_s["total"].append(time.perf_counter() - began)
        if answer.engine != subject.name:
            raise EngineStoppedError(f"engine {answer.engine} answered in its place")
        for stage, stage_s in answer.stages_s.items():
            times_s[stage].append(stage_s)
    calls = len(times_s["total"])
    return SpeedRow(
        batch=batch,
        calls=calls,
        frames_per_s=round(batch * calls / sum(times_s["total"]), 1),
        latency_us={stage: _percentiles(values) for stage, values in times_s.items()},
    )


def _percentiles(times_s: list[float]) -> Percentiles:
    p50, p90, p99, most = np.percentile(times_s, (50, 90, 99, 100)) * 1e6
    return Percentiles(p50=round(p50, 1), p90=round(p90, 1), p99=round(p99, 1), max=round(most, 1))
