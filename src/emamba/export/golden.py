"""Golden vectors: inputs of a model and what every stage of the mirror makes of them, in one file.

`hls/test/testbench.cpp` reads it. Layout, little-endian: magic `EMAMBAGV`, u32 version, u32 frames,
32 bytes config hash, u32 CRC-32 of the weights image, u32 mask of saturated formats, u32 sections;
each section u32 length and bytes of its name, u32 element width, u32 count, int32 elements.
Section `in` holds the frames, the others are named after the top's streams.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.export.header import FORMAT_BITS
from emamba.export.image import image_crc, weights_image
from emamba.export.pipeline import Stream, streams
from emamba.fixed import IntegerModel, Mirror
from emamba.fixed.mirror import Trace

__all__ = [
    "GOLDEN_VERSION",
    "extreme_frames",
    "golden_frames",
    "golden_vectors",
    "saturation_mask",
    "stage_of_stream",
]

GOLDEN_VERSION = 1
_RANDOM_FRAMES = 11


def extreme_frames(config: ModelConfig) -> npt.NDArray[np.int8]:
    """All least, all most, zeros, alternating, a single one: int8 (5, height, width, channels)."""
    frames = np.zeros((5, *config.input_shape), np.int8)
    frames[0], frames[1] = -127, 127
    frames[3].flat[::2], frames[3].flat[1::2] = 127, -127
    frames[4].flat[0] = 127
    return frames


def golden_frames(config: ModelConfig) -> npt.NDArray[np.int8]:
    """The extreme frames, then seeded random ones: int8 (n, height, width, channels)."""
    rng = np.random.default_rng(2026)
    frames = rng.integers(-127, 128, (_RANDOM_FRAMES, *config.input_shape)).astype(np.int8)
    return np.concatenate([extreme_frames(config), frames])


def stage_of_stream(config: ModelConfig) -> dict[Stream, str]:
    """The name in `Mirror.trace` of what each stream carries; the raw frames carry no stage."""
    return {s: _stage(s.name) for s in streams(config) if s.name not in ("frames", "tokens")}


def _stage(stream: str) -> str:
    name, _, block = stream.rpartition("_")
    if stream in ("hidden", "output"):
        return {"hidden": "head.hidden"}.get(stream, stream)
    if name in ("residual", "skip"):
        return "patch_embed" if block == "0" else f"blocks.{int(block) - 1}.out_proj"
    return f"blocks.{block}.{name.removesuffix('_scan')}"


def golden_vectors(model: IntegerModel) -> bytes:
    """The file's bytes for one model."""
    frames = golden_frames(model.config)
    trace = Mirror(model).trace(frames)
    sections = [_section("in", 8, frames)]
    sections += [
        _section(stream.name, stream.width, trace.stages[stage])
        for stream, stage in stage_of_stream(model.config).items()
    ]
    raw = b"EMAMBAGV" + struct.pack("<II", GOLDEN_VERSION, len(frames))
    raw += bytes.fromhex(model.config_hash)
    raw += struct.pack("<II", image_crc(weights_image(model)), saturation_mask(trace))
    return raw + struct.pack("<I", len(sections)) + b"".join(sections)


def saturation_mask(trace: Trace) -> int:
    """The mask that a kernel should report for what the mirror counted."""
    mask = 0
    for name, count in trace.saturated.items():
        kind = name.split(".", 2)[2] if name.startswith("blocks.") else name
        bit = FORMAT_BITS.get(kind.replace(".", "_"))
        if count and bit is not None:
            mask |= 1 << bit
    return mask


def _section(name: str, width: int, values: npt.NDArray[np.integer]) -> bytes:
    head = struct.pack("<I", len(name)) + name.encode() + struct.pack("<II", width, values.size)
    return head + np.ascontiguousarray(values, "<i4").tobytes()
