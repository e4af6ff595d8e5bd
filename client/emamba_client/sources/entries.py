"""Frames as JSON objects: lines of a recording or of stdin, datagrams.

`{"number": 7, "time_s": 0.7, "points": [[x, y, z, doppler, intensity], …], "labels": …}`, or with
features [8, 8, 5] in the place of points; number, time_s and labels (19 joints, metres) may lack,
and other members are left alone. A bare list is one of points.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from emamba_client.errors import InvalidInput
from emamba_client.inputs import COLUMNS, MAP_SHAPE
from emamba_client.results import JOINTS

__all__ = ["Entry", "entry_of", "read_entry"]

_MAX_NUMBER = 2**53
_MAX_TIME_S = 1e12


@dataclass(frozen=True, eq=False)
class Entry:
    """A frame without a clock's time; None where the object says nothing."""

    kind: Literal["points", "features"]
    values: npt.NDArray[np.float32]
    number: int | None = None
    time_s: float | None = None
    labels: npt.NDArray[np.float64] | None = None


def read_entry(text: bytes | str) -> Entry:
    """The frame that a JSON text holds; raises `InvalidInput`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("a frame must be a JSON object or list of points") from error
    return entry_of(document if isinstance(document, dict) else {"points": document})


def entry_of(document: dict[str, Any]) -> Entry:
    """The frame that an object holds; raises `InvalidInput`."""
    kind: Literal["points", "features"] = "features" if "features" in document else "points"
    values = _array(document.get(kind), kind).astype(np.float32)
    if kind == "points" and not values.size:
        values = values.reshape(0, len(COLUMNS))
    if kind == "points" and (values.ndim != 2 or values.shape[1] != len(COLUMNS)):
        raise InvalidInput(f"points must have shape [n, 5], not {list(values.shape)}")
    if kind == "features" and values.shape != MAP_SHAPE:
        raise InvalidInput(f"features must have shape [8, 8, 5], not {list(values.shape)}")
    labels = None
    if document.get("labels") is not None:
        labels = _array(document["labels"], "labels")
        if labels.shape != (len(JOINTS), 3):
            raise InvalidInput(f"labels must have shape [19, 3], not {list(labels.shape)}")
    return Entry(kind, values, _number(document), _time_s(document), labels)


def _array(value: Any, what: str) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{what} must be a rectangular array of numbers") from error
    if not array.ndim or not np.isfinite(array).all() or np.abs(array).max(initial=0) > 1e30:
        raise InvalidInput(f"{what} must be an array of finite numbers")
    return array


def _number(document: dict[str, Any]) -> int | None:
    number = document.get("number")
    if number is not None and not (type(number) is int and 0 <= number < _MAX_NUMBER):
        raise InvalidInput(f"number must be an integer in 0..{_MAX_NUMBER - 1}")
    return number


def _time_s(document: dict[str, Any]) -> float | None:
    time_s = document.get("time_s")
    if time_s is None:
        return None
    # An integer of JSON may be too large for a float.
    if type(time_s) not in (int, float) or not abs(time_s) < _MAX_TIME_S:
        raise InvalidInput(f"time_s must be a number of less than {_MAX_TIME_S:.0e} seconds")
    return float(time_s)
