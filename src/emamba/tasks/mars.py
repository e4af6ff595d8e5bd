"""Human pose from mmWave radar: point clouds in, 19 joints in metres out.

The feature map follows the MARS paper, section 4.1.2 (S. An, U. Y. Ogras, ACM TECS 20(5s), 2021):
sort a frame's points by x, then y, then z; pad with zeros to 64; lay out row-major as 8x8x5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.tasks.task import InputError, Scaled, TaskError, constants

__all__ = [
    "CHANNELS",
    "JOINTS",
    "LIMITS",
    "MAP_POINTS",
    "MAP_SHAPE",
    "PoseTask",
    "check_features",
    "check_map",
    "feature_map",
    "feature_maps",
]

JOINTS = (
    "SpineBase",
    "SpineMid",
    "Neck",
    "Head",
    "ShoulderLeft",
    "ElbowLeft",
    "WristLeft",
    "ShoulderRight",
    "ElbowRight",
    "WristRight",
    "HipLeft",
    "KneeLeft",
    "AnkleLeft",
    "FootLeft",
    "HipRight",
    "KneeRight",
    "AnkleRight",
    "FootRight",
    "SpineShoulder",
)
CHANNELS = ("x_m", "y_m", "z_m", "doppler_m_s", "intensity")
MAP_SHAPE = (8, 8, 5)
MAP_POINTS = 64
# Largest magnitude of each channel; far beyond any radar's, so that only wrong units exceed it.
LIMITS = (100.0, 100.0, 100.0, 100.0, 1e6)
_INTENSITY = 4
_LIMITS = np.array(LIMITS)

Floats = npt.NDArray[np.float32]


def feature_map(points: npt.ArrayLike) -> Floats:
    """One frame's points (n, 5), n >= 1, in any order -> float32 (8, 8, 5).

    Columns are x, y, z (m), Doppler (m/s) and intensity (raw, >= 0). Of more than 64 points the
    64 most intense are kept. Raises `InputError` for another shape, no point, NaN or infinity,
    a negative intensity, or values that no radar gives (see `LIMITS`).
    """
    array = _numbers(points, "points")
    if array.ndim != 2 or array.shape[1] != len(CHANNELS):
        raise InputError(f"points must have shape [n, 5], not {list(array.shape)}")
    if not len(array):
        raise InputError("points must hold at least 1 point, but the frame is empty")
    _check_values(array, "points")
    array = array.astype(np.float32)
    if len(array) > MAP_POINTS:
        strongest = np.argsort(-array[:, _INTENSITY], kind="stable")[:MAP_POINTS]
        array = array[strongest]
    order = np.lexsort((array[:, 2], array[:, 1], array[:, 0]))
    padded = np.zeros((MAP_POINTS, len(CHANNELS)), np.float32)
    padded[: len(array)] = array[order]
    return padded.reshape(MAP_SHAPE)


def feature_maps(frames: list[npt.ArrayLike]) -> Floats:
    """Frames of points -> float32 (b, 8, 8, 5); an `InputError` names the frame."""
    maps = np.empty((len(frames), *MAP_SHAPE), np.float32)
    for index, points in enumerate(frames):
        try:
            maps[index] = feature_map(points)
        except InputError as error:
            raise InputError(str(error), index) from error
    return maps


def check_map(features: npt.ArrayLike) -> Floats:
    """One feature map as float32 (8, 8, 5); raises `InputError` as `feature_map` does.

    Maps are taken as they are: their order is not checked, and one of zeros only, a frame without
    points, is as valid as any.
    """
    array = _numbers(features, "features")
    if array.shape != MAP_SHAPE:
        raise InputError(f"features must have shape [8, 8, 5], not {list(array.shape)}")
    _check_values(array, "features")
    return array.astype(np.float32)


def check_features(features: npt.ArrayLike) -> Floats:
    """`check_map` for a batch, (b, 8, 8, 5); an `InputError` names the frame."""
    array = _numbers(features, "features")
    if array.ndim != 4 or array.shape[1:] != MAP_SHAPE:
        raise InputError(f"features must have shape [n, 8, 8, 5], not {list(array.shape)}")
    if len(array):
        try:
            _check_values(array, "features")
        except InputError:
            # Slower, and says which frame.
            for index, frame in enumerate(array):
                _check_values(frame, "features", index)
    return array.astype(np.float32, copy=False)


def _numbers(values: npt.ArrayLike, what: str) -> npt.NDArray[np.floating[Any]]:
    """As float64, or float32 where they are that already."""
    try:
        if isinstance(values, np.ndarray) and values.dtype == np.float32:
            return values
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a rectangular array of numbers") from error


def _check_values(
    array: npt.NDArray[np.floating[Any]], what: str, index: int | None = None
) -> None:
    if not np.isfinite(array).all():
        raise InputError(f"{what} must be finite numbers, but hold NaN or infinity", index)
    if array[..., _INTENSITY].min() < 0:
        raise InputError(f"{what} must have intensity >= 0, but hold a negative one", index)
    beyond = np.abs(array) > _LIMITS
    if beyond.any():
        raise InputError(
            f"{what} must lie within 100 m and 100 m/s, intensity within 1e6, "
            f"but hold {array[beyond][0]:.6g}; are the units metres and m/s?",
            index,
        )


@dataclass(frozen=True)
class PoseTask(Scaled):
    """Normalisation either side of the network, and the joints' names.

    `encode`: channel c of a map becomes `(f(v) - input_offset[c]) / input_scale[c]`, with f =
    log1p for intensity. `decode`: output j becomes `output_offset[j] + output_scale[j] * v`
    metres, 19 x then 19 y then 19 z.
    """

    kind: ClassVar[str] = "mars-pose"

    input_offset: tuple[float, ...]
    input_scale: tuple[float, ...]
    output_offset: tuple[float, ...]
    output_scale: tuple[float, ...]

    def encode(self, features: Floats) -> npt.NDArray[np.float64]:
        """Checked maps (b, 8, 8, 5) -> normalised float64 of the same shape."""
        maps = features.astype(np.float64)
        maps[..., _INTENSITY] = np.log1p(maps[..., _INTENSITY])
        offset, scale = self.input_constants
        normalised: npt.NDArray[np.float64] = (maps - offset) / scale
        return normalised

    def decode(self, outputs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Normalised (b, 57) -> joints (b, 19, 3), x y z in metres."""
        offset, scale = self.output_constants
        flat = offset + outputs * scale
        joints: npt.NDArray[np.float64] = flat.reshape(-1, 3, len(JOINTS)).transpose(0, 2, 1)
        return joints

    def output_name(self, output: int) -> str:
        """What one of the network's 57 outputs stands for."""
        axis, joint = divmod(output, len(JOINTS))
        return f"{'xyz'[axis]} of {JOINTS[joint]}"

    def to_json(self) -> dict[str, Any]:
        """The task section of `model.json`."""
        return {
            "kind": self.kind,
            "input": {
                "name": "features",
                "shape": list(MAP_SHAPE),
                "channels": list(CHANNELS),
                "transform": "log1p on intensity, then (v - offset) / scale",
                "offset": list(self.input_offset),
                "scale": list(self.input_scale),
            },
            "output": {
                "name": "joints",
                "unit": "m",
                "joints": list(JOINTS),
                "layout": "19 x, 19 y, 19 z; v * scale + offset",
                "offset": list(self.output_offset),
                "scale": list(self.output_scale),
            },
        }

    @classmethod
    def from_json(cls, obj: dict[str, Any], config: ModelConfig) -> PoseTask:
        """Read `to_json`'s object; raises `TaskError` if it does not describe `config`'s model."""
        if config.input_shape != MAP_SHAPE or config.n_outputs != 3 * len(JOINTS):
            raise TaskError(
                f"a {cls.kind} model must map (8, 8, 5) to 57 numbers, "
                f"not {config.input_shape} to {config.n_outputs}"
            )
        try:
            if obj["output"]["joints"] != list(JOINTS):
                raise TaskError("task.output.joints must be the 19 MARS joints in order")
            return cls(
                constants(obj["input"]["offset"], len(CHANNELS), "input.offset"),
                constants(obj["input"]["scale"], len(CHANNELS), "input.scale", positive=True),
                constants(obj["output"]["offset"], config.n_outputs, "output.offset"),
                constants(obj["output"]["scale"], config.n_outputs, "output.scale", positive=True),
            )
        except (KeyError, TypeError) as error:
            raise TaskError(f"task section lacks or misstates {error}") from error
