"""When a failed request is sent again, and after which pause.

Every request of this package is pure: sending it twice computes the same answer twice and
changes nothing, so a lost connection may be retried. What the service refused for good is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emamba_client.errors import ClientError, ConnectionFailed, Overloaded, TimedOut


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to try again.

    A request is sent at most `attempts` times, and none is sent later than `total_s` seconds
    after the first. Pause k lies between half and the whole of `first_delay_s * 2**k`, at most
    `max_delay_s`; it comes on top of the service's Retry-After, so that clients turned away
    together do not come back together. Retried are failed connections and 429 or 503 with a
    Retry-After; read timeouts only with `read_timeouts`.
    """

    attempts: int = 4
    total_s: float = 10.0
    first_delay_s: float = 0.1
    max_delay_s: float = 2.0
    read_timeouts: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        for name in ("total_s", "first_delay_s", "max_delay_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, not {value}")

    def allows(self, error: ClientError) -> bool:
        """Whether a request that failed so may be sent again at all."""
        if isinstance(error, Overloaded):
            return error.retry_after_s is not None
        return isinstance(error, ConnectionFailed) or (
            self.read_timeouts and isinstance(error, TimedOut)
        )


class Attempts:
    """The attempts of one request: counts them and their time.

    `clock` tells monotonic seconds; `random` gives the jitter, in [0, 1).
    """

    def __init__(
        self, policy: RetryPolicy, clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._random = random
        self._failed = 0
        self._deadline_s = clock() + policy.total_s

    def delay_s(self, error: ClientError) -> float:
        """Seconds to wait before the next attempt; raises `error` where there is none."""
        policy = self._policy
        self._failed += 1
        if self._failed >= policy.attempts or not policy.allows(error):
            raise error
        backoff_s = min(policy.max_delay_s, policy.first_delay_s * 2.0 ** (self._failed - 1))
        delay_s = backoff_s * (0.5 + 0.5 * self._random())
        if isinstance(error, Overloaded):
            delay_s += error.retry_after_s or 0.0
        if self._clock() + delay_s > self._deadline_s:
            raise error
        return delay_s
