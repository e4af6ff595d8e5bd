"""The application: routes, and the life of what stands behind them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from emamba.engines import open_engine
from emamba_service import __version__, errors, schemas
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
    errors.QueueFullError,
    errors.NotReadyError,
    errors.RequestTimeoutError,
)


def create_app(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.perf_counter,
    engine_factory: EngineFactory = open_engine,
    models: Models | None = None,
) -> FastAPI:
    """The ASGI application.

    Models are loaded when it starts (`PackageError` or `EngineError` then), unless `models` are
    given. `clock` gives seconds and times stages and requests; `registry` takes the metrics. The
    `Service` behind the routes is `app.state.service`.
    """
    metrics = Metrics(registry or CollectorRegistry())
    service = Service(settings, metrics, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(
            models
            or load_models(settings.models, settings.engine, settings.default_model, engine_factory)
        )
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


class Service:
    """What the routes share, and the routes themselves."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.metrics = metrics
        self._settings = settings
        self._clock = clock
        self._models: Models | None = None
        self._pipeline: PosePipeline | None = None
        self._pool = WorkerPool(
            settings.threads, settings.max_queue, settings.request_timeout_s, metrics.pending
        )
        self._draining = False

    def start(self, models: Models) -> None:
        """Serve `models`."""
        self._models = models
        self._pipeline = PosePipeline(
            models,
            self.metrics,
            self._clock,
            self._settings.max_points,
            self._settings.max_frames,
        )
        for model in models:
            package = model.package
            self.metrics.models.labels(
                package.name, package.version, model.engine.info.name, package.sha256
            ).set(1)

    def drain(self) -> None:
        """Say not ready from now on; requests are still answered."""
        self._draining = True

    def stop(self) -> None:
        """Let running work end and close the engines."""
        self.drain()
        self._pipeline = None
        self._pool.close()
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
        """200 while requests are welcome: models are loaded and the service is not stopping."""
        if self._draining or self._models is None:
            raise self._not_ready()
        return _json({"ready": True})

    async def show_metrics(self) -> Response:
        """Metrics in the Prometheus text format."""
        content = generate_latest(self.metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    async def index(self) -> Response:
        """What this is and where the routes are."""
        return _json({"service": "emamba-service", "version": __version__, "links": _LINKS})

    def _loaded(self) -> Models:
        if self._models is None:
            raise self._not_ready()
        return self._models

    def _not_ready(self) -> NotReadyError:
        if self._draining:
            return NotReadyError("the service is stopping; send the request to another instance")
        return NotReadyError("the service has not loaded its models yet; try again after 1 s")


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
