"""The native engine: the kernels' stage functions, compiled for this machine.

A library is built for one network's sizes and kept in a cache under a name that hashes everything
it depends on: sources, sizes, flags, compiler and processor. Weights are loaded at run time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.export.folding import native_folding
from emamba.export.header import config_header
from emamba.export.image import ImageError, weights_image
from emamba.export.sources import kernel_root, source_hash
from emamba.export.timing import pipeline_depths
from emamba.fixed import IntegerModel, Mirror
from emamba.fixed.mirror import check_batch

__all__ = ["Compiler", "NativeError", "NativeKernel", "build_library", "cache_folder"]

_BUILD_TIMEOUT_S = 600
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
    "-DEMAMBA_PLAIN_INTS",
    "-Wno-unknown-pragmas",
)


class NativeError(Exception):
    """The kernels cannot be compiled or loaded here; the message says what to do."""


@dataclass(frozen=True)
class Compiler:
    """A C++17 compiler and the flags that fit the processor it compiles for."""

    command: str
    version: str
    flags: tuple[str, ...]

    @classmethod
    def find(cls) -> Compiler:
        """`$CXX`, or the first of c++, g++ and clang++; raises `NativeError` without one."""
        names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
        for name in names:
            command = shutil.which(name)
            if command is not None:
                return cls(command, _version(command), _FLAGS + _processor_flags())
        raise NativeError(
            f"needs a C++17 compiler ({' or '.join(names)}); install g++, or point CXX at one"
        )


def build_library(config: ModelConfig, compiler: Compiler, folder: Path) -> Path:
    """The library for networks of `config`, compiled unless `folder` holds it already.

    Written beside and renamed, so that a reader never sees half of it. Raises `NativeError`.
    """
    folding = native_folding(config)
    header = config_header(config, folding, pipeline_depths(config, folding))
    key = hashlib.sha256(
        "\n".join(
            (
                source_hash("include", "native"),
                header,
                compiler.version,
                *compiler.flags,
                _processor(),
            )
        ).encode()
    ).hexdigest()
    library = folder / f"emamba-{key[:32]}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                os.replace(_compile(header, compiler, Path(scratch)), library)
        except OSError as error:
            raise NativeError(
                f"the cache {folder} must be writable: {error.strerror}; "
                "set EMAMBA_CACHE to a folder that is"
            ) from error
    return library


def cache_folder() -> Path:
    """`$EMAMBA_CACHE`, or `emamba` in the user's cache folder."""
    if chosen := os.environ.get("EMAMBA_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "emamba"


class NativeKernel:
    """One model's parameters in a compiled library; `run` is thread-safe and frees the GIL.

    `threads` bounds those that share one batch, the caller's included. Raises `NativeError`,
    also when the compiled kernels do not give the mirror's integers.
    """

    def __init__(self, model: IntegerModel, library: Path, threads: int) -> None:
        self._config = model.config
        self._library = _load(library)
        try:
            image = weights_image(model)
        except ImageError as error:
            raise NativeError(f"kernels cannot hold this model: {error}") from error
        self._handle = self._library.emamba_native_open(image.ctypes.data, len(image), threads)
        if not self._handle:
            raise NativeError(self._library.emamba_native_error().decode())
        self._check(model)

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """int8 (n, height, width, channels) -> int16 (n, n_outputs); `ValueError` as the mirror."""
        check_batch(batch, self._config)
        if not self._handle:
            raise NativeError("the engine must be open, but has been closed")
        frames = np.ascontiguousarray(batch)
        outputs = np.empty((len(batch), self._config.n_outputs), np.int16)
        self._library.emamba_native_run(
            self._handle, frames.ctypes.data, outputs.ctypes.data, len(batch)
        )
        return outputs

    def close(self) -> None:
        """Free the parameters and end the threads; nothing may be running."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.emamba_native_close(handle)

    def _check(self, model: IntegerModel) -> None:
        """A few frames beside the mirror, so that a miscompiled library never answers."""
        shape = (8, *self._config.input_shape)
        frames = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
        frames[0], frames[1] = -127, 127
        if not np.array_equal(self.run(frames), Mirror(model).run(frames)):
            self.close()
            raise NativeError(
                "the compiled kernels must give the mirror's integers, but differ; "
                "try another compiler (CXX), or --engine mirror"
            )


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"{path} cannot be loaded: {error}; remove it and try again") from error
    library.emamba_native_open.restype = ctypes.c_void_p
    library.emamba_native_open.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    library.emamba_native_run.restype = None
    library.emamba_native_run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long]
    library.emamba_native_close.restype = None
    library.emamba_native_close.argtypes = [ctypes.c_void_p]
    library.emamba_native_error.restype = ctypes.c_char_p
    return library


def _compile(header: str, compiler: Compiler, scratch: Path) -> Path:
    include = scratch / "emamba"
    include.mkdir()
    (include / "config.hpp").write_text(header)
    root = kernel_root()
    out = scratch / "kernels.so"
    command = [
        compiler.command,
        *compiler.flags,
        f"-I{scratch}",
        f"-I{root / 'include'}",
        f"-I{root / 'native'}",
        str(root / "native" / "native.cpp"),
        "-o",
        str(out),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"compiling must take at most {_BUILD_TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise NativeError(f"{compiler.command} must compile the kernels, but says: {lines[0]}")
    return out


def _version(command: str) -> str:
    try:
        done = subprocess.run(
            [command, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"{command} must be a C++ compiler, but --version fails") from error
    return done.stdout.splitlines()[0] if done.stdout else command


def _processor_flags() -> tuple[str, ...]:
    if platform.machine() in ("x86_64", "AMD64"):
        # Wider vectors leave remainders of these layers' rows, and gain nothing.
        return ("-march=native", "-mprefer-vector-width=256")
    return ("-mcpu=native",)


def _processor() -> str:
    """What `native` means here: libraries in a shared home must not meet another processor."""
    names = ("flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = [line for line in lines if line.split(":")[0].strip() in names]
    except OSError:
        flags = [platform.processor()]
    return platform.machine() + "".join(sorted(set(flags)))
