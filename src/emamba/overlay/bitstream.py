"""The head of a Xilinx `.bit` file: what it was built for, and whether it is all there.

Fields as PYNQ and other readers know them: a magic field, then `a` design, `b` part, `c` date,
`d` time as text with a 16-bit length, and `e` with a 32-bit length before the configuration data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Bitstream", "BitstreamError", "bitstream_bytes", "read_bitstream"]

_MAGIC = bytes.fromhex("00090ff00ff00ff00ff0000001")
_TEXTS = {b"a": "design", b"b": "part", b"c": "date", b"d": "time"}
_HEAD_BYTES = 4096


class BitstreamError(ValueError):
    """A file that is no whole bitstream; the message names it and what to do."""


@dataclass(frozen=True)
class Bitstream:
    """A bitstream's head; `data_bytes` of configuration follow it in the file."""

    design: str
    part: str
    date: str
    time: str
    data_bytes: int


def read_bitstream(path: Path) -> Bitstream:
    """The head of `path`; raises `BitstreamError` unless the file is a whole bitstream."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise BitstreamError(
            f"{path}: must be a readable bitstream, but {error.strerror}; copy the overlay again"
        ) from error
    try:
        fields, start, length = _parse(head)
    except (ValueError, struct.error) as error:
        raise BitstreamError(
            f"{path}: must begin as a .bit file does, but does not; "
            "copy the overlay again, or build it"
        ) from error
    if size - start != length:
        came = "ends after" if size - start < length else "goes on to"
        raise BitstreamError(
            f"{path}: must hold {length} bytes of configuration, but {came} {size - start}; "
            "copy the overlay again"
        )
    return Bitstream(**fields, data_bytes=length)


def _parse(head: bytes) -> tuple[dict[str, str], int, int]:
    """Texts by name, where the configuration starts, and its length."""
    if not head.startswith(_MAGIC):
        raise ValueError("no magic")
    at, texts = len(_MAGIC), {}
    for key, name in _TEXTS.items():
        (length,) = struct.unpack_from(">H", head, at + 1)
        if head[at : at + 1] != key:
            raise ValueError(f"no {name}")
        texts[name] = head[at + 3 : at + 3 + length].rstrip(b"\0").decode("ascii")
        at += 3 + length
    if head[at : at + 1] != b"e":
        raise ValueError("no data")
    (length,) = struct.unpack_from(">I", head, at + 1)
    return texts, at + 5, length


def bitstream_bytes(design: str, part: str, date: str, time: str, data: bytes) -> bytes:
    """A `.bit` file's bytes."""
    raw = _MAGIC
    for key, text in zip(_TEXTS, (design, part, date, time), strict=True):
        encoded = text.encode("ascii") + b"\0"
        raw += key + struct.pack(">H", len(encoded)) + encoded
    return raw + b"e" + struct.pack(">I", len(data)) + data
