"""What live sources share: pieces of bytes to frames, be they a radar's or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from emamba_client.errors import InvalidInput, RadarError
from emamba_client.radar import Parser, RadarFrame
from emamba_client.sources import SourceFrame
from emamba_client.sources.entries import read_entry

__all__ = ["Lines", "RadarBytes"]

# Frames without intensity after which it is the configuration's fault.
_WITHOUT_SIDE_INFO = 10
_MAX_LINE_BYTES = 1024 * 1024
# Stands for the beginning of a line that is too long; with it, no end of one is a frame.
_TOO_LONG = b"\0"


class RadarBytes:
    """A radar's bytes; raises `RadarError` where it sends no intensities."""

    def __init__(self) -> None:
        self._parser = Parser()

    def frames(self, data: bytes, received_s: float) -> Iterator[SourceFrame]:
        """The frames that `data` completes."""
        for frame in self._parser.feed(data):
            yield _source_frame(frame, received_s)
        counts = self._parser.counts
        if counts["without_side_info"] >= _WITHOUT_SIDE_INFO and not counts["frames"]:
            raise RadarError(
                "the radar must send side info (TLV 7) with its points, but does not; set the "
                "first value of guiMonitor to 1 in its configuration"
            )

    def counts(self) -> dict[str, int]:
        """The parser's counts, frames apart."""
        return {name: n for name, n in self._parser.counts.items() if name != "frames"}


class Lines:
    """JSON, a frame a line; what is none is counted as damaged, and frames without points as
    empty."""

    def __init__(self) -> None:
        self._rest = b""
        self._next = 0
        self._counts: Counter[str] = Counter({"damaged": 0, "empty": 0})

    def frames(self, data: bytes, received_s: float) -> Iterator[SourceFrame]:
        """The frames that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            self._rest = _TOO_LONG
        for line in lines:
            yield from self.frame(line, received_s)

    def end(self, received_s: float) -> Iterator[SourceFrame]:
        """The frame of a last line without an end."""
        rest, self._rest = self._rest, b""
        return self.frame(rest, received_s)

    def frame(self, line: bytes, received_s: float) -> Iterator[SourceFrame]:
        """The frame of one line, if it is one."""
        if not line.strip():
            return
        try:
            entry = read_entry(line)
        except InvalidInput:
            self._counts["damaged"] += 1
            return
        if not len(entry.values):
            self._counts["empty"] += 1
            return
        number = self._next if entry.number is None else entry.number
        self._next = number + 1
        yield SourceFrame(entry.kind, entry.values, number, received_s, entry.labels)

    def counts(self) -> dict[str, int]:
        """Damaged lines, and frames without points."""
        return dict(self._counts)


def _source_frame(frame: RadarFrame, received_s: float) -> SourceFrame:
    return SourceFrame("points", frame.points, frame.number, received_s)
