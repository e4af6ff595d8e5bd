"""Read radar frames from the files people have: NumPy, JSON as on the wire, CSV."""

from __future__ import annotations

import csv
import json
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from emamba_client.errors import InvalidInput

COLUMNS = ("x", "y", "z", "doppler", "intensity")
MAP_SHAPE = (8, 8, 5)
_ECHO_CHARACTERS = 64
_ARRAYS = ("features", "points")
_KINDS: tuple[Literal["points", "features", "frames"], ...] = ("points", "features", "frames")


@dataclass(frozen=True)
class Frames:
    """What a file asks for, in the words of the wire, and the model where it names one.

    `values` is points [n, 5], features [8, 8, 5], or a sequence of such frames.
    """

    kind: Literal["points", "features", "frames"]
    values: Any
    model: str | None = None
    version: str | None = None


def read_frames(name: str, stdin: Callable[[], bytes]) -> Frames:
    """Read FILE by its suffix, or the JSON that `stdin` gives for "-".

    Raises `InvalidInput` with a sentence that names the file.
    """
    if name == "-":
        return _explained("stdin", lambda: _from_json(stdin()))
    if isdir(name):
        raise InvalidInput(f"{name} must be a file, but is a folder; name a file in it")
    path = Path(name)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{name} must be one of {', '.join(_READERS)}, or - for JSON on stdin")
    return _explained(name, lambda: reader(path))


def _explained(name: str, read: Callable[[], Frames]) -> Frames:
    """What `read` gives; whatever it raises becomes one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's about odd headers: the shape is checked here
            return read()
    except FileNotFoundError as error:
        raise InvalidInput(f"{name} does not exist") from error
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from error
    except Exception as error:  # a damaged file makes NumPy and zipfile raise a dozen types
        reason = str(error) or type(error).__name__
        raise InvalidInput(f"{name} cannot be read ({reason})") from error


def _read_npy(path: Path) -> Frames:
    with path.open("rb") as file:
        return _from_array(np.lib.format.read_array(file, allow_pickle=False))


def _read_npz(path: Path) -> Frames:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError("it is not a whole .npz archive")
    with np.load(path, allow_pickle=False) as data:
        names = [name for name in _ARRAYS if name in data.files] or data.files
        if len(names) != 1:
            raise InvalidInput(
                "the archive must hold one array named features or points, "
                f"not {', '.join(data.files) or 'none'}"
            )
        return _from_array(data[names[0]])


def _from_array(array: npt.NDArray[Any]) -> Frames:
    if array.ndim == 2:
        return Frames("points", array)
    if array.shape == MAP_SHAPE:
        return Frames("features", array)
    if array.ndim == 4 and array.shape[1:] == MAP_SHAPE:
        return Frames("frames", array)
    raise InvalidInput(
        "the array must be points [n, 5] or features [8, 8, 5] or [n, 8, 8, 5], "
        f"not an array of shape {list(array.shape)}"
    )


def _read_json(path: Path) -> Frames:
    return _from_json(path.read_bytes())


def _from_json(text: bytes) -> Frames:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise InvalidInput("the JSON is nested too deeply") from error
    if isinstance(document, list):
        return _from_list(document)
    kinds = [kind for kind in _KINDS if isinstance(document, dict) and kind in document]
    if len(kinds) != 1 or not isinstance(document[kinds[0]], list):
        raise InvalidInput(
            "the JSON must be a list, or an object with one list named points, features or frames"
        )
    kind, values = kinds[0], document[kinds[0]]
    if kind == "frames":
        values = [_unwrapped(frame, index) for index, frame in enumerate(values)]
    return Frames(kind, values, _text(document, "model"), _text(document, "version"))


def _unwrapped(frame: Any, index: int) -> Any:
    kinds = [kind for kind in _KINDS[:2] if isinstance(frame, dict) and kind in frame]
    if len(kinds) != 1:
        raise InvalidInput(f"frame {index} must be an object with either points or features")
    return frame[kinds[0]]


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"the JSON's {key} must be a string")
    return value


def _from_list(values: list[Any]) -> Frames:
    """A bare list by its depth: 2 is points, 3 is a feature map or frames, 4 is frames."""
    depth = _depth(values)
    if depth == 2:
        return Frames("points", values)
    if depth == 3 and _is_map(values):
        return Frames("features", values)
    if depth in (3, 4):
        return Frames("frames", values)
    raise InvalidInput(
        "the JSON list must be points [n, 5], features [8, 8, 5] or a list of such frames"
    )


def _depth(values: Any) -> int:
    depth = 0
    while isinstance(values, list):
        depth, values = depth + 1, values[0] if values else None
    return depth


def _is_map(values: list[Any]) -> bool:
    try:
        return np.shape(values) == MAP_SHAPE
    except ValueError:
        return False


def _read_csv(path: Path) -> Frames:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(row)]
    if rows and _is_header(rows[0][1]):
        _check_header(rows[0][1])
        rows = rows[1:]
    if not rows:
        raise InvalidInput(f"the CSV must hold rows of {','.join(COLUMNS)}, but holds none")
    return Frames("points", [_row(number, row) for number, row in rows])


def _is_header(row: list[str]) -> bool:
    """Whether no cell is a number."""
    for cell in row:
        with suppress(ValueError):
            float(cell)
            return False
    return True


def _check_header(row: list[str]) -> None:
    if tuple(cell.strip().lower() for cell in row) != COLUMNS:
        came = ",".join(row)
        if len(came) > _ECHO_CHARACTERS:
            came = f"{came[:_ECHO_CHARACTERS]}…"
        raise InvalidInput(
            f"the CSV's columns must be {','.join(COLUMNS)} in this order, but its header is {came}"
        )


def _row(number: int, row: list[str]) -> list[float]:
    try:
        values = [float(cell) for cell in row]
    except ValueError as error:
        raise InvalidInput(f"line {number} must hold numbers ({error})") from error
    if len(values) != len(COLUMNS):
        raise InvalidInput(
            f"line {number} must hold {len(COLUMNS)} numbers ({','.join(COLUMNS)}), "
            f"not {len(values)}"
        )
    return values


_READERS: dict[str, Callable[[Path], Frames]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".json": _read_json,
    ".csv": _read_csv,
}
