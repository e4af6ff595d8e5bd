"""Where live frames come from: recordings and radars, each as an iterator of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Source", "SourceFrame"]


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One frame: points float32 (n, 5), n >= 1, x y z m, Doppler m/s and intensity; or features
    float32 (8, 8, 5).

    `number` is the source's own. `received_s` is the clock's time when its last byte had come.
    `labels` are joints float64 (19, 3) in metres to compare with, where the source has them.
    """

    kind: Literal["points", "features"]
    values: npt.NDArray[np.float32]
    number: int
    received_s: float
    labels: npt.NDArray[np.float64] | None = None


class Source(Protocol):
    """Frames as they come, or at a recording's pace."""

    @property
    def name(self) -> str:
        """One word: replay, file, serial, stdin or udp."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether frames come when they come; those of a recording wait."""
        ...

    def __iter__(self) -> Iterator[SourceFrame]:
        """Frames until the source ends or is closed; raises `ClientError` where it fails."""
        ...

    def close(self) -> None:
        """End the iteration soon; from any thread, and as often as one likes."""
        ...

    def counts(self) -> dict[str, int]:
        """What has become of the source's data besides frames, such as lost or damaged ones."""
        ...
