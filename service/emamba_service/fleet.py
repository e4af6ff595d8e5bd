"""A fleet: the list of its boards, and what HAProxy and Prometheus are told about them."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emamba_service.errors import shortened
from emamba_service.settings import Settings

__all__ = [
    "MAX_BOARDS",
    "Board",
    "BoardsError",
    "Proxy",
    "discovery_json",
    "haproxy_config",
    "parse_address",
    "read_boards",
]

MAX_BOARDS = 256
_MAX_LIST_BYTES = 64 * 1024
_MAX_LABELS = 16
_MAX_LABEL_LENGTH = 128
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]+")
# Prometheus and the fleet set these themselves.
_TAKEN = frozenset({"board", "instance", "job"})
_MAX_WEIGHT = 256
# HAProxy's own of HTTP without cookies and headers, and %HP, the path alone, for %r.
_LOG_FORMAT = (
    "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %HM %HP"
)
_OF_ONE_BOARD = (
    "^/(metrics|v1/(streams|vitals)|"
    "v2/(repository(/.*)?|(models/([^/]+/(versions/[^/]+/)?)?)?stats))/?$"
)


class BoardsError(Exception):
    """A list or an address that cannot be used; the message says where and what to do."""


@dataclass(frozen=True)
class Board:
    """One board: where its service listens, and what it is called.

    `weight` is its share of the work beside that of the others; `labels` go to Prometheus.
    """

    name: str
    host: str
    port: int
    weight: int = 100
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """host:port; an IPv6 address in brackets."""
        return _joined(self.host, self.port)

    @property
    def has_name(self) -> bool:
        """Whether the host is a name, which can change its address, rather than an address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False


@dataclass(frozen=True)
class Proxy:
    """How HAProxy stands in front of the boards.

    `bind`, `status` and `handover` are where it listens for clients, for Prometheus, and, at a
    reload, for the process before it;
    `certificate` is a PEM file of certificate chain and key, which makes clients speak HTTPS;
    `requests_per_board` may be at one board at a time; a body of `retried_body_bytes` is sent again
    to another board where one fails.
    """

    bind: str = "*:8000"
    status: str = "127.0.0.1:8405"
    handover: str = "127.0.0.1:8406"
    socket: Path = Path("/run/haproxy/admin.sock")
    certificate: Path | None = None
    requests_per_board: int = 32
    retried_body_bytes: int = 48 * 1024


def read_boards(path: Path) -> list[Board]:
    """The boards of a list, in its order; raises `BoardsError`.

    A line is a name and host:port, then words key=value: `weight`, 1 to 256, or a label. What
    follows a # is a comment.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_LIST_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise BoardsError(f"{path} must be a list of boards, but: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BoardsError(
            f"{path} must be a text in UTF-8, but byte {error.start} is not"
        ) from error
    if len(content) > _MAX_LIST_BYTES:
        raise BoardsError(f"{path} must be at most {_MAX_LIST_BYTES} bytes, but is longer")
    boards = list(_boards(path, text))
    if not 1 <= len(boards) <= MAX_BOARDS:
        raise BoardsError(
            f"{path} must list 1 to {MAX_BOARDS} boards, but lists {len(boards)}; "
            "write one a line, such as: lab-1 192.168.2.101:8000"
        )
    return boards


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of host:port; raises `BoardsError`."""
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise BoardsError(
            f"an address must be host:port with a port of 1 to 65535, but is {shortened(text)!r}"
        )
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            pass
    elif _is_host(host):
        return host, int(port)
    raise BoardsError(
        "a host must be a name, an IPv4 address, or an IPv6 address in brackets, "
        f"but is {shortened(host)!r}"
    )


def discovery_json(boards: list[Board]) -> str:
    """The boards as Prometheus's file discovery reads them, with `board` and their own labels."""
    groups = [
        {"targets": [board.address], "labels": {"board": board.name, **board.labels}}
        for board in boards
    ]
    return json.dumps(groups, indent=2) + "\n"


def haproxy_config(boards: list[Board], proxy: Proxy, comment: str) -> str:
    """HAProxy's configuration (2.6 or later); `comment` says what wrote it."""
    return "\n".join(
        (
            _global(proxy, comment),
            _defaults(proxy),
            _frontend(proxy),
            _boards_backend(boards, proxy),
            _streams_backend(boards, proxy),
            _status(proxy),
        )
    )


def _boards(path: Path, text: str) -> Iterator[Board]:
    """The boards of the list's text; names and addresses come once."""
    names: dict[str, int] = {}
    addresses: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            board = _board(words)
            for kind, value, seen in (
                ("name", board.name, names),
                ("address", board.address.lower(), addresses),
            ):
                if value in seen:
                    raise BoardsError(
                        f"each {kind} must come once, but {value} is also on line {seen[value]}; "
                        "remove one"
                    )
                seen[value] = number
        except BoardsError as error:
            raise BoardsError(f"{path}, line {number}: {error}") from error
        yield board


def _board(words: list[str]) -> Board:
    if len(words) < 2:
        raise BoardsError(
            f"a board must be a name and host:port, but only {shortened(words[0])!r} is there; "
            "write, for example: lab-1 192.168.2.101:8000"
        )
    name, address, *further = words
    if not _NAME.fullmatch(name):
        raise BoardsError(
            "a name must be 1 to 63 of a-z, 0-9 and inner hyphens, "
            f"but is {shortened(name)!r}; write, for example, lab-1"
        )
    host, port = parse_address(address)
    labels: dict[str, str] = {}
    for word in further:
        key, equals, value = word.partition("=")
        if not equals or key in labels:
            raise BoardsError(
                "after the address must come words key=value, each key once, "
                f"but {shortened(word)!r} came"
            )
        labels[key] = value
    weight = _weight(labels.pop("weight", "100"))
    _check_labels(labels)
    return Board(name, host, port, weight, labels)


def _weight(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= _MAX_WEIGHT):
        raise BoardsError(
            f"weight must be a whole number of 1 to {_MAX_WEIGHT}, but is {shortened(text)!r}; "
            "to take a board out, put a # before its line"
        )
    return int(text)


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > _MAX_LABELS:
        raise BoardsError(f"a board must have at most {_MAX_LABELS} labels, but has {len(labels)}")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or key in _TAKEN:
            raise BoardsError(
                "a label must be named by a-z, 0-9 and _, beginning with a letter, and not "
                f"{', '.join(sorted(_TAKEN))}, but is {shortened(key)!r}"
            )
        if not _VALUE.fullmatch(value) or len(value) > _MAX_LABEL_LENGTH:
            raise BoardsError(
                f"{key} must be 1 to {_MAX_LABEL_LENGTH} letters, digits or . _ : / @ + -, "
                f"but is {shortened(value)!r}"
            )


def _is_host(text: str) -> bool:
    """Whether it is a name or an IPv4 address; 256.1.1.1 and 1.2.3 are neither."""
    if not _HOST.fullmatch(text):
        return False
    if not text.replace(".", "").isdigit():
        return True
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _default(setting: str) -> float:
    """The default of one of the service's settings, which the boards are taken to have."""
    value: float = Settings.model_fields[setting].default
    return value


def _seconds(value: float) -> str:
    return f"{math.ceil(value)}s"


def _global(proxy: Proxy, comment: str) -> str:
    body_bytes = proxy.retried_body_bytes
    buffer_bytes = body_bytes + int(_default("max_header_bytes"))
    return f"""\
# {comment}

global
    # To the journal, under systemd: boards that go and come, and requests that are lost.
    log stdout format raw local0 notice
    chroot /var/lib/haproxy
    user haproxy
    group haproxy
    localpeer fleet
    stats socket {proxy.socket} mode 660 level admin expose-fd listeners
    maxconn 2048
    # Streams of the old process after a reload; they resume in the new one.
    hard-stop-after 60s
    # A request can be sent again only if all of it is in one buffer: {body_bytes} bytes of body,
    # the rest of head. Each request copies a whole buffer, so a larger one costs processor time.
    tune.bufsize {buffer_bytes}
    ssl-default-bind-options ssl-min-ver TLSv1.2
"""


def _defaults(proxy: Proxy) -> str:
    read_s, request_s = _default("read_timeout_s"), _default("request_timeout_s")
    return f"""\
defaults
    mode http
    log global
    # Without queries, which name sessions.
    log-format "{_LOG_FORMAT}"
    option dontlog-normal
    option dontlognull
    option log-separate-errors

    # A board must not see a request before all of it has come: what a board has seen a part of
    # cannot be sent to another.
    option http-buffer-request
    # Clients that went away do not wait in the queue.
    option abortonclose
    # Idle connections to boards serve any client. One that a board closes meanwhile costs a retry.
    http-reuse always

    timeout connect 1s
    timeout check 1s
    timeout http-request {_seconds(read_s)}
    timeout http-keep-alive 60s
    timeout client 30s
    timeout queue {_seconds(request_s)}
    # A board answers by its request_timeout_s, {request_s:g} s, whatever happens.
    timeout server {_seconds(request_s + 1)}
    # Both ends of a stream ping every {_default("stream_heartbeat_s"):g} s.
    timeout tunnel {_seconds(3 * _default("stream_heartbeat_s"))}
    timeout client-fin 5s

    # Inference is a pure function, so a request may be computed twice: whatever fails on one board
    # goes to another at once. 503: its queue is full, it is stopping, its engine is away.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response junk-response response-timeout 503

    # A board without power says nothing. The kernel asks after it, and gives up after 3 s.
    option srvtcpka
    srvtcpka-idle 1s
    srvtcpka-intvl 1s
    srvtcpka-cnt 2
    default-server tcp-ut 2s

    # RFC 9457, as the boards' own, with the `error` that OIP's clients read.
{_errors(read_s, request_s)}"""


def _errors(read_s: float, request_s: float) -> str:
    texts = {
        400: ("invalid-http", "Not an HTTP request", "the bytes received are not an HTTP request"),
        408: (
            "read-timeout",
            "Request arrived too slowly",
            f"headers and body must arrive within {read_s:g} s; send the request again",
        ),
        500: ("internal", "Internal error", "the proxy failed on this request; its log says why"),
        502: (
            "board-lost",
            "Board broke off",
            "a board broke off and the request could not be sent to another; send it again",
        ),
        503: (
            "no-board",
            "No board can answer now",
            "no board can take the request now; try again after 1 s",
        ),
        504: (
            "board-silent",
            "Board did not answer",
            f"a board must answer within {request_s + 1:g} s, but did not; send the request again",
        ),
    }
    return "".join(
        f"    http-error status {status} {_problem(status, *text)}\n"
        for status, text in texts.items()
    )


def _problem(status: int, kind: str, title: str, detail: str) -> str:
    """The arguments of HAProxy's http-error and return for a problem."""
    problem = {
        "type": f"/problems/{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "error": detail,
    }
    retry = " hdr retry-after 1" if status == 503 else ""
    return f"content-type application/problem+json string '{json.dumps(problem)}'{retry}"


def _frontend(proxy: Proxy) -> str:
    tls = f" ssl crt {proxy.certificate} alpn h2,http/1.1" if proxy.certificate else ""
    refused = _problem(
        403,
        "of-one-board",
        "Of one board, not of the fleet",
        "models, statistics, metrics and lists of streams belong to one board; ask that board",
    )
    return f"""\
frontend fleet
    bind {proxy.bind}{tls}
    # Said anew, so that no client can claim to be another; boards trust it by trusted_proxies.
    http-request set-header x-forwarded-for %[src]
    http-request set-header x-forwarded-proto %[ssl_fc,iif(https,http)]
    # Whichever board came first would answer, or load a model.
    acl of_one_board path,url_dec -m reg {_OF_ONE_BOARD}
    http-request return status 403 {refused} if of_one_board
    use_backend streams if {{ path /v1/pose/stream }} or {{ path_beg /v1/pose/watch/ }}
    default_backend boards
"""


def _boards_backend(boards: list[Board], proxy: Proxy) -> str:
    max_queue = int(_default("max_queue"))
    busy = _problem(
        503, "queue-full", "Fleet is busy", "all places for requests are taken; try again after 1 s"
    )
    return f"""\
backend boards
    balance leastconn
    option httpchk
    http-check send meth GET uri /v2/health/ready ver HTTP/1.1 hdr host fleet
    http-check expect status 200
    # Fewer at a board than its max_queue of {max_queue}, so that requests wait here, where any
    # board that is free can take them; and not too many here.
    http-request return status 503 {busy} if {{ queue(boards) ge {len(boards) * max_queue} }}
    default-server maxconn {proxy.requests_per_board} pool-purge-delay 2s
    # Two checks decide. One refused connection takes a board out at once, until two checks pass:
    # else leastconn sends everything to the board that is idle because it is dead.
    default-server check inter 500ms fastinter 100ms downinter 500ms fall 2 rise 2
    default-server observe layer4 error-limit 1 on-error mark-down
{_servers(boards, "")}"""


def _streams_backend(boards: list[Board], proxy: Proxy) -> str:
    return f"""\
# A stream lives on one board: who resumes it, by the session that the board's 101 told, or watches
# it, by its published name, must come to the same one.
backend streams
    balance leastconn
    stick-table type string len 64 size 100k expire 24h peers handover
    stick match url_param(session)
    stick store-response res.hdr(emamba-session)
    stick on url_param(publish)
    stick match path,url_dec,field(5,/)
{_servers(boards, " track boards/{name}")}
# What the old process knows of streams, the new one is told at a reload.
peers handover
    peer fleet {proxy.handover}
"""


def _servers(boards: list[Board], more: str) -> str:
    """A line for each board; one whose name is unknown when HAProxy starts is down until it is."""
    lines = ""
    for board in boards:
        by_name = " init-addr last,libc,none resolvers default" if board.has_name else ""
        own = more.format(name=board.name)
        lines += f"    server {board.name} {board.address} weight {board.weight}{by_name}{own}\n"
    return lines


def _status(proxy: Proxy) -> str:
    return f"""\
# Metrics for Prometheus at /metrics, and a page for people at /.
frontend status
    bind {proxy.status}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    stats enable
    stats uri /
    stats refresh 5s
"""
