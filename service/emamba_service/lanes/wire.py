"""Frames on the socket between an event loop and an engine.

A frame is a head of 20 bytes, a note and an array. The head is little-endian: kind u8, 0, the
note's bytes u16, the array's shape as 4 u32. `Kind` says what note and array hold. Both ends are of
one machine, so the array is in its byte order.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "HEAD_BYTES",
    "MAX_ARRAY_BYTES",
    "MAX_NOTE_BYTES",
    "Frame",
    "Kind",
    "Reader",
    "WireError",
    "pack",
]

MAX_NOTE_BYTES = 0xFFFF
MAX_ARRAY_BYTES = 64 * 1024 * 1024
_HEAD = struct.Struct("<BxH4I")
HEAD_BYTES = _HEAD.size


class WireError(Exception):
    """Bytes that are no frame, or what no frame holds; the message says what must hold."""


class Kind(IntEnum):
    """What a frame says. The first one of an engine is OPENED, or else FAILED."""

    # A batch to compute, int8 (n, height, width, channels).
    RUN = 1
    # Its outputs, int16 (n, n_outputs); the note is empty or JSON of `engine` and `stages_s`.
    ANSWER = 2
    # The engine's name, description, state and reason, JSON.
    OPENED = 3
    # Its state and reason, JSON.
    STATUS = 4
    # Why a batch cannot be computed now, or has failed: a sentence.
    UNAVAILABLE = 5
    FAILED = 6


class Frame(NamedTuple):
    """One frame; `array` is None for kinds that have none."""

    kind: Kind
    note: bytes
    array: npt.NDArray[Any] | None


_KINDS = {int(kind): kind for kind in Kind}
_ARRAYS: dict[Kind, tuple[np.dtype[Any], int]] = {
    Kind.RUN: (np.dtype(np.int8), 4),
    Kind.ANSWER: (np.dtype(np.int16), 2),
}


def pack(kind: Kind, note: bytes = b"", array: npt.NDArray[Any] | None = None) -> bytes:
    """The bytes of a frame; raises `WireError` for what a `kind` does not hold."""
    if len(note) > MAX_NOTE_BYTES:
        raise WireError(f"a note must have at most {MAX_NOTE_BYTES} bytes, but has {len(note)}")
    wanted = _ARRAYS.get(kind)
    if wanted is None or array is None:
        if wanted is not None or array is not None:
            must = "an array" if wanted else "no array"
            raise WireError(f"a frame of kind {kind.name} must have {must}")
        return _HEAD.pack(kind, len(note), 0, 0, 0, 0) + note
    dtype, dimensions = wanted
    if array.dtype != dtype or array.ndim != dimensions:
        raise WireError(
            f"the array of kind {kind.name} must be {dtype} of {dimensions} dimensions, "
            f"but is {array.dtype} of {array.ndim}"
        )
    if not 0 < array.nbytes <= MAX_ARRAY_BYTES:
        raise WireError(
            f"an array must have 1..{MAX_ARRAY_BYTES} bytes, but has {array.nbytes}; "
            "send fewer frames"
        )
    shape = array.shape if dimensions == 4 else (*array.shape, 1, 1)
    return b"".join((_HEAD.pack(kind, len(note), *shape), note, array.tobytes()))


class Reader:
    """Cuts the bytes of a stream into frames; keeps at most one frame that is not whole yet."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, whose arrays are read-only.

        Raises `WireError`, after which the stream is of no use.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[Frame] = []
        begin, end = 0, len(data)
        while begin < end:
            whole = _read(data, begin, end)
            if isinstance(whole, int):
                self._needed = whole
                self._rest += data[begin:]
                break
            frame, begin = whole
            frames.append(frame)
        return frames


def _read(data: bytes, begin: int, end: int) -> tuple[Frame, int] | int:
    """The frame at `begin` and where it ends, or how many bytes it needs at least."""
    if end - begin < HEAD_BYTES:
        return HEAD_BYTES
    number, note_bytes, *sizes = _HEAD.unpack_from(data, begin)
    kind = _KINDS.get(number)
    if kind is None or data[begin + 1]:
        raise WireError(
            f"a frame must begin with a kind and 0, but does with {data[begin : begin + 2]!r}"
        )
    array_bytes = _array_bytes(kind, sizes)
    middle: int = begin + HEAD_BYTES + note_bytes
    if middle + array_bytes > end:
        return middle + array_bytes - begin
    note = data[begin + HEAD_BYTES : middle] if note_bytes else b""
    if not array_bytes:
        return Frame(kind, note, None), middle
    dtype, dimensions = _ARRAYS[kind]
    array = np.frombuffer(data, dtype, array_bytes // dtype.itemsize, middle)
    return Frame(kind, note, array.reshape(sizes[:dimensions])), middle + array_bytes


def _array_bytes(kind: Kind, sizes: list[int]) -> int:
    """The bytes of an array of a head's `sizes`; 0 for a kind without one."""
    wanted = _ARRAYS.get(kind)
    n, height, width, channels = sizes
    if wanted is None:
        if n or height or width or channels:
            raise WireError(f"a frame of kind {kind.name} must have no array, but has {sizes}")
        return 0
    dtype, dimensions = wanted
    count: int = n * height * width * channels * dtype.itemsize
    if not 0 < count <= MAX_ARRAY_BYTES or (dimensions == 2 and width * channels != 1):
        raise WireError(
            f"the array of kind {kind.name} must have {dimensions} dimensions and "
            f"1..{MAX_ARRAY_BYTES} bytes, but has the shape {sizes}"
        )
    return count
