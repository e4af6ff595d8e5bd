"""Image files of every kind, written as a test wants them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """An image file; an array is uint8 (height, width) or (height, width, 3)."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """uint8 of any shape."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3), without sharp edges."""
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    waves = (np.sin(3 * x), np.cos(4 * y), np.sin(2 * x + y))
    return np.stack([127 + 100 * wave for wave in waves], axis=2).astype(np.uint8)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_header(
    width: int, height: int, depth: int = 8, colour: int = 2, interlaced: bool = False
) -> bytes:
    """The signature and first chunk of a PNG file."""
    fields = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", fields)


def png(
    width: int,
    height: int,
    rows: bytes,
    depth: int = 8,
    colour: int = 2,
    *,
    interlaced: bool = False,
) -> bytes:
    """A PNG file of rows that each begin with their filter's byte."""
    header = png_header(width, height, depth, colour, interlaced)
    return header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def with_png_chunk(file: bytes, kind: bytes, content: bytes) -> bytes:
    """`file` with another chunk after its header."""
    return file[:33] + png_chunk(kind, content) + file[33:]


def with_exif(file: bytes, exif: bytes) -> bytes:
    """A JPEG file whose only application segment is EXIF."""
    start = file.index(b"\xff\xdb")
    content = b"Exif\0\0" + exif
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(content) + 2) + content + file[start:]


def exif_orientation(orientation: int) -> bytes:
    """EXIF with nothing but an orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
