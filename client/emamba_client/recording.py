"""Frames and their answers on disk: one form in three encodings, which `--source file` reads.

.jsonl, an object a line: number, time_s since the first frame, points (or features), joints,
labels where there are any, latency_us, engine. .npz, arrays: points float32 [sum, 5] and counts [n]
(or features [n, 8, 8, 5]), joints float64 [n, 19, 3], labels float32 [n, 57] laid out 19 x, 19 y,
19 z, frame int64 [n], time_s and latency_us float64 [n]. .parquet, columns as .jsonl's members.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from emamba_client.errors import InvalidInput

__all__ = ["MOST_KEPT", "Recorded", "Recorder", "open_recorder"]

#: Frames of an .npz or .parquet, which are kept in memory until the end: about 3 hours at 10 Hz.
MOST_KEPT = 100_000


@dataclass(frozen=True, eq=False)
class Recorded:
    """One answered frame."""

    kind: Literal["points", "features"]
    values: npt.NDArray[np.float32]
    number: int
    time_s: float
    joints: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64] | None
    latency_us: float
    engine: str | None

    def document(self) -> dict[str, Any]:
        """The members of a line."""
        document: dict[str, Any] = {
            "number": self.number,
            "time_s": round(self.time_s, 6),
            self.kind: self.values.tolist(),
            "joints": self.joints.tolist(),
            "latency_us": round(self.latency_us, 1),
            "engine": self.engine,
        }
        if self.labels is not None:
            document["labels"] = self.labels.tolist()
        return document


class Recorder(Protocol):
    """Takes frames; `close` makes the file whole. Nothing is written before the first frame.

    Both raise `InvalidInput` where the disk does not take it.
    """

    @property
    def frames(self) -> int:
        """How many it has."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether further frames are left out."""
        ...

    def add(self, frame: Recorded) -> None:
        """Keep one more frame, if there is room."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


def open_recorder(path: Path, overwrite: bool, most_kept: int = MOST_KEPT) -> Recorder:
    """A recorder for `path`, by its suffix; raises `InvalidInput` before anything is recorded."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".npz", ".parquet"):
        raise InvalidInput(f"--record must be a .jsonl, .npz or .parquet file, but is {path}")
    if path.exists() and not overwrite:
        raise InvalidInput(f"{path} must not exist yet, but does; give --overwrite to replace it")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path.parent} must be a folder to write to, but is none")
    if suffix == ".jsonl":
        return _Lines(path)
    return _Kept(path, _write_npz if suffix == ".npz" else _parquet_writer(), most_kept)


class _Lines:
    """Written line by line: a crash loses the last one at most."""

    is_full = False

    def __init__(self, path: Path) -> None:
        self.frames = 0
        self._path = path
        self._file: TextIO | None = None

    def add(self, frame: Recorded) -> None:
        with _writing(self._path):
            if self._file is None:
                self._file = self._path.open("w", encoding="ascii", buffering=1)
            self._file.write(json.dumps(frame.document()) + "\n")
        self.frames += 1

    def close(self) -> None:
        if self._file is not None:
            with _writing(self._path):
                self._file.close()


class _Kept:
    """Kept until the end, and then written as a whole or not at all."""

    def __init__(
        self, path: Path, write: Callable[[list[Recorded], Path], None], most: int
    ) -> None:
        self._path = path
        self._write = write
        self._most = most
        self._kept: list[Recorded] = []

    @property
    def frames(self) -> int:
        return len(self._kept)

    @property
    def is_full(self) -> bool:
        return len(self._kept) >= self._most

    def add(self, frame: Recorded) -> None:
        if self._kept and self._kept[0].kind != frame.kind:
            raise InvalidInput(
                f"{self._path} must hold points or features, but the source gives both; "
                "record into a .jsonl file"
            )
        if not self.is_full:
            self._kept.append(frame)

    def close(self) -> None:
        if not self._kept:
            return
        beside = self._path.with_name(f".{self._path.stem}.part{self._path.suffix}")
        try:
            with _writing(self._path):
                self._write(self._kept, beside)
                beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written ({error.strerror})") from error


def _write_npz(frames: list[Recorded], path: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "joints": np.stack([frame.joints for frame in frames]),
        "frame": np.array([frame.number for frame in frames], np.int64),
        "time_s": np.array([frame.time_s for frame in frames]),
        "latency_us": np.array([frame.latency_us for frame in frames]),
    }
    if frames[0].kind == "features":
        arrays["features"] = np.stack([frame.values for frame in frames])
    else:
        arrays["points"] = np.concatenate([frame.values for frame in frames])
        arrays["counts"] = np.array([len(frame.values) for frame in frames])
    labels = [frame.labels.T.reshape(-1) for frame in frames if frame.labels is not None]
    if len(labels) == len(frames):
        arrays["labels"] = np.stack(labels).astype(np.float32)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _parquet_writer() -> Callable[[list[Recorded], Path], None]:
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInput(
            "a .parquet file needs pyarrow; install it with: pip install './client[parquet]'"
        ) from error

    def write(frames: list[Recorded], path: Path) -> None:
        rows = [frame.document() for frame in frames]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    return write
