"""Whether a PNG file is whole: decoders fill what it lacks with black. After RFC 2083."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

__all__ = ["check_whole"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column and row of each pass of an interlaced picture, and the steps to the next.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def check_whole(data: bytes) -> None:
    """Raise `ValueError` unless the file has all its pixels, checksums and its end.

    Takes memory for all pixels: their number is for the caller to bound before.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    bits = depth * _CHANNELS[colour]
    wanted = sum(_bytes_of(width, height, bits, *each) for each in passes)
    stream = zlib.decompressobj()
    pixels = b"".join(content for kind, content in _chunks(data) if kind == b"IDAT")
    try:
        had = len(stream.decompress(pixels, wanted + 1))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if had != wanted or not stream.eof:
        raise ValueError(f"its rows must be {wanted} bytes, but are {had} or more")


def _bytes_of(width: int, height: int, bits: int, x: int, y: int, dx: int, dy: int) -> int:
    """Of a pass: each row has a byte for its filter before its pixels."""
    columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
    return rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to the end, their checksums right."""
    at, kind = 8, b""
    while kind != b"IEND":
        if len(data) < at + 12:
            raise ValueError("it ends before its end marker")
        size, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + size]
        if data[at + 8 + size : at + 12 + size] != struct.pack(">I", zlib.crc32(kind + content)):
            raise ValueError(f"the checksum of a chunk {kind!r} differs")
        yield kind, content
        at += 12 + size
