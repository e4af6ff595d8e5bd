"""A package with random weights, the application behind an in-process client, and frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from emamba.engines import EngineInfo, EngineStatus, EngineUnavailableError, MirrorEngine, Recorded
from emamba.fixed import IntegerModel
from emamba.package import write_package
from emamba.tasks import PoseTask
from emamba_service.app import create_app
from emamba_service.settings import Settings
from random_models import MARS_CONFIG, random_model


class Caller:
    """Sends requests to an application in this process."""

    def __init__(self, portal: BlockingPortal, client: httpx.AsyncClient, app: FastAPI) -> None:
        self.portal = portal
        self.app = app
        self._client = client

    def request(self, method: str, url: str, **content: Any) -> httpx.Response:
        return self.portal.call(partial(self._client.request, method, url, **content))

    def later(self, method: str, url: str, **content: Any) -> Any:
        """A future of the answer."""
        return self.portal.start_task_soon(partial(self._client.request, method, url, **content))

    def get(self, url: str, **content: Any) -> httpx.Response:
        return self.request("GET", url, **content)

    def pose(self, body: Any) -> httpx.Response:
        return self.request("POST", "/v1/pose", json=body)

    def sample(self, name: str, **labels: str) -> float | None:
        """The value of one metric."""
        registry = self.app.state.service.metrics.registry
        value: float | None = registry.get_sample_value(name, labels)
        return value


class MadeUpEngine:
    """Computes as the mirror does, and errs, fares and fails as a test sets its attributes.

    `flips` maps (frame, output) to the bits that come out wrong.
    """

    def __init__(self, model: IntegerModel) -> None:
        self.info = EngineInfo("board", "made up for a test")
        self.status = EngineStatus()
        self.computed_by = "board"
        self.stages_s: dict[str, float] = {}
        self.flips: dict[tuple[int, int], int] = {}
        self.refusal: str | None = None
        self.closed = False
        self.model = model
        self._mirror = MirrorEngine(model)

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self.record(batch).outputs

    def record(self, batch: np.ndarray) -> Recorded:
        if self.refusal is not None:
            raise EngineUnavailableError(self.refusal)
        outputs = self._mirror.run(batch)
        for place, bits in self.flips.items():
            outputs[place] ^= bits
        return Recorded(outputs, self.computed_by, self.stages_s)

    def close(self) -> None:
        self.closed = True


# Versions of mars that the service's tests serve, and what their random weights grow from.
SEEDS = {"9": 9, "10": 15}


class MadeUpEngines:
    """A factory of `MadeUpEngine`; `opened` holds them as they came, several at a time."""

    def __init__(self) -> None:
        self.opened: list[MadeUpEngine] = []

    def __call__(self, _name: str, model: IntegerModel) -> MadeUpEngine:
        self.opened.append(MadeUpEngine(model))
        return self.opened[-1]

    def of(self, version: str) -> MadeUpEngine:
        """The engine that was last opened for one of the versions of mars."""
        wanted = random_model(MARS_CONFIG, SEEDS[version]).tensors["head.fc1.weight"]
        return next(
            engine
            for engine in reversed(self.opened)
            if np.array_equal(engine.model.tensors["head.fc1.weight"], wanted)
        )

    @property
    def latest(self) -> MadeUpEngine:
        """The engine of the latest version, which answers unless asked otherwise."""
        return self.of("10")


@contextmanager
def _calling(app: FastAPI) -> Iterator[Caller]:
    """A `Caller` of `app` while it runs."""
    transport = httpx.ASGITransport(app)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(
            httpx.AsyncClient(transport=transport, base_url="http://service")
        ) as client,
    ):
        yield Caller(portal, client, app)


def write_mars(root: Path, version: str, seed: int) -> Path:
    """A pose package with random weights."""
    rng = np.random.default_rng(seed)
    task = PoseTask(
        input_offset=(0.0, 1.7, 0.3, 0.0, 3.0),
        input_scale=(0.67, 0.5, 0.67, 0.5, 1.0),
        output_offset=tuple(rng.normal(0, 1, 57)),
        output_scale=tuple(rng.uniform(0.1, 0.3, 57)),
    )
    model = random_model(MARS_CONFIG, seed)
    return write_package(root, "mars", version, model, task, {"data": "random"}, {"mae_cm": 5.5})


@pytest.fixture(scope="session")
def calling() -> Callable[[FastAPI], AbstractContextManager[Caller]]:
    """Runs an application: `with calling(app) as service`."""
    return _calling


@pytest.fixture
def engines() -> MadeUpEngines:
    """A factory of engines that a test can make err, fare badly and fail."""
    return MadeUpEngines()


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("EMAMBA_")]:
            patch.delenv(name)
        yield


@pytest.fixture
def new_package() -> Callable[..., Path]:
    """Writes a package: `new_package(root, version)`."""
    return partial(write_mars, seed=0)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of mars; 10 is the later one."""
    root = tmp_path_factory.mktemp("models")
    for version, seed in SEEDS.items():
        write_mars(root, version, seed)
    return root


@pytest.fixture(scope="session")
def settings(models_dir: Path) -> Callable[..., Settings]:
    """Small limits, changed by name."""
    small = {
        "models": models_dir,
        "engine": "mirror",  # opens wherever the tests run
        "max_body_bytes": 200_000,
        "max_points": 300,
        "max_frames": 8,
        "power_interval_s": 0,  # no sensors of the machine that the tests run on
    }
    return lambda **changes: Settings(**(small | changes))


@pytest.fixture(scope="session")
def service(settings: Callable[..., Settings]) -> Iterator[Caller]:
    """The application, shared by tests that count nothing."""
    with _calling(create_app(settings())) as caller:
        yield caller


@pytest.fixture(scope="session")
def points() -> list[list[float]]:
    """One frame of 23 points, in no order."""
    rng = np.random.default_rng(2)
    frame = rng.normal((0, 1.8, 0.3, 0, 40), (0.4, 0.2, 0.5, 0.3, 10), (23, 5))
    return [[round(value, 3) for value in point] for point in frame.tolist()]
