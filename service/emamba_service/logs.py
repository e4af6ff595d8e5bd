"""Log lines as text or JSON, each with the request that it belongs to.

Neither headers nor bodies are ever logged. Where a client puts a token or a control character into
what is, such as the path, neither reaches the log.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from contextvars import ContextVar
from datetime import datetime, timezone
from itertools import count
from typing import Any

import orjson

from emamba_service.settings import Settings

__all__ = [
    "JsonFormatter",
    "TextFormatter",
    "audit",
    "configure",
    "new_request_id",
    "request_id",
    "trace_ids",
    "trace_parent",
]

# The request that is being answered, and its header `traceparent`, if it has one.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_parent: ContextVar[str | None] = ContextVar("trace_parent", default=None)

_audit = logging.getLogger("emamba_service.audit")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# W3C Trace Context, version 00 and what later ones begin with.
_TRACE_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)
_TOKEN = re.compile(r"emt_[A-Za-z0-9_-]{43}")
# These would begin a line that nobody logged, or drive the terminal of whoever reads it.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_PLAIN = re.compile(r"[\w.:/-]+")
_PREFIX = secrets.token_hex(6)
_numbers = count(1)
# What every record has; more came by `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: Settings) -> None:
    """Have this process log to standard error as `settings` say."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # Whoever administers is told of, whatever else is.
    _audit.setLevel(logging.INFO)
    # Of a WebSocket that opens, uvicorn would log the query, and so the session of a stream.
    logging.getLogger("uvicorn.error").setLevel(max(logging.root.level, logging.WARNING))


def new_request_id(given: str | None) -> str:
    """The request's own id if it can be one, else a new one, different from all others."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_PREFIX}-{next(_numbers):x}"


def trace_ids(parent: str | None) -> tuple[str, str] | None:
    """Trace and span id of a header `traceparent`, hexadecimal; None if it is not valid."""
    match = None if parent is None else _TRACE_PARENT.fullmatch(parent)
    if match is None or (match[0].startswith("00-") and len(match[0]) != 55):
        return None
    return match[1], match[2]


def audit(action: str, outcome: str, **fields: str) -> None:
    """One line on what was administered, by whom, and what came of it."""
    told = {"action": action, "outcome": outcome, **fields}
    sentence = " ".join(f"{name}={_quoted(value)}" for name, value in told.items())
    _audit.info("%s", sentence, extra=told)


class TextFormatter(logging.Formatter):
    """A line of text, which ends with the request's id, and a traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().translate(_CONTROLS)
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}"
        if (identity := request_id.get()) is not None:
            line += f" [{identity}]"
        if record.exc_info:
            below = self.formatException(record.exc_info).split("\n")
            line = "\n  ".join([line, *(part.translate(_CONTROLS) for part in below)])
        return _without_tokens(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (identity := request_id.get()) is not None:
            line["request_id"] = identity
        if (ids := trace_ids(trace_parent.get())) is not None:
            line["trace_id"], line["span_id"] = ids
        more = {name: value for name, value in vars(record).items() if name not in _USUAL}
        line = more | line
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=str).decode()
        except TypeError:
            # Such as half a surrogate pair, in the name of a file that is not UTF-8.
            text = json.dumps(line, default=str)
        return _without_tokens(text)


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _without_tokens(line: str) -> str:
    return _TOKEN.sub("emt_...", line) if "emt_" in line else line
