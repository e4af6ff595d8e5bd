"""Files of data sets, read whole and remembered by their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["MAX_UNPACKED", "DataError", "read_file"]

# Bytes of one unpacked file, far above any of these data sets'.
MAX_UNPACKED = 200_000_000


class DataError(Exception):
    """A data file that is missing, damaged or of another kind; names file and reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def read_file(path: Path, sha256: dict[str, str]) -> bytes:
    """The file's bytes; its hash goes into `sha256`. Raises `DataError`."""
    try:
        blob = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(path, "does not exist") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}") from error
    sha256[path.name] = hashlib.sha256(blob).hexdigest()
    return blob
