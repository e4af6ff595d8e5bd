"""One process owns the board: a lock file with the owner's PID."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from emamba.engines import EngineError

__all__ = ["BoardOwner"]


class BoardOwner:
    """Holds the lock from construction to `close`; the kernel frees it if the process dies.

    Raises `EngineError` where another process holds it or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Not truncated before it is locked: the text is the present owner's.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise EngineError(
                f"the lock {path} must be writable, but {error.strerror}; "
                "run as root, or name another with --board-lock"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._file, 32).decode(errors="replace").strip()
            os.close(self._file)
            raise EngineError(
                f"the board must have one owner, but process {owner or 'unknown'} holds {path}; "
                "stop that process first"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the board back; the file stays, empty and unlocked."""
        if self._file >= 0:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> BoardOwner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
