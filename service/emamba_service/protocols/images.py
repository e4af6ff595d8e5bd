"""Uploaded image files as the pixels that a model takes. The rules are in docs/classify.md.

A file's kind is told by its first bytes, and its size is known before a pixel is decoded.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from emamba_service.errors import (
    ImageTooLargeError,
    InvalidImageError,
    UnsupportedImageError,
    shortened,
)
from emamba_service.protocols.png_file import check_whole

__all__ = ["MEDIA_TYPES", "media_type_of", "read_images"]

Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

# Pillow's own class of each kind: `Image.open` would go through every plugin there is.
_OPEN: dict[str, Callable[[BytesIO], ImageFile]] = {
    "image/png": PngImageFile,
    "image/jpeg": JpegImageFile,
    "image/webp": WebPImageFile,
    "image/gif": GifImageFile,
}
MEDIA_TYPES = tuple(_OPEN)
_NAMES = dict(zip(MEDIA_TYPES, ("PNG", "JPEG", "WebP", "GIF"), strict=True))
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A progressive JPEG has about 10. Each takes a pass over all pixels, for 20 bytes of the file.
_MAX_SCANS = 64
# What a row costs besides its pixels, in pixels.
_MIN_ROW = 64

# What Pillow thinks of a stranger's file does not belong into the service's log.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.WARNING)


def media_type_of(data: bytes) -> str | None:
    """One of `MEDIA_TYPES`, by the first bytes of a file."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return None


def read_images(files: Sequence[bytes], shape: Shape, max_pixels: int) -> Pixels:
    """Image files as uint8 (n, height, width, channels), `shape` being that of one.

    Together they may have `max_pixels` pixels, each row counting as 64 at least. Raises
    `UnsupportedImageError`, `ImageTooLargeError` or `InvalidImageError`, which name the image.
    """
    budget = _Budget(max_pixels)
    images = np.empty((len(files), *shape), np.uint8)
    for index, data in enumerate(files):
        images[index] = _read(data, shape, budget, index)
    return images


class _Budget:
    """The pixels that the images of a request may have together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self, index: int, width: int, height: int) -> None:
        """Raise `ImageTooLargeError` unless image `index`, of this size, may be decoded."""
        before, self._taken = self._taken, self._taken + max(width, _MIN_ROW) * height
        if self._taken <= self._limit:
            return
        counted = f", and each row counts as {_MIN_ROW}" if width < _MIN_ROW else ""
        sentence = (
            f"image {index} must have at most {self._limit} pixels, but has {width} x {height}"
            f"{counted}; make it smaller"
        )
        if before:
            sentence = (
                f"images 0 to {index} must have at most {self._limit} pixels together, but have "
                f"{self._taken}; send several requests"
            )
        raise ImageTooLargeError(sentence, frame=index, limit=self._limit)


def _read(data: bytes, shape: Shape, budget: _Budget, index: int) -> Pixels:
    kind = media_type_of(data)
    if kind is None:
        came = "its first bytes are of none of them" if data else "is empty"
        raise UnsupportedImageError(
            f"image {index} must be PNG, JPEG, WebP or GIF, but {came}", frame=index
        )
    _check_bytes(data, kind, index)
    told = _TELLS_SIZE.get(kind)
    if told is not None:
        budget.take(index, *told(data, index))
    try:
        with _OPEN[kind](BytesIO(data)) as picture:
            if told is None:
                budget.take(index, *picture.size)
            _check_picture(picture, index)
            if kind == "image/png":
                check_whole(data)
                _spread_transparency(picture, data)
            # JPEG can be decoded at 1/2, 1/4 or 1/8, for a fraction of the time.
            picture.draft(None, (2 * max(shape[:2]), 2 * max(shape[:2])))
            return _pixels(_upright(picture), shape, index)
    except (InvalidImageError, ImageTooLargeError):
        raise
    # Decoders raise whatever a damaged file makes them stumble over.
    except Exception as error:
        _refuse_damaged(kind, index, error)


def _check_bytes(data: bytes, kind: str, index: int) -> None:
    """Refuse what Pillow would quietly change, or take long for."""
    if kind == "image/png" and len(data) >= 25:
        width, height, depth = struct.unpack_from(">IIB", data, 16)
        if not width * height:
            _refuse(index, f"must have pixels, but is {width} x {height}")
        if depth == 16:
            _refuse(index, "must have 8 bits a channel, but has 16")
    if kind == "image/jpeg" and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        _refuse(index, f"must be a JPEG of at most {_MAX_SCANS} scans, but has {scans}")


def _walk_through_gif(data: bytes, index: int) -> tuple[int, int]:
    """Width and height; refuses all but one picture within them, whole to the trailer."""
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = 13 + _palette_bytes(flags)
        pictures = 0
        while (block := data[at]) != ord(";"):
            if block == ord(","):
                x, y, w, h, flags = struct.unpack_from("<4HB", data, at + 1)
                if (x, y, w, h) != (0, 0, width, height):
                    raise ValueError("a picture does not cover the screen, or exceeds it")
                pictures += 1
                at += 11 + _palette_bytes(flags)
            elif block == ord("!"):
                at += 2
            else:
                raise ValueError("a block is of no known kind")
            while size := data[at]:
                at += size + 1
            at += 1
    except (IndexError, struct.error):
        _refuse_damaged("image/gif", index, ValueError("it ends before its end marker"))
    except ValueError as error:
        _refuse_damaged("image/gif", index, error)
    if pictures > 1:
        _refuse(index, f"must be one picture, but is an animation of {pictures}")
    return width, height


def _webp_size(data: bytes, index: int) -> tuple[int, int]:
    """Width and height, as RFC 9649 has them in a file's first chunk."""
    kind, start = data[12:16], data[20:30]
    if kind == b"VP8X" and len(start) == 10:
        return int.from_bytes(start[4:7], "little") + 1, int.from_bytes(start[7:], "little") + 1
    if kind == b"VP8L" and len(start) >= 5:
        bits = int.from_bytes(start[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind != b"VP8 " or len(start) < 10:
        _refuse_damaged("image/webp", index, ValueError("it begins with none of WebP's chunks"))
    width, height = struct.unpack_from("<HH", start, 6)
    return width & 0x3FFF, height & 0x3FFF


# Pillow makes room for these pictures, whatever sizes they claim, before it tells them.
_TELLS_SIZE: dict[str, Callable[[bytes, int], tuple[int, int]]] = {
    "image/gif": _walk_through_gif,
    "image/webp": _webp_size,
}


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_picture(picture: ImageFile, index: int) -> None:
    if getattr(picture, "is_animated", False):
        pictures = picture.n_frames  # type: ignore[attr-defined]
        _refuse(index, f"must be one picture, but is an animation of {pictures}")
    if picture.mode not in _MODES:
        _refuse(index, f"must be grey or RGB, 8 bits a channel, but is {picture.mode}")


def _spread_transparency(picture: ImageFile, data: bytes) -> None:
    """Samples of 2 and 4 bits become 8; Pillow leaves the value of the transparent one."""
    depth, colour, value = data[24], data[25], picture.info.get("transparency")
    if colour == 0 and depth in {2, 4} and value is not None:
        highest = (1 << depth) - 1
        picture.info["transparency"] = (value & highest) * (255 // highest)


def _upright(picture: ImageFile) -> Image.Image:
    """The decoded picture as its EXIF orientation wants it shown."""
    picture.load()
    turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    return picture if turn is None else picture.transpose(turn)


def _pixels(picture: Image.Image, shape: Shape, index: int) -> Pixels:
    height, width, channels = shape
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema()[0] != 255:
            _refuse(
                index, "must be opaque, but has transparent pixels; lay it on a background first"
            )
    coloured = picture.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(coloured, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted, np.uint8).reshape(shape)


def _refuse(index: int, sentence: str) -> NoReturn:
    raise InvalidImageError(f"image {index} {sentence}", frame=index)


def _refuse_damaged(kind: str, index: int, error: Exception) -> NoReturn:
    name = _NAMES[kind]
    raise InvalidImageError(
        f"image {index} must be an intact {name} file, but is damaged or cut off",
        frame=index,
        reason=shortened(str(error)),
    ) from error
