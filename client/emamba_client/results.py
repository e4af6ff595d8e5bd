"""What the service answers, as frozen values. Lengths are in metres, times in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

#: The joints of every pose, in the order of the wire and of the MARS labels.
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


@dataclass(frozen=True)
class Joint:
    """One joint: x left-right, y away from the radar, z up, in metres."""

    name: str
    x_m: float
    y_m: float
    z_m: float


@dataclass(frozen=True)
class Pose:
    """The 19 joints of one frame, in the order of `JOINTS`."""

    joints: tuple[Joint, ...]

    def __getitem__(self, name: str) -> Joint:
        """The joint of that name; raises `KeyError` naming the joints there are."""
        for joint in self.joints:
            if joint.name == name:
                return joint
        names = ", ".join(joint.name for joint in self.joints)
        raise KeyError(f"no joint {name!r}; the joints are {names}")

    def array(self) -> npt.NDArray[np.float64]:
        """Return the joints as float64 (19, 3): x, y, z in metres."""
        return np.array([(joint.x_m, joint.y_m, joint.z_m) for joint in self.joints])


@dataclass(frozen=True)
class _Answer:
    """What every pose answer tells: who computed it, and how long each stage took.

    `timing_us` maps preprocess, quantise, queue, engine, postprocess and total to microseconds;
    `engine_stages_us` the parts of engine, empty for an engine that tells none. `raw` is the
    service's JSON as it came.
    """

    model: str
    version: str
    engine: str
    timing_us: Mapping[str, float]
    engine_stages_us: Mapping[str, float]
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class PoseResult(_Answer):
    """The answer to one frame."""

    pose: Pose


@dataclass(frozen=True)
class PosesResult(_Answer):
    """The answer to a batch: one pose per frame, in the order sent."""

    poses: tuple[Pose, ...]


@dataclass(frozen=True)
class ModelInfo:
    """One model the service holds; `raw` is its entry as it came, with all further members."""

    name: str
    version: str
    engine: str
    package_sha256: str
    parameters: int
    int8_bytes: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)
