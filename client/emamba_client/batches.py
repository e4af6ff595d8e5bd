"""Many frames as requests that a service takes, and their answers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from emamba_client.client import Client
from emamba_client.errors import BadResponse
from emamba_client.results import PosesResult

#: What a service takes at most in one request, unless it is set otherwise.
FRAMES_PER_REQUEST = 256


def ask_in_batches(client: Client, frames: Sequence[npt.ArrayLike]) -> PosesResult:
    """Return one pose per frame, asked for in requests of at most `FRAMES_PER_REQUEST` frames.

    Each stage of `timing_us` is the sum over the requests; `raw` is their answers joined the same
    way. Raises the client's errors, and `BadResponse` where the model changed in between.
    """
    size = FRAMES_PER_REQUEST
    first, *others = (
        client.poses(frames[start : start + size]) for start in range(0, len(frames) or 1, size)
    )
    return _joined([first, *others]) if others else first


def _joined(results: list[PosesResult]) -> PosesResult:
    first = results[0]
    if len({(result.model, result.version, result.engine) for result in results}) > 1:
        raise BadResponse(
            "all frames must be answered by one model, but it changed between two requests; "
            "ask again"
        )
    timing_us = {
        stage: round(sum(result.timing_us.get(stage, 0.0) for result in results), 1)
        for stage in first.timing_us
    }
    raw_poses: list[Any] = [pose for result in results for pose in result.raw["poses"]]
    return PosesResult(
        model=first.model,
        version=first.version,
        engine=first.engine,
        timing_us=timing_us,
        raw={**first.raw, "poses": raw_poses, "timing_us": timing_us},
        poses=tuple(pose for result in results for pose in result.poses),
    )
