"""The real service in this process, a replaced network, and time that only tests move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import emamba_client
from emamba.package import write_package
from emamba.tasks import PoseTask
from emamba_service.app import create_app
from emamba_service.settings import Settings
from random_models import MARS_CONFIG, random_model

Handler = Callable[[httpx.Request], httpx.Response]


class BlockingASGI(httpx.BaseTransport):
    """An ASGI application for a blocking client, run in the portal's event loop."""

    def __init__(self, app: Any, portal: BlockingPortal) -> None:
        self._app = httpx.ASGITransport(app)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._app.handle_async_request(request)
        return httpx.Response(
            response.status_code, headers=response.headers, content=await response.aread()
        )


class AwaitedASGI(httpx.AsyncBaseTransport):
    """The same for an async client, whatever its event loop."""

    def __init__(self, blocking: BlockingASGI) -> None:
        self._blocking = blocking

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await asyncio.to_thread(self._blocking.handle_request, request)


class FakeTime:
    """A clock that only sleeping moves; `slept` lists the pauses in seconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Asker:
    """Calls one method of a fresh client against `handler`: the blocking or the async client."""

    def __init__(self, kind: str, time: FakeTime) -> None:
        self.kind = kind
        self.time = time

    def __call__(self, handler: Handler, method: str, *args: Any, **options: Any) -> Any:
        options = {"clock": self.time.clock, "jitter": lambda: 1.0} | options
        transport = httpx.MockTransport(handler)
        if self.kind == "async":
            return asyncio.run(self._awaited(transport, method, *args, **options))
        with emamba_client.Client(transport=transport, sleep=self.time.sleep, **options) as client:
            return getattr(client, method)(*args)

    async def _awaited(self, transport: Any, method: str, *args: Any, **options: Any) -> Any:
        options["sleep"] = self.time.async_sleep
        async with emamba_client.AsyncClient(transport=transport, **options) as client:
            return await getattr(client, method)(*args)


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture(params=["blocking", "async"])
def ask(request: pytest.FixtureRequest, fake_time: FakeTime) -> Asker:
    return Asker(request.param, fake_time)


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model mars in versions 1 and 2, with random weights, near a mean pose."""
    root = tmp_path_factory.mktemp("models")
    labels = np.stack([frame.labels.T.ravel() for frame in emamba_client.sample_frames()])
    offset, scale = labels.mean(0), labels.std(0) / 1000
    task = PoseTask((0, 1.7, 0.3, 0, 3.0), (0.67, 0.5, 0.67, 0.5, 1.0), tuple(offset), tuple(scale))
    for seed, version in enumerate(("1", "2")):
        model = random_model(MARS_CONFIG, seed)
        write_package(root, "mars", version, model, task, {"data": "random"}, {"mae_cm": 0})
    return root


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def app(models_root: Path, portal: BlockingPortal) -> Iterator[Any]:
    """The started service on the mirror engine; at most 16 frames and 200 kB per request."""
    settings = Settings(models=models_root, engine="mirror", max_frames=16, max_body_bytes=200_000)
    app = create_app(settings)
    with portal.wrap_async_context_manager(app.router.lifespan_context(app)):
        yield app


@pytest.fixture(scope="session")
def service(app: Any, portal: BlockingPortal) -> BlockingASGI:
    """The way to the service for a blocking client."""
    return BlockingASGI(app, portal)


@pytest.fixture(scope="session")
def awaited_service(service: BlockingASGI) -> httpx.AsyncBaseTransport:
    """The way to the service for an async client."""
    return AwaitedASGI(service)


@pytest.fixture
def client(service: httpx.BaseTransport) -> Iterator[emamba_client.Client]:
    with emamba_client.Client(transport=service) as client:
        yield client


def pose_json(count: int = 1) -> dict[str, Any]:
    """An answer as documented; joint j of pose p is at (p, j, 0.5) metres."""
    return {
        "model": "mars",
        "version": "1",
        "engine": "mirror",
        "poses": [
            {
                "joints": [
                    {"name": name, "x_m": float(p), "y_m": float(j), "z_m": 0.5}
                    for j, name in enumerate(emamba_client.JOINTS)
                ]
            }
            for p in range(count)
        ],
        "timing_us": {
            "preprocess": 1,
            "quantise": 2,
            "queue": 0,
            "engine": 3,
            "postprocess": 4,
            "total": 10.5,
        },
    }


class Answering:
    """Answers batches as documented; `frames` lists their sizes.

    `versions`, `engines` and `stages`, which are the engines', are cycled through.
    """

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.versions = ["1"]
        self.engines = ["mirror"]
        self.stages: list[dict[str, float]] = [{}]
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        turn = len(self.frames)
        self.frames.append(len(json.loads(request.content)["frames"]))
        document = pose_json(self.frames[-1])
        document["version"] = self.versions[turn % len(self.versions)]
        document["engine"] = self.engines[turn % len(self.engines)]
        if stages := self.stages[turn % len(self.stages)]:
            document["timing_us"]["engine_stages"] = stages
        return httpx.Response(200, json=document)


@pytest.fixture
def answering() -> Answering:
    return Answering()


@pytest.fixture
def answer() -> dict[str, Any]:
    return pose_json()
