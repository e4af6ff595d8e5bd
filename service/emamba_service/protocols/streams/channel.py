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
    """One viewer's frames to come; `wants` are the members that it asked for besides joints."""

    def __init__(self, wants: frozenset[str]) -> None:
        self.wants = wants
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

    def publish(
        self, frame: Frame, joints: npt.NDArray[np.float64], computed: dict[str, Any]
    ) -> None:
        """Show a frame's joints (19, 3) to every viewer.

        With them goes what it asked for: the client's points and labels, if it sent any, and how
        the frame was `computed`. Each form is encoded once, whoever watches.
        """
        forms: dict[frozenset[str], str] = {}
        for viewer in self.viewers:
            if viewer.wants not in forms:
                forms[viewer.wants] = _encoded(frame, joints, computed, viewer.wants)
            viewer.show(forms[viewer.wants])

    def end(self) -> None:
        """Tell the viewers that nothing will follow."""
        for viewer in self.viewers:
            viewer.end()


def _encoded(
    frame: Frame,
    joints: npt.NDArray[np.float64],
    computed: dict[str, Any],
    wants: frozenset[str],
) -> str:
    document = {"sequence": frame.sequence, "joints": joints.tolist()}
    if "points" in wants and frame.points is not None:
        document["points"] = frame.points
    if "labels" in wants and frame.labels is not None:
        document["labels"] = frame.labels
    if "timing" in wants:
        document |= computed
    return orjson.dumps(document).decode()
