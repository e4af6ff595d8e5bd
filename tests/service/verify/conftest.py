"""A made-up package and data, and a bench whose engine is an argument."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.data import MarsSplit
from emamba.engines import Engine, EngineInfo, MirrorEngine, Recorded
from emamba.fixed import IntegerModel
from emamba.package import Package, load_package
from emamba_service.verify.frames import FrameSet
from emamba_service.verify.verdict import Bench, Request

FRAMES = 60
BATCH = 8


class Altered(MirrorEngine):
    """The mirror, but `alter(call, recorded)` answers instead; calls count from 0."""

    def __init__(
        self, model: IntegerModel, alter: Callable[[int, Recorded], Recorded], name: str
    ) -> None:
        super().__init__(model)
        self._info = EngineInfo(name, "altered <in a test>")
        self.calls = 0
        self.closed = False
        self._alter = alter

    @property
    def info(self) -> EngineInfo:
        return self._info

    def record(self, batch: np.ndarray) -> Recorded:
        call, self.calls = self.calls, self.calls + 1
        return self._alter(call, Recorded(self.run(batch), self.info.name))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def altered(package: Package) -> Callable[..., Altered]:
    """`altered(alter)`: the mirror, altered, under a name."""

    def make(
        alter: Callable[[int, Recorded], Recorded] = lambda call, recorded: recorded,
        name: str = "mirror",
    ) -> Altered:
        return Altered(package.model, alter, name)

    return make


@pytest.fixture(scope="session")
def package(models_dir: Path) -> Package:
    return load_package(models_dir / "mars" / "9")


@pytest.fixture(scope="session")
def frames(package: Package) -> FrameSet:
    """Labelled frames, numbered in tens as though thinned."""
    rng = np.random.default_rng(4)
    shape = package.model.config.input_shape
    tags = np.ones(FRAMES, np.uint8)
    split = MarsSplit(
        features=np.zeros((FRAMES, *shape), np.float32),
        labels=rng.normal(0, 1, (FRAMES, 57)).astype(np.float32),
        subject=tags,
        movement=tags * 3,
        sha256={"<made>.npz": "ab" * 32},
        origin="made-up <frames>",
    )
    batch = rng.integers(-127, 128, (FRAMES, *shape)).astype(np.int8)
    return FrameSet(
        batch, 10 * np.arange(FRAMES), "made-up data", split.origin, split.sha256, split
    )


@pytest.fixture
def request_for(package: Package, frames: FrameSet) -> Callable[..., Request]:
    """A request of small calls and short measurements, changed by name."""
    small = {"batch": BATCH, "speed_s": 0.01, "energy_window_s": 1.0}
    return lambda **changes: Request(package, "mirror", frames, **(small | changes))


@pytest.fixture
def bench() -> Callable[..., Bench]:
    """A bench around one engine, without sensors and without waiting, changed by name."""

    def make(engine: Engine, **changes: Any) -> Bench:
        world = {
            "progress": lambda what, done, of: None,
            "now": lambda: datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
            "sleep": lambda seconds: None,
        }
        return Bench(lambda name, model: engine, **(world | changes))

    return make
