"""Image files of any kind become the pixels that a model takes, or are refused in a sentence."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from emamba_service.errors import (
    ImageTooLargeError,
    InvalidImageError,
    ServiceError,
    UnsupportedImageError,
)
from emamba_service.protocols.images import media_type_of, read_images
from picture_files import (
    encoded,
    exif_orientation,
    noise,
    png,
    png_chunk,
    png_header,
    smooth,
    with_exif,
    with_png_chunk,
)

# As the module itself has it; pytest's own filters would go before.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

CASES = 10_000 if os.environ.get("EMAMBA_VERIFY") == "full" else 300
RGB = (8, 12, 3)
GREY = (8, 12, 1)
PLENTY = 1 << 20
COLOURED = noise(8, 12, 3)
SHADES = noise(8, 12)
LOSSLESS: dict[str, dict[str, object]] = {"PNG": {}, "WEBP": {"lossless": True}, "GIF": {}}


def read_image(file: bytes, shape: tuple[int, int, int], max_pixels: int) -> np.ndarray:
    image: np.ndarray = read_images([file], shape, max_pixels)[0]
    return image


def grey_of(coloured: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma in 16 fractional bits, rounded."""
    weighted = coloured.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000
    return (weighted >> 16).astype(np.uint8)[..., None]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_file_of_the_models_size_gives_its_very_pixels(kind: str) -> None:
    coloured = COLOURED
    if kind == "GIF":
        coloured = np.asarray(Image.fromarray(COLOURED).quantize(64).convert("RGB"))
        file = encoded(Image.fromarray(coloured).quantize(64), kind)
        coloured = np.asarray(Image.open(BytesIO(file)).convert("RGB"))
    else:
        file = encoded(coloured, kind, **LOSSLESS[kind])
    np.testing.assert_array_equal(read_image(file, RGB, PLENTY), coloured)
    np.testing.assert_array_equal(read_image(file, GREY, PLENTY), grey_of(coloured))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_grey_files_fit_models_of_either_kind(kind: str) -> None:
    file = encoded(SHADES, kind, **LOSSLESS[kind])
    np.testing.assert_array_equal(read_image(file, GREY, PLENTY)[..., 0], SHADES)
    got = read_image(file, RGB, PLENTY)
    np.testing.assert_array_equal(got, np.repeat(SHADES[..., None], 3, axis=2))


def test_a_jpeg_is_what_its_decoder_says() -> None:
    file = encoded(smooth(8, 12), "JPEG", quality=95)
    want = np.asarray(Image.open(BytesIO(file)))
    np.testing.assert_array_equal(read_image(file, RGB, PLENTY), want)


def interlaced(picture: np.ndarray, depth: int) -> bytes:
    """A grey PNG file in seven passes, of samples of `depth` bits."""
    rows = b""
    for y, x, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
                         (0, 1, 2, 2), (1, 0, 2, 1)):  # fmt: skip
        part = picture[y::dy, x::dx]
        if part.size:
            bits = np.unpackbits(part[..., None], axis=2)[..., 8 - depth :]
            packed = np.packbits(bits.reshape(len(part), -1), axis=1)
            rows += b"".join(b"\0" + row.tobytes() for row in packed)
    return png(picture.shape[1], picture.shape[0], rows, depth, 0, interlaced=True)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 12), (17, 9)])
def test_interlaced_files_of_every_depth_are_read(depth: int, shape: tuple[int, int]) -> None:
    picture = noise(*shape) >> (8 - depth)
    got = read_image(interlaced(picture, depth), (*shape, 1), PLENTY)[..., 0]
    np.testing.assert_array_equal(got, picture * (255 // ((1 << depth) - 1)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_shade_that_no_pixel_has_is_no_harm(depth: int) -> None:
    row = b"\0" + bytes(depth)
    file = with_png_chunk(png(8, 1, row, depth, 0), b"tRNS", b"\0\1")
    assert (read_image(file, GREY, PLENTY) == 0).all()


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA"])
def test_bits_and_opaque_alpha_are_read(mode: str) -> None:
    image = Image.fromarray(COLOURED).convert(mode)
    want = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(encoded(image, "PNG"), RGB, PLENTY), want)


def test_several_files_keep_their_order() -> None:
    pictures = [noise(8, 12, 3, seed=seed) for seed in range(3)]
    got = read_images([encoded(picture, "PNG") for picture in pictures], RGB, PLENTY)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.stack(pictures))


SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    0: lambda stored: stored,
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
    9: lambda stored: stored,
}


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_says_how_a_picture_is_held(orientation: int) -> None:
    want = SHOWN[orientation](COLOURED)
    exif = exif_orientation(orientation)
    file = with_png_chunk(encoded(COLOURED, "PNG"), b"eXIf", exif)
    np.testing.assert_array_equal(read_image(file, want.shape, PLENTY), want)
    jpeg = encoded(smooth(8, 12), "JPEG", quality=95)
    upright = SHOWN[orientation](read_image(jpeg, RGB, PLENTY))
    got = read_image(with_exif(jpeg, exif), upright.shape, PLENTY)
    np.testing.assert_array_equal(got, upright)


def test_the_middle_counts_where_the_aspect_differs() -> None:
    stripes = np.zeros((8, 36, 3), np.uint8)
    stripes[:, :12, 0] = stripes[:, 12:24, 1] = stripes[:, 24:, 2] = 255
    np.testing.assert_array_equal(
        read_image(encoded(stripes, "PNG"), RGB, PLENTY), stripes[:, 12:24]
    )
    tall = stripes.transpose(1, 0, 2)
    got = read_image(encoded(tall, "PNG"), (12, 8, 3), PLENTY)
    np.testing.assert_array_equal(got, tall[12:24])


@pytest.mark.parametrize("factor", [2, 7, 32])
def test_larger_pictures_are_averaged_and_smaller_ones_spread(factor: int) -> None:
    # A ramp's bilinear mean over symmetric windows is the ramp, within rounding, off its ends.
    ramp = np.linspace(0, 255, 12 * factor)
    large = np.repeat(np.repeat(ramp[None], 8 * factor, axis=0)[..., None], 3, axis=2)
    got = read_image(encoded(large.round().astype(np.uint8), "PNG"), RGB, PLENTY).astype(float)
    want = ramp.reshape(12, factor).mean(axis=1)
    assert np.abs(got - want[:, None])[:, 1:-1].max() <= 1
    flat = np.full((1, 1, 3), 77, np.uint8)
    assert (read_image(encoded(flat, "PNG"), RGB, PLENTY) == 77).all()


def test_a_large_jpeg_gives_nearly_what_its_whole_decoding_does() -> None:
    file = encoded(smooth(600, 900), "JPEG", quality=95)
    exact = encoded(Image.open(BytesIO(file)), "PNG")
    got, want = (read_image(each, RGB, PLENTY).astype(int) for each in (file, exact))
    # Decoding at a part of its size averages 8 x 8 blocks' frequencies, not their pixels.
    assert np.abs(got - want).max() <= 3


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(noise(8, 12, 3, seed=seed)) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def jpeg_of_many_scans() -> bytes:
    file = encoded(smooth(16, 16), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:last] + file[last:-2] * 100 + file[-2:]


def transparent(mode: str) -> bytes:
    image = Image.fromarray(COLOURED).convert(mode)
    if mode == "P":
        return encoded(image, "PNG", transparency=image.getpixel((3, 3)))
    if mode == "RGB":
        return encoded(image, "PNG", transparency=tuple(COLOURED[4, 4].tolist()))
    image.putalpha(Image.fromarray(SHADES))
    return encoded(image, "PNG")


def huge_gif(screen: int, picture: int) -> bytes:
    size = (picture).to_bytes(2, "little") * 2
    control = b"!\xf9\x04\x08\0\0\0\0"
    return (
        b"GIF89a" + screen.to_bytes(2, "little") * 2 + b"\0\0\0" + control + b",\0\0\0\0"
        + size + b"\0\x02\x01\x00\x00;"
    )  # fmt: skip


def damaged(kind: str) -> str:
    return f"image 0 must be an intact {kind} file, but is damaged or cut off"


PNG_END = png_chunk(b"IEND", b"")
NONE = "image 0 must be PNG, JPEG, WebP or GIF, but its first bytes are of none of them"
OPAQUE = "image 0 must be opaque, but has transparent pixels; lay it on a background first"
REFUSED: dict[str, tuple[bytes, type[ServiceError], str]] = {
    "nothing": (
        b"",
        UnsupportedImageError,
        "image 0 must be PNG, JPEG, WebP or GIF, but is empty",
    ),
    "text": (b"<svg/>", UnsupportedImageError, NONE),
    "bmp": (encoded(COLOURED, "BMP"), UnsupportedImageError, NONE),
    "tiff": (encoded(COLOURED, "TIFF"), UnsupportedImageError, NONE),
    "avi": (b"RIFF\0\0\0\0AVI LIST", UnsupportedImageError, NONE),
    "16-bit grey": (
        encoded(Image.fromarray(SHADES.astype(np.uint16) * 257), "PNG"),
        InvalidImageError,
        "image 0 must have 8 bits a channel, but has 16",
    ),
    "16-bit rgb": (
        png(2, 1, b"\0" + bytes(12), depth=16),
        InvalidImageError,
        "image 0 must have 8 bits a channel, but has 16",
    ),
    "cmyk": (
        encoded(Image.fromarray(COLOURED).convert("CMYK"), "JPEG"),
        InvalidImageError,
        "image 0 must be grey or RGB, 8 bits a channel, but is CMYK",
    ),
    **{
        f"animated {kind}": (
            animation(kind),
            InvalidImageError,
            "image 0 must be one picture, but is an animation of 3",
        )
        for kind in ("PNG", "GIF", "WEBP")
    },
    **{
        f"transparent {mode}": (transparent(mode), InvalidImageError, OPAQUE)
        for mode in ("L", "P", "RGB", "RGBA")
    },
    "transparent webp": (
        encoded(Image.fromarray(noise(8, 12, 4)), "WEBP", lossless=True),
        InvalidImageError,
        OPAQUE,
    ),
    "large": (
        encoded(np.zeros((1000, 1049), np.uint8), "PNG"),
        ImageTooLargeError,
        "image 0 must have at most 1048576 pixels, but has 1049 x 1000; make it smaller",
    ),
    "png bomb": (
        png_header(100_000, 100_000) + png_chunk(b"IDAT", b""),
        ImageTooLargeError,
        "image 0 must have at most 1048576 pixels, but has 100000 x 100000; make it smaller",
    ),
    "gif bomb": (
        huge_gif(65535, 65535),
        ImageTooLargeError,
        "image 0 must have at most 1048576 pixels, but has 65535 x 65535; make it smaller",
    ),
    **{
        f"webp bomb {kind.decode()}": (
            b"RIFF\xff\0\0\0WEBP" + kind + b"\xf0\0\0\0" + start,
            ImageTooLargeError,
            f"image 0 must have at most 1048576 pixels, but has {size} x {size}; make it smaller",
        )
        for kind, start, size in (
            (b"VP8X", b"\0\0\0\0" + 2 * b"\xff\xff\xff", 1 << 24),
            (b"VP8L", b"\x2f\xff\xff\xff\x0f", 1 << 14),
            (b"VP8 ", b"\0\0\0\x9d\x01\x2a" + 2 * b"\xff\x3f", (1 << 14) - 1),
        )
    },
    "gif beyond its screen": (huge_gif(8, 65535), InvalidImageError, damaged("GIF")),
    "jpeg of many scans": (
        jpeg_of_many_scans(),
        InvalidImageError,
        "image 0 must be a JPEG of at most 64 scans, but has 109",
    ),
    "no width": (
        png(0, 1, b"\0"),
        InvalidImageError,
        "image 0 must have pixels, but is 0 x 1",
    ),
    "narrow": (
        png(1, 20_000, bytes(80_000)),
        ImageTooLargeError,
        "image 0 must have at most 1048576 pixels, but has 1 x 20000, and each row counts as 64; "
        "make it smaller",
    ),
    **{
        f"transparent {depth}-bit grey": (
            with_png_chunk(png(2, 1, row, depth, 0), b"tRNS", struct.pack(">H", sample)),
            InvalidImageError,
            OPAQUE,
        )
        for depth, row, sample in (
            (1, b"\0\x40", 1),
            (2, b"\0\x30", 3),
            (4, b"\0\x07", 7),
            (8, b"\0\0\x07", 7),
        )
    },
    **{
        f"png {name}": (file, InvalidImageError, damaged("PNG"))
        for name, file in {
            "of half its rows": png(8, 8, bytes(4 * 25)),
            "of too many rows": png(8, 8, bytes(9 * 25)),
            "without its end": encoded(COLOURED, "PNG")[:-12],
            "with a wrong checksum": encoded(COLOURED, "PNG")[:-13] + b"?" + PNG_END,
        }.items()
    },
    "gif of a part of its screen": (huge_gif(8, 4), InvalidImageError, damaged("GIF")),
    "gif without its end": (encoded(SHADES, "GIF")[:-1], InvalidImageError, damaged("GIF")),
    "no pixels": (
        png_header(2, 2) + png_chunk(b"IEND", b""),
        InvalidImageError,
        damaged("PNG"),
    ),
    "png header alone": (png_header(8, 8), InvalidImageError, damaged("PNG")),
    "jpeg start alone": (b"\xff\xd8\xff\xd9", InvalidImageError, damaged("JPEG")),
    "webp header alone": (b"RIFF\x04\0\0\0WEBP", InvalidImageError, damaged("WebP")),
    "gif header alone": (b"GIF89a\1\0\1\0\0\0\0;", InvalidImageError, damaged("GIF")),
    "text bomb": (
        with_png_chunk(encoded(COLOURED, "PNG"), b"zTXt", b"a\0\0" + zlib.compress(bytes(9**8))),
        InvalidImageError,
        damaged("PNG"),
    ),
}


@pytest.mark.parametrize(("file", "error", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_picture_for_a_model_is_refused(
    file: bytes, error: type[ServiceError], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        read_image(file, RGB, PLENTY)
    assert caught.value.detail == sentence
    assert caught.value.members["frame"] == 0


def test_pixels_count_together_and_the_image_is_named() -> None:
    file = encoded(noise(8, 96), "PNG")
    assert len(read_images([file] * 3, RGB, 3 * 768)) == 3
    with pytest.raises(ImageTooLargeError) as caught:
        read_images([file] * 4, RGB, 3 * 768)
    assert caught.value.detail == (
        "images 0 to 3 must have at most 2304 pixels together, but have 3072; send several requests"
    )
    assert caught.value.members == {"frame": 3, "limit": 2304}
    with pytest.raises(InvalidImageError) as broken:
        read_images([file, file[:-30]], RGB, PLENTY)
    assert broken.value.detail.startswith("image 1 must be an intact PNG file")


FILES = {
    "png": encoded(COLOURED, "PNG"),
    "png palette": encoded(Image.fromarray(COLOURED).quantize(16), "PNG"),
    "jpeg": encoded(smooth(24, 36), "JPEG"),
    "jpeg progressive": encoded(smooth(24, 36), "JPEG", progressive=True),
    "jpeg exif": with_exif(encoded(smooth(24, 36), "JPEG"), exif_orientation(6)),
    "webp": encoded(smooth(24, 36), "WEBP"),
    "webp lossless": encoded(COLOURED, "WEBP", lossless=True, exif=exif_orientation(3)),
    "gif": encoded(SHADES, "GIF"),
    "gif animated": animation("GIF"),
    "png animated": animation("PNG"),
    "webp animated": animation("WEBP"),
}


@pytest.mark.parametrize("name", [name for name in FILES if "animated" not in name])
def test_a_file_that_is_cut_off_is_refused_or_had_all_its_pixels(name: str) -> None:
    file = FILES[name]
    whole = read_image(file, RGB, PLENTY)
    read = 0
    for end in range(0, len(file), max(1, len(file) // 200)):
        try:
            pixels = read_image(file[:end], RGB, PLENTY)
        except (InvalidImageError, UnsupportedImageError):
            continue
        np.testing.assert_array_equal(pixels, whole)
        read += 1
    # A decoder needs neither JPEG's end marker nor the last bits of a WebP.
    assert read <= (0 if name.startswith(("png", "gif")) else 2)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file with bytes changed, cut out, or put in from another."""
    file = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(file) - 1)) if file else 0
        match draw(st.sampled_from(["set", "cut", "insert", "end"])):
            case "set":
                file[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del file[at : at + draw(st.integers(1, 40))]
            case "insert":
                other = FILES[draw(st.sampled_from(sorted(FILES)))]
                start = draw(st.integers(0, len(other) - 1))
                file[at:at] = other[start : start + draw(st.integers(1, 60))]
            case "end":
                del file[at:]
    return bytes(file)


def is_read_or_refused(file: bytes) -> bool:
    try:
        pixels = read_image(file, RGB, 64 * 64)
    except (ImageTooLargeError, InvalidImageError, UnsupportedImageError):
        return False
    assert (pixels.shape, pixels.dtype) == (RGB, np.uint8)
    return True


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(mutated())
def test_a_damaged_file_is_read_or_refused(file: bytes) -> None:
    is_read_or_refused(file)


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a"]),
    st.binary(max_size=400),
)
def test_random_bytes_are_refused(start: bytes, rest: bytes) -> None:
    assert not is_read_or_refused(start + rest)


def test_nothing_is_said_of_odd_files(tmp_path: Path) -> None:
    odd = {
        "exif": with_exif(FILES["jpeg"], b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x02\0\xff\0\0\0"),
        "animation": with_png_chunk(FILES["png"], b"acTL", bytes(8)),
    }
    for name, file in odd.items():
        (tmp_path / name).write_bytes(file)
        assert is_read_or_refused(file)
    code = (
        "import logging, sys; from pathlib import Path\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "from emamba_service.protocols.images import read_images\n"
        "for name in sys.argv[1:]: read_images([Path(name).read_bytes()], (8, 8, 3), 4096)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", code, *(tmp_path / name for name in odd)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == ""


def test_the_kind_is_told_by_the_first_bytes() -> None:
    kinds = {name: media_type_of(file) for name, file in FILES.items()}
    assert kinds == {name: f"image/{name.partition(' ')[0]}" for name in FILES}
