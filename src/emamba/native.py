"""The native engine: the kernels' stage functions, compiled for this machine.

A library is built for one network's sizes and kept in a cache. Weights are loaded at run time.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emamba.compiler import Compiler, NativeError, Recipe, build, cache_folder
from emamba.config import ModelConfig
from emamba.export.folding import native_folding
from emamba.export.header import config_header
from emamba.export.image import ImageError, weights_image
from emamba.export.timing import pipeline_depths
from emamba.fixed import IntegerModel, Mirror
from emamba.fixed.mirror import check_batch

__all__ = ["Compiler", "NativeError", "NativeKernel", "build_library", "cache_folder"]


def build_library(config: ModelConfig, compiler: Compiler, folder: Path) -> Path:
    """The library for networks of `config`, compiled unless `folder` holds it already.

    Raises `NativeError`.
    """
    folding = native_folding(config)
    header = config_header(config, folding, pipeline_depths(config, folding))
    recipe = Recipe(
        generated={"emamba/config.hpp": header},
        folders=("include", "native"),
        sources=("native/native.cpp",),
        flags=("-O3",),
    )
    return build(recipe, compiler, folder)


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
