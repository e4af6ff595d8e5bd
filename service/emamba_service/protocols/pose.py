"""Poses: JSON or bytes -> feature maps -> engine -> joints as JSON or bytes.

Bodies are parsed by hand: per request, this costs half of what a validation framework does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.tasks import InputError, PoseTask
from emamba.tasks.mars import (
    CHANNELS,
    JOINTS,
    MAP_SHAPE,
    check_features,
    check_map,
    feature_map,
)
from emamba_service.errors import (
    InvalidInputError,
    InvalidRequestError,
    TooManyFramesError,
    TooManyPointsError,
)
from emamba_service.inference import Answered, Ask, Inference
from emamba_service.models import LoadedModel
from emamba_service.protocols.request import (
    JSON,
    OCTETS,
    TREATMENT,
    answer_form,
    but_one_is,
    content_form,
    json_type,
    load_json,
    read_aside,
    read_query,
    read_treatment,
)
from emamba_service.settings import Settings
from emamba_service.web import Call, Reply

__all__ = ["FRAME_BYTES", "Pose", "PoseRequest", "frame_map", "parse_octets", "parse_request"]

FRAME_BYTES = 4 * MAP_SHAPE[0] * MAP_SHAPE[1] * MAP_SHAPE[2]
_INPUTS = ("points", "features", "frames")
_KEYS = (*_INPUTS, "model", "version")
_QUERY = {JSON: TREATMENT, OCTETS: ("model", "version", *TREATMENT)}
_NUMBERS = frozenset({int, float})
# Filled with a pose's 57 numbers; building objects for the encoder takes longer.
_POSE = b'{"joints":[%b]}' % b",".join(
    b'{"name":%b,"x_m":%%b,"y_m":%%b,"z_m":%%b}' % orjson.dumps(name) for name in JOINTS
)
_POSE_NUMBERS = 3 * len(JOINTS)


@dataclass(frozen=True)
class PoseRequest:
    """A checked request: whose pose, and the feature maps, float32 (b, 8, 8, 5)."""

    model: str | None
    version: str | None
    maps: npt.NDArray[np.float32]


class Pose:
    """Answers `/v1/pose`."""

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._settings = settings

    async def answer(self, call: Call) -> Reply:
        """Joints in metres for one frame or a batch of frames.

        JSON, or feature maps as little-endian float32 (n, 8, 8, 5) -> JSON, or joints as
        little-endian float32 (n, 19, 3). Raises `ServiceError`.
        """
        form = content_form(call, (JSON, OCTETS))
        query = read_query(call, _QUERY[form])
        priority, timeout_s = read_treatment(query)
        answer = answer_form(call, form)
        request = await self._read(form, await call.body(), query)
        loaded = self._inference.get(request.model, request.version)
        if not isinstance(loaded.package.task, PoseTask):
            raise InvalidRequestError(
                f"model {loaded.package.name} must be a pose model, but is of kind "
                f"{loaded.package.task.kind}; send images to /v1/classify"
            )
        ask = Ask(call.client, call.received_at, priority, timeout_s)
        answered = await self._inference.run(loaded, request.maps, ask)
        return _octets(loaded, answered) if answer == OCTETS else _json(loaded, answered)

    async def _read(self, form: str, body: bytes, query: dict[str, str]) -> PoseRequest:
        limits = (self._settings.max_points, self._settings.max_frames)
        if form == OCTETS:
            maps = parse_octets(body, self._settings.max_frames)
            return PoseRequest(query.get("model"), query.get("version"), maps)
        return await read_aside(len(body), parse_request, body, *limits)


def parse_octets(body: bytes, max_frames: int) -> npt.NDArray[np.float32]:
    """Feature maps (n, 8, 8, 5) of little-endian float32, checked, n in 1..max_frames.

    Raises `InvalidRequestError`, `TooManyFramesError` or `InvalidInputError`.
    """
    count, rest = divmod(len(body), FRAME_BYTES)
    if rest or not count:
        raise InvalidRequestError(
            f"the body must be at least 1 frame of {FRAME_BYTES} bytes, 8 x 8 x 5 little-endian "
            f"float32, and nothing else, but is {len(body)} bytes"
        )
    if count > max_frames:
        raise TooManyFramesError(
            f"the body must hold at most {max_frames} frames, but holds {count}; "
            "send several requests",
            limit=max_frames,
        )
    try:
        return check_features(np.frombuffer(body, "<f4").reshape(count, *MAP_SHAPE))
    except InputError as error:
        raise InvalidInputError(str(error), frame=error.index) from error


def parse_request(body: bytes, max_points: int, max_frames: int) -> PoseRequest:
    """Read and check a body.

    Raises `NotJsonError`, `InvalidRequestError`, `TooManyFramesError`, `TooManyPointsError` or
    `InvalidInputError`.
    """
    document = load_json(body)
    if type(document) is not dict:
        raise InvalidRequestError(f"the body must be a JSON object, but is {json_type(document)}")
    for key in document:
        if key not in _KEYS:
            raise InvalidRequestError(
                f"the body's keys must be among {', '.join(_KEYS)}, {but_one_is(key)}"
            )
    model, version = _text(document, "model"), _text(document, "version")
    kind = _one_of(document, _INPUTS, "the body", None)
    frames = _batch(document["frames"], max_frames) if kind == "frames" else [document]
    maps = np.empty((len(frames), *MAP_SHAPE), np.float32)
    for index, frame in enumerate(frames):
        try:
            maps[index] = frame_map(frame, index, max_points)
        except InputError as error:
            raise InvalidInputError(f"frame {index}: {error}", frame=index) from error
    return PoseRequest(model, version, maps)


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if key in document and type(value) is not str:
        raise InvalidRequestError(f"{key} must be a string, but is {json_type(value)}")
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
        came = "an empty one" if frames == [] else json_type(frames)
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
                f"frame {index}: must be an object, but is {json_type(frame)}", frame=index
            )
        kind = _one_of(frame, _INPUTS[:2], f"frame {index}:", index)
        if len(frame) > 1:
            other = next(key for key in frame if key != kind)
            raise InvalidRequestError(
                f"frame {index}: must have no other key, {but_one_is(other)}", frame=index
            )
    return frames


def frame_map(frame: dict[str, Any], index: int, max_points: int) -> npt.NDArray[np.float32]:
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
            f"frame {frame}: {what} must be an array, but is {json_type(value)}", frame=frame
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
            raise InvalidInputError(f"{must}, but is {json_type(row)}", frame=frame)
        if len(row) != len(CHANNELS):
            raise InvalidInputError(f"{must}, but has {len(row)} values", frame=frame)
        at = next(at for at, value in enumerate(row) if type(value) not in _NUMBERS)
        raise InvalidInputError(
            f"{must}, but holds {json_type(row[at])} at position {at}", frame=frame
        )


def _json(loaded: LoadedModel, answered: Answered) -> Reply:
    document = {
        "model": loaded.package.name,
        "version": loaded.package.version,
        "engine": answered.engine,
        "poses": orjson.Fragment(_poses(answered.values)),
        "timing_us": answered.timing_us,
    }
    return Reply(orjson.dumps(document))


def _poses(joints: npt.NDArray[np.float64]) -> bytes:
    """Joints (b, 19, 3) in metres as a JSON array."""
    flat = np.ascontiguousarray(joints).reshape(-1)
    numbers = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    poses = [
        _POSE % tuple(numbers[at : at + _POSE_NUMBERS])
        for at in range(0, len(numbers), _POSE_NUMBERS)
    ]
    return b"[%b]" % b",".join(poses)


def _octets(loaded: LoadedModel, answered: Answered) -> Reply:
    computed = answered.computed
    times_ms = (1e3 * computed.queue_s, 1e3 * computed.engine_s, 1e3 * answered.total_s)
    headers = (
        (b"emamba-model", loaded.package.name.encode()),
        (b"emamba-version", loaded.package.version.encode()),
        (b"emamba-engine", answered.engine.encode()),
        (b"server-timing", b"queue;dur=%.3f, engine;dur=%.3f, total;dur=%.3f" % times_ms),
    )
    return Reply(answered.values.astype("<f4").tobytes(), OCTETS, headers=headers)
