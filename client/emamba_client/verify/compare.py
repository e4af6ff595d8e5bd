"""What a service answers beside what the mirror on this machine computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba_client.errors import InvalidInput
from emamba_client.results import JOINTS, ModelInfo
from emamba_client.samples import sample_frames
from emamba_client.verify.mirror import LocalModel

__all__ = ["Difference", "check_same_package", "compare", "made_frames"]

_LARGEST = np.array([99.0, 99.0, 99.0, 99.0, 999_000.0])


@dataclass(frozen=True)
class Difference:
    """The first number of a way that is not the mirror's; `frames` of all differ."""

    way: str
    frame: int
    joint: str
    axis: str
    expected: float
    got: float
    frames: int

    def __str__(self) -> str:
        return (
            f"{self.way}: frame {self.frame}, {self.axis} of {self.joint} must be "
            f"{self.expected.hex()} ({self.expected:.9g} m), but is {self.got.hex()} "
            f"({self.got:.9g} m); {self.frames} frames differ"
        )


def check_same_package(local: LocalModel, models: Sequence[ModelInfo]) -> None:
    """Raise `InvalidInput` unless the service has the very package that is here."""
    there = {(model.name, model.version): model.package_sha256 for model in models}
    sha256 = there.get((local.name, local.version))
    if sha256 is None:
        known = ", ".join(f"{name} {version}" for name, version in there) or "none"
        raise InvalidInput(
            f"the service must have {local.name} {local.version}, but has {known}; "
            "give the package that it serves with --package"
        )
    if sha256 != local.sha256:
        raise InvalidInput(
            f"the service's {local.name} {local.version} must be the package here, "
            f"{local.sha256}, but is {sha256}; give the package that it serves with --package"
        )


def made_frames(count: int, seed: int) -> list[npt.NDArray[np.float32]]:
    """The sample's frames, the edges (1, 64 and more points; largest, smallest and equal values),
    and `count` random ones."""
    source = np.random.default_rng(seed)
    edges: list[npt.NDArray[Any]] = [
        np.zeros((1, 5)),
        np.ones((64, 5)),
        _LARGEST[None] * np.linspace(-1, 1, 64)[:, None] * [1, 1, 1, 1, 0],
        np.tile(_LARGEST, (3, 1)),
        source.uniform(-3, 3, (200, 5)) ** 2,
        np.full((2, 5), 1e-30),
    ]
    low, high = [-4, 0, -4, -3, 0], [4, 5, 4, 3, 2500]
    random = [source.uniform(low, high, (source.integers(1, 80), 5)) for _ in range(count)]
    frames = [frame.points for frame in sample_frames()]
    return frames + [frame.astype(np.float32) for frame in [*edges, *random]]


def compare(
    way: str, got: npt.NDArray[Any], expected: npt.NDArray[np.float64]
) -> Difference | None:
    """The first difference in bits; the mirror's float64 is rounded where a way has float32."""
    rounded = expected.astype(got.dtype)
    if got.shape != rounded.shape:
        raise InvalidInput(f"{way}: {len(rounded)} poses must come back, but {len(got)} did")
    bits = np.uint64 if got.dtype == np.float64 else np.uint32
    differs = np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(rounded).view(bits)
    if not differs.any():
        return None
    frame, joint, axis = (int(index[0]) for index in np.nonzero(differs))
    return Difference(
        way,
        frame,
        JOINTS[joint],
        "xyz"[axis],
        float(rounded[frame, joint, axis]),
        float(got[frame, joint, axis]),
        int(differs.any((1, 2)).sum()),
    )
