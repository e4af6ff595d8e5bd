"""Bytes as a radar sends them, built from the shipped frames."""

from __future__ import annotations

import struct

import numpy as np

from emamba_client import sample_frames

MAGIC = bytes((2, 1, 4, 3, 6, 5, 8, 7))


def packet(number: int, points: np.ndarray, *, side_info: bool = True, extra: int = 0) -> bytes:
    """One packet of SDK 3: points (n, 5) with whole intensities, `extra` bytes of range profile."""
    points = np.asarray(points, "<f4").reshape(-1, 5)
    tlvs = []
    if len(points):
        tlvs.append((1, points[:, :4].tobytes()))
    if extra:
        tlvs.append((2, bytes(extra)))
    if len(points) and side_info:
        side = np.zeros((len(points), 2), "<i2")
        side[:, 0] = points[:, 4]
        tlvs.append((7, side.tobytes()))
    body = b"".join(struct.pack("<2I", kind, len(value)) + value for kind, value in tlvs)
    size = -(-(40 + len(body)) // 32) * 32
    head = (0x03050004, size, 0xA6843, number, 12345, len(points), len(tlvs), 0)
    return (MAGIC + struct.pack("<8I", *head) + body).ljust(size, b"\x0f")


def sample_packets(count: int) -> list[tuple[np.ndarray, bytes]]:
    """Points and packet of the sample's first frames, numbered from 1."""
    frames = sample_frames()
    points = [frames[index % len(frames)].points for index in range(count)]
    return [(values, packet(number, values)) for number, values in enumerate(points, 1)]
