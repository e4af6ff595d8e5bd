"""The wire without the wires: calls to send, and what their answers mean. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from numbers import Real
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from emamba_client.errors import (
    BadResponse,
    ClientError,
    ConnectionFailed,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    ServerFault,
    ServiceError,
    TimedOut,
    TooLarge,
)
from emamba_client.results import JOINTS, Joint, ModelInfo, Pose, PoseResult, PosesResult

T = TypeVar("T")
V = TypeVar("V")
_SHAPES = {"points": (2, "[n, 5]"), "features": (3, "[8, 8, 5]")}


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its answer.

    `read` takes the whole response and raises `ServiceError` or `BadResponse`.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: bytes | None = None


def pose_call(
    kind: str, frame: npt.ArrayLike, model: str | None, version: str | None
) -> Call[PoseResult]:
    """Ask for the pose of one frame; `kind` is "points" or "features"."""
    return _pose_post({kind: rows_of(frame, kind)}, model, version, _read_pose)


def poses_call(
    frames: Sequence[npt.ArrayLike], model: str | None, version: str | None
) -> Call[PosesResult]:
    """Ask for the poses of many frames, each points [n, 5] or features [8, 8, 5]."""
    rows = [_frame(frame, index) for index, frame in enumerate(frames)]
    return _pose_post({"frames": rows}, model, version, partial(_read_poses, count=len(rows)))


def models_call() -> Call[tuple[ModelInfo, ...]]:
    """Ask which models the service holds."""
    return Call("GET", "v1/models", _read_models)


def ready_call() -> Call[bool]:
    """Ask whether the service takes requests now; its 503 is an answer, not an error."""
    return Call("GET", "health/ready", _read_ready)


def network_error(cause: httpx.RequestError, url: str) -> ClientError:
    """What an httpx failure means to the caller, with the failure as its cause."""
    reason = str(cause) or type(cause).__name__
    error: ClientError
    if isinstance(cause, httpx.ConnectTimeout):
        error = ConnectionFailed(f"cannot connect to {url} in time ({reason})")
    elif isinstance(cause, httpx.TimeoutException):
        error = TimedOut(f"no answer from {url} in time ({reason})")
    elif isinstance(cause, httpx.DecodingError):
        error = BadResponse(f"the answer of {url} cannot be decoded ({reason})")
    elif isinstance(cause, httpx.ConnectError):
        error = ConnectionFailed(f"cannot connect to {url} ({reason})")
    else:
        error = ConnectionFailed(f"the connection to {url} broke before an answer ({reason})")
    error.__cause__ = cause
    return error


def _pose_post(
    frames: dict[str, Any],
    model: str | None,
    version: str | None,
    read: Callable[[httpx.Response], T],
) -> Call[T]:
    named = {"model": model, "version": version}
    document = frames | {key: name for key, name in named.items() if name is not None}
    body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    return Call("POST", "v1/pose", read, body)


def _frame(frame: npt.ArrayLike, index: int) -> dict[str, Any]:
    array = _numbers(frame, f"frame {index}")
    for kind, (rank, _) in _SHAPES.items():
        if array.ndim == rank:
            return {kind: array.tolist()}
    raise InvalidInput(
        f"frame {index} must be points [n, 5] or features [8, 8, 5], not an array of shape "
        f"{list(array.shape)}"
    )


def rows_of(frame: npt.ArrayLike, kind: str) -> Any:
    """Points or features as nested lists; raises `InvalidInput`."""
    rank, shape = _SHAPES[kind]
    array = _numbers(frame, kind)
    if array.ndim != rank:
        raise InvalidInput(
            f"{kind} must be an array {shape}, not an array of shape {list(array.shape)}"
        )
    return array.tolist()


def _numbers(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"{what} must be a rectangular array of numbers") from error
    if array.dtype.kind == "O":
        array = _from_objects(array, what)
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"{what} must hold real numbers, not {array.dtype}")
    if not np.isfinite(array).all():
        raise InvalidInput(f"{what} must hold finite numbers, not NaN or infinity")
    return array.astype(np.float64)


def _from_objects(array: npt.NDArray[Any], what: str) -> npt.NDArray[np.float64]:
    """An array of Python's numbers as float64; no text, no booleans, as of other arrays."""
    for value in array.flat:
        if not isinstance(value, (Real, Decimal)) or isinstance(value, bool):
            raise InvalidInput(
                f"{what} must hold real numbers, but one is of type {type(value).__name__}"
            )
    try:
        return array.astype(np.float64)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"{what} must hold numbers that a double can hold") from error


def _read_pose(response: httpx.Response) -> PoseResult:
    document = _document(response)
    return PoseResult(**_about(document), pose=_poses(document, 1)[0])


def _read_poses(response: httpx.Response, count: int) -> PosesResult:
    document = _document(response)
    return PosesResult(**_about(document), poses=_poses(document, count))


def _read_models(response: httpx.Response) -> tuple[ModelInfo, ...]:
    entries = member(_document(response), "models", list)
    return tuple(_model(entry, f"models[{index}]") for index, entry in enumerate(entries))


def _read_ready(response: httpx.Response) -> bool:
    if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        return False
    check_status(response)
    return True


def _document(response: httpx.Response) -> dict[str, Any]:
    check_status(response)
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise BadResponse("the answer must be JSON, but cannot be read as such") from error
    if not isinstance(document, dict):
        raise BadResponse(f"the answer must be a JSON object, but is {_kind(document)}")
    return document


def stages_of(timing: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds of each stage of an answer's timing_us, and of the parts of its engine."""
    parts = member(timing, "engine_stages", dict, "timing_us.") if "engine_stages" in timing else {}
    return (
        {
            stage: number(timing, stage, "timing_us.")
            for stage in timing
            if stage != "engine_stages"
        },
        {stage: number(parts, stage, "timing_us.engine_stages.") for stage in parts},
    )


def _about(document: dict[str, Any]) -> dict[str, Any]:
    timing_us, engine_stages_us = stages_of(member(document, "timing_us", dict))
    return {
        "model": member(document, "model", str),
        "version": member(document, "version", str),
        "engine": member(document, "engine", str),
        "timing_us": timing_us,
        "engine_stages_us": engine_stages_us,
        "raw": document,
    }


def _poses(document: dict[str, Any], count: int) -> tuple[Pose, ...]:
    entries = member(document, "poses", list)
    if len(entries) != count:
        raise BadResponse(f"the answer's poses must be {count}, but are {len(entries)}")
    return tuple(_pose(entry, f"poses[{index}].") for index, entry in enumerate(entries))


def _pose(entry: Any, at: str) -> Pose:
    entries = member(entry, "joints", list, at)
    joints = tuple(_joint(joint, f"{at}joints[{index}].") for index, joint in enumerate(entries))
    if tuple(joint.name for joint in joints) != JOINTS:
        raise BadResponse(f"the answer's {at}joints must be the {len(JOINTS)} joints in order")
    return Pose(joints)


def _joint(entry: Any, at: str) -> Joint:
    x_m, y_m, z_m = (number(entry, axis, at) for axis in ("x_m", "y_m", "z_m"))
    return Joint(member(entry, "name", str, at), x_m, y_m, z_m)


def _model(entry: Any, at: str) -> ModelInfo:
    at += "."
    return ModelInfo(
        name=member(entry, "name", str, at),
        version=member(entry, "version", str, at),
        engine=member(entry, "engine", str, at),
        package_sha256=member(entry, "package_sha256", str, at),
        parameters=member(entry, "parameters", int, at),
        int8_bytes=member(entry, "int8_bytes", int, at),
        raw=entry,
    )


def member(entry: Any, key: str, kind: type[V], at: str = "") -> V:
    """A member of an answer's object; raises `BadResponse`."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadResponse(f"the answer's {at}{key} must be {_NAMES[kind]}, but is {_kind(value)}")
    return value


def number(entry: Any, key: str, at: str = "") -> float:
    """A finite number of an answer's object; raises `BadResponse`."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):  # JSON's integers have no bounds
            if math.isfinite(value):
                return float(value)
    raise BadResponse(f"the answer's {at}{key} must be a finite number, but is {_kind(value)}")


_NAMES: dict[type, str] = {
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "an integer",
    list: "an array",
    str: "a string",
    type(None): "null or missing",
}


def _kind(value: Any) -> str:
    return repr(value) if isinstance(value, float) else _NAMES[type(value)]


def check_status(response: httpx.Response) -> None:
    """Raise the `ServiceError` that an answer is, or `BadResponse` for a redirection."""
    if response.is_success:
        return
    if not response.is_error:
        raise BadResponse(
            f"the answer must be a result or an error, not {response.status_code} "
            f"{response.reason_phrase}"
        )
    raise _service_error(response)


def _service_error(response: httpx.Response) -> ServiceError:
    problem = _problem(response)
    status = response.status_code
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return Overloaded(problem, _retry_after_s(response.headers))
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(problem)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLarge(problem)
    return InvalidRequest(problem) if response.is_client_error else ServerFault(problem)


def _problem(response: httpx.Response) -> Problem:
    """The problem document, or for an answer without one its bare status."""
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError):
        document = None
    said = document if isinstance(document, dict) else {}
    text = {key: value for key, value in said.items() if isinstance(value, str)}
    return Problem(
        status=response.status_code,
        type=text.get("type", "about:blank"),
        title=text.get("title", response.reason_phrase),
        detail=text.get("detail", ""),
    )


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds: a number, or a date measured from the answer's own Date."""
    value = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        pause = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, pause.total_seconds())
