"""The mirror on this machine; the only room of the client that knows `emamba`, an extra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emamba_client.errors import InvalidInput

if TYPE_CHECKING:
    from emamba.package import Package

__all__ = ["LocalModel"]

_BATCH = 64


class LocalModel:
    """A package, computed by the mirror. Raises `InvalidInput` where it cannot be read, or where
    `emamba` is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from emamba.package import PackageError, load_package  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise InvalidInput(
                "verify needs the mirror; install it with: pip install . './client[verify]'"
            ) from error
        from emamba.tasks import PoseTask  # noqa: PLC0415

        try:
            self._package: Package = load_package(folder)
        except PackageError as error:
            raise InvalidInput(str(error)) from error
        if not isinstance(self._package.task, PoseTask):
            raise InvalidInput(
                f"{folder} must be a pose model, but is of kind {self._package.task.kind}"
            )
        self.name = self._package.name
        self.version = self._package.version
        self.sha256 = self._package.sha256

    def maps(self, frames: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Frames of points (n, 5) as feature maps float32 (b, 8, 8, 5), as the service makes
        them; raises `InvalidInput` for what it refuses."""
        from emamba.tasks import InputError  # noqa: PLC0415
        from emamba.tasks.mars import feature_maps  # noqa: PLC0415

        try:
            return feature_maps(list(frames))
        except InputError as error:
            raise InvalidInput(str(error)) from error

    def joints(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """What the mirror makes of feature maps: float64 (b, 19, 3), metres."""
        from emamba.engines import MirrorEngine  # noqa: PLC0415
        from emamba.package import decode, encode  # noqa: PLC0415

        model, task = self._package.model, self._package.task
        mirror = MirrorEngine(model)
        pieces = [maps[start : start + _BATCH] for start in range(0, len(maps), _BATCH)]
        return np.concatenate(
            [decode(model, task, mirror.run(encode(model, task, piece))) for piece in pieces]
        )
