"""The board's contiguous memory, apart from the host's buffers.

A host's buffer reaches it by `flush` and comes back by `invalidate` alone, so that a driver which
forgets one of them gets wrong data, as it may behind a real cache.
"""

from __future__ import annotations

import mmap
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["BASE", "PATTERN", "SIZE_BYTES", "Block", "DeviceMemory"]

BASE = 0x7000_0000
SIZE_BYTES = 256 << 20
_PAGE_BYTES = 4096
# What fresh device memory holds; a fresh host buffer holds zeros.
PATTERN = 0xA5

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Block:
    """An allocation: its physical address and the host's side of it."""

    address: int
    host: Bytes = field(repr=False)


class DeviceMemory:
    """`size_bytes` of addresses from `BASE` on; the host gives memory only where it is touched.

    Not locked: whoever calls holds the board's lock, except for `return_pointer`.
    """

    def __init__(self, size_bytes: int = SIZE_BYTES) -> None:
        self.size_bytes = size_bytes
        self._cells = np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)
        self._taken: dict[int, int] = {}
        self._returned: deque[int] = deque()

    @property
    def used_bytes(self) -> int:
        """Bytes in blocks that were not returned."""
        self._reap()
        return sum(self._taken.values())

    def allocate(self, size_bytes: int) -> Block:
        """A block of whole pages; raises `RuntimeError` as pynq does on a board that is full."""
        self._reap()
        pages_bytes = max(-(-size_bytes // _PAGE_BYTES), 1) * _PAGE_BYTES
        address = BASE
        for taken in sorted(self._taken):
            if address + pages_bytes <= taken:
                break
            address = taken + self._taken[taken]
        if address + pages_bytes > BASE + self.size_bytes:
            raise RuntimeError("BO allocation failed: Cannot allocate memory")
        self._taken[address] = pages_bytes
        self._span(address, pages_bytes)[:] = PATTERN
        return Block(address, np.zeros(max(size_bytes, 1), np.uint8))

    def return_pointer(self, address: int) -> None:
        """Give the block back. pynq calls it when a buffer dies, in whatever thread that is."""
        self._returned.append(address)

    def flush(self, block: Block, offset: int, size_bytes: int) -> None:
        """Copy from the host's side to the board's."""
        host = self._host(block, offset, size_bytes)
        self._span(block.address + offset, size_bytes)[:] = host

    def invalidate(self, block: Block, offset: int, size_bytes: int) -> None:
        """Copy from the board's side to the host's."""
        host = self._host(block, offset, size_bytes)
        host[:] = self._span(block.address + offset, size_bytes)

    def contains(self, address: int, size_bytes: int) -> bool:
        """Whether the board has memory there."""
        return address >= BASE and address + size_bytes <= BASE + self.size_bytes

    def read(self, address: int, size_bytes: int) -> Bytes:
        """A copy of the board's bytes there."""
        return np.array(self._span(address, size_bytes))

    def write(self, address: int, data: Bytes) -> None:
        """Change the board's bytes there."""
        self._span(address, len(data))[:] = data

    def _span(self, address: int, size_bytes: int) -> Bytes:
        start = address - BASE
        return self._cells[start : start + size_bytes]

    def _host(self, block: Block, offset: int, size_bytes: int) -> Bytes:
        if offset < 0 or offset + size_bytes > len(block.host):
            raise RuntimeError(
                f"flush and invalidate must stay within the buffer's {len(block.host)} bytes, but "
                f"came to {size_bytes} bytes at {offset}; copies and results of arithmetic have no "
                "memory on the board: use the buffer that was allocated"
            )
        return block.host[offset : offset + size_bytes]

    def _reap(self) -> None:
        while self._returned:
            self._taken.pop(self._returned.popleft(), None)
