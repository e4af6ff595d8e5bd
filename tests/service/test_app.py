"""What surrounds the poses: models, health, metrics, limits under load, failures, OpenAPI."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from prometheus_client import CollectorRegistry

from emamba.engines import EngineInfo, EngineStatus, MirrorEngine, Recorded
from emamba.fixed import IntegerModel
from emamba.package import PackageError, load_package
from emamba_service.app import create_app
from emamba_service.errors import PROBLEM_JSON
from emamba_service.metrics import STAGES
from emamba_service.settings import Settings

ROOT = Path(__file__).parents[2]


class GatedEngine:
    """Once `armed`, runs only when `gate` is open; `failing` engines raise instead."""

    status = EngineStatus()
    info = EngineInfo("gated", "waits for its gate")

    def __init__(self, model: IntegerModel, gate: threading.Event, failing: bool = False) -> None:
        self.gate = gate
        self.failing = failing
        self.armed = False
        self.closed = False
        self._mirror = MirrorEngine(model)

    def run(self, batch: np.ndarray) -> np.ndarray:
        if self.armed:
            assert self.gate.wait(10)
            if self.failing:
                raise RuntimeError("secret of the engine")
        return self._mirror.run(batch)

    def record(self, batch: np.ndarray) -> Recorded:
        return Recorded(self.run(batch), "gated")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def gate():
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def gated(calling, settings, gate):
    """Starts a service on gated engines."""

    @contextmanager
    def start(failing: bool = False, **changes):
        engines: list[GatedEngine] = []

        def open_gated(_name: str, model: IntegerModel) -> GatedEngine:
            engines.append(GatedEngine(model, gate, failing))
            return engines[-1]

        changes = {"shadow_fraction": 0} | changes
        with calling(create_app(settings(**changes), engine_factory=open_gated)) as service:
            for engine in engines:
                engine.armed = True
            yield service
        assert all(engine.closed for engine in engines)

    return start


def wait_for(service, **samples: float) -> None:
    """Return once each metric has its value."""
    deadline = time.monotonic() + 10
    while any(service.sample(name) != value for name, value in samples.items()):
        assert time.monotonic() < deadline, samples
        time.sleep(0.005)


def test_models_are_listed_with_what_the_package_says(service, models_dir):
    listed = service.get("/v1/models").json()["models"]
    assert [(model["name"], model["version"]) for model in listed] == [
        ("mars", "9"),
        ("mars", "10"),
    ]
    package = load_package(models_dir / "mars" / "10")
    assert listed[1] == {
        "name": "mars",
        "version": "10",
        "engine": "mirror",
        "engine_state": "ready",
        "engine_reason": "",
        "package_sha256": package.sha256,
        "config": package.model.config.to_json(),
        "parameters": package.model.int8_bytes,
        "int8_bytes": package.model.int8_bytes,
        "task": {
            "kind": "mars-pose",
            "input_shape": [8, 8, 5],
            "channels": ["x_m", "y_m", "z_m", "doppler_m_s", "intensity"],
            "joints": package.task.to_json()["output"]["joints"],
            "unit": "m",
        },
        "accuracy": {"mae_cm": 5.5},
    }
    assert service.get("/v1/models/mars").json() == listed[1]


def test_index_links_answer(service):
    index = service.get("/").json()
    assert index["service"] == "emamba-service"
    for name, link in index["links"].items():
        # Of POST alone, or a WebSocket.
        expected = {"pose": 405, "classify": 405, "stream": 426}.get(name, 200)
        assert service.get(link).status_code == expected, link


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/health/live",
            "/health/ready",
            "/v1/models",
            "/v1/models/mars",
            "/v1/models/venus",
        ),
        *("/metrics", "/openapi.json", "/nope"),
    ],
)
def test_head_is_get_without_the_body(service, path):
    get, head = service.get(path), service.request("HEAD", path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_a_post_route_is_refused(service):
    answer = service.request("HEAD", "/v1/pose")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_ready_only_between_start_and_drain(settings, points):
    app = create_app(settings())
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
    starting = "the service has not loaded its models yet; try again after 1 s"
    stopping = "the service is stopping; send the request to another instance"
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):

        def detail(path: str) -> str | None:
            answer = portal.call(client.get, path)
            assert answer.status_code == (503 if "detail" in answer.json() else 200)
            return answer.json().get("detail")

        def pose() -> int:
            return (
                portal.start_task_soon(lambda: client.post("/v1/pose", json={"points": points}))
                .result()
                .status_code
            )

        paths = ("/health/live", "/health/ready", "/v1/models")
        assert [detail(path) for path in paths] == [None, starting, starting]
        assert pose() == 503
        with portal.wrap_async_context_manager(app.router.lifespan_context(app)):
            assert [detail(path) for path in paths] == [None, None, None]
            app.state.service.drain()
            assert [detail(path) for path in paths] == [None, stopping, None]
            assert pose() == 200
        assert detail("/health/ready") == stopping
        assert pose() == 503


def test_stopping_closes_the_engines(gated):
    with gated():
        pass


def test_full_queue_is_refused_at_once(gated, gate, points):
    with gated(max_queue=1) as service:
        body = {"points": points}
        accepted = [service.later("POST", "/v1/pose", json=body) for _ in range(2)]
        wait_for(service, emamba_pending_requests=2)
        answer = service.pose(body)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == PROBLEM_JSON
        assert answer.headers["retry-after"] == "1"
        assert answer.json() == {
            "type": "/problems/queue-full",
            "title": "Service is busy",
            "status": 503,
            "detail": "all 1 places for waiting requests are taken; try again after 1 s",
            "limit": 1,
        }
        labels = {"model": "mars", "version": "10"}
        assert service.sample("emamba_queue_depth", **labels) == 1
        refused = labels | {"engine": "none", "outcome": "queue_full"}
        assert service.sample("emamba_inferences_total", **refused) == 1
        assert service.get("/health/ready").status_code == 200
        gate.set()
        assert [future.result().status_code for future in accepted] == [200, 200]
        wait_for(service, emamba_pending_requests=0)
        assert service.pose(body).status_code == 200


def test_late_answer_is_given_up_while_its_engine_goes_on(gated, gate, points):
    with gated(request_timeout_s=0.05) as service:
        late = service.pose({"points": points})
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert late.json()["detail"].endswith(
            "but the request still was being computed; try again after 1 s"
        )
        waiting = service.pose({"points": points})
        assert waiting.json()["detail"].endswith(
            "but the request still waited for the engine; try again after 1 s"
        )
        gate.set()
        wait_for(service, emamba_pending_requests=0)
        assert service.pose({"points": points}).status_code == 200


def test_engine_failure_is_a_problem_without_its_cause(gated, gate, points, caplog):
    gate.set()
    with gated(failing=True) as service:
        answer = service.pose({"points": points})
        assert answer.json() == {
            "type": "/problems/engine-failed",
            "title": "Engine failed",
            "status": 500,
            "detail": "engine gated failed on this request; the service's log says why",
        }
        assert service.sample("emamba_errors_total", kind="engine-failed") == 1
        assert service.get("/health/live").json() == {"live": True}
    assert "secret of the engine" in caplog.text


def test_unexpected_exception_is_a_problem_without_its_cause(calling, settings, caplog):
    def broken_clock() -> float:
        if broken.is_set():
            broken.clear()
            raise RuntimeError("secret of the clock")
        return time.perf_counter()

    broken = threading.Event()
    app = create_app(settings(), clock=broken_clock)

    @app.get("/broken")
    async def route() -> None:
        broken.set()
        broken_clock()

    with calling(app) as service:
        answer = service.get("/broken")
        assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM_JSON)
        assert answer.json()["detail"] == "the service failed on this request; its log says why"
        labels = {"route": "/broken", "status": "500"}
        assert service.sample("emamba_request_duration_seconds_count", **labels) == 1
    assert "secret of the clock" in caplog.text


def test_metrics_count_requests_frames_stages_and_errors(calling, settings, points, models_dir):
    registry = CollectorRegistry()
    with calling(create_app(settings(), registry=registry)) as service:
        frame = {"points": points}
        service.pose(frame)
        service.pose({"frames": [frame] * 3, "version": "9"})
        service.pose({"points": []})
        for path in ("/nope", "/nope/2", "/v1/models/mars", "/v1/models/venus"):
            service.get(path)
        answer = service.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")

        def requests(route: str, status: str) -> float | None:
            labels = {"route": route, "status": status}
            return service.sample("emamba_request_duration_seconds_count", **labels)

        assert requests("/v1/pose", "200") == 2
        assert requests("/v1/pose", "422") == 1
        assert requests("unmatched", "404") == 2
        assert requests("/v1/models/{name}", "200") == requests("/v1/models/{name}", "404") == 1
        for stage in STAGES:
            labels = {"model": "mars", "stage": stage}
            assert service.sample("emamba_stage_duration_seconds_count", **labels) == 2
        for version, frames in (("10", 1), ("9", 3)):
            labels = {"model": "mars", "version": version, "engine": "mirror"}
            assert service.sample("emamba_frames_total", **labels) == frames
            answered = labels | {"outcome": "ok"}
            assert service.sample("emamba_inferences_total", **answered) == 1
        assert service.sample("emamba_batch_frames_sum", model="mars") == 4
        kinds = {"invalid-input": 1, "not-found": 2, "unknown-model": 1}
        for kind, count in kinds.items():
            assert service.sample("emamba_errors_total", kind=kind) == count
        sha = load_package(models_dir / "mars" / "9").sha256
        info = f'engine="mirror",model="mars",package_sha256="{sha}",version="9"'
        assert f"emamba_model_info{{{info}}} 1.0" in answer.text
        assert 'emamba_build_info{numpy="' in answer.text
    names = {metric.name for metric in registry.collect()}
    assert all(name.startswith("emamba_") for name in names)
    docs = (ROOT / "docs" / "service.md").read_text()
    assert [name for name in sorted(names) if f"`{name}" not in docs] == []


def test_times_up_to_the_default_time_outs_have_a_bucket(service, points):
    service.pose({"points": points})
    for histogram, labels in (
        ("request", {"route": "/v1/pose", "status": "200"}),
        ("stage", {"model": "mars", "stage": "engine"}),
    ):
        for edge in ("5e-05", "1.0", "2.0", "5.0", "10.0"):
            name = f"emamba_{histogram}_duration_seconds_bucket"
            assert service.sample(name, le=edge, **labels) is not None
    assert Settings.model_construct().request_timeout_s == 10


def test_two_applications_have_their_own_metrics(calling, settings, points):
    with calling(create_app(settings())) as one, calling(create_app(settings())) as other:
        one.pose({"points": points})
        labels = {"model": "mars", "version": "10", "engine": "mirror"}
        assert one.sample("emamba_frames_total", **labels) == 1
        assert other.sample("emamba_frames_total", **labels) is None


def test_damaged_package_stops_the_start(calling, settings, tmp_path, new_package):
    folder = new_package(tmp_path, "1")
    (folder / "weights.npz").write_bytes(b"damaged")
    app = create_app(settings(models=tmp_path))
    reason = r"weights\.npz: SHA-256 must be the one in model\.json"
    with pytest.raises(PackageError, match=reason), calling(app):
        pass


def test_engine_is_chosen_by_name(calling, settings, gate):
    asked = []

    def factory(name: str, model: IntegerModel) -> GatedEngine:
        asked.append((name, model.config.n_outputs))
        return GatedEngine(model, gate)

    with calling(create_app(settings(engine="board"), engine_factory=factory)) as service:
        assert service.get("/v1/models/mars").json()["engine"] == "gated"
    assert asked == [("board", 57), ("board", 57)]


def test_openapi_document_is_the_checked_in_one():
    document = create_app(Settings.model_construct()).openapi()
    checked_in = json.loads((ROOT / "service" / "openapi.json").read_text())
    assert document == checked_in, "run: emamba-service openapi > service/openapi.json"


def test_openapi_refers_only_to_schemas_it_holds(service):
    text = service.get("/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    used = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert used <= set(schemas)
    assert "HTTPValidationError" not in text


def test_openapi_says_what_may_be_sent_and_what_comes(calling, settings):
    with calling(create_app(settings())) as service:
        document = service.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name in ("PointsRequest", "PointsFrame"):
        assert schemas[name]["properties"]["points"]["maxItems"] == 300
    assert schemas["FramesRequest"]["properties"]["frames"]["maxItems"] == 8
    assert document["info"]["license"] == {
        "name": "Apache License 2.0",
        "identifier": "Apache-2.0",
    }
    assert schemas["Joint"]["properties"]["x_m"]["title"] == "x_m"
    for methods in document["paths"].values():
        assert len(methods) == 1
        for operation in methods.values():
            assert {"405", "408"} <= operation["responses"].keys()


def test_openapi_explains_every_size_of_a_network(service):
    schemas = service.get("/openapi.json").json()["components"]["schemas"]
    explained = schemas["NetworkConfig"]["properties"]
    assert list(explained) == list(service.get("/v1/models/mars").json()["config"])
    assert all(size["description"] for size in explained.values())
