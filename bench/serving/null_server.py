"""The service with an engine that computes nothing, so that what is left is the service.

    python -m bench.serving.null_server [--room process|thread] [--busy-us N] [--no-metrics]
        [-- --key value ...]

`--room process` puts the engine in a child, as the product does; `--busy-us` has the engine sleep
so long for each batch, as it would wait for a board. What follows `--` are settings, `--key value`.
The engine computes golden frames alone, which it must before it is served; any other frame's answer
is the same. Without metrics, nothing is observed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import disable_created_metrics

from emamba.engines import Engine, EngineInfo, EngineStatus, Recorded
from emamba.fixed import IntegerModel, Mirror
from emamba.package import Package
from emamba_service.lanes import EngineRoom, Lane
from emamba_service.lanes.serving import serve_lane
from emamba_service.logs import configure
from emamba_service.metrics import Metrics
from emamba_service.server import listen, serve
from emamba_service.service import Service
from emamba_service.settings import load_settings

__all__ = ["NullEngine", "main"]

MOST_FRAMES = 4096


class NullEngine:
    """Proves itself with the mirror's answer to the first batch, then answers at once."""

    info = EngineInfo("null", "computes nothing")
    status = EngineStatus()

    def __init__(self, model: IntegerModel, busy_s: float) -> None:
        self._mirror: Mirror | None = Mirror(model)
        self._busy_s = busy_s
        self._outputs = np.ones((MOST_FRAMES, model.config.n_outputs), np.int16)

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """int8 (n, height, width, channels) -> int16 (n, n_outputs), n at most 4096."""
        if self._mirror is not None:
            mirror, self._mirror = self._mirror, None
            return mirror.run(batch)
        if self._busy_s:
            time.sleep(self._busy_s)
        return self._outputs[: len(batch)]

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded:
        return Recorded(self.run(batch), self.info.name)

    def close(self) -> None:
        """Nothing is held."""


class ChildRoom:
    """Each engine in a child of its own, over the product's lane and wire."""

    def __init__(self, factory: Callable[[IntegerModel], Engine]) -> None:
        self._factory = factory
        self._lanes: list[Lane] = []

    async def open(self, engine: str, folder: Path, package: Package) -> Lane:
        del engine, folder
        near, far = socket.socketpair()
        child = multiprocessing.get_context("fork").Process(
            target=_serve_child, args=(near, far, self._factory, package.model), daemon=True
        )
        child.start()
        far.close()
        lane = Lane(self)
        await lane.connect(near, 60.0)
        self._lanes.append(lane)
        return lane

    async def close(self) -> None:
        for lane in list(self._lanes):
            await lane.close()

    def lane_lost(self, lane: Lane, why: str) -> None:
        """A bench's engine does not fail."""
        lane.lose(EngineStatus("failed", why))

    def lane_hung(self, lane: Lane, why: str) -> None:
        """A bench's engine does not hang."""

    lane_unopened = lane_hung

    def lane_closed(self, lane: Lane) -> None:
        self._lanes.remove(lane)


class NullService(Service):
    """The service with a `ChildRoom`."""

    room: EngineRoom | None = None

    def _room(self) -> EngineRoom:
        return self.room or super()._room()


def main() -> None:
    """Serve until SIGTERM; prints the port."""
    options, given = _options()
    settings = load_settings({"port": "0", "shadow_fraction": "0", "log_level": "error", **given})
    configure(settings)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    if options.no_metrics:
        for name in ("observe_request", "observe_answer"):
            setattr(Metrics, name, _nothing)
        setattr(Metrics, "observe_batch_of", lambda *_: _nothing)  # noqa: B010

    def factory(model: IntegerModel) -> Engine:
        return NullEngine(model, options.busy_us * 1e-6)

    service = NullService(settings, engine_factory=lambda _, model: factory(model))
    if options.room == "process":
        service.room = ChildRoom(factory)
    listener = listen(settings)
    serve(service, listener, lambda: print(listener.getsockname()[1], flush=True))


def _options() -> tuple[argparse.Namespace, dict[str, str]]:
    own, _, given = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser()
    parser.add_argument("--room", choices=("process", "thread"), default="process")
    parser.add_argument("--busy-us", type=int, default=0)
    parser.add_argument("--no-metrics", action="store_true")
    words = given.split()
    names = [word.removeprefix("--").replace("-", "_") for word in words[::2]]
    return parser.parse_args(own.split()), dict(zip(names, words[1::2], strict=True))


def _nothing(*_: Any) -> None:
    """Observe nothing."""


def _serve_child(
    near: socket.socket,
    far: socket.socket,
    factory: Callable[[IntegerModel], Engine],
    model: IntegerModel,
) -> None:
    near.close()
    serve_lane(far, lambda: factory(model))


if __name__ == "__main__":
    main()
