"""Reproducers: the mismatches of shadow checks on disk, as .npz archives without pickle."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

__all__ = ["Reproducer", "ReproducerError", "ReproducerFolder", "default_folder"]

MAX_FILES = 16
MAX_BYTES = 16 * 1024 * 1024
_ARRAYS = {"input": np.int8, "expected": np.int16, "got": np.int16}
_TEXTS = ("model", "version", "package_sha256", "engine", "time", "service")


class ReproducerError(Exception):
    """A reproducer that cannot be read or kept; the message is one line that says why."""


@dataclass(frozen=True)
class Reproducer:
    """One mismatch: what went in, what the mirror and the engine made of it, and where.

    `batch` is int8 (n, height, width, channels), `expected` and `got` int16 (n, n_outputs);
    `about` is a JSON object with the model, the engine, versions and hashes.
    """

    batch: npt.NDArray[np.int8]
    expected: npt.NDArray[np.int16]
    got: npt.NDArray[np.int16]
    about: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The archive: arrays `input`, `expected`, `got` and the JSON text `about`."""
        archive = io.BytesIO()
        np.savez(
            archive,
            input=self.batch,
            expected=self.expected,
            got=self.got,
            about=np.array(json.dumps(self.about)),
        )
        return archive.getvalue()

    def digest(self) -> str:
        """A SHA-256 of what makes two of them one mismatch: model, engine, frames and answers."""
        named = [self.about[key] for key in ("model", "version", "package_sha256", "engine")]
        text = json.dumps([named, self.batch.shape])
        parts = (text.encode(), self.batch.tobytes(), self.got.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @staticmethod
    def load(path: Path) -> Reproducer:
        """Read and check an archive; raises `ReproducerError`."""
        arrays = _read(path)
        for name, kind in _ARRAYS.items():
            if arrays[name].dtype != kind:
                raise _foreign(path, f"{name} must be {np.dtype(kind)}, not {arrays[name].dtype}")
        batch, expected, got = (arrays[name] for name in _ARRAYS)
        if batch.ndim != 4 or expected.ndim != 2 or not len(batch):
            raise _foreign(path, f"input has the shape {batch.shape}, expected {expected.shape}")
        if expected.shape != got.shape or len(batch) != len(got):
            raise _foreign(
                path, f"{len(batch)} frames, expected {expected.shape} and got {got.shape} disagree"
            )
        return Reproducer(batch, expected, got, _about(path, str(arrays["about"])))


class ReproducerFolder:
    """Where a process keeps its first mismatches, readable by its user only.

    Those are the telling ones: each is kept once, and after `max_files` or `max_bytes` of its own
    nothing more is.
    Files of earlier processes are deleted, oldest first, until all of them are within the limits.
    """

    def __init__(
        self, folder: Path, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = folder
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._own: dict[Path, int] = {}
        self._kept: dict[str, Path] = {}

    def writable(self) -> bool:
        """Whether the folder, or what it would be made in, can be written to."""
        nearest = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

    def save(self, reproducer: Reproducer) -> Path:
        """The file it is kept in; raises `OSError`, or `ReproducerError` past the limits."""
        digest = reproducer.digest()
        kept = self._kept.get(digest)
        if kept is not None and kept.exists():
            return kept
        content = reproducer.to_bytes()
        if len(self._own) == self._max_files:
            raise ReproducerError(f"this process has kept its first {self._max_files}")
        if sum(self._own.values()) + len(content) > self._max_bytes:
            raise ReproducerError(f"this process has kept its {self._max_bytes} bytes")
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        self._make_room(len(content))
        about = reproducer.about
        name = f"mismatch-{about['model']}-{about['version']}-{secrets.token_hex(8)}.npz"
        path = self.folder.absolute() / name
        _write_whole(path, content)
        self._own[path] = len(content)
        self._kept[digest] = path
        return path

    def _make_room(self, size: int) -> None:
        kept = sum(self._own.values()) + size
        others = [
            (path, path.stat())
            for path in self.folder.absolute().glob("mismatch-*.npz")
            if path not in self._own
        ]
        newest_first = sorted(others, key=lambda other: other[1].st_mtime, reverse=True)
        room = self._max_files - len(self._own) - 1
        for index, (path, status) in enumerate(newest_first):
            kept += status.st_size
            if index >= room or kept > self._max_bytes:
                path.unlink(missing_ok=True)


def default_folder() -> Path:
    """`emamba/shadow` in the user's folder of states, which outlives a boot.

    A user without a home, as in some containers, has it in the folder of temporary files.
    """
    base = os.environ.get("XDG_STATE_HOME")
    try:
        states = Path(base) if base else Path.home() / ".local" / "state"
    except RuntimeError:
        states = Path(tempfile.gettempdir())
    return states / "emamba" / "shadow"


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there with all of its content or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        # Not the path: NumPy leaves its file open where the archive is damaged.
        with path.open("rb") as file:
            whole = zipfile.is_zipfile(file)
            file.seek(0)
            archive = np.load(file, allow_pickle=False) if whole else None
            if not isinstance(archive, NpzFile):
                raise _foreign(path, "it is no .npz, or no whole one")
            return {name: archive[name] for name in (*_ARRAYS, "about")}
    except OSError as error:
        raise ReproducerError(f"{path}: {error.strerror or error}") from error
    except KeyError as error:
        raise _foreign(path, f"an array is missing ({error.args[0]})") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _foreign(path, str(error)) from error


def _about(path: Path, text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _foreign(path, "about is not JSON") from error
    said = about if isinstance(about, dict) else {}
    for key in _TEXTS:
        if not isinstance(said.get(key), str):
            raise _foreign(path, f"about must say {key}")
    return said


def _foreign(path: Path, reason: str) -> ReproducerError:
    return ReproducerError(f"{path}: must be an .npz that a shadow check has kept, but {reason}")
