"""The express way for inference requests: an ASGI call to an endpoint and back, in a few steps.

Routing, middleware and request objects of a web framework take several times what one frame takes
to compute; everything else goes through them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from emamba_service.errors import (
    ClientGoneError,
    InvalidRequestError,
    MethodNotAllowedError,
    QueueFullError,
    ServiceError,
    UnsupportedEncodingError,
    oip_style,
    shortened,
)
from emamba_service.limits import OVERLOADED, RequestLimits, problem_of

__all__ = ["Call", "Endpoint", "Express", "ExpressRoute", "Reply", "parse_query"]

_JSON = b"application/json"
_MAX_QUERY_KEYS = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's answer."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


def parse_query(text: bytes) -> dict[str, str]:
    """A query's keys and values; raises `InvalidRequestError` for one given twice."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(
            text.decode("latin-1"),
            keep_blank_values=True,
            strict_parsing=True,
            max_num_fields=_MAX_QUERY_KEYS,
        )
    except ValueError as error:
        raise InvalidRequestError(
            f"the query must be at most {_MAX_QUERY_KEYS} keys, each key=value, "
            f"but is {shortened(text.decode('latin-1'))!r}"
        ) from error
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidRequestError(
                f"the query must have each key once, but has {shortened(key)!r} twice"
            )
        found[key] = value
    return found


class Call:
    """One request on its way through an endpoint.

    `params` are those of the path; `client` is the token's name, or the peer's address;
    `received_at` is the clock's time at the end of the body, once `body()` has returned.
    """

    __slots__ = (
        "_clock",
        "_headers",
        "_limits",
        "_receive",
        "_scope",
        "client",
        "params",
        "received_at",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        headers: dict[bytes, bytes],
        params: Mapping[str, str],
        client: str,
        limits: RequestLimits,
        clock: Callable[[], float],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._headers = headers
        self._limits = limits
        self._clock = clock
        self.params = params
        self.client = client
        self.received_at = 0.0

    def header(self, name: bytes) -> str | None:
        """The header of this lower-case name."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """The query's keys and values; raises `InvalidRequestError` for one given twice."""
        return parse_query(self._scope["query_string"])

    async def body(self) -> bytes:
        """The whole body; raises `BodyTooLargeError`, `ReadTimeoutError`, `ClientGoneError`."""
        encoding = self.header(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            raise UnsupportedEncodingError(
                f"Content-Encoding must be absent or identity, but is {shortened(encoding)!r}; "
                "send the body as it is"
            )
        self._limits.check_declared(self._headers.get(b"content-length"))
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError(ClientGoneError.example)
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            self._limits.check_body(size)
            if more := message.get("more_body", False):
                self._limits.check_time(self._scope)
        self.received_at = self._clock()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


Endpoint = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class ExpressRoute:
    """An endpoint for POST, and the paths it answers, `{name}` standing for a part of one."""

    path: str
    endpoint: Endpoint

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a path must match in whole."""
        parts = re.split(r"\{(\w+)\}", self.path)
        named = [
            f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part)
            for index, part in enumerate(parts)
        ]
        return re.compile("".join(named))


# Route, status, seconds and problem of an answered request, and its ASGI scope.
Observe = Callable[[str, int, float, "ServiceError | None", Scope], None]


class Express:
    """Finds and runs endpoints; answers whatever they raise as a problem.

    `admit(authorization, scope)` gives the client's name or raises `ServiceError`;
    `check_room(name)` raises where a request for the model of that name, None where the path has
    none, would not be taken.
    """

    def __init__(
        self,
        routes: list[ExpressRoute],
        limits: RequestLimits,
        admit: Callable[[str | None, Scope], str],
        check_room: Callable[[str | None], None],
        observe: Observe,
        clock: Callable[[], float],
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        self._routes = {route.path: route for route in routes if "{" not in route.path}
        self._patterns = [(route.pattern, route) for route in routes if "{" in route.path]
        self._limits = limits
        self._admit = admit
        self._check_room = check_room
        self._observe = observe
        self._clock = clock
        self._headers = headers

    def find(self, path: str) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        """What answers requests for `path`, if it is an endpoint's."""
        route = self._routes.get(path)
        if route is not None:
            return partial(self._run, route, {})
        if path.endswith("/infer"):
            for pattern, candidate in self._patterns:
                if match := pattern.fullmatch(path):
                    return partial(self._run, candidate, match.groupdict())
        return None

    async def _run(
        self,
        route: ExpressRoute,
        params: Mapping[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        begun_s = self._clock()
        headers = dict(scope["headers"])
        problem: ServiceError | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowedError(
                    f"{shortened(scope['path'])} must be called with POST, not {scope['method']}",
                    "POST",
                )
            self._limits.check_headers(scope)
            authorization = headers.get(b"authorization")
            client = self._admit(
                None if authorization is None else authorization.decode("latin-1"), scope
            )
            self._check_room(params.get("name"))
            call = Call(scope, receive, headers, params, client, self._limits, self._clock)
            reply = await route.endpoint(call)
        except Exception as error:
            problem = problem_of(error, scope)
            reply = _problem_reply(problem, scope["path"])
            if isinstance(problem, QueueFullError):
                scope["state"][OVERLOADED] = True
        await self._send(reply, scope, send)
        self._observe(route.path, reply.status, self._clock() - begun_s, problem, scope)

    async def _send(self, reply: Reply, scope: Scope, send: Send) -> None:
        media_type = _JSON if reply.media_type == "application/json" else reply.media_type.encode()
        headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(reply.body)),
            *reply.headers,
            *self._headers,
        ]
        if request_id := scope["state"].get("request_id"):
            headers.append((b"x-request-id", request_id.encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


def _problem_reply(problem: ServiceError, path: str) -> Reply:
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
    body, media_type = problem.answer(oip_style(path))
    return Reply(body, media_type, problem.status, headers)
