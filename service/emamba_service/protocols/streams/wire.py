"""Messages of a pose stream, as bytes or JSON text; docs/stream.md is their reference.

A message of bytes is a head of 16, little-endian: kind u8, seven zeros, sequence number u64; then
what the kind says. An answer has the form of its frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.tasks import InputError
from emamba.tasks.mars import JOINTS, MAP_SHAPE, check_features
from emamba_service.errors import InvalidInputError, ServiceError, shortened
from emamba_service.protocols.pose import frame_map

__all__ = [
    "HEAD_BYTES",
    "MAX_SEQUENCE",
    "Ack",
    "Frame",
    "Kind",
    "StreamError",
    "answer_message",
    "dropped_message",
    "problem_message",
    "read_message",
]

_HEAD = struct.Struct("<B7xQ")
HEAD_BYTES = _HEAD.size
MAX_SEQUENCE = 2**53 - 1
_MAP_BYTES = 4 * MAP_SHAPE[0] * MAP_SHAPE[1] * MAP_SHAPE[2]
_KEYS = frozenset({"sequence", "points", "features", "labels"})
_NUMBERS = (int, float)


class Kind(IntEnum):
    """What a message of bytes says."""

    # From the client: a feature map, float32 (8, 8, 5).
    FRAME = 1
    # From the client: it has every answer up to this one.
    ACK = 2
    # Joints in metres, float32 (19, 3).
    ANSWER = 3
    # Frames that were dropped, up to this one; u64, the first of them.
    DROPPED = 4
    # Why a frame has no joints: problem details, JSON.
    PROBLEM = 5


class StreamError(Exception):
    """A message that ends its stream, since nobody knows what would come next."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that came: its map, float32 (8, 8, 5), or why it has none.

    `points` and `labels`, joints (19, 3) to compare with, are the client's own as JSON, for whoever
    watches.
    """

    sequence: int
    is_text: bool
    map: npt.NDArray[np.float32] | None
    error: ServiceError | None = None
    points: Any = None
    labels: Any = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The client has every answer up to `sequence`."""

    sequence: int


def read_message(message: bytes | str, max_points: int) -> Frame | Ack:
    """What came; raises `StreamError` for what is no message of a stream.

    A frame whose values cannot be read has an `error` instead of a map.
    """
    return _read_text(message, max_points) if isinstance(message, str) else _read_bytes(message)


def answer_message(
    frame: Frame, joints: npt.NDArray[np.float64], more: dict[str, Any]
) -> bytes | str:
    """The joints (19, 3) of a frame, metres; as text with the members `more`."""
    if frame.is_text:
        document = {"sequence": frame.sequence, "joints": joints.tolist(), **more}
        return orjson.dumps(document).decode()
    return _HEAD.pack(Kind.ANSWER, frame.sequence) + joints.astype("<f4").tobytes()


def problem_message(frame: Frame, error: ServiceError) -> bytes | str:
    """Why a frame has no joints."""
    if frame.is_text:
        document = {"sequence": frame.sequence, "problem": error.problem()}
        return orjson.dumps(document).decode()
    return _HEAD.pack(Kind.PROBLEM, frame.sequence) + orjson.dumps(error.problem())


def dropped_message(first: int, last: int, is_text: bool) -> bytes | str:
    """Frames `first` to `last` were dropped."""
    if is_text:
        return orjson.dumps({"sequence": last, "dropped_from": first}).decode()
    return _HEAD.pack(Kind.DROPPED, last) + first.to_bytes(8, "little")


def _read_bytes(message: bytes) -> Frame | Ack:
    if len(message) < HEAD_BYTES or any(message[1:8]):
        raise StreamError(
            f"a message must begin with a kind, seven zeros and a sequence number, {HEAD_BYTES} "
            f"bytes, but is {len(message)} bytes that do not"
        )
    kind, sequence = _HEAD.unpack_from(message)
    body = message[HEAD_BYTES:]
    _check_sequence(sequence)
    if kind == Kind.ACK and not body:
        return Ack(sequence)
    if kind != Kind.FRAME or len(body) != _MAP_BYTES:
        raise StreamError(
            f"a message must be a frame (kind 1) and {_MAP_BYTES} bytes or an acknowledgement "
            f"(kind 2) alone, but is of kind {kind} with {len(body)} bytes"
        )
    return _frame(
        sequence,
        False,
        lambda: check_features(np.frombuffer(body, "<f4").reshape(1, *MAP_SHAPE))[0],
    )


def _read_text(message: str, max_points: int) -> Frame | Ack:
    try:
        document = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise StreamError(f"a text message must be JSON, but is not: {error.msg}") from error
    if type(document) is not dict:
        raise StreamError("a text message must be a JSON object")
    if document.keys() == {"acknowledged"}:
        return Ack(_check_sequence(document["acknowledged"]))
    sequence = _check_sequence(document.get("sequence"))
    if not document.keys() <= _KEYS or ("points" in document) == ("features" in document):
        raise StreamError(
            "a text message must have sequence, one of points and features, and at most labels "
            f"besides, or acknowledged alone, but has {shortened(', '.join(document))}"
        )
    shown = document.get("points"), _labels(document)
    return _frame(sequence, True, lambda: frame_map(document, 0, max_points), *shown)


def _frame(
    sequence: int,
    is_text: bool,
    read: Callable[[], npt.NDArray[np.float32]],
    points: Any = None,
    labels: Any = None,
) -> Frame:
    try:
        return Frame(sequence, is_text, read(), None, points, labels)
    except (InputError, ServiceError) as error:
        # A frame of a stream has a number of its own.
        sentence = str(error).removeprefix("frame 0: ")
        kind = type(error) if isinstance(error, ServiceError) else InvalidInputError
        return Frame(sequence, is_text, None, kind(f"frame {sequence}: {sentence}"), points, labels)


def _labels(document: dict[str, Any]) -> Any:
    """A frame's labels, if it has any: viewers get them as they came."""
    labels = document.get("labels")
    rows = labels if type(labels) is list else []
    if "labels" in document and not (
        len(rows) == len(JOINTS)
        and all(type(row) is list and len(row) == 3 for row in rows)
        and all(type(value) in _NUMBERS for row in rows for value in row)
    ):
        raise StreamError(f"labels must be {len(JOINTS)} arrays of 3 numbers, metres")
    return labels


def _check_sequence(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SEQUENCE:
        raise StreamError(
            f"a sequence number must be an integer 0..{MAX_SEQUENCE}, "
            f"but is {shortened(str(value))}"
        )
    return value
