"""A stream's messages, and what its handshake and its end mean. No I/O."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import numpy.typing as npt
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from emamba_client._wire import check_status, member, rows_of, stages_of
from emamba_client.errors import (
    BadResponse,
    ClientError,
    ConnectionFailed,
    InvalidInput,
    InvalidRequest,
    Overloaded,
    Problem,
    TimedOut,
    TooLarge,
)
from emamba_client.results import JOINTS

_HEAD = struct.Struct("<B7xQ")
_FRAME, _ANSWER, _DROPPED, _PROBLEM = 1, 3, 4, 5
_JOINTS = (len(JOINTS), 3)
_POLICY, _TOO_BIG, _RESTART = 1008, 1009, 1012


@dataclass(frozen=True)
class Hello:
    """What the service says first: who will compute, and how many frames may be unanswered."""

    model: str
    version: str
    engine: str
    window: int


@dataclass(frozen=True, eq=False)
class StreamAnswer:
    """What has become of a frame: `joints` float64 (19, 3) in metres, a `problem`, or with
    `dropped_from` that all frames from that number to this one were dropped.

    Answers to points are told with who computed them (`engine`) and the microseconds of each stage.
    """

    sequence: int
    joints: npt.NDArray[np.float64] | None = None
    problem: Problem | None = None
    dropped_from: int | None = None
    engine: str | None = None
    timing_us: Mapping[str, float] | None = None


def stream_url(url: str, named: Mapping[str, str | None]) -> str:
    """The address of a stream of the service at `url`, its query `named` without what is None."""
    query = {key: value for key, value in named.items() if value is not None}
    return f"ws{url.removeprefix('http')}/v1/pose/stream?{urlencode(query)}"


def points_message(
    sequence: int, points: npt.ArrayLike, labels: npt.ArrayLike | None = None
) -> str:
    """A frame of points (n, 5); with `labels` (19, 3), for whoever watches."""
    document: dict[str, Any] = {"sequence": sequence, "points": rows_of(points, "points")}
    if labels is not None:
        document["labels"] = np.asarray(labels, np.float64).tolist()
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def features_message(sequence: int, features: npt.ArrayLike) -> bytes:
    """A frame that is a feature map (8, 8, 5)."""
    array = np.asarray(rows_of(features, "features"), "<f4")
    if array.shape != (8, 8, 5):
        raise InvalidInput(f"features must have shape [8, 8, 5], not {list(array.shape)}")
    return _HEAD.pack(_FRAME, sequence) + array.tobytes()


def read_hello(message: str | bytes) -> Hello:
    """The service's first message."""
    document = _document(message)
    return Hello(
        member(document, "model", str),
        member(document, "version", str),
        member(document, "engine", str),
        member(document, "window", int),
    )


def read_answer(message: str | bytes) -> StreamAnswer:
    """A message after the first; raises `BadResponse` for what is none."""
    return _read_text(message) if isinstance(message, str) else _read_bytes(message)


def handshake_error(cause: Exception, url: str) -> ClientError:
    """Why there is no stream."""
    error: ClientError
    if isinstance(cause, InvalidStatus):
        came = cause.response
        headers = list(came.headers.raw_items())
        response = httpx.Response(
            came.status_code, headers=headers, content=bytes(came.body or b"")
        )
        try:
            check_status(response)
            error = BadResponse(f"{url} must answer with a WebSocket, not {came.status_code}")
        except ClientError as refusal:
            error = refusal
    elif isinstance(cause, TimeoutError):
        error = ConnectionFailed(f"cannot connect to {url} in time")
    elif isinstance(cause, InvalidHandshake):
        error = BadResponse(f"{url} must answer with a WebSocket ({cause})")
    else:
        error = ConnectionFailed(f"cannot connect to {url} ({cause})")
    error.__cause__ = cause
    return error


def closed_error(cause: ConnectionClosed, url: str) -> ClientError:
    """Why a stream has ended."""
    close = cause.rcvd
    error: ClientError
    if close is None or not close.reason:
        error = ConnectionFailed(f"the stream to {url} broke")
    else:
        problem = Problem(close.code, "about:blank", "The stream has been closed", close.reason)
        if close.code == _RESTART:
            error = Overloaded(problem)
        elif close.code == _TOO_BIG:
            error = TooLarge(problem)
        elif close.code == _POLICY:
            error = InvalidRequest(problem)
        else:
            error = ConnectionFailed(f"the stream to {url} has ended: {close.reason}")
    error.__cause__ = cause
    return error


def late_error(url: str, timeout_s: float) -> ClientError:
    """No answer in time."""
    return TimedOut(f"no answer from {url} within {timeout_s:g} s")


def _document(message: str | bytes) -> dict[str, Any]:
    try:
        document = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadResponse("the stream's message must be JSON, but cannot be read") from error
    if not isinstance(document, dict):
        raise BadResponse("the stream's message must be a JSON object")
    return document


def _read_text(message: str) -> StreamAnswer:
    document = _document(message)
    sequence = member(document, "sequence", int)
    if "problem" in document:
        return StreamAnswer(sequence, problem=_problem(document["problem"]))
    if "dropped_from" in document:
        return StreamAnswer(sequence, dropped_from=member(document, "dropped_from", int))
    try:
        joints = np.array(document["joints"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BadResponse("the answer must have joints, a problem or dropped_from") from error
    return StreamAnswer(
        sequence,
        _checked(joints),
        engine=member(document, "engine", str),
        timing_us=stages_of(member(document, "timing_us", dict))[0],
    )


def _read_bytes(message: bytes) -> StreamAnswer:
    if len(message) < _HEAD.size:
        raise BadResponse("the stream's message must begin with a head of 16 bytes")
    kind, sequence = _HEAD.unpack_from(message)
    body = message[_HEAD.size :]
    if kind == _ANSWER and len(body) == 4 * _JOINTS[0] * _JOINTS[1]:
        joints = np.frombuffer(body, "<f4").reshape(_JOINTS).astype(np.float64)
        return StreamAnswer(sequence, _checked(joints))
    if kind == _DROPPED and len(body) == 8:
        return StreamAnswer(sequence, dropped_from=int.from_bytes(body, "little"))
    if kind == _PROBLEM:
        return StreamAnswer(sequence, problem=_problem(_document(body)))
    raise BadResponse(f"the stream's message is of kind {kind} with {len(body)} bytes")


def _checked(joints: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if joints.shape != _JOINTS or not np.isfinite(joints).all():
        raise BadResponse("the answer's joints must be 19 times 3 finite numbers")
    return joints


def _problem(document: Any) -> Problem:
    said = document if isinstance(document, dict) else {}
    status = said.get("status")
    texts = (str(said.get(key, "")) for key in ("type", "title", "detail"))
    return Problem(status if isinstance(status, int) else 0, *texts)
