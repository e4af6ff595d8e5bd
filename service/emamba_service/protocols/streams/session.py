"""One stream's frames and answers, without a socket: who waits, what is kept, what is sent.

Every frame taken is answered exactly once, in order: with joints, with a problem, or as dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from emamba_service.protocols.streams.wire import Frame, StreamError, dropped_message

__all__ = ["Answer", "Session", "WhenFull"]

WhenFull = Literal["block", "drop"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A message on the frames `first` to `last`; more than one only where they were dropped."""

    first: int
    last: int
    message: bytes | str
    is_dropped: bool = False


class Session:
    """`window` bounds the frames that wait, and the answers that are kept.

    Kept are answers until they are sent, or with `keeps`, acknowledged. What is full makes the
    stream wait (`block`), or drops its oldest frames or answers (`drop`).
    """

    def __init__(self, window: int, when_full: WhenFull, keeps: bool) -> None:
        self._window = window
        self._drops = when_full == "drop"
        self._keeps = keeps
        self._waiting: deque[Frame] = deque()
        self._computing = 0
        self._answers: deque[Answer] = deque()
        # Of the kept answers, those that the present connection has sent.
        self._sent = 0
        # Dropped while earlier frames were being computed.
        self._dropping: Answer | None = None
        self.received = 0
        self.acknowledged = 0
        self.dropped = 0
        # The last answer that was sent, but not kept until it was acknowledged.
        self._lost: Answer | None = None

    @property
    def unanswered(self) -> int:
        """Frames that wait or are being computed."""
        return len(self._waiting) + self._computing

    @property
    def has_room(self) -> bool:
        """Whether another frame may come now; always where old ones are dropped."""
        return self._drops or self.unanswered < self._window

    @property
    def is_over(self) -> bool:
        """Whether every frame is answered and every answer sent."""
        return not self.unanswered and self._sent == len(self._answers)

    def take(self, frame: Frame) -> None:
        """A frame has come; raises `StreamError` unless its number is above all before it."""
        if frame.sequence <= self.received:
            raise StreamError(
                f"sequence numbers must rise, but {frame.sequence} follows {self.received}"
            )
        self.received = frame.sequence
        if self._drops and len(self._waiting) >= self._window:
            self._drop(self._waiting.popleft())
        self._waiting.append(frame)

    def next_frames(self, most: int) -> list[Frame]:
        """The frames to compute now, oldest first; none while answers are full and not dropped."""
        room = most if self._drops else min(most, self._window - len(self._answers))
        frames = [self._waiting.popleft() for _ in range(max(0, min(room, len(self._waiting))))]
        self._computing = len(frames)
        return frames

    def answer(self, frames: list[Frame], messages: list[bytes | str]) -> None:
        """The messages that answer `next_frames`."""
        self._computing = 0
        for frame, message in zip(frames, messages, strict=True):
            self._keep(Answer(frame.sequence, frame.sequence, message))
        if self._dropping is not None:
            self._keep(self._dropping)
            self._dropping = None

    def next_answer(self) -> Answer | None:
        """The next answer to send, which then counts as sent."""
        if self._sent == len(self._answers):
            return None
        if not self._keeps:
            return self._answers.popleft()
        self._sent += 1
        return self._answers[self._sent - 1]

    def acknowledge(self, sequence: int) -> None:
        """The client has every answer up to `sequence`; raises `StreamError` if it cannot."""
        if not self._keeps or sequence > self.received or sequence < self.acknowledged:
            raise StreamError(
                f"an acknowledgement must be of a resumable stream and lie within "
                f"{self.acknowledged}..{self.received}, but is {sequence}"
            )
        self.acknowledged = sequence
        while self._answers and self._answers[0].last <= sequence:
            self._answers.popleft()
            self._sent = max(0, self._sent - 1)
        if self._answers and self._answers[0].first <= sequence:
            # Acknowledged in the middle of what was dropped.
            last, is_text = self._answers[0].last, isinstance(self._answers[0].message, str)
            self._answers[0] = _mark(sequence + 1, last, is_text)

    def reconnect(self, acknowledged: int) -> None:
        """A new connection, whose client has every answer up to `acknowledged`; the rest is sent
        again. Raises `StreamError` as `acknowledge` does."""
        self.acknowledge(acknowledged)
        self._sent = 0
        lost, self._lost = self._lost, None
        if lost is not None and lost.last > acknowledged:
            is_text = isinstance(lost.message, str)
            self._answers.appendleft(_mark(acknowledged + 1, lost.last, is_text))

    def _drop(self, frame: Frame) -> None:
        """Answer the oldest waiting frame as dropped, after those that are being computed."""
        self.dropped += 1
        first = frame.sequence if self._dropping is None else self._dropping.first
        mark = _mark(first, frame.sequence, frame.is_text)
        if self._computing:
            self._dropping = mark
        else:
            self._keep(mark)

    def _keep(self, answer: Answer) -> None:
        self._answers.append(answer)
        while self._drops and len(self._answers) > self._window + 1:
            self._shorten()

    def _shorten(self) -> None:
        """Join the two oldest answers that have not been sent, as dropped; or forget a sent one."""
        if self._sent:
            # The client has it, unless its connection is lost on the way; then it is told.
            self._lost = self._answers.popleft()
            self._sent -= 1
            return
        one, other = self._answers.popleft(), self._answers.popleft()
        self.dropped += sum(not answer.is_dropped for answer in (one, other))
        is_text = isinstance(other.message, str)
        self._answers.appendleft(_mark(one.first, other.last, is_text))


def _mark(first: int, last: int, is_text: bool) -> Answer:
    return Answer(first, last, dropped_message(first, last, is_text), is_dropped=True)
