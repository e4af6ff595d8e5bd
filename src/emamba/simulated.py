"""The whole kernel, registers and streams included, as C simulation in a shared library.

It is what a bitstream is made of, compiled for this machine: an emulated board's programmable
logic. Its cycles are *simulated*, given that every loop keeps its initiation interval.
"""

from __future__ import annotations

import _ctypes
import ctypes
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emamba.compiler import Compiler, NativeError, Recipe, build
from emamba.config import ModelConfig
from emamba.export import kernel_sources
from emamba.export.folding import Folding
from emamba.export.interface import INTERFACE
from emamba.export.presets import preset
from emamba.export.sources import kernel_root

__all__ = ["SimulatedCall", "SimulatedKernel", "SimulationError", "build_simulation"]

_WHOLE_WORD = 0xFF


class SimulationError(Exception):
    """A call that hardware would not have ended, or that leaves words behind."""


@dataclass(frozen=True)
class SimulatedCall:
    """The answer of one call: uint64 words, and of each its TLAST and its TKEEP (a bit a byte)."""

    words: npt.NDArray[np.uint64]
    last: npt.NDArray[np.bool_]
    keep: npt.NDArray[np.uint8]


def build_simulation(
    config: ModelConfig,
    folding: Folding | str,
    compiler: Compiler,
    folder: Path,
    tap: str | None = None,
    root: Path | None = None,
) -> Path:
    """The library for `SimulatedKernel`, compiled unless `folder` holds it already.

    `folding` may be a preset's name. With `tap`, a stream's name, the kernel answers with that
    stage's tokens. `root` holds the kernels' sources, if not those of this version. Raises
    `NativeError`, `PresetError` for an unknown name, or `TapError`.
    """
    if isinstance(folding, str):
        folding = preset(folding, config)
    recipe = Recipe(
        generated=kernel_sources(config, folding, tap),
        folders=("include", "host"),
        sources=("host/ip.cpp",),
        # With unique symbols a library could not be unloaded, and copies would share statics.
        flags=("-O2", "-DEMAMBA_SIMULATE", "-fno-gnu-unique"),
        root=root or kernel_root(),
    )
    return build(recipe, compiler, folder)


class SimulatedKernel:
    """One configured kernel: parameters and registers are zero, as after configuration.

    Each has a copy of the library of its own, so that kernels share nothing. One call at a time;
    it frees the GIL. Raises `NativeError` unless the library can be loaded.
    """

    def __init__(self, library: Path) -> None:
        self._library: ctypes.CDLL | None = _load_copy(library)
        self._failure = ""

    def call(
        self, command: int, count: int, packet: npt.NDArray[np.uint64], last_keep: int = _WHOLE_WORD
    ) -> SimulatedCall:
        """Start the kernel with these registers and this packet, TLAST on its last word.

        `last_keep` is the TKEEP of the last word. Raises `SimulationError` if the kernel waits for
        ever or leaves words on a stream; like a board it must then be configured anew.
        """
        library = self._opened()
        words = np.ascontiguousarray(packet, np.uint64)
        count_out = library.emamba_ip_call(command, count, words.ctypes.data, len(words), last_keep)
        if count_out < 0:
            self._failure = library.emamba_ip_error().decode()
            raise SimulationError(self._failure)
        answer = SimulatedCall(
            np.empty(count_out, np.uint64),
            np.empty(count_out, np.bool_),
            np.empty(count_out, np.uint8),
        )
        library.emamba_ip_answer(
            *(array.ctypes.data for array in (answer.words, answer.last, answer.keep))
        )
        return answer

    def register(self, name: str) -> int:
        """The value of one of the interface's output registers; raises `KeyError` for others."""
        value = ctypes.c_uint64()
        if not self._opened().emamba_ip_register(name.encode(), ctypes.byref(value)):
            outputs = ", ".join(r.name for r in INTERFACE.registers if r.is_output)
            raise KeyError(f"register must be one of {outputs}, not {name!r}")
        return value.value

    def watch(self) -> None:
        """Keep the cycles of all writes from the next call on; it takes time and memory."""
        self._opened().emamba_ip_watch(1)

    def write_cycles(self, stream: str) -> npt.NDArray[np.int64]:
        """The cycles in which a watched stream was written in the last call.

        Raises `KeyError` for an unknown stream.
        """
        library = self._opened()
        written = library.emamba_ip_cycles(stream.encode(), None, 0)
        if written < 0:
            raise KeyError(f"{stream!r} must be a stream of the kernel; see top.cpp and ip.cpp")
        cycles = np.empty(written, np.int64)
        library.emamba_ip_cycles(stream.encode(), cycles.ctypes.data, written)
        return cycles

    def close(self) -> None:
        """Unload the library; nothing may be running."""
        library, self._library = self._library, None
        if library is not None:
            _ctypes.dlclose(library._handle)

    def _opened(self) -> ctypes.CDLL:
        if self._library is None:
            raise SimulationError("the kernel must be open, but has been closed; make another")
        if self._failure:
            raise SimulationError(
                f"the kernel must be configured anew after {self._failure!r}; make another"
            )
        return self._library


def _load_copy(path: Path) -> ctypes.CDLL:
    """The library under a name that nothing else has loaded; the file is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix="emamba-kernel-") as folder:
            library = ctypes.CDLL(shutil.copy(path, folder))
    except OSError as error:
        raise NativeError(f"{path} cannot be loaded: {error}; remove it and try again") from error
    library.emamba_ip_error.restype = ctypes.c_char_p
    library.emamba_ip_watch.restype = None
    library.emamba_ip_watch.argtypes = [ctypes.c_int]
    library.emamba_ip_call.restype = ctypes.c_long
    library.emamba_ip_call.argtypes = [
        *(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_long, ctypes.c_int)
    ]
    library.emamba_ip_answer.restype = None
    library.emamba_ip_answer.argtypes = [ctypes.c_void_p] * 3
    library.emamba_ip_register.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    library.emamba_ip_cycles.restype = ctypes.c_long
    library.emamba_ip_cycles.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_long]
    return library
