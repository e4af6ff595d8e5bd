"""The UART output of TI's mmWave SDK 3 out-of-the-box demo (xWR14xx, xWR16xx, xWR18xx, xWR68xx).

A packet is a header, TLVs (type, length of the value, value), and padding to a multiple of 32
bytes; all little-endian. Source of the format: TI, "Understanding the UART Data Output Format",
Radar Toolbox 3.00. A packet has no checksum: `_packet` checks what else there is.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MAGIC", "MAX_PACKET_BYTES", "Parser", "RadarFrame"]

MAGIC = bytes((2, 1, 4, 3, 6, 5, 8, 7))
#: Far above the largest that the demo sends, a range-Doppler heat map among it.
MAX_PACKET_BYTES = 65536
# magic, version, length, platform, frame number, CPU cycles, objects, TLVs, sub-frame number
_HEADER = struct.Struct("<8s8I")
_TLV = struct.Struct("<2I")
_SEGMENT_BYTES = 32
_MAX_TLVS = 16
_MAX_POINTS = 4096
_POINTS, _SIDE_INFO = 1, 7
_POINT_BYTES, _SIDE_BYTES = 16, 4
_NOTHING = slice(0)


@dataclass(frozen=True, eq=False)
class RadarFrame:
    """Points float32 (n, 5): x to the right, y ahead, z up (m), Doppler (m/s), and as intensity the
    signal-to-noise ratio in steps of 0.1 dB, as the radar sends it."""

    number: int
    points: npt.NDArray[np.float32]


class _DamagedError(Exception):
    """Bytes that cannot be the beginning of a packet."""


class Parser:
    """Finds frames in bytes, in pieces of whatever size; no exception escapes.

    What is no packet is skipped: after damage the next packet is found by its magic word. `counts`:
    frames; lost (gaps in the frame numbers; one that falls is a radar that has started anew);
    damaged packets; empty ones, which have no points; without_side_info, points without intensity;
    skipped_bytes outside of whole packets.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(
            dict.fromkeys(
                ("frames", "lost", "damaged", "empty", "without_side_info", "skipped_bytes"), 0
            )
        )
        self._buffer = bytearray()
        self._last: int | None = None
        # Of a packet that has not wholly come: how long the buffer must be to tell more of it.
        self._wanted = 0
        # Of the buffer's first bytes: how many belong to a packet that was taken.
        self._taken = 0

    def feed(self, data: bytes) -> list[RadarFrame]:
        """The frames that `data` completes; in which pieces bytes come makes no difference."""
        fresh = max(len(MAGIC), len(self._buffer) - len(MAGIC) + 1)
        self._buffer += data
        if len(self._buffer) < self._wanted and self._buffer.find(MAGIC, fresh) < 0:
            return []
        self._wanted = 0
        frames = []
        at = 0
        while (start := self._buffer.find(MAGIC, at)) >= 0:
            self._skip(start - at)
            try:
                packet = _packet(self._buffer, start)
            except _DamagedError:
                self.counts["damaged"] += 1
                self._skip(len(MAGIC))
                at = start + len(MAGIC)
                continue
            if isinstance(packet, int):
                self._wanted = packet
                break
            frames += self._take(packet)
            # A packet that has lost the end of its padding ends with the beginning of the next.
            self._taken = _magic_begun(self._buffer, start + packet.size)
            at = start + packet.size - self._taken
        else:
            # The last bytes may be the beginning of a magic word.
            start = max(at, len(self._buffer) - len(MAGIC) + 1)
            self._skip(start - at)
        del self._buffer[:start]
        return frames

    def _skip(self, size: int) -> None:
        """Count bytes as outside of packets, but for those of a packet that was taken."""
        self.counts["skipped_bytes"] += max(0, size - self._taken)
        self._taken = max(0, self._taken - size)

    def _take(self, packet: _Packet) -> list[RadarFrame]:
        """The frame of a whole packet, if it has any points."""
        if self._last is not None and packet.number > self._last + 1:
            self.counts["lost"] += packet.number - self._last - 1
        self._last = packet.number
        if packet.points is None:
            self.counts["without_side_info" if packet.lacks_side_info else "empty"] += 1
            return []
        self.counts["frames"] += 1
        return [RadarFrame(packet.number, packet.points)]


@dataclass(frozen=True, eq=False)
class _Packet:
    size: int
    number: int
    points: npt.NDArray[np.float32] | None
    lacks_side_info: bool


def _magic_begun(buffer: bytearray, end: int) -> int:
    """How many bytes before `end` are the beginning of a magic word."""
    size = MAGIC.find(buffer[end - 1]) + 1  # the only one possible: no two of its bytes are equal
    return size if buffer.endswith(MAGIC[:size], 0, end) else 0


def _packet(buffer: bytearray, start: int) -> _Packet | int:
    """The packet at `start`, or how many bytes there must be to tell more; raises `_DamagedError`.

    As early as can be: a false length must not hold up the packets after it.
    """
    known = len(buffer) - start
    if known < _HEADER.size:
        _check(buffer.find(MAGIC, start + len(MAGIC)) < 0)
        return _HEADER.size
    _, _, size, _, number, _, objects, tlvs, _ = _HEADER.unpack_from(buffer, start)
    _check(_HEADER.size <= size <= MAX_PACKET_BYTES and size % _SEGMENT_BYTES == 0)
    _check(tlvs <= _MAX_TLVS and objects <= _MAX_POINTS)
    # A magic word inside means that bytes were lost, and that the next packet is whole.
    _check(buffer.find(MAGIC, start + len(MAGIC), start + size) < 0)
    values, wanted = _values(buffer, start, start + size, tlvs)
    if known < wanted:
        return wanted
    points = buffer[values.get(_POINTS, _NOTHING)]
    side = buffer[values[_SIDE_INFO]] if _SIDE_INFO in values else None
    _check(len(points) == _POINT_BYTES * objects)
    _check(side is None or len(side) == _SIDE_BYTES * objects)
    if not objects or side is None:
        return _Packet(size, number, None, bool(objects))
    return _Packet(size, number, _points(points, side), False)


def _values(buffer: bytearray, start: int, end: int, tlvs: int) -> tuple[dict[int, slice], int]:
    """Where values are, by type, as far as has come, and how many bytes tell more; raises
    `_DamagedError` where the chain of TLVs does not end in the packet's last segment."""
    values: dict[int, slice] = {}
    at = start + _HEADER.size
    for _ in range(tlvs):
        _check(at + _TLV.size <= end)
        if at + _TLV.size > len(buffer):
            return values, at + _TLV.size - start
        kind, length = _TLV.unpack_from(buffer, at)
        at += _TLV.size
        _check(at + length <= end and kind not in values)
        values[kind] = slice(at, at + length)
        at += length
    _check(end - at < _SEGMENT_BYTES)
    return values, end - start


def _points(points: bytearray, side: bytearray) -> npt.NDArray[np.float32]:
    places = np.frombuffer(points, "<f4").reshape(-1, 4)
    snr = np.frombuffer(side, "<i2").reshape(-1, 2)[:, :1]
    frame = np.concatenate([places, snr.astype(np.float32)], axis=1)
    _check(bool(np.isfinite(frame).all() and snr.min() >= 0))
    return frame


def _check(holds: bool) -> None:
    if not holds:
        raise _DamagedError
