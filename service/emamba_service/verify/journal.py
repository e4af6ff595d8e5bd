"""What a verification has done, on disk, so that no completed chunk is lost.

`journal.jsonl`: a first line that says which run this is, then a line for each chunk, in order, and
a last one once the report is written. `outputs.bin`: for each chunk the engine's outputs, then the
mirror's, as little-endian int16, hashed in the chunk's line. Both are flushed to the disk before
the next chunk begins.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["Chunk", "Journal", "JournalError"]

JOURNAL_VERSION = 1
_LINES = "journal.jsonl"
_OUTPUTS = "outputs.bin"


class JournalError(Exception):
    """A folder that cannot hold this run; the message says what to do."""


@dataclass(frozen=True)
class Chunk:
    """Frames `start` and on, answered in one call.

    `got` and `expected` are int16 (n, elements). `problem` says why the frames count as missing,
    and `got` is then all zeros; it is empty for an answer that can be compared.
    """

    start: int
    got: npt.NDArray[np.int16]
    expected: npt.NDArray[np.int16]
    attempts: int = 1
    problem: str = ""

    def __len__(self) -> int:
        return len(self.expected)

    @property
    def stop(self) -> int:
        """The frame after the last."""
        return self.start + len(self)


class Journal:
    """One run's folder, locked while open; `chunks` are those of earlier starts.

    A line or an output that is torn or damaged is dropped with all that follow, to be run again.
    A folder whose run has finished begins anew.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], elements: int, started: str
    ) -> None:
        """Open or make `folder` for `elements` integers a frame.

        Raises `JournalError` if it holds another run or is in use."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _LINES
        self._lines = self._path.open("a+b")
        self._outputs = (folder / _OUTPUTS).open("a+b")
        try:
            self._lock()
            self._elements = elements
            self.chunks: list[Chunk] = []
            self.started = started
            if not self._resume(dict(fingerprint)):
                self._begin(dict(fingerprint))
        except BaseException:
            self.close()
            raise

    def append(self, chunk: Chunk) -> None:
        """Keep one chunk; on return it is on the disk."""
        blob = chunk.got.astype("<i2").tobytes() + chunk.expected.astype("<i2").tobytes()
        _write(self._outputs, blob)
        self._write_line(
            {
                "start": chunk.start,
                "frames": len(chunk),
                "attempts": chunk.attempts,
                "problem": chunk.problem,
                "sha256": hashlib.sha256(blob).hexdigest(),
            }
        )

    def finish(self) -> None:
        """Say that the report is written: the next run in this folder begins anew."""
        self._write_line({"finished": True})

    def close(self) -> None:
        """Give the folder back."""
        self._lines.close()
        self._outputs.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise JournalError(
                f"{self._path} must belong to one run, but another is writing it; wait for its "
                "end or choose another folder with --out"
            ) from error

    def _resume(self, fingerprint: dict[str, Any]) -> bool:
        """Read an unfinished run; False where there is none."""
        self._lines.seek(0)
        first, *lines = self._lines.read().splitlines(keepends=True) or [b""]
        if not first.endswith(b"\n"):
            return False
        header = _parse(first)
        if header.get("journal_version") != JOURNAL_VERSION:
            raise JournalError(
                f"{self._path} must begin as a verification's journal of version "
                f"{JOURNAL_VERSION}, but does not; choose another folder with --out"
            )
        self._check_same(header["fingerprint"], fingerprint)
        if lines and _parse(lines[-1]).get("finished"):
            return False
        self.started = header["started"]
        self._read_chunks(lines, len(first))
        return True

    def _check_same(self, was: dict[str, Any], now: dict[str, Any]) -> None:
        differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        if differing:
            raise JournalError(
                f"{self._path} must be of the same run to go on with, but differs in "
                f"{', '.join(differing)}; choose another folder with --out or remove this one"
            )

    def _read_chunks(self, lines: list[bytes], length: int) -> None:
        """Take over each whole chunk, then cut off what follows the last one."""
        outputs_length = 0
        self._outputs.seek(0)
        for line in lines:
            chunk = self._read_chunk(_parse(line))
            if chunk is None:
                break
            self.chunks.append(chunk)
            length += len(line)
            outputs_length = self._outputs.tell()
        self._lines.truncate(length)
        self._outputs.truncate(outputs_length)

    def _read_chunk(self, record: dict[str, Any]) -> Chunk | None:
        start = self.chunks[-1].stop if self.chunks else 0
        if record.get("start") != start:
            return None
        frames = int(record["frames"])
        blob = self._outputs.read(2 * 2 * frames * self._elements)
        if hashlib.sha256(blob).hexdigest() != record["sha256"]:
            return None
        values = np.frombuffer(blob, "<i2").astype(np.int16).reshape(2, frames, self._elements)
        return Chunk(start, values[0], values[1], record["attempts"], record["problem"])

    def _begin(self, fingerprint: dict[str, Any]) -> None:
        self._lines.truncate(0)
        self._outputs.truncate(0)
        self._write_line(
            {
                "journal_version": JOURNAL_VERSION,
                "started": self.started,
                "fingerprint": fingerprint,
            }
        )

    def _write_line(self, record: dict[str, Any]) -> None:
        _write(self._lines, json.dumps(record, allow_nan=False).encode() + b"\n")


def _write(file: BinaryIO, blob: bytes) -> None:
    file.write(blob)
    file.flush()
    os.fsync(file.fileno())


def _parse(line: bytes) -> dict[str, Any]:
    """One line's record; empty if it is torn or damaged."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
