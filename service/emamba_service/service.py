"""What stands behind the routes, from its start to its end."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.types import Scope

from emamba.overlay import open_overlay
from emamba.package import Package
from emamba_service.auth import Tokens
from emamba_service.board.engines import BOARD_ENGINES, open_engine_for
from emamba_service.errors import AdminOffError, NotReadyError, ServiceError
from emamba_service.inference import Inference
from emamba_service.lanes import EngineFactory, EngineRoom, Lane, ProcessRoom, ThreadRoom
from emamba_service.logs import audit
from emamba_service.metrics import Metrics
from emamba_service.models import Models, Repository
from emamba_service.protocols.streams import Streams
from emamba_service.scheduler import Scheduler
from emamba_service.settings import Settings
from emamba_service.shadow import ShadowChecker
from emamba_service.shadow_files import ReproducerFolder, default_folder
from emamba_service.statistics import ModelStatistics
from emamba_service.telemetry import Sampler, TelemetryCollector
from emamba_service.tracing import Tracer, open_tracer

__all__ = ["Service"]

_access = logging.getLogger("emamba_service.access")
_STOPPING = NotReadyError.example


class Service:
    """Models, their engines, streams, checks and metrics, behind whatever protocol.

    `clock` gives seconds and times stages and requests; `registry` takes the metrics, those of the
    engines included; `engine_factory` opens engines in this process in place of the settings' own;
    `shadow_source` chooses the requests that are checked. Once started, `shadow` checks and
    `sampler` measures, where there is anything to.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.perf_counter,
        engine_factory: EngineFactory | None = None,
        shadow_source: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.metrics = Metrics(registry or CollectorRegistry())
        self.models = Models(settings.default_model)
        self.inference = Inference(self.models, self.metrics, clock, settings.request_timeout_s)
        self.inference.closed = "the service has not loaded its models yet; try again after 1 s"
        self.tokens: Tokens | None = None
        self.streams = Streams(self.inference, self.metrics, settings, clock, self.admit)
        self.sampler: Sampler | None = None
        self._engine_factory = engine_factory
        self._shadow_source = shadow_source
        self.shadow: ShadowChecker | None = None
        self._tracer: Tracer | None = None
        self._stack = AsyncExitStack()
        self._repository: Repository | None = None
        self._draining = False
        self._stop_by_s = 0.0

    async def start(self) -> None:
        """Load the default model and serve; the others follow, see `Repository.open_others`.

        Raises `PackageError`, `EngineError` or `SettingsError`.
        """
        settings = self.settings
        if settings.tokens is not None:
            self.tokens = Tokens(settings.tokens)
        self._tracer = open_tracer(settings)
        if self._tracer is not None:
            self._stack.callback(self._tracer.close)
        repository = Repository(
            self.models,
            settings.models,
            settings.engine,
            self._room(),
            self._scheduler,
            settings.drain_timeout_s,
            one_network=settings.engine in BOARD_ENGINES,
        )
        self._stack.push_async_callback(repository.close)
        try:
            await repository.open()
        except BaseException:
            await self._stack.aclose()
            raise
        self._repository = repository
        self.shadow = self._shadow_of()
        self._measure()
        self._show_overlay()
        self.metrics.models.now = self.models
        self.inference.closed = None

    def drain(self) -> None:
        """Say not ready from now on; requests are still answered."""
        if not self._draining:
            self._stop_by_s = self.clock() + self.settings.drain_timeout_s
        self._draining = True

    async def stop(self) -> None:
        """Let running work and, in the time left, shadow checks end; close the engines."""
        self.drain()
        await self.streams.drain()
        self.inference.closed = _STOPPING
        if self.shadow is not None:
            self.shadow.close(max(0.0, self._stop_by_s - self.clock()))
        self.metrics.models.now = ()
        await self._stack.aclose()

    @property
    def repository(self) -> Repository:
        """The models' folder and what of it is loaded; raises `NotReadyError` before it is."""
        if self._repository is None:
            raise NotReadyError(self.inference.closed or _STOPPING)
        return self._repository

    async def load(self, name: str, client: str) -> None:
        """`Repository.load`, told to the audit log."""
        await self._audited("load", name, client, self.repository.load(name))

    async def unload(self, name: str, client: str) -> None:
        """`Repository.unload`, told to the audit log."""
        await self._audited("unload", name, client, self.repository.unload(name))

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """The name of who may infer: the token's, or without tokens the peer's address.

        Raises `UnauthorizedError`, `ForbiddenError` or `RateLimitedError`.
        """
        if self.tokens is not None:
            return self.tokens.admit(authorization, "infer")
        client = scope["client"]
        return client[0] if client else "unknown"

    def admit_admin(self, authorization: str | None) -> str:
        """The token's name of who may load models; raises as `admit` and `AdminOffError`."""
        if self.tokens is None:
            raise AdminOffError(
                "models are loaded and unloaded with a token, but the service was started without "
                "--tokens"
            )
        return self.tokens.admit(authorization, "admin")

    def readiness(self) -> dict[str, Any]:
        """What `/health/ready` says; raises `NotReadyError` where requests are not welcome."""
        if self._draining:
            raise NotReadyError(_STOPPING)
        if self.inference.closed is not None:
            raise NotReadyError(self.inference.closed)
        engines = [model.state() for model in self.models]
        report: dict[str, Any] = {"engines": engines}
        if self.shadow is not None:
            report["shadow"] = self.shadow.counts()
        if reason := self._unready(engines):
            raise NotReadyError(reason, **report)
        return {"ready": True, **report}

    def observe(
        self, route: str, status: int, seconds: float, problem: ServiceError | None, scope: Scope
    ) -> None:
        """A request has been answered."""
        self.metrics.observe_request(route, status, seconds)
        if problem is not None:
            self.metrics.errors.labels(problem.kind).inc()
        if self._tracer is not None:
            self._tracer.record(route, status, seconds, problem, scope)
        if _access.isEnabledFor(logging.DEBUG):
            _access.debug(
                "%s %s %d",
                *(scope["method"], scope["path"], status),
                extra={"route": route, "status": status, "duration_us": round(seconds * 1e6, 1)},
            )

    def _room(self) -> EngineRoom:
        if self._engine_factory is None and self.settings.engine_process:
            return ProcessRoom(self.settings, self.metrics.registry)
        factory = self._engine_factory or open_engine_for(self.settings, self.metrics.registry)
        return ThreadRoom(factory)

    def _scheduler(self, package: Package, lane: Lane, statistics: ModelStatistics) -> Scheduler:
        self.metrics.expect(package.name, package.version)
        if self.settings.shadow_fraction and lane.info.name != "mirror":
            self.metrics.expect_checks(package.name, package.version)
        observe = self.metrics.observe_batch_of(package.name)

        def observe_batch(
            frames: int, quantise_s: float, engine_s: float, postprocess_s: float
        ) -> None:
            observe(frames)
            statistics.record_batch(
                frames, input_s=quantise_s, infer_s=engine_s, output_s=postprocess_s
            )

        return Scheduler(
            package,
            lane,
            max_batch=self.settings.max_batch,
            max_queue=self.settings.max_queue,
            delay_s=self.settings.batch_delay_s,
            clock=self.clock,
            observe_batch=observe_batch,
        )

    async def _audited(self, action: str, name: str, client: str, change: Any) -> None:
        try:
            await change
        except ServiceError as error:
            audit(action, "refused", client=client, model=name, reason=error.detail)
            raise
        except BaseException:
            audit(action, "failed", client=client, model=name)
            raise
        versions = ", ".join(self.models.versions(name)) or "none"
        audit(action, "done", client=client, model=name, versions=versions)

    def _unready(self, engines: list[dict[str, str]]) -> str | None:
        """Why requests are not welcome, though models are loaded."""
        for engine in engines:
            if engine["state"] in {"recovering", "failed"}:
                return (
                    "engine {engine} of {model} {version} must be ready, but is {state}: {reason}"
                ).format_map(engine)
        first = self.shadow and self.shadow.first
        if first and self.settings.shadow_trips_ready:
            return f"a shadow check failed: {first}; see the log and start the service anew"
        return None

    def _measure(self) -> None:
        """Show power and temperature in the metrics, where they are wanted and there are any."""
        if not self.settings.power_interval_s:
            return
        self.sampler = Sampler(self.settings.sysfs, self.settings.power_interval_s)
        collector = TelemetryCollector(self.sampler)
        self._stack.enter_context(self.sampler)
        self.metrics.registry.register(collector)
        self._stack.callback(self.metrics.registry.unregister, collector)

    def _show_overlay(self) -> None:
        """Show in the metrics what the engines' board is configured with, if they have one."""
        settings = self.settings
        if settings.engine not in BOARD_ENGINES:
            return
        if settings.overlay is None:
            config_hash = self.models.get().package.model.config_hash
            labels = (settings.engine, settings.emulator_preset, config_hash, "none")
        else:
            about = open_overlay(settings.overlay).manifest
            bitstream = about["files"]["emamba.bit"]
            labels = (settings.engine, about["preset"], about["config_hash"], bitstream)
        self.metrics.overlay.labels(*labels).set(1)

    def _shadow_of(self) -> ShadowChecker | None:
        """The running checker, if there is anything to check."""
        fraction = self.settings.shadow_fraction
        if not fraction or self.models.get().lane.info.name == "mirror":
            return None
        folder = ReproducerFolder(self.settings.shadow_folder or default_folder())
        shadow = ShadowChecker(
            fraction,
            folder,
            self.metrics,
            self._shadow_source,
            options=_reproduce_options(self.settings),
        )
        shadow.start()
        self.inference.witness = shadow.offer
        return shadow


def _reproduce_options(settings: Settings) -> list[str]:
    """What `emamba-service reproduce` must be told, from whatever folder it is called."""
    options = ["--models", str(settings.models.absolute())]
    if settings.overlay is not None:
        options += ["--overlay", str(settings.overlay.absolute())]
    return options
