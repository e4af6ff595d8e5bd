"""Streams frames through an engine and the mirror, chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emamba.engines import (
    EngineError,
    EngineInfo,
    EngineStatus,
    EngineUnavailableError,
    Recorded,
)
from emamba_service.verify.journal import Chunk

__all__ = [
    "RETRY_PAUSES_S",
    "EngineStoppedError",
    "Progress",
    "Reference",
    "Subject",
    "UnderTest",
    "stream",
]

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""

Reference = Callable[[npt.NDArray[np.int8]], npt.NDArray[np.int16]]
"""What must come for frames: int16 (n, elements)."""

# A board that is configured anew is back within seconds.
RETRY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


class UnderTest(Protocol):
    """What is verified: an engine, or a board whose kernel answers with a stage."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def status(self) -> EngineStatus: ...

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded: ...

    def close(self) -> None: ...


class EngineStoppedError(Exception):
    """An engine that does not answer any more; the message says after what."""


@dataclass
class Subject:
    """The engine under test: asks it, patiently where it says that it cannot answer now."""

    engine: UnderTest
    sleep: Callable[[float], None]
    retries: int = field(default=0, init=False)

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.engine.info.name

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded:
        """Its answer; raises `EngineStoppedError` if there is none."""
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                return self.engine.record(batch)
            except EngineUnavailableError as error:
                if pause_s is None:
                    tries = 1 + len(RETRY_PAUSES_S)
                    raise EngineStoppedError(f"no answer in {tries} tries: {error}") from error
                _log.warning("engine %s cannot answer, trying again: %s", self.name, error)
            except EngineError as error:
                raise EngineStoppedError(str(error)) from error
            except Exception as error:
                _log.exception("engine %s failed", self.name)
                raise EngineStoppedError(f"{type(error).__name__}: {error}") from error
            self.retries += 1
            self.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def stream(
    frames: npt.NDArray[np.int8],
    batch: int,
    begin: int,
    subject: Subject,
    reference: Reference,
    keep: Callable[[Chunk], None],
    progress: Progress,
) -> None:
    """Run frames `begin` and on in calls of `batch`, handing each chunk to `keep`.

    Raises `EngineStoppedError`; the chunks before it have been kept.
    """
    for start in range(begin, len(frames), batch):
        progress("comparing", start, len(frames))
        given = frames[start : start + batch]
        before = subject.retries
        answer = subject.record(given)
        attempts = 1 + subject.retries - before
        keep(_chunk(start, answer, reference(given), subject.name, attempts))
    progress("comparing", len(frames), len(frames))


def _chunk(
    start: int, answer: Recorded, expected: npt.NDArray[np.int16], name: str, attempts: int
) -> Chunk:
    problem = _problem(answer.outputs, expected)
    if not problem and answer.engine != name:
        problem = f"answered by engine {answer.engine} in place of {name}"
    got = np.zeros_like(expected) if problem else answer.outputs
    return Chunk(start, got, expected, attempts, problem)


def _problem(got: Any, expected: npt.NDArray[np.int16]) -> str:
    """Why an answer cannot be compared; empty if it can."""
    if not isinstance(got, np.ndarray):
        return f"answered with {type(got).__name__} where an array must come"
    if got.dtype == np.int16 and got.shape == expected.shape:
        return ""
    unfinite = int(np.sum(~np.isfinite(got))) if got.dtype.kind == "f" else 0
    return (
        f"answered with {got.dtype} {list(got.shape)}"
        f"{f', {unfinite} of them NaN or infinite,' if unfinite else ''} "
        f"where int16 {list(expected.shape)} must come"
    )
