"""Recordings: what `--record` wrote, data sets as archives, captures of a radar's UART."""

from __future__ import annotations

import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from emamba_client.errors import ClientError, InvalidInput
from emamba_client.inputs import COLUMNS, read_frames
from emamba_client.sources import SourceFrame
from emamba_client.sources.entries import Entry, entry_of, read_entry
from emamba_client.sources.feed import RadarBytes
from emamba_client.sources.pace import Pace

__all__ = ["FileSource", "read_points"]

_FRAME_S = 0.1
_LABELS = 57
_CAPTURES = (".bin", ".dat")
_SUFFIXES = (".jsonl", ".npz", ".npy", ".json", ".csv", ".parquet", *_CAPTURES)


class FileSource:
    """Plays a file's frames: `hz` a second, or without it at the times that the file tells, or ten
    a second. Raises `InvalidInput`, which names the file."""

    name: ClassVar[str] = "file"
    is_live: ClassVar[bool] = False

    def __init__(
        self,
        path: Path,
        hz: float | None = None,
        loop: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._entries, self._counts = _read(path)
        if not self._entries:
            raise InvalidInput(f"{path} must hold at least one frame with points, but holds none")
        self._due_s = _due_s(self._entries, hz)
        self._frame_s = 1 / hz if hz is not None else _FRAME_S
        self._loop = loop
        self._clock = clock
        self._pace = Pace(clock)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Frames at their times, as `Source` says; over and over, their numbers count up."""
        for at in self._pace.play(self._plan()):
            entry = self._entries[at % len(self._entries)]
            number = at if entry.number is None or self._loop else entry.number
            yield SourceFrame(entry.kind, entry.values, number, self._clock(), entry.labels)

    def close(self) -> None:
        """End the play."""
        self._pace.close()

    def counts(self) -> dict[str, int]:
        """Frames of the file that have no points, and of a capture what else was no frame."""
        return dict(self._counts)

    def _plan(self) -> Iterator[tuple[float, int]]:
        last_s = self._due_s[-1]
        # The last frame is shown as long as the others are on average.
        round_s = last_s + (last_s / (len(self._due_s) - 1) if last_s else self._frame_s)
        for round_ in count() if self._loop else range(1):
            for index, due_s in enumerate(self._due_s):
                yield round_ * round_s + due_s, round_ * len(self._entries) + index


def read_points(path: Path) -> list[npt.NDArray[np.float32]]:
    """The points (n, 5) of a recording's frames, without the empty ones; those of a feature map are
    its rows that are not zero. Raises `InvalidInput`."""
    rows = [entry.values.reshape(-1, len(COLUMNS)) for entry in _read(path)[0]]
    frames = [frame[frame.any(1)] for frame in rows]
    return [frame for frame in frames if len(frame)]


def _due_s(entries: list[Entry], hz: float | None) -> list[float]:
    if hz is not None:
        return [index / hz for index in range(len(entries))]
    times = [entry.time_s for entry in entries if entry.time_s is not None]
    if len(times) < len(entries):
        return [index * _FRAME_S for index in range(len(entries))]
    # A recording's clock may go back; its frames still come one after the other.
    rising = np.maximum.accumulate(np.array(times) - times[0])
    return [float(due_s) for due_s in rising]


def _read(path: Path) -> tuple[list[Entry], dict[str, int]]:
    """The frames that have points, and the counts of what else there is."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InvalidInput(f"{path} must be one of {', '.join(_SUFFIXES)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's about odd headers: the shape is checked here
            if suffix in _CAPTURES:
                return _read_capture(path)
            entries = _READERS[suffix](path)
    except ClientError as error:
        text = str(error)
        raise InvalidInput(text if text.startswith(str(path)) else f"{path}: {text}") from error
    # A damaged file makes NumPy, zipfile and pyarrow raise a dozen types.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InvalidInput(f"{path} cannot be read ({reason})") from error
    full = [entry for entry in entries if len(entry.values)]
    return full, {"empty": len(entries) - len(full)}


def _read_lines(path: Path) -> list[Entry]:
    entries = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    entries.append(read_entry(line))
                except InvalidInput as error:
                    raise InvalidInput(f"line {number}: {error}") from error
    return entries


def _read_archive(path: Path) -> list[Entry]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InvalidInput("it is not a whole .npz archive")
    with np.load(path, allow_pickle=False) as data:
        names = ("points", "counts", "features", "labels", "frame", "time_s")
        arrays = {name: data[name] for name in names if name in data.files}
    if not arrays.keys() & {"counts", "features"} or arrays.get("features", _MAPS).ndim == 3:
        return _read_wire(path)
    values = _frames(arrays)
    return [
        Entry(
            "points" if "counts" in arrays else "features",
            frame,
            _at(arrays, "frame", index, int),
            _at(arrays, "time_s", index, float),
            _joints(arrays["labels"][index]) if "labels" in arrays else None,
        )
        for index, frame in enumerate(values)
    ]


_MAPS: npt.NDArray[Any] = np.zeros((0, 8, 8, 5))


def _frames(arrays: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
    """The frames of points and counts, or of features, as long as the other arrays are."""
    if "counts" in arrays:
        points = arrays.get("points", np.zeros((0, 0)))
        ends = np.cumsum(arrays["counts"], dtype=np.int64)
        if points.ndim != 2 or points.shape[1] != len(COLUMNS) or ends[-1:].sum() != len(points):
            raise InvalidInput("points must have shape [sum of counts, 5]")
        frames = np.split(points.astype(np.float32), ends[:-1])
    else:
        if arrays["features"].shape[1:] != _MAPS.shape[1:]:
            raise InvalidInput("features must have shape [n, 8, 8, 5]")
        frames = list(arrays["features"].astype(np.float32))
    for name in ("labels", "frame", "time_s"):
        if name in arrays and len(arrays[name]) != len(frames):
            raise InvalidInput(f"{name} must be as many as frames, {len(frames)}")
    return frames


def _at(arrays: dict[str, npt.NDArray[Any]], name: str, index: int, kind: type) -> Any:
    return kind(arrays[name][index]) if name in arrays else None


def _joints(flat: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Labels 19 x, 19 y, 19 z as (19, 3)."""
    if flat.shape != (_LABELS,):
        raise InvalidInput("labels must have shape [n, 57]: 19 x, 19 y, 19 z")
    joints: npt.NDArray[np.float64] = flat.astype(np.float64).reshape(3, -1).T
    return joints


def _read_wire(path: Path) -> list[Entry]:
    """What the other commands read: points, features or frames, as on the wire."""
    asked = read_frames(str(path), lambda: b"")
    if asked.kind != "frames":
        return [entry_of({asked.kind: asked.values})]
    frames = (np.asarray(frame) for frame in asked.values)
    return [entry_of({"points" if frame.ndim == 2 else "features": frame}) for frame in frames]


def _read_parquet(path: Path) -> list[Entry]:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidInput(
            f"{path} needs pyarrow; install it with: pip install './client[parquet]'"
        ) from error
    return [entry_of(row) for row in parquet.read_table(path).to_pylist()]


def _read_capture(path: Path) -> tuple[list[Entry], dict[str, int]]:
    """Bytes as a radar's UART sent them."""
    radar = RadarBytes()
    frames = [
        Entry(frame.kind, frame.values, frame.number)
        for frame in radar.frames(path.read_bytes(), received_s=0)
    ]
    return frames, radar.counts()


_READERS: dict[str, Callable[[Path], list[Entry]]] = {
    ".jsonl": _read_lines,
    ".npz": _read_archive,
    ".npy": _read_wire,
    ".json": _read_wire,
    ".csv": _read_wire,
    ".parquet": _read_parquet,
}
