"""The radar's bytes: what is a frame, what is not, and what is counted."""

from __future__ import annotations

import random
import struct
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emamba_client.radar import Parser, RadarFrame
from emamba_client.radar.tlv import MAX_PACKET_BYTES
from radar_streams import MAGIC, packet, sample_packets

POINTS = np.array([[0.5, 2, -0.25, 0.125, 200], [-1, 1.5, 0.75, -0.5, 17]], np.float32)


def feed(*pieces: bytes) -> tuple[list[RadarFrame], Parser]:
    parser = Parser()
    return [frame for piece in pieces for frame in parser.feed(piece)], parser


def test_sample_comes_through_exactly():
    packets = sample_packets(240)
    frames, parser = feed(b"".join(data for _, data in packets))
    assert [frame.number for frame in frames] == list(range(1, 241))
    for frame, (points, _) in zip(frames, packets, strict=True):
        assert frame.points.dtype == np.float32
        np.testing.assert_array_equal(frame.points, points)
    assert {key: n for key, n in parser.counts.items() if n} == {"frames": 240}


@given(st.lists(st.integers(1, 700), min_size=1, max_size=30))
def test_size_of_pieces_does_not_matter(sizes):
    packets = sample_packets(6)
    stream = b"rubbish" + b"".join(data for _, data in packets[:3]) + MAGIC + packets[3][1]
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    frames, parser = feed(*pieces, stream[at:])
    assert [frame.number for frame in frames] == [1, 2, 3, 4]
    assert parser.counts["skipped_bytes"] == 15
    assert parser.counts["damaged"] == 1


@given(
    st.lists(
        st.tuples(*(st.floats(-90, 90, width=32) for _ in range(4)), st.integers(0, 32767)),
        min_size=1,
        max_size=70,
    ),
    st.integers(0, 2000),
    st.integers(0, 2**32 - 1),
)
def test_any_points_come_through(rows, extra, number):
    points = np.array(rows, np.float32)
    data = packet(number, points, extra=extra)
    frames, _ = feed(data)
    if data.count(MAGIC) == 1:
        assert frames[0].number == number
        np.testing.assert_array_equal(frames[0].points, points)


def test_lost_frames_are_counted_and_a_new_start_is_none():
    frames, parser = feed(*(packet(number, POINTS) for number in (7, 8, 11, 1, 2)))
    assert [frame.number for frame in frames] == [7, 8, 11, 1, 2]
    assert parser.counts["lost"] == 2


def test_frames_without_points_or_intensity_are_counted():
    frames, parser = feed(packet(1, np.zeros((0, 5))), packet(2, POINTS, side_info=False))
    assert frames == []
    assert (parser.counts["empty"], parser.counts["without_side_info"]) == (1, 1)
    assert parser.counts["damaged"] == 0


def changed(offset: int, form: str, value: float) -> bytes:
    data = bytearray(packet(1, POINTS))
    struct.pack_into(form, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    "damaged",
    [
        changed(12, "<I", 33),  # not in whole segments
        changed(12, "<I", 0),
        changed(12, "<I", 32),
        changed(12, "<I", 2**31),
        changed(12, "<I", 160),  # longer than its TLVs
        changed(28, "<I", 3),  # points
        changed(28, "<I", 2**32 - 1),
        changed(32, "<I", 3),  # TLVs
        changed(32, "<I", 17),
        changed(44, "<I", 33),  # of points
        changed(44, "<I", 2**32 - 1),
        changed(80, "<I", 1),  # a second TLV of points
        changed(84, "<I", 6),  # of side info
        changed(48, "<f", float("nan")),
        changed(52, "<f", float("inf")),
        changed(88, "<h", -1),  # a negative ratio
        packet(1, POINTS)[:50],
        MAGIC + MAGIC[:4],
        # The header of the people-counting demos: the platform is where the length should be.
        MAGIC + struct.pack("<10I2H", 0x03050004, 0xA6843, 9, 52, 1, 0, 0, 0, 0, 0, 0, 0xABCD),
    ],
)
def test_damaged_packet_is_left_out_and_the_next_one_found(damaged):
    frames, parser = feed(damaged + packet(2, POINTS))
    assert [frame.number for frame in frames] == [2]
    assert parser.counts["damaged"] == 1


@pytest.mark.parametrize("lost", range(1, 8))
def test_packet_without_the_end_of_its_padding_does_not_hide_the_next_one(lost):
    whole = packet(1, POINTS)
    stream = whole[:-lost] + packet(2, POINTS)
    for pieces in ([stream], [stream[: len(whole)], stream[len(whole) :]]):
        frames, parser = feed(*pieces)
        assert [frame.number for frame in frames] == [1, 2]
        assert (parser.counts["damaged"], parser.counts["skipped_bytes"]) == (0, 0)


def test_end_that_looks_like_a_beginning_is_not_counted_as_skipped():
    like = packet(1, POINTS)[:-2] + MAGIC[:2]
    frames, parser = feed(like, b"rubbish", like, packet(2, POINTS))
    assert [frame.number for frame in frames] == [1, 1, 2]
    assert parser.counts["skipped_bytes"] == 7


def test_false_length_does_not_hold_up_what_follows():
    parser = Parser()
    parser.feed(changed(12, "<I", MAX_PACKET_BYTES))
    assert [frame.number for frame in parser.feed(packet(2, POINTS))] == [2]


def test_endless_rubbish_is_not_kept():
    parser = Parser()
    for _ in range(100):
        parser.feed(bytes(10_000))
        assert len(parser._buffer) < 8
    huge = MAGIC + struct.pack("<8I", 1, MAX_PACKET_BYTES, 0, 1, 0, 0, 1, 0)
    parser.feed(huge + struct.pack("<2I", 2, MAX_PACKET_BYTES - 48))
    for _ in range(100):
        parser.feed(bytes(10_000))
        assert len(parser._buffer) < MAX_PACKET_BYTES + 10_000


def seconds_in_single_bytes(data: bytes) -> float:
    """Of three times the shortest."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        _, parser = feed(*(data[at : at + 1] for at in range(len(data))))
        times.append(time.perf_counter() - begun)
        assert parser.counts["skipped_bytes"] == parser.counts["damaged"] == 0
    return min(times)


def test_large_packet_is_not_searched_anew_for_each_byte():
    large, small = packet(1, POINTS, extra=60_000), packet(1, POINTS)
    small *= len(large) // len(small)
    # 25 times as long where it is searched anew.
    assert seconds_in_single_bytes(large) < 5 * seconds_in_single_bytes(small)


def garbage(source: random.Random, data: bytes) -> bytes:
    """Bytes between packets, or within one: noise, false magic words and headers cut off."""
    return source.choice(
        (
            source.randbytes(source.randrange(200)),
            MAGIC[: source.randrange(9)],
            MAGIC * source.randrange(1, 4),
            MAGIC + source.randbytes(source.randrange(60)),
            data[: source.randrange(len(data))],
        )
    )


def hurt(source: random.Random, data: bytes) -> bytes:
    """A packet that something is wrong with: bits, a run too few or too many, or its end."""
    at = source.randrange(len(data))
    run = source.randrange(1, source.choice((9, 200)))
    return source.choice(
        (
            data[:at] + bytes([data[at] ^ 1 << source.randrange(8)]) + data[at + 1 :],
            data[:at] + data[at + run :],
            data[:at] + data[max(1, at - run) :],
            data[:at] + garbage(source, data) + data[at:],
            data[:at],
            data[: -min(run, len(data) - 1)],
        )
    )


def damaged(source: random.Random, data: bytes) -> tuple[bytes, int]:
    """A packet with damage of some kind, and how often it is whole in that."""
    kind = source.randrange(6)
    if kind < 2:
        return data * (kind + 1), kind + 1
    if kind == 2:
        return garbage(source, data) + data, 1
    for _ in range(source.randrange(1, 4)):
        data = hurt(source, data) or b"\0"
    return data, 0


def corrupted(source: random.Random) -> tuple[list[bytes], list[tuple[int, np.ndarray]]]:
    """A stream with damage of every kind, in pieces, and the packets in it that are whole."""
    came, whole, ends = b"", [], [0]
    for number, (points, data) in enumerate(source.sample(PACKETS, 8), 1):
        numbered = data[:20] + struct.pack("<I", number) + data[24:]
        piece, times = damaged(source, numbered)
        came += piece
        # A radar pauses after a packet, so that pieces often end where one should have.
        ends.append(ends[-1] + len(numbered) if source.randrange(2) else len(came))
        whole += [(number, points)] * times
    if source.randrange(2):
        ends += [source.randrange(len(came)) for _ in range(20)]
    cuts = sorted({0, len(came), *(end for end in ends if end < len(came))})
    return [came[a:b] for a, b in pairwise(cuts)], whole


PACKETS = sample_packets(240)
LAST = packet(9, POINTS)  # flushes a packet that still waits for its end


def test_every_whole_packet_of_a_damaged_stream_is_recovered():
    for seed in range(10_000):
        pieces, whole = corrupted(random.Random(seed))
        frames, parser = feed(*pieces, LAST)
        assert frames[-1].number == 9, seed
        came = iter(frames)
        for number, points in whole:
            same = (f for f in came if f.number == number and np.array_equal(f.points, points))
            assert next(same, None) is not None, (seed, number)
        at_once, other = feed(b"".join(pieces) + LAST)
        assert [frame.number for frame in at_once] == [frame.number for frame in frames], seed
        assert all(map(np.array_equal, points_of(at_once), points_of(frames))), seed
        assert other.counts == parser.counts, seed
        assert len(parser._buffer) < len(MAGIC)


def points_of(frames: list[RadarFrame]) -> list[np.ndarray]:
    return [frame.points for frame in frames]
