"""What the task routes read of a request in the same way: media types, query, JSON."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import orjson

from emamba_service.errors import (
    InvalidRequestError,
    NotJsonError,
    UnsupportedMediaTypeError,
    shortened,
)
from emamba_service.fair_queue import PRIORITIES
from emamba_service.web import Call

__all__ = [
    "JSON",
    "OCTETS",
    "TREATMENT",
    "answer_form",
    "but_one_is",
    "check_query",
    "content_form",
    "json_type",
    "load_json",
    "read_aside",
    "read_integer",
    "read_query",
    "read_treatment",
]

JSON = "application/json"
OCTETS = "application/octet-stream"
T = TypeVar("T")
_INLINE_BYTES = 64 * 1024
# The query's keys that every task route takes.
TREATMENT = ("priority", "timeout_us")
_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_INTEGER = re.compile(r"[0-9]{1,12}")
# An hour, the longest time that a service can be told to wait.
_LONGEST_US = 3_600_000_000
_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def content_form(call: Call, forms: tuple[str, ...]) -> str:
    """Which of the media types `forms` the body has; raises `UnsupportedMediaTypeError`."""
    came = call.header(b"content-type")
    form = "" if came is None else came.partition(";")[0].strip().lower()
    if form in forms:
        return form
    *others, last = forms
    but = "absent" if came is None else repr(shortened(came))
    raise UnsupportedMediaTypeError(
        f"Content-Type must be {', '.join(others)} or {last}, but is {but}"
    )


def answer_form(call: Call, default: str) -> str:
    """JSON or OCTETS, by the request's Accept, `default` where it does not care.

    Raises `InvalidRequestError` where it accepts neither.
    """
    accept = call.header(b"accept")
    if accept is None or accept in {"*/*", default}:
        return default
    qualities: dict[str, float] = {}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        given = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
        qualities[kind] = float(given[0]) if given else 1.0

    def quality(form: str) -> float:
        anything = qualities.get("application/*", qualities.get("*/*", 0.0))
        return qualities.get(form, anything)

    best = max((default, JSON, OCTETS), key=quality)
    if not quality(best):
        raise InvalidRequestError(
            f"Accept must allow {JSON} or {OCTETS}, but is {shortened(accept)!r}"
        )
    return best


def read_query(call: Call, keys: tuple[str, ...]) -> dict[str, str]:
    """The query; raises `InvalidRequestError` for a key that is not among `keys`."""
    return check_query(call.query, keys)


def check_query(query: dict[str, str], keys: Collection[str]) -> dict[str, str]:
    """`query`; raises `InvalidRequestError` for a key that is not among `keys`."""
    for key in query:
        if key not in keys:
            raise InvalidRequestError(
                f"the query's keys must be among {', '.join(keys)}, {but_one_is(key)}"
            )
    return query


async def read_aside(size: int, read: Callable[..., T], *arguments: Any) -> T:
    """`read(*arguments)`, in a thread where reading `size` bytes takes longer than that does."""
    if size > _INLINE_BYTES:
        return await asyncio.to_thread(read, *arguments)
    return read(*arguments)


def read_treatment(query: dict[str, str]) -> tuple[int, float | None]:
    """`priority` and `timeout_s` of an `Ask`; raises `InvalidRequestError`."""
    if not query:
        return 0, None
    priority = read_integer(query, "priority", PRIORITIES[0], PRIORITIES[-1])
    timeout_us = read_integer(query, "timeout_us", 1, _LONGEST_US)
    return priority or 0, None if timeout_us is None else timeout_us / 1e6


def read_integer(query: dict[str, str], key: str, least: int, most: int) -> int | None:
    """The query's `key` as an integer within `least..most`; raises `InvalidRequestError`."""
    text = query.get(key)
    if text is None:
        return None
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidRequestError(
            f"{key} must be an integer {least}..{most}, but is {shortened(text)!r}"
        )
    return int(text)


def load_json(body: bytes) -> Any:
    """The body's JSON; raises `NotJsonError`, which says where it ends to be JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            body.decode()
        except UnicodeDecodeError as wrong:
            raise NotJsonError(
                f"the body must be UTF-8, but is not at byte {wrong.start}", offset=wrong.start
            ) from error
        if not body:
            raise NotJsonError("the body must be JSON, but is empty") from error
        raise NotJsonError(
            "the body must be JSON, but the parser stops at "
            f"line {error.lineno} column {error.colno}",
            reason=error.msg,
        ) from error


def json_type(value: Any) -> str:
    """What a JSON value is, in words."""
    return _JSON_TYPES[type(value)]


def but_one_is(key: str) -> str:
    """The end of a sentence about a key that must not be there."""
    return f"but one is {shortened(key)!r}"
