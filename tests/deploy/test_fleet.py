"""The list of boards, what is written from it, and HAProxy with it in front of live servers."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from debian_tools import debian_tool
from deploy.fleet_load import (
    POSE_BYTES,
    HaProxy,
    Load,
    Server,
    Tally,
    free_port,
    oip_request,
    unprivileged,
    wait_for,
)
from emamba_service.cli import cli
from emamba_service.fleet import Board, Proxy, discovery_json, haproxy_config, read_boards

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "deploy" / "fleet"
CLIENTS = 16


def call(*words: object) -> tuple[int, str]:
    """Exit code and output of `emamba-service fleet`."""
    done = CliRunner().invoke(cli, ["fleet", *map(str, words)])
    return done.exit_code, done.output


def write(folder: Path, text: str) -> Path:
    path = folder / "boards.txt"
    path.write_text(text)
    return path


# The list.


def test_list_is_read_in_its_order(tmp_path):
    text = """
        # a comment
        lab-2  192.168.2.102:8000            # another
        lab-1\tboard-1.lab:80  weight=50 site=lab room=2.14/b
        six    [FE80::0:1]:8000
    """
    assert read_boards(write(tmp_path, text)) == [
        Board("lab-2", "192.168.2.102", 8000),
        Board("lab-1", "board-1.lab", 80, 50, {"site": "lab", "room": "2.14/b"}),
        Board("six", "fe80::1", 8000),
    ]


NAME = (
    "a name must be 1 to 63 of a-z, 0-9 and inner hyphens, but is {!r}; write, for example, lab-1"
)
HOST = "a host must be a name, an IPv4 address, or an IPv6 address in brackets, but is {!r}"
PORT = "an address must be host:port with a port of 1 to 65535, but is {!r}"
WORDS = "after the address must come words key=value, each key once, but {!r} came"
WEIGHT = (
    "weight must be a whole number of 1 to 256, but is {!r}; "
    "to take a board out, put a # before its line"
)
LABEL = (
    "a label must be named by a-z, 0-9 and _, beginning with a letter, and not "
    "board, instance, job, but is {!r}"
)
VALUE = "site must be 1 to 128 letters, digits or . _ : / @ + -, but is {!r}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "lab-1",
            "a board must be a name and host:port, but only 'lab-1' is there; "
            "write, for example: lab-1 192.168.2.101:8000",
        ),
        ("Lab h:1", NAME.format("Lab")),
        ("lab- h:1", NAME.format("lab-")),
        (f"{'a' * 64} h:1", NAME.format("a" * 64)),
        ("lab h", PORT.format("h")),
        ("lab h:0", PORT.format("h:0")),
        ("lab h:65536", PORT.format("h:65536")),
        ("lab h:٣", PORT.format("h:٣")),
        ("lab h:-1", PORT.format("h:-1")),
        ("lab :80", HOST.format("")),
        ("lab h_1:80", HOST.format("h_1")),
        ("lab http://h:80", HOST.format("http://h")),
        ("lab 256.0.0.1:80", HOST.format("256.0.0.1")),
        ("lab 10.1:80", HOST.format("10.1")),
        ("lab fe80::1:80", HOST.format("fe80::1")),
        ("lab [fe80::g]:80", HOST.format("[fe80::g]")),
        ("lab h:80 fast", WORDS.format("fast")),
        ("lab h:80 site=a site=b", WORDS.format("site=b")),
        ("lab h:80 weight=0", WEIGHT.format("0")),
        ("lab h:80 weight=257", WEIGHT.format("257")),
        ("lab h:80 weight=", WEIGHT.format("")),
        ("lab h:80 Site=a", LABEL.format("Site")),
        ("lab h:80 __address__=a", LABEL.format("__address__")),
        ("lab h:80 job=a", LABEL.format("job")),
        ("lab h:80 site=", VALUE.format("")),
        ("lab h:80 site=é", VALUE.format("é")),
        (
            "lab h:80 " + " ".join(f"l{n}=a" for n in range(17)),
            "a board must have at most 16 labels, but has 17",
        ),
        ("one h:80", "each name must come once, but one is also on line 1; remove one"),
        ("lab G:81", "each address must come once, but g:81 is also on line 1; remove one"),
    ],
)
def test_wrong_line_is_refused(tmp_path, line, reason):
    path = write(tmp_path, f"one g:81\n\n{line}\n")
    assert call(path, "--out", tmp_path / "out") == (
        2,
        f"emamba-service: {path}, line 3: {reason}\n",
    )
    assert not (tmp_path / "out").exists()


def test_wrong_list_is_refused(tmp_path):
    path = tmp_path / "boards.txt"

    def reason() -> str:
        code, output = call(path, "--out", tmp_path)
        assert code == 2
        return output.removeprefix(f"emamba-service: {path} must ").rstrip("\n")

    assert reason() == "be a list of boards, but: No such file or directory"
    cure = "write one a line, such as: lab-1 192.168.2.101:8000"
    path.write_text("# none\n")
    assert reason() == f"list 1 to 256 boards, but lists 0; {cure}"
    path.write_text("".join(f"b{n} h:{n + 1}\n" for n in range(257)))
    assert reason() == f"list 1 to 256 boards, but lists 257; {cure}"
    path.write_bytes(b"a h:1\n\xff")
    assert reason() == "be a text in UTF-8, but byte 6 is not"
    path.write_bytes(b"#" * 65537)
    assert reason() == "be at most 65536 bytes, but is longer"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--bind", "8000"], "--bind: " + PORT.format("8000")),
        (["--bind", "*:x"], "--bind: " + PORT.format("0.0.0.0:x")),
        (["--status", "a b:1"], "--status: " + HOST.format("a b")),
        (
            ["--socket", "admin.sock"],
            "--socket must be a whole path without spaces or quotes, but is 'admin.sock'",
        ),
        (
            ["--certificate", "/etc/my fleet.pem"],
            "--certificate must be a whole path without spaces or quotes, "
            "but is '/etc/my fleet.pem'",
        ),
    ],
)
def test_wrong_option_is_refused(tmp_path, words, reason):
    path = write(tmp_path, "one h:1\n")
    assert call(path, "--out", tmp_path, *words) == (2, f"emamba-service: {reason}\n")


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    path = write(tmp_path, "one h:1\n")
    assert call(path, "--out", path) == (
        1,
        f"emamba-service: cannot write to {path}: File exists\n",
    )


# What is written.


def test_checked_in_files_are_those_of_the_checked_in_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("deploy/fleet")
    folder.mkdir(parents=True)
    shutil.copy(FLEET / "boards.txt", folder)
    assert call(folder / "boards.txt", "--out", folder) == (
        0,
        "3 boards: deploy/fleet/haproxy.cfg, deploy/fleet/boards.json\n",
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "boards.json",
        "boards.txt",
        "haproxy.cfg",
    ]
    for name in ("boards.json", "haproxy.cfg"):
        assert (folder / name).read_text() == (FLEET / name).read_text(), name


def test_files_say_how_to_write_them_again(tmp_path):
    path = write(tmp_path, "one h:1\n")
    words = [path, "--out", tmp_path, "--bind", "10.0.0.1:80", "--requests-per-board", 8]
    assert call(*words)[0] == 0
    first, *_ = (tmp_path / "haproxy.cfg").read_text().splitlines()
    assert first == f"# Written by: emamba-service fleet {' '.join(map(str, words))}"


def test_discovery_names_each_board():
    boards = [Board("lab-1", "192.168.2.101", 8000, 50, {"site": "lab"}), Board("six", "::1", 80)]
    assert json.loads(discovery_json(boards)) == [
        {"targets": ["192.168.2.101:8000"], "labels": {"board": "lab-1", "site": "lab"}},
        {"targets": ["[::1]:80"], "labels": {"board": "six"}},
    ]


# HAProxy with it.


@pytest.fixture(scope="module")
def haproxy() -> str:
    """HAProxy's program."""
    return str(debian_tool("haproxy"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("tls") / "fleet.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=fleet", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.with_suffix(".crt").read_text() + path.read_text())
    return path


@pytest.mark.parametrize("tls", [False, True])
def test_haproxy_takes_the_configuration_without_a_warning(haproxy, tmp_path, request, tls):
    boards = [
        Board("lab-1", "192.168.2.101", 8000, 50),
        Board("six", "fe80::1", 8000),
        Board("name", "localhost", 8000),
    ]
    proxy = Proxy(certificate=request.getfixturevalue("certificate") if tls else None)
    path = tmp_path / "haproxy.cfg"
    path.write_text(unprivileged(haproxy_config(boards, proxy, "")))
    command = [haproxy, "-c", "-dW", "-f", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "valid" in done.stdout + done.stderr) == (0, True), done.stderr
    path.write_text(path.read_text().replace("balance leastconn", "balance leastcon"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_haproxy_starts_without_a_board_whose_name_is_unknown(haproxy, tmp_path):
    path = tmp_path / "haproxy.cfg"
    boards = [Board("lost", "board.invalid", 8000), Board("lab-1", "192.168.2.101", 8000)]
    path.write_text(unprivileged(haproxy_config(boards, Proxy(), "")))
    command = [haproxy, "-c", "-f", path]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(eq=False)
class StandIn(ThreadingHTTPServer):
    """A server of the test's own: what came, and whether it says ready or breaks off."""

    ready: bool = True
    breaks: bool = False
    sessions: int = 0
    came: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    daemon_threads = True

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _StandInHandler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_port

    def handle_error(self, *_: object) -> None:
        """Nothing: HAProxy resets the connections of its checks."""


class _StandInHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_GET(self) -> None:
        if self.path.startswith("/v1/pose/"):
            self._upgrade()
        else:
            self._answer(200 if self.server.ready else 503)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.came.append((self.path, headers, len(body)))
        if self.server.breaks:
            self.close_connection = True
            return
        self._answer(200)

    def _upgrade(self) -> None:
        """Say which server and, to a new stream, which session, and end."""
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "websocket")
        # Of the key that `upgrade` sends; HAProxy checks it.
        self.send_header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        self.send_header("server-port", str(self.server.port))
        if "session=" not in self.path:
            self.server.sessions += 1
            self.send_header("emamba-session", f"{self.server.port}-{self.server.sessions}")
        self.end_headers()
        self.close_connection = True

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxied(program: str, folder: Path, ports: list[int], **options: object) -> Iterator[HaProxy]:
    """HAProxy in front of servers on this machine, named board-0, board-1 and so on."""
    boards = [Board(f"board-{index}", "127.0.0.1", port) for index, port in enumerate(ports)]
    port, status = free_port(), free_port()
    proxy = Proxy(
        bind=f"127.0.0.1:{port}",
        status=f"127.0.0.1:{status}",
        handover=f"127.0.0.1:{free_port()}",
        socket=folder / "admin.sock",
        **options,
    )
    config = haproxy_config(boards, proxy, "")
    running = HaProxy(program, config, port, status, folder / "haproxy.log")
    try:
        wait_for(lambda: bool(running.states()), "HAProxy's first status")
        yield running
    finally:
        running.kill()


@pytest.fixture
def stand_ins(haproxy, tmp_path) -> Iterator[tuple[HaProxy, StandIn, StandIn]]:
    first, second = StandIn(), StandIn()
    with proxied(haproxy, tmp_path, [first.port, second.port]) as proxy:
        yield proxy, first, second
    for server in (first, second):
        server.shutdown()
        server.server_close()


def url(proxy: HaProxy, path: str = "/v2/models/mars/infer") -> str:
    return f"http://127.0.0.1:{proxy.port}{path}"


def test_wedged_board_gets_nothing_and_then_its_share_again(stand_ins):
    proxy, wedged, other = stand_ins
    wedged.ready = False
    wait_for(lambda: proxy.states()["board-0"] == "DOWN", "the end of board-0")
    wedged.came.clear()
    for _ in range(20):
        assert httpx.post(url(proxy), content=b"x").status_code == 200
    assert (len(wedged.came), len(other.came)) == (0, 20)
    wedged.ready = True
    wait_for(lambda: proxy.states()["board-0"] == "UP", "the return of board-0")
    for _ in range(20):
        httpx.post(url(proxy), content=b"x")
    assert len(wedged.came) == 10


def test_request_goes_to_another_board_if_its_body_fits_the_buffer(stand_ins):
    proxy, breaking, other = stand_ins
    breaking.breaks = True
    promised = Proxy.retried_body_bytes
    for size in (1, promised) * 2:
        assert httpx.post(url(proxy), content=bytes(size)).status_code == 200
    assert [size for _, _, size in other.came] == [1, promised] * 2
    assert breaking.came
    # What does not fit is lost, and said so, rather than held back.
    sizes = [httpx.post(url(proxy), content=bytes(100_000)).status_code for _ in range(2)]
    assert sorted(sizes) == [200, 502]


def test_forged_client_address_is_replaced(stand_ins):
    proxy, *servers = stand_ins
    forged = [("x-forwarded-for", "1.2.3.4"), ("X-Forwarded-For", "::5")]
    assert httpx.post(url(proxy), content=b"x", headers=forged).status_code == 200
    ((_, headers, _),) = [came for server in servers for came in server.came]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"


def upgrade(proxy: HaProxy, path: str) -> dict[str, str]:
    """The headers of the 101 for a WebSocket."""
    head = (
        f"GET {path} HTTP/1.1\r\nhost: fleet\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(4096).decode()
    status, *lines = answer.rstrip().split("\r\n")
    assert status.startswith("HTTP/1.1 101"), status
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


def test_resumed_stream_comes_back_to_its_board(stand_ins):
    proxy, first, second = stand_ins
    begun = [upgrade(proxy, "/v1/pose/stream?resumable=true") for _ in range(6)]
    assert {headers["server-port"] for headers in begun} == {str(first.port), str(second.port)}
    resumed = [
        upgrade(proxy, f"/v1/pose/stream?session={one['emamba-session']}&acknowledged=3")
        for one in begun
    ]
    assert [one["server-port"] for one in resumed] == [one["server-port"] for one in begun]

    proxy.reload()
    again = [upgrade(proxy, f"/v1/pose/stream?session={one['emamba-session']}") for one in begun]
    assert [one["server-port"] for one in again] == [one["server-port"] for one in begun]


def test_viewers_come_to_the_board_of_the_published_stream(stand_ins):
    proxy, *_ = stand_ins
    for name in ("hall", "roof", "lab.2"):
        board = upgrade(proxy, f"/v1/pose/stream?publish={name}")["server-port"]
        viewers = [upgrade(proxy, f"/v1/pose/watch/{name}?points=true") for _ in range(3)]
        assert {viewer["server-port"] for viewer in viewers} == {board}


def test_stream_of_a_board_that_is_gone_begins_on_another(stand_ins):
    proxy, first, second = stand_ins
    ports = {first.port: ("board-0", first), second.port: ("board-1", second)}
    begun = upgrade(proxy, "/v1/pose/stream?publish=hall")
    name, server = ports[int(begun["server-port"])]
    server.ready = False
    wait_for(lambda: proxy.states("streams")[name].startswith("DOWN"), f"the end of {name}")
    assert upgrade(proxy, "/v1/pose/stream?publish=hall")["server-port"] != begun["server-port"]


REFUSED = {
    "type": "/problems/of-one-board",
    "title": "Of one board, not of the fleet",
    "status": 403,
    "detail": "models, statistics, metrics and lists of streams belong to one board; "
    "ask that board",
    "error": "models, statistics, metrics and lists of streams belong to one board; ask that board",
}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/mars/load",
        "/v2/repository/models/mars/unload",
        "/v2/%72epository/models/mars/load",
        "/v2%2Frepository/models/mars/load",
        "/v2/repository/models/mars/load?x=1",
        "/v2/models/stats",
        "/v2/models/mars/stats",
        "/v2/models/mars/versions/1/stats",
        "/metrics",
        "/v1/streams",
        "/v1/vitals",
    ],
)
def test_what_belongs_to_one_board_is_refused(stand_ins, path):
    proxy, *servers = stand_ins
    answer = httpx.post(url(proxy, path), content=b"x")
    assert (answer.status_code, answer.json()) == (403, REFUSED)
    assert answer.headers["content-type"] == "application/problem+json"
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        whole = f"POST http://fleet{path} HTTP/1.1\r\nhost: fleet\r\ncontent-length: 0\r\n\r\n"
        connection.sendall(whole.encode())
        assert connection.recv(12) == b"HTTP/1.1 403"
    assert [came for server in servers for came in server.came] == []


def test_nobody_left_is_a_problem_that_clients_can_read(haproxy, tmp_path):
    with proxied(haproxy, tmp_path, [free_port()]) as proxy:
        wait_for(lambda: proxy.states()["board-0"] == "DOWN", "the end of board-0")
        # A request that was under way to the board as it was found to be down may be cut.
        answers: list[httpx.Response] = []

        def answered() -> bool:
            with suppress(httpx.TransportError):
                answers.append(httpx.post(url(proxy), content=b"x"))
            return bool(answers)

        wait_for(answered, "an answer of the proxy's own")
    (answer,) = answers
    reason = "no board can take the request now; try again after 1 s"
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {
        "type": "/problems/no-board",
        "title": "No board can answer now",
        "status": 503,
        "detail": reason,
        "error": reason,
    }


def test_clients_speak_https_if_there_is_a_certificate(haproxy, tmp_path, certificate):
    server = StandIn()
    with proxied(haproxy, tmp_path, [server.port], certificate=certificate) as proxy:
        secure = url(proxy).replace("http:", "https:")
        context = ssl.create_default_context(cafile=certificate)
        assert httpx.post(secure, content=b"x", verify=context).status_code == 200
    assert server.came[0][1]["x-forwarded-proto"] == "https"
    server.shutdown()
    server.server_close()


# Live servers.


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Three servers with the shipped model."""
    three = [Server(f"board-{index}", "mirror") for index in range(3)]
    with ExitStack() as stack:
        for server in three:
            stack.callback(server.kill)
            server.start()
        yield three


@pytest.fixture(scope="module")
def fleet(haproxy, servers, tmp_path_factory) -> Iterator[HaProxy]:
    ports = [server.port for server in servers]
    with proxied(haproxy, tmp_path_factory.mktemp("fleet"), ports) as proxy:
        yield proxy


@pytest.fixture
def all_up(fleet, servers) -> HaProxy:
    """The fleet with every board in use."""
    wait_for(lambda: set(fleet.states().values()) == {"UP"}, "every board")
    return fleet


def load_while(fleet: HaProxy, act: Callable[[], object], seconds: float = 3.0) -> Tally:
    """What becomes of a load's requests if `act` is done in its midst."""

    async def run() -> Tally:
        asyncio.get_running_loop().call_later(seconds / 3, act)
        return await Load(fleet.port, *oip_request(), POSE_BYTES).run(CLIENTS, seconds)

    return asyncio.run(run())


def test_killed_board_loses_next_to_nothing_and_comes_back(all_up, servers):
    victim = servers[0]
    tally = load_while(all_up, partial(victim.signal, signal.SIGKILL))
    assert tally.total > 300
    assert tally.lost <= tally.total / 1000, tally
    assert all_up.states()[victim.name].startswith("DOWN")
    victim.start()
    wait_for(lambda: all_up.states()[victim.name] == "UP", "the return of the board")
    before = all_up.requests()[victim.name]
    assert load_while(all_up, lambda: None, 0.5).lost == 0
    assert all_up.requests()[victim.name] > before


def test_stopping_board_loses_nothing(all_up, servers):
    victim = servers[1]
    tally = load_while(all_up, partial(victim.signal, signal.SIGTERM))
    assert tally.total > 300
    assert tally.failed == {}
    assert victim.wait() == 0
    victim.start()


def test_live_board_would_not_have_refused_what_the_proxy_refuses(all_up, servers):
    """The proxy must refuse, since a board takes an encoded path for the plain one."""
    path = "/v2/models/mars/%73tats"
    assert httpx.get(f"http://127.0.0.1:{servers[2].port}{path}").status_code == 200
    assert httpx.get(url(all_up, path)).status_code == 403


def test_status_has_metrics_of_each_board(all_up):
    text = all_up.metrics()
    for name in ("board-0", "board-1", "board-2"):
        line = f'haproxy_server_status{{proxy="boards",server="{name}",state="UP"}} 1'
        assert line in text
