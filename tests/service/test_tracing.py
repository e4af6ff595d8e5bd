"""Spans of requests, in memory and sent to a collector."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from emamba_service.app import create_app
from emamba_service.settings import Settings, SettingsError
from emamba_service.tracing import Tracer, open_tracer
from service.test_live import finish, start

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["preprocess", "queue", "quantise", "engine", "postprocess"]


class Collector:
    """Takes what is posted to it."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                bodies.append((self.path, self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_request_and_its_stages_reach_the_collector(calling, settings, points, collector):
    pytest.importorskip("opentelemetry.sdk.trace", reason="needs emamba-service[tracing]")
    message = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    with calling(create_app(settings(trace_endpoint=collector.url))) as service:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r-3"}
        service.request("POST", "/v1/pose", json={"points": points}, headers=headers)
        service.request("POST", "/v1/pose", json={"points": []})
        service.get("/health/live")
    spans = []
    for path, body in collector.bodies:
        assert path == "/v1/traces"
        request = message.ExportTraceServiceRequest.FromString(body)
        spans += [
            span
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    of_request = [span for span in spans if span.trace_id.hex() == TRACE]
    (root,) = [span for span in of_request if span.name == "POST /v1/pose"]
    assert root.parent_span_id.hex() == PARENT
    attributes = {pair.key: pair.value for pair in root.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["emamba.request_id"].string_value == "r-3"
    assert attributes["emamba.engine"].string_value == "mirror"
    stages = [span for span in of_request if span.parent_span_id == root.span_id]
    assert [span.name for span in stages] == STAGES
    for one, after in itertools.pairwise(stages):
        assert root.start_time_unix_nano <= one.start_time_unix_nano
        assert one.end_time_unix_nano == after.start_time_unix_nano
    refused = [
        pair.value.string_value
        for span in spans
        for pair in span.attributes
        if pair.key == "error.type"
    ]
    assert refused == ["invalid-input"]
    assert "GET /health/live" in {span.name for span in spans}


def test_no_endpoint_means_no_tracer():
    assert open_tracer(Settings()) is None


def test_missing_extra_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError) as refused:
        open_tracer(Settings(trace_endpoint="http://127.0.0.1:1/v1/traces"))
    assert str(refused.value) == (
        "--trace-endpoint needs OpenTelemetry, which is not installed; "
        "run pip install 'emamba-service[tracing]'"
    )


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://a/b", "http://", "http://a:x/", "x"])
def test_endpoint_must_be_a_url(endpoint):
    with pytest.raises(SettingsError) as refused:
        open_tracer(Settings(trace_endpoint=endpoint))
    assert str(refused.value) == (
        "--trace-endpoint must be an http or https URL, such as http://127.0.0.1:4318/v1/traces, "
        f"but is {endpoint!r}"
    )


def test_parts_of_the_engine_are_its_spans_attributes(calling, settings, points, engines):
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    provider = pytest.importorskip("opentelemetry.sdk.trace").TracerProvider()
    exporter = memory.InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    app = create_app(settings(), engine_factory=engines)
    tracer = Tracer(provider)
    with calling(app) as service:
        for engine in engines.opened:
            engine.stages_s = {"transfer": 2e-3, "kernel": 5e-6}
        app.state.service._tracer = tracer
        service.pose({"points": points})
        unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        service.request("POST", "/v1/pose", json={"points": points}, headers=unsampled)
        service.pose({"points": []})
    spans = exporter.get_finished_spans()
    (engine_span,) = [span for span in spans if span.name == "engine"]
    assert dict(engine_span.attributes) == {
        "emamba.engine.transfer_us": 2000.0,
        "emamba.engine.kernel_us": 5.0,
    }
    assert TRACE not in {f"{span.context.trace_id:032x}" for span in spans}
    assert [span.name for span in spans] == [*STAGES, "POST /v1/pose", "POST /v1/pose"]
    assert spans[-1].attributes["error.type"] == "invalid-input"


def test_pipelined_request_has_no_stages_of_the_one_before(models_dir, points, collector):
    pytest.importorskip("opentelemetry.sdk.trace", reason="needs emamba-service[tracing]")
    message = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    live = start(models_dir, trace_endpoint=collector.url)
    body = json.dumps({"points": points}).encode()
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    after = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    try:
        with live.connect() as connection:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body + after)
            while connection.recv(65536):
                pass
        assert live.stop(signal.SIGTERM) == 0
    finally:
        finish(live)
    spans = [
        span
        for _, sent in collector.bodies
        for resource in message.ExportTraceServiceRequest.FromString(sent).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    (health,) = [span for span in spans if span.name == "GET /health/live"]
    assert [span for span in spans if span.parent_span_id == health.span_id] == []
    assert len(spans) == 2 + len(STAGES)
