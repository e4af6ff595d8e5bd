"""What every task module shares."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["InputError", "Scaled", "TaskError", "constants"]

Floats = npt.NDArray[np.float64]


class TaskError(ValueError):
    """A task description that does not fit its model."""


class InputError(ValueError):
    """A user's input that the task cannot read; `index` says which frame of a batch."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message if index is None else f"frame {index}: {message}")
        self.index = index


class Scaled:
    """A task's constants either side of the network, as arrays made once."""

    input_offset: tuple[float, ...]
    input_scale: tuple[float, ...]
    output_offset: tuple[float, ...]
    output_scale: tuple[float, ...]

    @cached_property
    def input_constants(self) -> tuple[Floats, Floats]:
        """Offset and scale of each input channel."""
        return np.array(self.input_offset), np.array(self.input_scale)

    @cached_property
    def output_constants(self) -> tuple[Floats, Floats]:
        """Offset and scale of each output."""
        return np.array(self.output_offset), np.array(self.output_scale)


def constants(values: Any, count: int, what: str, positive: bool = False) -> tuple[float, ...]:
    """A task section's `count` numbers; raises `TaskError`, which names them `what`."""
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "fi" or not np.isfinite(array).all():
        numbers = "number" if count == 1 else "numbers"
        raise TaskError(f"task.{what} must be {count} finite {numbers}")
    if positive and array.min() <= 0:
        raise TaskError(f"task.{what} must be positive, but holds {array.min()}")
    return tuple(float(v) for v in array)
