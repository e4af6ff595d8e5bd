"""A pose request's way: bytes -> parse -> encode -> engine -> decode -> bytes.

The body is parsed by hand: per request, this costs half of what a validation framework does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.engines import EngineUnavailableError, Recorded
from emamba.tasks import InputError
from emamba.tasks.mars import CHANNELS, JOINTS, MAP_SHAPE, check_map, feature_map
from emamba_service.errors import (
    EngineAwayError,
    EngineFailedError,
    InvalidInputError,
    InvalidRequestError,
    NotJsonError,
    TooManyFramesError,
    TooManyPointsError,
    shortened,
)
from emamba_service.metrics import STAGES, Metrics
from emamba_service.models import LoadedModel, Models

__all__ = ["PosePipeline", "PoseRequest", "parse_request"]

Clock = Callable[[], float]
# Takes an answered request's model, its input and what the engine made of it.
Witness = Callable[[LoadedModel, npt.NDArray[np.int8], Recorded], None]

_log = logging.getLogger(__name__)
_INPUTS = ("points", "features", "frames")
_KEYS = (*_INPUTS, "model", "version")
_NUMBERS = frozenset({int, float})
_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


@dataclass(frozen=True)
class PoseRequest:
    """A checked request: whose pose, and the feature maps, float32 (b, 8, 8, 5)."""

    model: str | None
    version: str | None
    maps: npt.NDArray[np.float32]


class PosePipeline:
    """Answers pose requests; safe to call from several threads.

    `clock` gives seconds and never goes back. `witness`, if any, is shown every answered request.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        clock: Clock,
        max_points: int,
        max_frames: int,
        witness: Witness | None = None,
    ) -> None:
        self._models = models
        self._witness = witness
        self._metrics = metrics
        self._clock = clock
        self._max_points = max_points
        self._max_frames = max_frames

    def answer(self, body: bytes, received_at: float) -> bytes:
        """The JSON answer to a request's body; raises `ServiceError`.

        `received_at` is the clock's time at the end of reading: the answer's `total` counts from
        there, so it holds the wait for a thread.
        """
        laps = [self._clock()]
        request = parse_request(body, self._max_points, self._max_frames)
        loaded = self._models.get(request.model, request.version)
        laps.append(self._clock())
        batch = loaded.package.encode(request.maps)
        laps.append(self._clock())
        recorded = _run_engine(loaded, batch)
        laps.append(self._clock())
        poses = _poses(loaded.package.decode(recorded.outputs))
        laps.append(self._clock())
        self._metrics.frames.labels(loaded.package.name, loaded.package.version).inc(len(poses))
        if self._witness is not None:
            self._witness(loaded, batch, recorded)
        return orjson.dumps(
            {
                "model": loaded.package.name,
                "version": loaded.package.version,
                "engine": recorded.engine,
                "poses": poses,
                "timing_us": self._timing(laps, received_at, recorded),
            }
        )

    def _timing(self, laps: list[float], received_at: float, recorded: Recorded) -> dict[str, Any]:
        """The times of an answer in microseconds; observes them, too."""
        timing_us: dict[str, Any] = {}
        for stage, start, end in zip(STAGES, laps[:-1], laps[1:], strict=True):
            self._metrics.stages[stage].observe(end - start)
            timing_us[stage] = _microseconds(end - start)
        timing_us["total"] = _microseconds(laps[-1] - received_at)
        if stages_s := self._metrics.observe_engine(recorded.stages_s):
            timing_us["engine_stages"] = {
                stage: _microseconds(seconds) for stage, seconds in stages_s.items()
            }
        return timing_us


def parse_request(body: bytes, max_points: int, max_frames: int) -> PoseRequest:
    """Read and check a body.

    Raises `NotJsonError`, `InvalidRequestError`, `TooManyFramesError`, `TooManyPointsError` or
    `InvalidInputError`.
    """
    document = _load(body)
    if type(document) is not dict:
        raise InvalidRequestError(f"the body must be a JSON object, but is {_type(document)}")
    for key in document:
        if key not in _KEYS:
            raise InvalidRequestError(
                f"the body's keys must be among {', '.join(_KEYS)}, {_but(key)}"
            )
    model, version = _text(document, "model"), _text(document, "version")
    kind = _one_of(document, _INPUTS, "the body", None)
    frames = _batch(document["frames"], max_frames) if kind == "frames" else [document]
    maps = np.empty((len(frames), *MAP_SHAPE), np.float32)
    for index, frame in enumerate(frames):
        try:
            maps[index] = _map(frame, index, max_points)
        except InputError as error:
            raise InvalidInputError(f"frame {index}: {error}", frame=index) from error
    return PoseRequest(model, version, maps)


def _load(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            body.decode()
        except UnicodeDecodeError as wrong:
            raise NotJsonError(
                f"the body must be UTF-8, but is not at byte {wrong.start}", offset=wrong.start
            ) from error
        if not body:
            raise NotJsonError("the body must be JSON, but is empty") from error
        raise NotJsonError(
            "the body must be JSON, but the parser stops at "
            f"line {error.lineno} column {error.colno}",
            reason=error.msg,
        ) from error


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if key in document and type(value) is not str:
        raise InvalidRequestError(f"{key} must be a string, but is {_type(value)}")
    return value


def _one_of(holder: dict[str, Any], keys: tuple[str, ...], what: str, frame: int | None) -> str:
    given = [key for key in keys if key in holder]
    if len(given) == 1:
        return given[0]
    raise InvalidRequestError(
        f"{what} must have exactly one of {', '.join(keys)}, "
        f"but has {' and '.join(given) or 'none'}",
        frame=frame,
    )


def _batch(frames: Any, max_frames: int) -> list[dict[str, Any]]:
    """The objects of `frames`, each with one of points or features."""
    if type(frames) is not list or not frames:
        came = "an empty one" if frames == [] else _type(frames)
        raise InvalidRequestError(f"frames must be an array of at least 1 frame, but is {came}")
    if len(frames) > max_frames:
        raise TooManyFramesError(
            f"frames must hold at most {max_frames} frames, but hold {len(frames)}; "
            "send several requests",
            limit=max_frames,
        )
    for index, frame in enumerate(frames):
        if type(frame) is not dict:
            raise InvalidRequestError(
                f"frame {index}: must be an object, but is {_type(frame)}", frame=index
            )
        kind = _one_of(frame, _INPUTS[:2], f"frame {index}:", index)
        if len(frame) > 1:
            other = next(key for key in frame if key != kind)
            raise InvalidRequestError(
                f"frame {index}: must have no other key, {_but(other)}", frame=index
            )
    return frames


def _map(frame: dict[str, Any], index: int, max_points: int) -> npt.NDArray[np.float32]:
    """One frame's feature map, checked; raises `ServiceError`, or `InputError` for its values."""
    if "features" in frame:
        return _features(frame["features"], index)
    points = _array(frame["points"], "points", index)
    if len(points) > max_points:
        raise TooManyPointsError(
            f"frame {index}: points must hold at most {max_points} points, but hold {len(points)}",
            frame=index,
            limit=max_points,
        )
    _check_rows(points, "points", index)
    # An empty list has no second dimension; the reshape gives it one.
    return feature_map(np.array(points, np.float64).reshape(-1, len(CHANNELS)))


def _features(features: Any, index: int) -> npt.NDArray[np.float32]:
    height, width, _ = MAP_SHAPE
    rows = _array(features, "features", index, height)
    for position, row in enumerate(rows):
        what = f"features[{position}]"
        _check_rows(_array(row, what, index, width), what, index)
    return check_map(rows)


def _array(value: Any, what: str, frame: int, length: int | None = None) -> list[Any]:
    if type(value) is not list:
        raise InvalidInputError(
            f"frame {frame}: {what} must be an array, but is {_type(value)}", frame=frame
        )
    if length is not None and len(value) != length:
        raise InvalidInputError(
            f"frame {frame}: {what} must hold {length} arrays, but holds {len(value)}", frame=frame
        )
    return value


def _check_rows(rows: list[Any], what: str, frame: int) -> None:
    """Each of `rows` must be 5 JSON numbers."""
    for position, row in enumerate(rows):
        if type(row) is list and len(row) == len(CHANNELS) and _NUMBERS.issuperset(map(type, row)):
            continue
        must = f"frame {frame}: {what}[{position}] must be {len(CHANNELS)} numbers"
        if type(row) is not list:
            raise InvalidInputError(f"{must}, but is {_type(row)}", frame=frame)
        if len(row) != len(CHANNELS):
            raise InvalidInputError(f"{must}, but has {len(row)} values", frame=frame)
        at = next(at for at, value in enumerate(row) if type(value) not in _NUMBERS)
        raise InvalidInputError(f"{must}, but holds {_type(row[at])} at position {at}", frame=frame)


def _run_engine(loaded: LoadedModel, batch: npt.NDArray[np.int8]) -> Recorded:
    try:
        return loaded.engine.record(batch)
    except EngineUnavailableError as error:
        raise EngineAwayError(str(error)) from error
    except Exception as error:
        name = loaded.engine.info.name
        _log.exception("engine %s failed on %d frames", name, len(batch))
        raise EngineFailedError(
            f"engine {name} failed on this request; the service's log says why"
        ) from error


def _poses(joints: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Joints (b, 19, 3) in metres as the answer's objects."""
    return [
        {
            "joints": [
                {"name": name, "x_m": x, "y_m": y, "z_m": z}
                for name, (x, y, z) in zip(JOINTS, pose, strict=True)
            ]
        }
        for pose in joints.tolist()
    ]


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)


def _type(value: Any) -> str:
    return _JSON_TYPES[type(value)]


def _but(key: str) -> str:
    return f"but one is {shortened(key)!r}"
