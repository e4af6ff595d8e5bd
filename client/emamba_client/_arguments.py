"""What clients and streams are told: checked, and put into headers."""

from __future__ import annotations

import math
import re
from numbers import Real

import httpx

from emamba_client._version import __version__

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 5.0


def request_headers(token: str | None) -> dict[str, str]:
    """Who asks, and with what right."""
    headers = {"User-Agent": f"emamba-client/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def checked_text(name: str, value: str | None) -> str | None:
    """A name, or None; raises `ValueError`."""
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f'{name} must be a string such as "1" or None, but is {value!r}')


def checked_token(token: str | None) -> str | None:
    """A bearer token, or None; raises `ValueError`."""
    # The token itself is not repeated: messages end up in logs.
    if token is None or (isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token)):
        return token
    raise ValueError("token must be printable ASCII characters without spaces, or None")


def checked_seconds(name: str, value: float) -> float:
    """A time-out; raises `ValueError`."""
    if isinstance(value, Real) and 0 < value < math.inf:
        return float(value)
    raise ValueError(f"{name} must be a finite number of seconds > 0, but is {value!r}")


def checked_url(url: str) -> str:
    """A service's address, without a slash at its end; raises `ValueError`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url must be like {DEFAULT_URL}, not {url!r} ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url must be like {DEFAULT_URL}, not {url!r}")
    return url.rstrip("/")
