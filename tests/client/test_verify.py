"""`emamba-client verify`: equal services pass, one changed bit does not."""

from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from emamba_client import sample_frames
from emamba_client.cli import app
from emamba_client.verify.compare import compare, made_frames
from emamba_client.verify.mirror import LocalModel
from emamba_client.verify.ways import WAYS
from service.conftest import write_mars
from service.test_live import Live, finish, start

MODELS = Path(__file__).parents[1] / "one_model"
PACKAGE = MODELS / "mars" / "1"


@pytest.fixture(scope="module", params=["mirror", "native"])
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    if request.param == "native" and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    service = start(MODELS, engine=request.param, max_body_bytes=4_000_000)
    yield service
    finish(service)


def verify(url: str, *words: str, package: Path = PACKAGE):
    command = ["verify", "--url", url, "--package", str(package), *words]
    return CliRunner().invoke(app, command)


def test_service_is_equal_bit_for_bit_on_every_way(live):
    result = verify(live.url, "--frames", "20")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{way.name}: 266 frames, bit for bit equal" for way in WAYS
    ]


def test_own_frames_and_json(live, tmp_path):
    frames = sample_frames()[:3]
    lines = [json.dumps({"points": frame.points.tolist()}) for frame in frames]
    (tmp_path / "run.jsonl").write_text("\n".join(lines))
    result = verify(live.url, "--file", str(tmp_path / "run.jsonl"), "--json")
    document = json.loads(result.stdout)
    assert (document["frames"], document["equal"], document["differences"]) == (3, True, [])
    assert document["package_sha256"] == LocalModel(PACKAGE).sha256


def test_another_package_is_refused(live, tmp_path):
    other = write_mars(tmp_path, "1", 3)
    result = verify(live.url, package=other)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: the service's mars 1 must be the package here, ")
    newer = write_mars(tmp_path, "7", 3)
    result = verify(live.url, package=newer)
    assert "the service must have mars 7, but has mars 1; give the package" in result.stderr
    result = verify(live.url, package=tmp_path / "nothing")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


class OneBit(BaseHTTPRequestHandler):
    """Passes requests on, and changes the last bit of one number of each answer of float32."""

    service = ""

    def do_GET(self) -> None:
        self._pass("GET", None)

    def do_POST(self) -> None:
        self._pass("POST", self.rfile.read(int(self.headers["content-length"])))

    def _pass(self, method: str, body: bytes | None) -> None:
        kept = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "connection"}}
        answer = httpx.request(method, self.service + self.path, content=body, headers=kept)
        content = bytearray(answer.content)
        if answer.headers["content-type"] == "application/octet-stream" and body is not None:
            at = len(content) - 228 * 3 + 4 * (3 * 3 + 2)  # z of Head in the third frame from last
            (bits,) = struct.unpack_from("<I", content, at)
            struct.pack_into("<I", content, at, bits ^ 1)
        self.send_response(answer.status_code)
        for name in ("content-type", "inference-header-content-length"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_one_changed_bit_is_found(live):
    OneBit.service = live.url
    with ThreadingHTTPServer(("127.0.0.1", 0), OneBit) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        result = verify(f"http://127.0.0.1:{proxy.server_port}", "--frames", "0")
        proxy.shutdown()
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "/v1/pose, points as JSON: 246 frames, bit for bit equal"
    assert lines[2].startswith("/v1/pose, float32: frame 29, z of Head must be 0x1.")
    assert lines[2].endswith(" frames differ")


def test_difference_says_where():
    expected = np.arange(114, dtype=np.float64).reshape(2, 19, 3)
    got = expected.copy()
    assert compare("way", got, expected) is None
    got[1, 3, 2] = np.nextafter(got[1, 3, 2], 1e9)
    difference = compare("way", got, expected)
    assert difference is not None
    assert str(difference) == (
        "way: frame 1, z of Head must be 0x1.1000000000000p+6 (68 m), "
        "but is 0x1.1000000000001p+6 (68 m); 1 frames differ"
    )
    zero = np.zeros((1, 19, 3))
    assert compare("way", -zero, zero) is not None


def test_made_frames_are_those_that_a_service_takes():
    maps = LocalModel(PACKAGE).maps(made_frames(50, 1))
    assert maps.shape == (296, 8, 8, 5)
    assert np.isfinite(maps).all()
