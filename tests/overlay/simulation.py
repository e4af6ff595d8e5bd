"""The compiled kernel behind `ip_bench.cpp`."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt


class KernelInSimulation:
    """The whole kernel, compiled for the host: `call` is one start, registers keep their values."""

    def __init__(self, library: Path) -> None:
        self._lib = ctypes.CDLL(str(library))
        self._lib.ip_call.restype = ctypes.c_long
        self._lib.ip_error.restype = ctypes.c_char_p
        self._lib.ip_register.restype = ctypes.c_uint64
        self._lib.ip_answer_word.restype = ctypes.c_uint64
        self.flags: list[int] = []

    def call(
        self, command: int, count: int, packet: npt.NDArray[np.uint64], last_keep: int = 0xFF
    ) -> npt.NDArray[np.uint64]:
        """The answer's words; their TLAST and TKEEP are in `flags`."""
        words = np.ascontiguousarray(packet, np.uint64)
        address = words.ctypes.data_as(ctypes.c_void_p)
        left = self._lib.ip_call(command, count, address, ctypes.c_long(len(words)), last_keep)
        assert left >= 0, self._lib.ip_error().decode()
        assert left == 0, f"{left} words are left on the input"
        count = self._lib.ip_answer_words()
        self.flags = [self._lib.ip_answer_flags(i) for i in range(count)]
        return np.array([self._lib.ip_answer_word(i) for i in range(count)], np.uint64)

    def register(self, name: str) -> int:
        return int(self._lib.ip_register(name.encode()))

    def last_write_cycle(self) -> int:
        """The cycle of the answer's last word; -1 without an answer."""
        return int(self._lib.ip_last_write_cycle())

    def write_cycle(self, stream: str) -> int:
        return int(self._lib.ip_write_cycle(stream.encode()))
