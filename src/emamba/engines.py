"""Engines compute a package's integers: the same bits from each.

The seam that services and commands see. `mirror` is NumPy and defines the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emamba.fixed import IntegerModel, Mirror

__all__ = ["ENGINES", "Engine", "EngineError", "EngineInfo", "MirrorEngine", "open_engine"]


class EngineError(Exception):
    """An engine that cannot be opened or has failed; the message says what to do."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself: its name and where its integers are computed."""

    name: str
    description: str


class Engine(Protocol):
    """Runs one model's integers."""

    @property
    def info(self) -> EngineInfo:
        """Name and description."""
        ...

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """int8 (n, height, width, channels) -> int16 (n, n_outputs); thread-safe."""
        ...

    def close(self) -> None:
        """Give back what the engine holds; it may not run afterwards."""
        ...


class MirrorEngine:
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


# In order of preference: `auto` takes the first that opens.
ENGINES: dict[str, Callable[[IntegerModel], Engine]] = {"mirror": MirrorEngine}


def open_engine(name: str, model: IntegerModel) -> Engine:
    """The engine `name`, or for `auto` the first of `ENGINES` that opens; raises `EngineError`."""
    if name != "auto":
        if name not in ENGINES:
            raise EngineError(f"engine must be one of auto, {', '.join(ENGINES)}; not {name!r}")
        return ENGINES[name](model)
    failures = []
    for candidate, factory in ENGINES.items():
        try:
            return factory(model)
        except EngineError as error:
            failures.append(f"{candidate}: {error}")
    raise EngineError(f"no engine opens ({'; '.join(failures)})")
