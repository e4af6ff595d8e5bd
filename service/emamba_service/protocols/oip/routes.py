"""The Open Inference Protocol's other routes: health, metadata, statistics, repository."""

from __future__ import annotations

import re
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response

from emamba_service import __version__
from emamba_service.errors import (
    AdminOffError,
    ForbiddenError,
    InvalidRequestError,
    ModelRefusedError,
    NotJsonError,
    NotReadyError,
    RateLimitedError,
    ServiceError,
    UnauthorizedError,
    UnknownModelError,
    shortened,
)
from emamba_service.fair_queue import DEFAULT_PRIORITY, PRIORITIES
from emamba_service.models import IndexEntry, LoadedModel
from emamba_service.protocols.oip.schema import oip_answers
from emamba_service.protocols.oip.signature import signature_of
from emamba_service.protocols.request import json_type, load_json
from emamba_service.schemas import path_parameter
from emamba_service.service import Service

__all__ = ["add_oip_routes"]

_EXTENSIONS = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
]
_ADMIN_PROBLEMS = (
    UnauthorizedError,
    ForbiddenError,
    AdminOffError,
    ModelRefusedError,
    RateLimitedError,
)


def add_oip_routes(app: FastAPI, service: Service) -> None:
    """Add the routes under /v2 to `app`."""
    routes = _Routes(service)
    gets: dict[str, Any] = {
        "/v2": routes.server,
        "/v2/health/live": routes.live,
        "/v2/health/ready": routes.ready,
        "/v2/models/stats": routes.every_statistics,
    }
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        gets[model] = routes.model
        gets[f"{model}/ready"] = routes.model_ready
        gets[f"{model}/config"] = routes.config
        gets[f"{model}/stats"] = routes.statistics
    for path, route in gets.items():
        app.add_api_route(path, route, **_described(path, NotReadyError))
        app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False)
    repository = "/v2/repository"
    posts: tuple[tuple[str, Any], ...] = (
        (f"{repository}/index", routes.index),
        (f"{repository}/models/{{name}}/load", routes.load),
        (f"{repository}/models/{{name}}/unload", routes.unload),
    )
    for path, route in posts:
        more = (*_ADMIN_PROBLEMS, NotJsonError, InvalidRequestError, NotReadyError)
        app.add_api_route(path, route, methods=["POST"], **_described(path, *more))


def _described(path: str, *kinds: type[ServiceError]) -> dict[str, Any]:
    """What FastAPI is told of a route."""
    names = re.findall(r"\{(\w+)\}", path)
    unknown = (UnknownModelError,) if names else ()
    return {
        "response_class": Response,
        "responses": oip_answers(*kinds, *unknown),
        "openapi_extra": {"parameters": [path_parameter(name) for name in names]},
    }


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self) -> Response:
        """Name, version and extensions of the server."""
        return _json({"name": "emamba-service", "version": __version__, "extensions": _EXTENSIONS})

    async def live(self) -> Response:
        """200 as long as the process answers at all."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """200 while requests are welcome, else 503."""
        return _readiness(self._is_ready())

    async def model(self, request: Request) -> Response:
        """Versions, platform, inputs and outputs of a model."""
        loaded = self._loaded(request)
        signature = signature_of(loaded.package)
        return _json(
            {
                "name": loaded.package.name,
                "versions": list(self._service.models.versions(loaded.package.name)),
                "platform": "emamba",
                "inputs": [signature.input.document()],
                "outputs": [signature.output.document()],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """200 while a model's engine answers, else 503."""
        loaded = self._loaded(request)
        ready = self._is_ready() and loaded.lane.status.state in {"ready", "degraded"}
        return _readiness(ready, name=loaded.package.name)

    async def config(self, request: Request) -> Response:
        """A model's configuration, as far as Triton's clients look at it."""
        loaded = self._loaded(request)
        signature = signature_of(loaded.package)
        settings = self._service.settings
        return _json(
            {
                "name": loaded.package.name,
                "platform": "emamba",
                "backend": "emamba",
                "max_batch_size": settings.max_frames,
                "input": [_config_of(signature.input.document())],
                "output": [_config_of(signature.output.document())],
                "dynamic_batching": {
                    "max_queue_delay_microseconds": round(settings.batch_delay_s * 1e6),
                    "priority_levels": PRIORITIES[-1],
                    "default_priority_level": DEFAULT_PRIORITY,
                    "default_queue_policy": {
                        "timeout_action": "REJECT",
                        "default_timeout_microseconds": round(settings.request_timeout_s * 1e6),
                        "allow_timeout_override": True,
                        "max_queue_size": settings.max_queue,
                    },
                },
            }
        )

    async def statistics(self, request: Request) -> Response:
        """Counts and times of one model: of a version, or of all of them."""
        loaded = self._loaded(request)
        if "version" in request.path_params:
            return _json({"model_stats": [_statistics_of(loaded)]})
        versions = self._service.models.versions(loaded.package.name).values()
        return _json({"model_stats": [_statistics_of(version) for version in versions]})

    async def every_statistics(self) -> Response:
        """Counts and times of every model and version."""
        self._service.inference.check_open()
        return _json({"model_stats": [_statistics_of(model) for model in self._service.models]})

    async def index(self, request: Request) -> Response:
        """Models that are loaded or could be."""
        only_ready = _flag(await _document(request, {"ready"}), "ready")
        entries = self._service.repository.index()
        return _json([_entry(e) for e in entries if not only_ready or e.state == "READY"])

    async def load(self, request: Request) -> Response:
        """Serve the versions of a name that its folder holds now."""
        client = self._admin(request)
        await _parameters(request, set())
        await self._service.load(request.path_params["name"], client)
        return _json({})

    async def unload(self, request: Request) -> Response:
        """Serve a name no more."""
        client = self._admin(request)
        parameters = await _parameters(request, {"unload_dependents"})
        if _flag(parameters, "unload_dependents"):
            raise InvalidRequestError(
                "unload_dependents must be false, since no model depends on another"
            )
        await self._service.unload(request.path_params["name"], client)
        return _json({})

    def _admin(self, request: Request) -> str:
        return self._service.admit_admin(request.headers.get("authorization"))

    def _loaded(self, request: Request) -> LoadedModel:
        params = request.path_params
        return self._service.inference.get(params["name"], params.get("version"))

    def _is_ready(self) -> bool:
        try:
            self._service.readiness()
        except NotReadyError:
            return False
        return True


async def _parameters(request: Request, known: set[str]) -> dict[str, Any]:
    """A body's `parameters`; none where it is empty."""
    document = await _document(request, {"parameters"})
    given = document.get("parameters", {})
    if type(given) is not dict:
        raise InvalidRequestError(f"parameters must be an object, but is {json_type(given)}")
    return _only(given, known, "parameters")


async def _document(request: Request, known: set[str]) -> dict[str, Any]:
    """A body's members; none where it is empty."""
    body = await request.body()
    document = load_json(body) if body else {}
    if type(document) is not dict:
        raise InvalidRequestError(f"the body must be an object, but is {json_type(document)}")
    return _only(document, known, "the body")


def _only(members: dict[str, Any], known: set[str], what: str) -> dict[str, Any]:
    for key in members:
        if key not in known:
            must = f"have no key but {', '.join(sorted(known))}" if known else "have no keys"
            raise InvalidRequestError(f"{what} must {must}, but one is {shortened(key)!r}")
    return members


def _flag(members: dict[str, Any], key: str) -> bool:
    value = members.get(key, False)
    if type(value) is not bool:
        raise InvalidRequestError(f"{key} must be a boolean, but is {json_type(value)}")
    return value


def _statistics_of(loaded: LoadedModel) -> dict[str, Any]:
    package = loaded.package
    return {"name": package.name, "version": package.version, **loaded.statistics.document()}


def _config_of(tensor: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": tensor["name"],
        "data_type": f"TYPE_{tensor['datatype']}",
        "dims": tensor["shape"][1:],
    }


def _entry(entry: IndexEntry) -> dict[str, str]:
    return {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
    }


def _readiness(ready: bool, **members: Any) -> Response:
    content = orjson.dumps({**members, "ready": ready})
    return Response(content, 200 if ready else 503, media_type="application/json")


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
