"""Engines compute a package's integers: the same bits from each.

The seam that services and commands see. `mirror` is NumPy and defines the bits; `native` is the
kernels' stage functions, compiled for this machine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from emamba.fixed import IntegerModel, Mirror
from emamba.native import Compiler, NativeError, NativeKernel, build_library, cache_folder

__all__ = [
    "ENGINES",
    "Engine",
    "EngineError",
    "EngineInfo",
    "EngineStatus",
    "EngineUnavailableError",
    "MirrorEngine",
    "NativeEngine",
    "Recorded",
    "open_engine",
]

_log = logging.getLogger(__name__)


class EngineError(Exception):
    """An engine that cannot be opened or has failed; the message says what to do."""


class EngineUnavailableError(EngineError):
    """An engine that cannot answer now but may later; nothing was computed wrongly."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself: its name and where its integers are computed."""

    name: str
    description: str


@dataclass(frozen=True)
class EngineStatus:
    """How an engine fares, and in one sentence why it is not `ready`.

    `degraded`: another engine answers in its place; `recovering`, `failed`: nobody answers.
    """

    state: Literal["ready", "recovering", "degraded", "failed"] = "ready"
    reason: str = ""


@dataclass(frozen=True)
class Recorded:
    """One run's outputs, int16 (n, n_outputs), the name of the engine that computed them, and the
    seconds of its stages, where it has any."""

    outputs: npt.NDArray[np.int16]
    engine: str
    stages_s: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Runs one model's integers."""

    @property
    def info(self) -> EngineInfo:
        """Name and description."""
        ...

    @property
    def status(self) -> EngineStatus:
        """How it fares now."""
        ...

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """int8 (n, height, width, channels) -> int16 (n, n_outputs); thread-safe.

        Raises `EngineUnavailableError` where it cannot answer now.
        """
        ...

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded:
        """`run`, with the name of the engine that computed and the times of its stages."""
        ...

    def close(self) -> None:
        """Give back what the engine holds; it may not run afterwards."""
        ...


class _AlwaysReady:
    """What engines without a device have in common."""

    status = EngineStatus()

    def record(self: Engine, batch: npt.NDArray[np.int8]) -> Recorded:
        return Recorded(self.run(batch), self.info.name)


class MirrorEngine(_AlwaysReady):
    """The NumPy mirror as an engine."""

    def __init__(self, model: IntegerModel) -> None:
        self._mirror = Mirror(model)
        # Builds the look-up tables now, so that the first request need not.
        self._mirror.run(np.zeros((1, *model.config.input_shape), np.int8))

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("mirror", "NumPy integer pipeline on this machine's CPU")

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        return self._mirror.run(batch)

    def close(self) -> None:
        """Nothing is held."""


class NativeEngine(_AlwaysReady):
    """The compiled kernels as an engine; compiles them where the cache does not hold them yet.

    `threads` bounds those that share one batch; all processors of this process unless given.
    Raises `EngineError` without a compiler.
    """

    def __init__(self, model: IntegerModel, threads: int | None = None) -> None:
        try:
            compiler = Compiler.find()
            library = build_library(model.config, compiler, cache_folder())
            count = (os.cpu_count() or 1) if threads is None else threads
            self._kernel = NativeKernel(model, library, count)
        except NativeError as error:
            raise EngineError(f"native {error}") from error
        self._compiler = compiler.version

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("native", f"kernels compiled for this machine's CPU by {self._compiler}")

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        return self._kernel.run(batch)

    def close(self) -> None:
        """Frees the parameters and ends the threads."""
        self._kernel.close()


# In order of preference: `auto` takes the first that opens.
ENGINES: dict[str, Callable[[IntegerModel], Engine]] = {
    "native": NativeEngine,
    "mirror": MirrorEngine,
}


def open_engine(name: str, model: IntegerModel) -> Engine:
    """The engine `name`, or for `auto` the first of `ENGINES` that opens; raises `EngineError`.

    `auto` logs a warning for each engine that it passes over.
    """
    if name != "auto":
        if name not in ENGINES:
            raise EngineError(f"engine must be one of auto, {', '.join(ENGINES)}; not {name!r}")
        return ENGINES[name](model)
    failures = []
    for candidate, factory in ENGINES.items():
        try:
            return factory(model)
        except EngineError as error:
            _log.warning("engine %s does not open, trying the next: %s", candidate, error)
            failures.append(f"{candidate}: {error}")
    raise EngineError(f"no engine opens ({'; '.join(failures)})")
