"""A stream's frames and answers without a socket, whatever order things happen in."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from emamba_service.protocols.streams.session import Answer, Session
from emamba_service.protocols.streams.wire import (
    Ack,
    Frame,
    StreamError,
    answer_message,
    dropped_message,
    problem_message,
    read_message,
)
from verify_depth import examples

WINDOW = 4
MAP = np.zeros((8, 8, 5), "<f4")
HEAD = struct.Struct("<B7xQ")


def frame(sequence: int) -> Frame:
    return Frame(sequence, True, MAP)


class StreamMachine(RuleBasedStateMachine):
    """A client, a session and a connection between them that is lost at any time.

    `told` is what the client has been told of each frame; a resumable stream tells a frame again
    after a lost connection only if the client has not acknowledged it.
    """

    drops = False
    keeps = True

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(WINDOW, "drop" if self.drops else "block", self.keeps)
        self.sent = 0
        self.computing: list[Frame] = []
        self.told: dict[int, str] = {}
        self.last_told = 0
        self.acknowledged = 0

    @precondition(lambda self: self.session.has_room)
    @rule(gap=st.integers(1, 3))
    def client_sends(self, gap: int) -> None:
        self.sent += gap
        self.session.take(frame(self.sent))

    @precondition(lambda self: not self.computing)
    @rule(most=st.integers(1, 6))
    def engine_starts(self, most: int) -> None:
        self.computing = self.session.next_frames(most)

    @precondition(lambda self: self.computing)
    @rule()
    def engine_ends(self) -> None:
        self.session.answer(self.computing, [f"joints {f.sequence}" for f in self.computing])
        self.computing = []

    @rule(most=st.integers(1, 5))
    def server_sends(self, most: int) -> None:
        for _ in range(most):
            answer = self.session.next_answer()
            if answer is None:
                return
            self.receive(answer)

    def receive(self, answer: Answer) -> None:
        assert answer.first > self.last_told, "answers come in order, and once a connection"
        self.last_told = answer.last
        if answer.is_dropped:
            assert self.drops
            return
        assert answer.first == answer.last > self.acknowledged
        assert answer.message == f"joints {answer.first}"
        assert self.told.setdefault(answer.first, str(answer.message)) == answer.message

    @precondition(lambda self: self.keeps and self.last_told > self.acknowledged)
    @rule(share=st.floats(0, 1))
    def client_acknowledges(self, share: float) -> None:
        self.acknowledged += round(share * (self.last_told - self.acknowledged))
        self.session.acknowledge(self.acknowledged)

    @precondition(lambda self: self.keeps)
    @rule()
    def connection_is_lost_and_made_again(self) -> None:
        self.session.reconnect(self.acknowledged)
        self.last_told = self.acknowledged

    @invariant()
    def nothing_grows_without_bound(self) -> None:
        assert self.session.unanswered <= 2 * WINDOW + 6
        assert len(self.session._answers) <= WINDOW + 2

    def teardown(self) -> None:
        """Whatever happened, every frame is answered in the end."""
        while not self.session.is_over or self.computing:
            if self.computing:
                self.engine_ends()
            self.server_sends(100)
            if self.keeps and self.last_told > self.acknowledged:
                self.client_acknowledges(1.0)
            if not self.computing:
                self.computing = self.session.next_frames(6)
        assert self.last_told == self.session.received
        if not self.drops:
            assert len(self.told) == len(set(self.told))
            assert max(self.told, default=0) == self.sent


class BlockingWithoutMemory(StreamMachine):
    keeps = False


class DroppingWithoutMemory(StreamMachine):
    drops, keeps = True, False


class Dropping(StreamMachine):
    drops = True


DEPTH = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
TestResumable = StreamMachine.TestCase
TestResumable.settings = DEPTH
TestBlocking = BlockingWithoutMemory.TestCase
TestBlocking.settings = DEPTH
TestDropping = DroppingWithoutMemory.TestCase
TestDropping.settings = DEPTH
TestDroppingResumable = Dropping.TestCase
TestDroppingResumable.settings = DEPTH


def test_every_frame_of_a_blocking_stream_gets_its_joints():
    session = Session(WINDOW, "block", keeps=False)
    told = []
    for sequence in range(1, 50):
        assert session.has_room
        session.take(frame(sequence))
        frames = session.next_frames(8)
        session.answer(frames, [f"{f.sequence}" for f in frames])
        while (answer := session.next_answer()) is not None:
            told.append(int(answer.message))
    assert told == list(range(1, 50))


def test_full_stream_drops_its_oldest_frames_and_says_which():
    session = Session(WINDOW, "drop", keeps=False)
    session.take(frame(1))
    computing = session.next_frames(1)
    for sequence in range(2, 12):
        session.take(frame(sequence))
    session.answer(computing, ["joints 1"])
    answers = [session.next_answer(), session.next_answer()]
    frames = session.next_frames(8)
    assert [f.sequence for f in frames] == [8, 9, 10, 11]
    session.answer(frames, [f"joints {f.sequence}" for f in frames])
    answers += [session.next_answer() for _ in frames]
    assert [(a.first, a.last, a.is_dropped) for a in answers if a] == [
        (1, 1, False),
        (2, 7, True),
        *((sequence, sequence, False) for sequence in range(8, 12)),
    ]
    assert session.dropped == 6


def test_blocking_stream_whose_answers_are_not_acknowledged_computes_no_more():
    session = Session(WINDOW, "block", keeps=True)
    for sequence in range(1, 9):
        if session.has_room:
            session.take(frame(sequence))
        frames = session.next_frames(8)
        session.answer(frames, [""] * len(frames))
    assert not session.has_room
    assert session.next_frames(8) == []
    session.acknowledge(2)
    assert [f.sequence for f in session.next_frames(8)] == [5, 6]


def test_answers_that_full_streams_forgot_are_told_as_dropped_after_a_lost_connection():
    session = Session(WINDOW, "drop", keeps=True)
    for sequence in range(1, 11):
        session.take(frame(sequence))
        frames = session.next_frames(1)
        session.answer(frames, [f"joints {sequence}"])
        session.next_answer()
    session.reconnect(2)
    answers = [session.next_answer() for _ in range(6)]
    assert [(a.first, a.last, a.is_dropped) for a in answers if a] == [
        (3, 5, True),
        *((sequence, sequence, False) for sequence in range(6, 11)),
    ]


@pytest.mark.parametrize("sequence", [0, 3])
def test_numbers_must_rise(sequence):
    session = Session(WINDOW, "block", keeps=False)
    session.take(frame(3))
    with pytest.raises(StreamError, match=f"must rise, but {sequence} follows 3"):
        session.take(frame(sequence))


@pytest.mark.parametrize("sequence", [0, 4])
def test_only_what_was_received_is_acknowledged(sequence):
    session = Session(WINDOW, "block", keeps=True)
    session.take(frame(3))
    session.acknowledge(1)
    with pytest.raises(StreamError, match=r"lie within 1\.\.3, but is"):
        session.acknowledge(sequence)


def test_bytes_go_there_and_back():
    sent = np.arange(320, dtype="<f4").reshape(8, 8, 5) / 100
    came = read_message(HEAD.pack(1, 7) + sent.tobytes(), 64)
    assert isinstance(came, Frame)
    assert (came.sequence, came.is_text, came.error) == (7, False, None)
    np.testing.assert_array_equal(came.map, sent)
    assert read_message(HEAD.pack(2, 9), 64) == Ack(9)
    joints = np.arange(57.0).reshape(19, 3)
    answer = answer_message(came, joints, {})
    assert isinstance(answer, bytes)
    assert HEAD.unpack_from(answer) == (3, 7)
    np.testing.assert_array_equal(np.frombuffer(answer, "<f4", offset=16).reshape(19, 3), joints)
    assert dropped_message(2, 5, False) == HEAD.pack(4, 5) + (2).to_bytes(8, "little")


def test_text_goes_there_and_back(points):
    came = read_message(f'{{"sequence": 3, "points": {points}}}', 64)
    assert isinstance(came, Frame)
    assert (came.sequence, came.is_text, came.points) == (3, True, points)
    answer = answer_message(came, np.zeros((19, 3)), {"engine": "native"})
    assert answer.startswith('{"sequence":3,"joints":[[0.0')
    assert answer.endswith('],"engine":"native"}')
    assert dropped_message(2, 5, True) == '{"sequence":5,"dropped_from":2}'
    assert read_message('{"acknowledged": 4}', 64) == Ack(4)


def test_labels_come_with_a_frame_as_they_are(points):
    labels = [[0.5, 2, -1]] * 19
    came = read_message(json.dumps({"sequence": 3, "points": points, "labels": labels}), 64)
    assert isinstance(came, Frame)
    assert (came.points, came.labels) == (points, labels)


@pytest.mark.parametrize(
    "labels", [None, "x", [], [[0, 0, 0]] * 18, [[0, 0]] * 19, [["0"] * 3] * 19]
)
def test_other_labels_end_a_stream(points, labels):
    with pytest.raises(StreamError, match="labels must be 19 arrays of 3 numbers, metres"):
        read_message(json.dumps({"sequence": 3, "points": points, "labels": labels}), 64)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"sequence": 3, "points": []}', "frame 3: points must hold at least 1 point"),
        ('{"sequence": 3, "points": [[1]]}', "frame 3: points[0] must be 5 numbers"),
        ('{"sequence": 3, "points": [[1, 2, 3, 4, -5]]}', "frame 3: points must have intensity"),
        ('{"sequence": 3, "features": 1}', "frame 3: features must be an array"),
    ],
)
def test_frame_that_cannot_be_read_keeps_its_place(text, sentence):
    came = read_message(text, 64)
    assert isinstance(came, Frame)
    assert came.map is None
    assert came.error is not None
    assert came.error.detail.startswith(sentence)
    assert '"type":"/problems/invalid-input"' in problem_message(came, came.error)


@pytest.mark.parametrize(
    "message",
    [
        *(b"", b"\x01", HEAD.pack(1, 1), HEAD.pack(2, 1) + b"x", HEAD.pack(9, 1)),
        b"\x01\x01" + bytes(1294),
        HEAD.pack(2, 2**53),
        *("", "[]", "{}", '{"sequence": 1}', '{"sequence": -1, "points": []}', '{"sequence": "1"}'),
        '{"sequence": 1, "points": [], "features": []}',
        '{"sequence": 1, "points": [], "colour": 1}',
        '{"acknowledged": 1.5}',
    ],
)
def test_what_is_no_message_ends_the_stream(message):
    with pytest.raises(StreamError):
        read_message(message, 64)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.binary(max_size=64)
    | st.binary(min_size=1280, max_size=1280).map(lambda body: HEAD.pack(1, 5) + body)
    | st.text(max_size=80)
    | st.sampled_from(['{"sequence":1,"points":%s}', '{"sequence":1,"features":%s}']).flatmap(
        lambda form: st.text('[]{}0123456789.,-eE"', max_size=60).map(lambda text: form % text)
    )
)
def test_any_message_is_read_or_refused(message):
    try:
        came = read_message(message, 64)
    except StreamError:
        return
    assert isinstance(came, Ack) or (came.map is None) == (came.error is not None)
    if isinstance(came, Frame) and came.map is not None:
        assert np.isfinite(came.map).all()
