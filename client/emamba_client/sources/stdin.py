"""Frames on standard input: JSON lines, or a radar's bytes."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, ClassVar

from emamba_client.radar import MAGIC
from emamba_client.sources import SourceFrame
from emamba_client.sources.feed import Lines, RadarBytes

__all__ = ["StdinSource"]

_WAIT_S = 0.1
_PIECE_BYTES = 65536


class StdinSource:
    """Reads a file with a descriptor, such as `sys.stdin.buffer`.

    Which form it has, its first byte says: a radar's begin with its magic word, 02.
    """

    name: ClassVar[str] = "stdin"
    is_live: ClassVar[bool] = True

    def __init__(self, stream: BinaryIO, clock: Callable[[], float] = time.perf_counter) -> None:
        self._descriptor = stream.fileno()
        self._clock = clock
        self._closed = False
        self._form: Lines | RadarBytes = Lines()

    def __iter__(self) -> Iterator[SourceFrame]:
        """Frames as they come, as `Source` says."""
        begun = False
        while data := self._read():
            if not begun:
                begun = True
                self._form = RadarBytes() if data[:1] == MAGIC[:1] else self._form
            yield from self._form.frames(data, self._clock())
        if isinstance(self._form, Lines) and not self._closed:
            yield from self._form.end(self._clock())

    def close(self) -> None:
        """End the reading."""
        self._closed = True

    def counts(self) -> dict[str, int]:
        """What was no frame."""
        return self._form.counts()

    def _read(self) -> bytes:
        """The next piece; nothing at the end or once closed."""
        while not self._closed:
            if select.select([self._descriptor], [], [], _WAIT_S)[0]:
                return os.read(self._descriptor, _PIECE_BYTES)
        return b""
