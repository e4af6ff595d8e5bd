"""The application: which route is answered by what."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from emamba_service import __version__, errors, schemas
from emamba_service.errors import (
    ServiceError,
    UpgradeRequiredError,
    problem_for,
    problem_response,
    shortened,
)
from emamba_service.lanes import EngineFactory
from emamba_service.limits import Limited, Observer, RequestLimits
from emamba_service.logs import new_request_id, request_id, trace_parent
from emamba_service.protocols.classify import Classify
from emamba_service.protocols.classify_schema import ClassifyRequest, classify_route
from emamba_service.protocols.oip import Oip, add_oip_routes
from emamba_service.protocols.oip.schema import InferRequest, infer_routes
from emamba_service.protocols.pose import Pose
from emamba_service.service import Service
from emamba_service.settings import Settings
from emamba_service.site import PageFiles, page, wants_page
from emamba_service.vitals import vitals
from emamba_service.web import Endpoint, Express, ExpressRoute

__all__ = ["App", "create_app"]

_LINKS = {
    "pose": "/v1/pose",
    "stream": "/v1/pose/stream",
    "streams": "/v1/streams",
    "classify": "/v1/classify",
    "models": "/v1/models",
    "oip": "/v2",
    "live": "/health/live",
    "ready": "/health/ready",
    "vitals": "/v1/vitals",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
}
# An API's answers are data: never sniffed for another type, never kept by a cache.
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class App(FastAPI):
    """FastAPI, with an express way for inference requests beside its own."""

    express: Express

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            _identify(scope)
        if scope["type"] == "http" and (way := self.express.find(scope["path"])) is not None:
            await way(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    clock: Callable[[], float] = time.perf_counter,
    engine_factory: EngineFactory | None = None,
    service: Service | None = None,
    shadow_source: random.Random | None = None,
) -> App:
    """The ASGI application.

    Models are loaded when it starts (`PackageError` or `EngineError` then), unless a `service` that
    has started is given; the other arguments are `Service`'s. It is `app.state.service`.
    """
    behind = service or Service(
        settings,
        registry=registry,
        clock=clock,
        engine_factory=engine_factory,
        shadow_source=shadow_source,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service is None:
            await behind.start()
            await behind.repository.open_others()
        yield
        await behind.stop()

    app = App(lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    limits = RequestLimits(settings)
    app.state.service = behind
    app.openapi = lambda: _openapi(app, settings)  # type: ignore[method-assign]
    app.express = Express(
        [ExpressRoute(path, endpoint) for path, endpoint in _endpoints(behind).items()],
        limits,
        behind.admit,
        behind.inference.check_room,
        behind.observe,
        behind.clock,
        _HEADERS,
    )
    app.add_middleware(Limited, limits=limits)
    app.add_middleware(
        Observer, observe=behind.observe, clock=behind.clock, headers=_answer_headers
    )
    app.add_exception_handler(ServiceError, _problem)
    app.add_exception_handler(HTTPException, _problem)
    _add_routes(app, Routes(behind))
    app.router.routes += [
        WebSocketRoute("/v1/pose/stream", behind.streams.pose),
        WebSocketRoute("/v1/pose/watch/{name}", behind.streams.watch),
    ]
    add_oip_routes(app, behind)
    return app


class Routes:
    """What FastAPI's routes of the service's own answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list_models(self) -> Response:
        """Every loaded model and version, and those that are being loaded."""
        self._service.inference.check_open()
        models = self._service.models
        loading = [{"name": name, "version": version} for name, version in models.loading]
        return _json({"models": [model.summary() for model in models], "loading": loading})

    async def model(self, request: Request) -> Response:
        """The latest version of one model."""
        name = request.path_params["name"]
        return _json(self._service.inference.get(name).summary())

    async def streams(self) -> Response:
        """The streams that are published, with their viewers."""
        return _json({"streams": self._service.streams.listing()})

    async def plain_stream(self, request: Request) -> Response:
        """426: a stream is a WebSocket."""
        raise UpgradeRequiredError(
            f"{shortened(request.url.path)} must be opened as a WebSocket, but came as plain HTTP"
        )

    async def live(self) -> Response:
        """200 as long as the process answers at all."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """200 while requests are welcome: every model's engine answers and nothing is stopping."""
        return _json(self._service.readiness())

    async def show_metrics(self) -> Response:
        """Metrics in the Prometheus text format."""
        content = generate_latest(self._service.metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    async def vitals(self) -> Response:
        """The service's state now: engines, frames, shadow checks, power and temperature."""
        return _json(vitals(self._service))

    async def index(self, request: Request) -> Response:
        """What this is and where the routes are; for browsers, the page."""
        if wants_page(request):
            return page()
        return _json({"service": "emamba-service", "version": __version__, "links": _LINKS})


def _openapi(app: App, settings: Settings) -> dict[str, Any]:
    described = [schemas.pose_route(), classify_route(), *infer_routes()]
    bodies: list[type[BaseModel]] = [schemas.PoseRequest, ClassifyRequest, InferRequest]
    return schemas.openapi_document(app, settings, described, bodies)


def _endpoints(service: Service) -> dict[str, Endpoint]:
    """The routes on the express way, each for POST."""
    inference, settings = service.inference, service.settings
    oip = Oip(inference, settings)
    return {
        "/v1/pose": Pose(inference, settings).answer,
        "/v1/classify": Classify(inference, settings).answer,
        "/v2/models/{name}/infer": oip.infer,
        "/v2/models/{name}/versions/{version}/infer": oip.infer,
    }


def _identify(scope: Scope) -> None:
    """Give a request its id and its place in a trace, for log lines and the answer."""
    given = parent = None
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
        elif name == b"traceparent":
            parent = value.decode("latin-1")
    identity = new_request_id(given)
    scope.setdefault("state", {})["request_id"] = identity
    request_id.set(identity)
    trace_parent.set(parent)


def _answer_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """What every answer off the express way has besides its own."""
    return [*_HEADERS, (b"x-request-id", scope["state"]["request_id"].encode())]


def _add_routes(app: App, routes: Routes) -> None:
    def get(path: str, route: Any, answer: Any, *kinds: type[ServiceError], **extra: Any) -> None:
        responses = {200: answer, **schemas.problem_answers(*schemas.EVERYWHERE, *kinds)}
        app.add_api_route(path, route, response_class=Response, responses=responses, **extra)
        app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False)

    text = {"description": "Prometheus text", "content": {"text/plain": {}}}
    get("/v1/models", routes.list_models, _answer(schemas.ModelList), errors.NotReadyError)
    get(
        "/v1/models/{name}",
        routes.model,
        _answer(schemas.ModelSummary),
        errors.UnknownModelError,
        errors.NotReadyError,
        openapi_extra={"parameters": [schemas.path_parameter("name")]},
    )
    for path in ("/v1/pose/stream", "/v1/pose/watch/{name}"):
        app.add_api_route(path, routes.plain_stream, include_in_schema=False)
    get("/v1/streams", routes.streams, _answer(schemas.StreamList))
    get("/health/live", routes.live, _answer(schemas.Live))
    get("/health/ready", routes.ready, _answer(schemas.Ready), errors.NotReadyError)
    get("/metrics", routes.show_metrics, text)
    get("/v1/vitals", routes.vitals, _answer(schemas.Vitals), errors.NotReadyError)
    html = {"text/html": {"schema": {"type": "string"}}}
    get("/", routes.index, _answer(schemas.Index) | {"content": html})
    app.mount("/page", GZipMiddleware(PageFiles()))


def _answer(model: Any) -> dict[str, Any]:
    return {"model": model, "description": "The answer"}


async def _problem(request: Request, error: Exception) -> Response:
    """The answer for an exception that a route has raised."""
    path = request.url.path
    problem = problem_for(error, path, request.method)
    request.scope["state"]["problem"] = problem
    return problem_response(problem, path)


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
