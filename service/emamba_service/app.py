"""The application: routes, and the life of what stands behind them."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from emamba_service import __version__, errors, schemas
from emamba_service.board.engines import open_engine_for
from emamba_service.errors import (
    NotReadyError,
    ServiceError,
    UnsupportedEncodingError,
    UnsupportedMediaTypeError,
    problem_for,
    problem_response,
    shortened,
)
from emamba_service.limits import Observer, RequestLimits
from emamba_service.metrics import Metrics
from emamba_service.models import EngineFactory, Models, load_models
from emamba_service.pool import WorkerPool
from emamba_service.pose import PosePipeline
from emamba_service.settings import Settings
from emamba_service.shadow import ShadowChecker
from emamba_service.shadow_files import ReproducerFolder, default_folder
from emamba_service.telemetry import Sampler, TelemetryCollector

__all__ = ["Service", "create_app"]

_LINKS = {
    "pose": "/v1/pose",
    "models": "/v1/models",
    "live": "/health/live",
    "ready": "/health/ready",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
}
_EVERYWHERE = (
    errors.MethodNotAllowedError,
    errors.ReadTimeoutError,
    errors.BodyTooLargeError,
    errors.HeadersTooLargeError,
    errors.InternalError,
)
_POSE_PROBLEMS = (
    *_EVERYWHERE,
    errors.NotJsonError,
    errors.UnknownModelError,
    errors.UnknownVersionError,
    errors.UnsupportedMediaTypeError,
    errors.UnsupportedEncodingError,
    errors.InvalidRequestError,
    errors.InvalidInputError,
    errors.TooManyPointsError,
    errors.TooManyFramesError,
    errors.EngineFailedError,
    errors.EngineAwayError,
    errors.QueueFullError,
    errors.NotReadyError,
    errors.RequestTimeoutError,
)


def create_app(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.perf_counter,
    engine_factory: EngineFactory | None = None,
    models: Models | None = None,
    shadow_source: random.Random | None = None,
) -> FastAPI:
    """The ASGI application.

    Models are loaded when it starts (`PackageError` or `EngineError` then), unless `models` are
    given. `clock` gives seconds and times stages and requests; `registry` takes the metrics, those
    of the engines included; `shadow_source` chooses the requests that are checked. The `Service`
    behind the routes is `app.state.service`.
    """
    metrics = Metrics(registry or CollectorRegistry())
    service = Service(settings, metrics, clock, shadow_source)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(models or _load(settings, metrics.registry, engine_factory))
        yield
        service.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.openapi = lambda: schemas.openapi_document(app, settings)  # type: ignore[method-assign]
    app.add_middleware(RequestLimits, settings=settings)
    app.add_middleware(Observer, metrics=metrics, clock=clock)
    app.add_exception_handler(ServiceError, service.problem)
    app.add_exception_handler(HTTPException, service.problem)
    _add_routes(app, service)
    return app


def _load(
    settings: Settings, registry: CollectorRegistry, engine_factory: EngineFactory | None
) -> Models:
    factory = engine_factory or open_engine_for(settings, registry)
    return load_models(settings.models, settings.engine, settings.default_model, factory)


class Service:
    """What the routes share, and the routes themselves."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float],
        shadow_source: random.Random | None = None,
    ) -> None:
        self.metrics = metrics
        self._settings = settings
        self._clock = clock
        self._shadow_source = shadow_source
        self._shadow: ShadowChecker | None = None
        self._telemetry = ExitStack()
        self._stop_by_s = 0.0
        self._models: Models | None = None
        self._pipeline: PosePipeline | None = None
        self._pool = WorkerPool(
            settings.threads, settings.max_queue, settings.request_timeout_s, metrics.pending
        )
        self._draining = False

    def start(self, models: Models) -> None:
        """Serve `models`."""
        self._models = models
        self._shadow = self._shadow_of(models)
        self._pipeline = PosePipeline(
            models,
            self.metrics,
            self._clock,
            self._settings.max_points,
            self._settings.max_frames,
            None if self._shadow is None else self._shadow.offer,
        )
        self.metrics.engine_states.models = models
        self._measure()
        for model in models:
            package = model.package
            self.metrics.models.labels(
                package.name, package.version, model.engine.info.name, package.sha256
            ).set(1)

    def drain(self) -> None:
        """Say not ready from now on; requests are still answered."""
        if not self._draining:
            self._stop_by_s = self._clock() + self._settings.drain_timeout_s
        self._draining = True

    def stop(self) -> None:
        """Let running work and, in the time left, shadow checks end; close the engines."""
        self.drain()
        self._pipeline = None
        self._pool.close()
        self._telemetry.close()
        if self._shadow is not None:
            self._shadow.close(max(0.0, self._stop_by_s - self._clock()))
        self.metrics.engine_states.models = ()
        if self._models is not None:
            self._models.close()

    async def problem(self, request: Request, error: Exception) -> Response:
        """The answer for an exception that a route has raised."""
        problem = problem_for(error, request.url.path, request.method)
        self.metrics.errors.labels(problem.kind).inc()
        return problem_response(problem)

    async def pose(self, request: Request) -> Response:
        """Joints in metres for one frame or a batch of frames of radar points."""
        _check_content(request)
        pipeline = self._pipeline
        if pipeline is None:
            raise self._not_ready()
        body = await request.body()
        answer = await self._pool.run(pipeline.answer, body, self._clock())
        return Response(answer, media_type="application/json")

    async def list_models(self) -> Response:
        """Every loaded model and version."""
        return _json({"models": [model.summary() for model in self._loaded()]})

    async def model(self, request: Request) -> Response:
        """The latest version of one model."""
        return _json(self._loaded().get(request.path_params["name"]).summary())

    async def live(self) -> Response:
        """200 as long as the process answers at all."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """200 while requests are welcome: every model's engine answers and nothing is stopping."""
        if self._draining:
            raise self._not_ready()
        engines = [model.state() for model in self._loaded()]
        report: dict[str, Any] = {"engines": engines}
        if self._shadow is not None:
            report["shadow"] = self._shadow.counts()
        if reason := self._unready(engines):
            raise NotReadyError(reason, **report)
        return _json({"ready": True, **report})

    async def show_metrics(self) -> Response:
        """Metrics in the Prometheus text format."""
        content = generate_latest(self.metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    async def index(self) -> Response:
        """What this is and where the routes are."""
        return _json({"service": "emamba-service", "version": __version__, "links": _LINKS})

    def _unready(self, engines: list[dict[str, str]]) -> str | None:
        """Why requests are not welcome, though models are loaded."""
        for engine in engines:
            if engine["state"] in {"recovering", "failed"}:
                return (
                    "engine {engine} of {model} {version} must be ready, but is {state}: {reason}"
                ).format_map(engine)
        first = self._shadow and self._shadow.first
        if first and self._settings.shadow_trips_ready:
            return f"a shadow check failed: {first}; see the log and start the service anew"
        return None

    def _measure(self) -> None:
        """Show power and temperature in the metrics, where they are wanted and there are any."""
        if not self._settings.power_interval_s:
            return
        sampler = Sampler(self._settings.sysfs, self._settings.power_interval_s)
        collector = TelemetryCollector(sampler)
        self._telemetry.enter_context(sampler)
        self.metrics.registry.register(collector)
        self._telemetry.callback(self.metrics.registry.unregister, collector)

    def _shadow_of(self, models: Models) -> ShadowChecker | None:
        """The running checker, if there is anything to check."""
        fraction = self._settings.shadow_fraction
        checked = [model for model in models if model.engine.info.name != "mirror"]
        if not fraction or not checked:
            return None
        folder = ReproducerFolder(self._settings.shadow_folder or default_folder())
        shadow = ShadowChecker(
            fraction,
            folder,
            self.metrics,
            self._shadow_source,
            options=_reproduce_options(self._settings),
        )
        shadow.start(checked)
        return shadow

    def _loaded(self) -> Models:
        if self._models is None:
            raise self._not_ready()
        return self._models

    def _not_ready(self) -> NotReadyError:
        if self._draining:
            return NotReadyError("the service is stopping; send the request to another instance")
        return NotReadyError("the service has not loaded its models yet; try again after 1 s")


def _reproduce_options(settings: Settings) -> list[str]:
    """What `emamba-service reproduce` must be told, from whatever folder it is called."""
    options = ["--models", str(settings.models.absolute())]
    if settings.overlay is not None:
        options += ["--overlay", str(settings.overlay.absolute())]
    return options


def _add_routes(app: FastAPI, service: Service) -> None:
    def add(method: str, path: str, route: Any, answer: Any, *kinds: Any, **extra: Any) -> None:
        app.add_api_route(
            path,
            route,
            methods=[method],
            response_class=Response,
            responses={200: answer, **schemas.problem_answers(*kinds)},
            **extra,
        )
        if method == "GET":
            app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False)

    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    text = {"description": "Prometheus text", "content": {"text/plain": {}}}
    unready = (*_EVERYWHERE, errors.NotReadyError)
    add(
        "POST",
        "/v1/pose",
        service.pose,
        _answer(schemas.PoseAnswer),
        *_POSE_PROBLEMS,
        openapi_extra={"requestBody": schemas.pose_request_body()},
    )
    add("GET", "/v1/models", service.list_models, _answer(schemas.ModelList), *unready)
    add(
        "GET",
        "/v1/models/{name}",
        service.model,
        _answer(schemas.ModelSummary),
        errors.UnknownModelError,
        *unready,
        openapi_extra={"parameters": [name]},
    )
    add("GET", "/health/live", service.live, _answer(schemas.Live), *_EVERYWHERE)
    add("GET", "/health/ready", service.ready, _answer(schemas.Ready), *unready)
    add("GET", "/metrics", service.show_metrics, text, *_EVERYWHERE)
    add("GET", "/", service.index, _answer(schemas.Index), *_EVERYWHERE)


def _answer(model: Any) -> dict[str, Any]:
    return {"model": model, "description": "The answer"}


def _check_content(request: Request) -> None:
    """Raise unless the body is declared to be plain JSON."""
    came = request.headers.get("content-type")
    if came is None or came.partition(";")[0].strip().lower() != "application/json":
        but = "absent" if came is None else repr(shortened(came))
        raise UnsupportedMediaTypeError(f"Content-Type must be application/json, but is {but}")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedEncodingError(
            f"Content-Encoding must be absent or identity, but is {shortened(encoding)!r}; "
            "send the body as it is"
        )


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
