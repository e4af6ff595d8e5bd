"""Image classification: pictures of the model's size in, a probability of each class out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.tasks.task import InputError, Scaled, TaskError, constants

__all__ = ["CHANNELS", "ImageTask", "check_images"]

# By the number of channels that a model takes.
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
# Offsets within it, scales and temperature between its inverse and it: every answer is finite.
_LARGEST = 1e6

Bytes = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]


def check_images(images: npt.ArrayLike, shape: Shape) -> Bytes:
    """Pictures as uint8 (b, height, width, channels), `shape` being that of one.

    Takes integers of any type. Raises `InputError`, which names the picture, for another shape, for
    values that are no integers and for integers outside 0..255.
    """
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise InputError("images must be a rectangular array of integers") from error
    if array.ndim != 4 or array.shape[1:] != shape:
        must = ", ".join(map(str, shape))
        raise InputError(f"images must have shape [n, {must}], not {list(array.shape)}")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iu":
        raise InputError(f"images must hold integers 0..255, but are of type {array.dtype}")
    beyond = np.argwhere((array < 0) | (array > 255))
    if len(beyond):
        place = tuple(beyond[0])
        raise InputError(
            f"images must hold integers 0..255, but hold {array[place]}", int(place[0])
        )
    return array.astype(np.uint8)


@dataclass(frozen=True)
class ImageTask(Scaled):
    """Normalisation either side of the network, and the classes' names.

    `encode`: channel c of a pixel becomes `(v / 255 - input_offset[c]) / input_scale[c]`.
    `decode`: output j becomes the logit `output_offset[j] + output_scale[j] * v`; the softmax of
    the logits, divided by `temperature`, gives the probabilities.
    """

    kind: ClassVar[str] = "image-classes"

    shape: Shape
    classes: tuple[str, ...]
    input_offset: tuple[float, ...]
    input_scale: tuple[float, ...]
    output_offset: tuple[float, ...]
    output_scale: tuple[float, ...]
    temperature: float = 1.0

    def encode(self, images: Bytes) -> npt.NDArray[np.float64]:
        """Checked images (b, height, width, channels) -> normalised float64 of the same shape."""
        offset, scale = self.input_constants
        normalised: npt.NDArray[np.float64] = (images / 255.0 - offset) / scale
        return normalised

    def decode(self, outputs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Network outputs (b, classes) -> probabilities (b, classes), each row's sum 1."""
        offset, scale = self.output_constants
        logits = (offset + outputs * scale) / self.temperature
        # exp of what is at most 0 does not overflow.
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return probabilities

    def output_name(self, output: int) -> str:
        """What one of the network's outputs stands for."""
        return f"class {self.classes[output]}"

    def to_json(self) -> dict[str, Any]:
        """The task section of `model.json`."""
        return {
            "kind": self.kind,
            "input": {
                "name": "image",
                "shape": list(self.shape),
                "channels": list(CHANNELS[self.shape[2]]),
                "transform": "(v / 255 - offset) / scale",
                "offset": list(self.input_offset),
                "scale": list(self.input_scale),
            },
            "output": {
                "name": "probabilities",
                "classes": list(self.classes),
                "layout": "softmax((v * scale + offset) / temperature)",
                "offset": list(self.output_offset),
                "scale": list(self.output_scale),
                "temperature": self.temperature,
            },
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any], config: ModelConfig) -> ImageTask:
        """Read `to_json`'s object; raises `TaskError` if it does not describe `config`'s model."""
        channels, count = config.input_channels, config.n_outputs
        if channels not in CHANNELS:
            raise TaskError(
                f"an {cls.kind} model must take 1 channel, grey, or 3, red, green and blue, "
                f"not {channels}"
            )
        try:
            given, gives = obj["input"], obj["output"]
            if given["channels"] != list(CHANNELS[channels]):
                raise TaskError(f"task.input.channels must be {list(CHANNELS[channels])}")
            if given["shape"] != list(config.input_shape):
                raise TaskError(f"task.input.shape must be {list(config.input_shape)}")
            return cls(
                config.input_shape,
                _classes(gives["classes"], count),
                _constants(given["offset"], channels, "input.offset"),
                _constants(given["scale"], channels, "input.scale", positive=True),
                _constants(gives["offset"], count, "output.offset"),
                _constants(gives["scale"], count, "output.scale", positive=True),
                *_constants([gives["temperature"]], 1, "output.temperature", positive=True),
            )
        except (KeyError, TypeError) as error:
            raise TaskError(f"task section lacks or misstates {error}") from error


def _classes(names: Any, count: int) -> tuple[str, ...]:
    texts = isinstance(names, list) and all(
        isinstance(name, str) and name and name.isprintable() for name in names
    )
    if not texts or len(names) != count or count < 2:
        raise TaskError(
            f"task.output.classes must name each of the {count} outputs in printable characters; "
            "a classifier has at least 2"
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TaskError(f"task.output.classes must differ, but {twice!r} is there twice")
    return tuple(names)


def _constants(values: Any, count: int, what: str, positive: bool = False) -> tuple[float, ...]:
    numbers = constants(values, count, what, positive)
    least = 1 / _LARGEST if positive else -_LARGEST
    if not least <= min(numbers) <= max(numbers) <= _LARGEST:
        raise TaskError(f"task.{what} must lie within {least:g}..{_LARGEST:g}")
    return numbers
