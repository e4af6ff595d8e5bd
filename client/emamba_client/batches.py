"""Many frames as requests that a service takes, and their answers as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from emamba_client.client import Client
from emamba_client.errors import BadResponse
from emamba_client.results import PosesResult

#: What a service takes at most in one request, unless it is set otherwise.
FRAMES_PER_REQUEST = 256


def ask_in_batches(client: Client, frames: Sequence[npt.ArrayLike]) -> PosesResult:
    """Return one pose per frame, asked for in requests of at most `FRAMES_PER_REQUEST` frames.

    Each stage of `timing_us` is the sum over the requests, and `engine` names every engine that
    answered; `raw` is their answers joined the same way. Raises the client's errors, and
    `BadResponse` where the model changed in between.
    """
    size = FRAMES_PER_REQUEST
    first, *others = (
        client.poses(frames[start : start + size]) for start in range(0, len(frames) or 1, size)
    )
    return _joined([first, *others]) if others else first


def _joined(results: list[PosesResult]) -> PosesResult:
    first = results[0]
    if len({(result.model, result.version) for result in results}) > 1:
        raise BadResponse(
            "all frames must be answered by one model, but it changed between two requests; "
            "ask again"
        )
    # A service whose board fails goes on with another engine, which gives the same poses.
    engine = ", ".join(dict.fromkeys(result.engine for result in results))
    timing_us = _summed([result.timing_us for result in results])
    stages_us = _summed([result.engine_stages_us for result in results])
    raw_timing = timing_us | ({"engine_stages": stages_us} if stages_us else {})
    raw_poses: list[Any] = [pose for result in results for pose in result.raw["poses"]]
    joined = {"engine": engine, "poses": raw_poses, "timing_us": raw_timing}
    return PosesResult(
        model=first.model,
        version=first.version,
        engine=engine,
        timing_us=timing_us,
        engine_stages_us=stages_us,
        raw={**first.raw, **joined},
        poses=tuple(pose for result in results for pose in result.poses),
    )


def _summed(times_us: list[Mapping[str, float]]) -> dict[str, float]:
    stages = dict.fromkeys(stage for times in times_us for stage in times)
    return {stage: round(sum(times.get(stage, 0.0) for times in times_us), 1) for stage in stages}
