"""What a task takes and gives as tensors of the Open Inference Protocol."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.package import Package
from emamba.tasks import PoseTask, Task
from emamba.tasks.images import check_images
from emamba.tasks.mars import JOINTS, MAP_SHAPE, check_features

__all__ = ["Signature", "Tensor", "signature_of"]

_TYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}


@dataclass(frozen=True)
class Tensor:
    """A named tensor; `shape` is one frame's, before it comes the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The datatype as NumPy's, little-endian."""
        return _TYPES[self.datatype]

    @cached_property
    def values(self) -> int:
        """Values of one frame."""
        return math.prod(self.shape)

    def document(self) -> dict[str, Any]:
        """The tensor in a model's metadata; -1 is the batch."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}


@dataclass(frozen=True)
class Signature:
    """A model's one input and one output.

    `check` raises `InputError` for values that the task does not take; `flat` lays the task's
    answer out as the output tensor.
    """

    input: Tensor
    output: Tensor
    check: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    flat: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float32]]


def signature_of(package: Package) -> Signature:
    """The signature of a package's task."""
    task: Task = package.task
    if isinstance(task, PoseTask):
        return _POSE
    return _of_images(task.shape, len(task.classes))


def _joints(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Joints (b, 19, 3) -> (b, 57), 19 x, 19 y, 19 z, as the MARS labels are laid out."""
    flat: npt.NDArray[np.float32] = values.transpose(0, 2, 1).reshape(len(values), -1).astype("<f4")
    return flat


@lru_cache(maxsize=64)
def _of_images(shape: tuple[int, int, int], classes: int) -> Signature:
    return Signature(
        Tensor("image", "UINT8", shape),
        Tensor("probabilities", "FP32", (classes,)),
        lambda images: check_images(images, shape),
        lambda values: values.astype("<f4"),
    )


_POSE = Signature(
    Tensor("features", "FP32", MAP_SHAPE),
    Tensor("joints", "FP32", (3 * len(JOINTS),)),
    check_features,
    _joints,
)
