"""What can go wrong between a caller and the service, as one tree.

ClientError
├── InvalidInput        what was given cannot be sent (also a ValueError)
├── RadarError          a radar cannot be used as it is
├── ClientClosed        the client was closed before
├── ConnectionFailed    the service cannot be reached, or hung up without an answer
├── TimedOut            no answer in time
├── BadResponse         an answer that is not as documented
└── ServiceError        the service refused; `problem` says why
    ├── InvalidRequest  4xx
    │   ├── NotFound    404
    │   └── TooLarge    413
    ├── Overloaded      429 and 503; `retry_after_s` says when to come back
    └── ServerFault     other 5xx
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """The members of an RFC 9457 problem document; `type` and `detail` may be empty."""

    status: int
    type: str
    title: str
    detail: str

    def __str__(self) -> str:
        return f"{self.status} {self.title}" + (f": {self.detail}" if self.detail else "")


class ClientError(Exception):
    """The base of everything this package raises on purpose."""


class InvalidInput(ClientError, ValueError):
    """What was given cannot be sent: not numbers, NaN or infinity, or a wrong rank."""


class RadarError(ClientError):
    """A radar cannot be used as it is: its ports, its configuration, or what it sends."""


class ClientClosed(ClientError):
    """The client was closed before it was asked."""


class ConnectionFailed(ClientError):
    """The service cannot be reached, or hung up without an answer."""


class TimedOut(ClientError):
    """The service took the request but did not answer in time."""


class BadResponse(ClientError):
    """The answer is not as documented: another program, or a version that does not fit."""


class ServiceError(ClientError):
    """The service answered with an error; `problem` holds what it said."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"the service answered {problem}")
        self.problem = problem


class InvalidRequest(ServiceError):
    """The request was at fault (4xx); sending it again gives the same answer."""


class NotFound(InvalidRequest):
    """The service has no such model, version or path (404)."""


class TooLarge(InvalidRequest):
    """The request is larger than the service accepts (413)."""


class Overloaded(ServiceError):
    """The service cannot take the request now (429 or 503).

    `retry_after_s` is the pause it asked for in seconds, or None where it named none.
    """

    def __init__(self, problem: Problem, retry_after_s: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class ServerFault(ServiceError):
    """The service failed on its own (5xx other than 503)."""
