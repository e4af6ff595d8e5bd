"""Every error the service answers, as RFC 9457 problem details.

    ServiceError
    ├── 400 InvalidHttpError, NotJsonError, ClientGoneError
    ├── 401 UnauthorizedError
    ├── 403 ForbiddenError, AdminOffError
    ├── 404 NotFoundError, UnknownModelError, UnknownVersionError
    ├── 405 MethodNotAllowedError
    ├── 408 ReadTimeoutError
    ├── 409 ModelRefusedError
    ├── 413 BodyTooLargeError, ImageTooLargeError
    ├── 415 UnsupportedMediaTypeError, UnsupportedEncodingError, UnsupportedImageError
    ├── 422 InvalidRequestError, InvalidInputError, InvalidImageError, TooManyPointsError,
    │       TooManyFramesError
    ├── 426 UpgradeRequiredError
    ├── 429 RateLimitedError
    ├── 431 HeadersTooLargeError
    ├── 500 InternalError, EngineFailedError
    └── 503 QueueFullError, NotReadyError, EngineAwayError, RequestTimeoutError,
            TooManyStreamsError, TooManyConnectionsError

The class carries status, type and title; `problem_for` turns any exception into one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

__all__ = [
    "PROBLEM_JSON",
    "AdminOffError",
    "BodyTooLargeError",
    "ClientGoneError",
    "EngineAwayError",
    "EngineFailedError",
    "ForbiddenError",
    "HeadersTooLargeError",
    "ImageTooLargeError",
    "InternalError",
    "InvalidHttpError",
    "InvalidImageError",
    "InvalidInputError",
    "InvalidRequestError",
    "MethodNotAllowedError",
    "ModelRefusedError",
    "NotFoundError",
    "NotJsonError",
    "NotReadyError",
    "QueueFullError",
    "RateLimitedError",
    "ReadTimeoutError",
    "RequestTimeoutError",
    "ServiceError",
    "TooManyConnectionsError",
    "TooManyFramesError",
    "TooManyPointsError",
    "TooManyStreamsError",
    "UnauthorizedError",
    "UnknownModelError",
    "UnknownVersionError",
    "UnsupportedEncodingError",
    "UnsupportedImageError",
    "UnsupportedMediaTypeError",
    "UpgradeRequiredError",
    "oip_style",
    "problem_for",
    "problem_response",
    "problem_types",
    "shortened",
]

PROBLEM_JSON = "application/problem+json"
_CLOSE = {"connection": "close"}
_RETRY = {"retry-after": "1"}
_RETRY_ANEW = {**_RETRY, **_CLOSE}
_UPGRADE = {"upgrade": "websocket", "connection": "upgrade"}
_BEARER = {"www-authenticate": "Bearer"}
_ECHO_CHARACTERS = 64


class ServiceError(Exception):
    """An error with an answer: `detail` says what must hold, what came and what to do.

    `members` are the problem's extension members, such as `frame` or `limit`.
    """

    status: ClassVar[int]
    kind: ClassVar[str]
    title: ClassVar[str]
    example: ClassVar[str]
    headers: Mapping[str, str] = {}

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    def answer(self, oip: bool) -> tuple[bytes, str]:
        """Body and media type: `{"error": …}` for routes of the Open Inference Protocol, else the
        problem."""
        if oip:
            return orjson.dumps({"error": self.detail}), "application/json"
        return orjson.dumps(self.problem()), PROBLEM_JSON

    def problem(self) -> dict[str, Any]:
        """The problem details object."""
        return {
            "type": f"/problems/{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **{name: value for name, value in self.members.items() if value is not None},
        }


class InvalidHttpError(ServiceError):
    status, kind, title = 400, "invalid-http", "Not an HTTP request"
    example = "the bytes received are not an HTTP/1.1 request; the connection is closed"
    headers = _CLOSE


class NotJsonError(ServiceError):
    status, kind, title = 400, "not-json", "Body is not JSON"
    example = "the body must be JSON, but the parser stops at line 1 column 13"


class ClientGoneError(ServiceError):
    status, kind, title = 400, "client-gone", "Client closed the connection"
    example = "the client closed the connection before its body had arrived"


class UnauthorizedError(ServiceError):
    status, kind, title = 401, "unauthorized", "Token needed"
    example = "Authorization must be Bearer and a token of this service, but is absent"
    headers = _BEARER


class ForbiddenError(ServiceError):
    status, kind, title = 403, "forbidden", "Token does not allow this"
    example = "token 'camera-1' must have the scope admin, but has infer"


class AdminOffError(ServiceError):
    status, kind, title = 403, "admin-off", "Administration is off"
    example = (
        "models are loaded and unloaded with a token, but the service was started without --tokens"
    )


class NotFoundError(ServiceError):
    status, kind, title = 404, "not-found", "No such route"
    example = "there is no route /v1/poses; GET / lists the routes"


class UnknownModelError(ServiceError):
    status, kind, title = 404, "unknown-model", "Model not loaded"
    example = "model must be one of mars, but is 'venus'"


class UnknownVersionError(ServiceError):
    status, kind, title = 404, "unknown-version", "Model version not loaded"
    example = "version of mars must be one of 1, but is '7'"


class MethodNotAllowedError(ServiceError):
    status, kind, title = 405, "method-not-allowed", "Method not allowed"
    example = "/v1/pose must be called with POST, not GET"

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.headers = {"allow": allow}


class ReadTimeoutError(ServiceError):
    status, kind, title = 408, "read-timeout", "Request arrived too slowly"
    example = "headers and body must arrive within 10 s; send the request again"
    headers = _CLOSE


class ModelRefusedError(ServiceError):
    status, kind, title = 409, "model-refused", "Model not loaded, nothing changed"
    example = "mars 2 must compute its golden frames as the mirror does, but frame 0 differs"


class BodyTooLargeError(ServiceError):
    status, kind, title = 413, "body-too-large", "Body too large"
    example = "the body must be at most 4194304 bytes; send less at once"


class ImageTooLargeError(ServiceError):
    status, kind, title = 413, "image-too-large", "Image has too many pixels"
    example = "image 0 must have at most 4194304 pixels, but has 100000 x 100000; make it smaller"


class UnsupportedMediaTypeError(ServiceError):
    status, kind, title = 415, "unsupported-media-type", "Content type not supported"
    example = (
        "Content-Type must be application/json or application/octet-stream, but is 'text/plain'"
    )


class UnsupportedEncodingError(ServiceError):
    status, kind, title = 415, "unsupported-encoding", "Content encoding not supported"
    example = "Content-Encoding must be absent or identity, but is 'gzip'; send the body as it is"


class UnsupportedImageError(ServiceError):
    status, kind, title = 415, "unsupported-image", "Image format not supported"
    example = "image 0 must be PNG, JPEG, WebP or GIF, but its first bytes are of none of them"


class InvalidRequestError(ServiceError):
    status, kind, title = 422, "invalid-request", "Request object is wrong"
    example = "the body must have exactly one of points, features, frames, but has none"


class InvalidInputError(ServiceError):
    status, kind, title = 422, "invalid-input", "Frame cannot be read"
    example = "frame 0: points[3] must be 5 numbers, but holds a string at position 1"


class InvalidImageError(ServiceError):
    status, kind, title = 422, "invalid-image", "Image cannot be read"
    example = "image 0 must be one picture, but is an animation of 12"


class TooManyPointsError(ServiceError):
    status, kind, title = 422, "too-many-points", "Too many points in a frame"
    example = "frame 0: points must hold at most 4096 points, but hold 5000"


class TooManyFramesError(ServiceError):
    status, kind, title = 422, "too-many-frames", "Too many frames in a request"
    example = "frames must hold at most 256 frames, but hold 300; send several requests"


class UpgradeRequiredError(ServiceError):
    status, kind, title = 426, "upgrade-required", "WebSocket needed"
    example = "/v1/pose/stream must be opened as a WebSocket, but came as plain HTTP"
    headers = _UPGRADE


class RateLimitedError(ServiceError):
    status, kind, title = 429, "rate-limited", "Token's rate exceeded"
    example = "token 'camera-1' may send 100 requests/s; try again after 1 s"
    headers = _RETRY


class HeadersTooLargeError(ServiceError):
    status, kind, title = 431, "headers-too-large", "Headers too large"
    example = "request line and headers must be at most 16384 bytes together"
    headers = _CLOSE


class InternalError(ServiceError):
    status, kind, title = 500, "internal", "Internal error"
    example = "the service failed on this request; its log says why"


class EngineFailedError(ServiceError):
    status, kind, title = 500, "engine-failed", "Engine failed"
    example = "engine mirror failed on this request; the service's log says why"


class QueueFullError(ServiceError):
    status, kind, title = 503, "queue-full", "Service is busy"
    example = "all 66 places for requests are taken; try again after 1 s"
    headers = _RETRY

    def __init__(self, places: int) -> None:
        super().__init__(
            f"all {places} places for waiting requests are taken; try again after 1 s",
            limit=places,
        )


class NotReadyError(ServiceError):
    status, kind, title = 503, "not-ready", "Service is not ready"
    example = "the service is stopping; send the request to another instance"
    headers = _RETRY


class EngineAwayError(ServiceError):
    status, kind, title = 503, "engine-unavailable", "Engine cannot answer now"
    example = "engine board must answer within 0.5 s, but did not; it is being reset, try again"
    headers = _RETRY


class RequestTimeoutError(ServiceError):
    status, kind, title = 503, "request-timeout", "Answer took too long"
    example = "the answer must be ready within 10 s, but was not; try again after 1 s"
    headers = _RETRY

    def __init__(self, timeout_s: float, what: str) -> None:
        super().__init__(
            f"the answer must be ready within {timeout_s:g} s, but the request still {what}; "
            "try again after 1 s"
        )


class TooManyStreamsError(ServiceError):
    status, kind, title = 503, "too-many-streams", "All streams are taken"
    example = "all 64 streams are taken; try again after 1 s"
    headers = _RETRY


class TooManyConnectionsError(ServiceError):
    status, kind, title = 503, "too-many-connections", "All connections are taken"
    example = "all 1024 connections are taken; try again after 1 s"
    headers = _RETRY_ANEW


def problem_types() -> list[type[ServiceError]]:
    """Every kind of problem, by status, then kind."""
    return sorted(ServiceError.__subclasses__(), key=lambda error: (error.status, error.kind))


def problem_for(error: Exception, path: str, method: str) -> ServiceError:
    """The `ServiceError` to answer `error` with; anything unexpected becomes `InternalError`."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFoundError(f"there is no route {shortened(path)}; GET / lists the routes")
    if isinstance(error, HTTPException) and error.status_code == 405:
        return _method_not_allowed(error, path, method)
    if isinstance(error, ClientDisconnect):
        return ClientGoneError(ClientGoneError.example)
    return InternalError(InternalError.example)


def shortened(text: str) -> str:
    """`text` from a request, at the length that an answer repeats at most."""
    return text if len(text) <= _ECHO_CHARACTERS else f"{text[:_ECHO_CHARACTERS]}…"


def problem_response(error: ServiceError, path: str = "") -> Response:
    """The HTTP answer for `error` on `path`."""
    body, media_type = error.answer(oip_style(path))
    return Response(body, error.status, dict(error.headers), media_type=media_type)


def oip_style(path: str) -> bool:
    """Whether errors on `path` are `{"error": …}`, as the Open Inference Protocol has them."""
    return path == "/v2" or path.startswith("/v2/")


def _method_not_allowed(error: HTTPException, path: str, method: str) -> MethodNotAllowedError:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    allowed = set(headers.get("allow", "").split(", "))
    if "GET" in allowed:
        allowed.add("HEAD")
    methods = sorted(allowed)
    return MethodNotAllowedError(
        f"{shortened(path)} must be called with {' or '.join(methods)}, not {method}",
        ", ".join(methods),
    )
