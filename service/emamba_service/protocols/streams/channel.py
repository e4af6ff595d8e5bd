"""A published stream: many viewers, each with the newest frames it has not seen."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba_service.protocols.streams.wire import Frame

__all__ = ["Channel", "Viewer"]

# Frames that a viewer may lag behind before it loses the oldest.
_BUFFERED = 8


class Viewer:
    """One viewer's frames to come."""

    def __init__(self, with_points: bool) -> None:
        self.with_points = with_points
        self._messages: deque[str] = deque(maxlen=_BUFFERED)
        self._fresh = asyncio.Event()
        self._over = False

    def show(self, message: str) -> None:
        """Have `message` sent, in the place of the oldest if there are too many."""
        self._messages.append(message)
        self._fresh.set()

    def end(self) -> None:
        """No message will follow."""
        self._over = True
        self._fresh.set()

    async def next(self) -> str | None:
        """The next message, None after the last."""
        while not self._messages:
            if self._over:
                return None
            self._fresh.clear()
            await self._fresh.wait()
        return self._messages.popleft()


class Channel:
    """What a stream publishes under a name."""

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        self.name = name
        self.about = about
        self.viewers: set[Viewer] = set()

    def publish(self, frame: Frame, joints: npt.NDArray[np.float64]) -> None:
        """Show a frame's joints (19, 3), and its points if the client sent any, to every viewer.

        Each form is encoded once, whoever watches.
        """
        plain: str | None = None
        full: str | None = None
        for viewer in self.viewers:
            if viewer.with_points and frame.points is not None:
                full = full or _encoded(frame, joints, {"points": frame.points})
                viewer.show(full)
            else:
                plain = plain or _encoded(frame, joints, {})
                viewer.show(plain)

    def end(self) -> None:
        """Tell the viewers that nothing will follow."""
        for viewer in self.viewers:
            viewer.end()


def _encoded(frame: Frame, joints: npt.NDArray[np.float64], more: dict[str, Any]) -> str:
    document = {"sequence": frame.sequence, "joints": joints.tolist(), **more}
    return orjson.dumps(document).decode()
