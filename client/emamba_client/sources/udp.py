"""Frames by UDP: a JSON object a datagram, or a radar's bytes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

from emamba_client.errors import InvalidInput
from emamba_client.radar import MAGIC
from emamba_client.sources import SourceFrame
from emamba_client.sources.feed import Lines, RadarBytes

__all__ = ["UdpSource"]

_WAIT_S = 0.1
_DATAGRAM_BYTES = 65536


class UdpSource:
    """Listens on `host` and `port`, 0 for a free one; `address` says where. From whom a datagram
    comes is not asked. Raises `InvalidInput` where it cannot listen."""

    name: ClassVar[str] = "udp"
    is_live: ClassVar[bool] = True

    def __init__(
        self, host: str, port: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._closed = False
        self._lines = Lines()
        self._radar = RadarBytes()
        self._socket = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        )
        try:
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            self._socket.close()
            reason = getattr(error, "strerror", None) or error
            raise InvalidInput(
                f"--udp must be an address of this machine and a free port, but {host}:{port} "
                f"cannot be listened on ({reason})"
            ) from error
        self._socket.settimeout(_WAIT_S)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def __iter__(self) -> Iterator[SourceFrame]:
        """Frames as they come, as `Source` says."""
        in_radar = False
        with self._socket:
            while not self._closed:
                try:
                    data = self._socket.recv(_DATAGRAM_BYTES)
                except TimeoutError:
                    continue
                # A packet larger than a datagram goes on in the next.
                in_radar = data.startswith(MAGIC) or (in_radar and data[:1] not in b"{[")
                if in_radar:
                    yield from self._radar.frames(data, self._clock())
                else:
                    yield from self._lines.frame(data, self._clock())

    def close(self) -> None:
        """End the listening."""
        self._closed = True

    def counts(self) -> dict[str, int]:
        """What was no frame."""
        lines = self._lines.counts()
        return {name: n + lines.get(name, 0) for name, n in self._radar.counts().items()}
