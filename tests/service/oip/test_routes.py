"""The routes under /v2 on the application: answers, errors, counts, and who may load models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from emamba.engines import MirrorEngine
from emamba.package import load_package, write_package
from emamba_service import __version__
from emamba_service.app import create_app
from random_models import MARS_CONFIG, pose_task, random_model

MARS = {
    "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 8, 8, 5]}],
    "outputs": [{"name": "joints", "datatype": "FP32", "shape": [-1, 57]}],
}
DIGITS = {
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
}
ADMIN_OFF = (
    "models are loaded and unloaded with a token, but the service was started without --tokens"
)


@pytest.fixture(scope="module")
def service(calling: Any, settings: Callable[..., Any], oip_models: Path) -> Iterator[Any]:
    """The application, shared by tests that count nothing."""
    with calling(create_app(settings(models=oip_models))) as caller:
        yield caller


@pytest.fixture
def fresh(
    calling: Any, settings: Callable[..., Any], oip_models: Path, tmp_path: Path, secrets: Any
) -> Iterator[Any]:
    """The application with tokens and a folder of models to change; admin requests are its own."""
    models = tmp_path / "models"
    shutil.copytree(oip_models, models)
    with calling(create_app(settings(models=models, tokens=secrets.file))) as caller:
        yield caller


def expected(models: Path, name: str, version: str, inputs: np.ndarray) -> np.ndarray:
    """The output tensor, by the mirror."""
    package = load_package(models / name / version)
    values = package.decode(MirrorEngine(package.model).run(package.encode(inputs)))
    if name == "mars":
        values = values.transpose(0, 2, 1).reshape(-1, 57)
    return values.astype("<f4")


def tensor(name: str, datatype: str, values: np.ndarray, **members: Any) -> dict[str, Any]:
    return {"name": name, "shape": values.shape, "datatype": datatype} | members


def features(values: np.ndarray) -> dict[str, Any]:
    return tensor("features", "FP32", values, data=values.ravel().tolist())


def infer(service: Any, document: dict[str, Any], path: str = "mars", tail: bytes = b"") -> Any:
    """An answer to JSON with or without bytes after it."""
    head = orjson.dumps(document)
    headers = {"content-type": "application/json"}
    if tail:
        headers = {"inference-header-content-length": str(len(head))}
    url = f"/v2/models/{path}/infer"
    return service.request("POST", url, content=head + tail, headers=headers)


def bytes_of(answer: Any) -> tuple[dict[str, Any], np.ndarray]:
    """JSON and float32 values of an answer in bytes."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    return orjson.loads(answer.content[:length]), np.frombuffer(answer.content[length:], "<f4")


@pytest.mark.parametrize(
    ("path", "version"), [("mars", "2"), ("mars/versions/1", "1"), ("mars/versions/2", "2")]
)
def test_json_gives_the_packages_joints(
    service: Any, oip_models: Path, maps: np.ndarray, path: str, version: str
) -> None:
    answer = infer(service, {"id": "a7", "inputs": [features(maps)]}, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    document = answer.json()
    data = np.array(document["outputs"][0].pop("data"), "<f4").reshape(3, 57)
    assert document == {
        "model_name": "mars",
        "model_version": version,
        "id": "a7",
        "outputs": [{"name": "joints", "datatype": "FP32", "shape": [3, 57]}],
    }
    np.testing.assert_array_equal(data, expected(oip_models, "mars", version, maps))


def test_bytes_in_and_out_are_chosen_one_by_one(
    service: Any, oip_models: Path, maps: np.ndarray
) -> None:
    want = expected(oip_models, "mars", "2", maps)
    blob = maps.tobytes()
    size = {"binary_data_size": len(blob)}
    in_bytes = tensor("features", "FP32", maps, parameters=size)
    out_bytes = [{"name": "joints", "parameters": {"binary_data": True}}]
    document = infer(service, {"inputs": [in_bytes]}, tail=blob).json()
    np.testing.assert_array_equal(np.array(document["outputs"][0]["data"], "<f4"), want.ravel())
    for inputs, tail in ((in_bytes, blob), (features(maps), b"")):
        asked = {"inputs": [inputs], "outputs": out_bytes}
        document, values = bytes_of(infer(service, asked, tail=tail))
        assert document["outputs"] == [
            tensor("joints", "FP32", want, parameters={"binary_data_size": 684})
            | {"shape": [3, 57]}
        ]
        np.testing.assert_array_equal(values, want.ravel())


def test_a_body_of_the_tensor_alone_is_answered_in_bytes(
    service: Any, oip_models: Path, maps: np.ndarray
) -> None:
    headers = {"inference-header-content-length": "0"}
    url = "/v2/models/mars/infer"
    answer = service.request("POST", url, content=maps.tobytes(), headers=headers)
    document, values = bytes_of(answer)
    assert document["outputs"][0]["shape"] == [3, 57]
    np.testing.assert_array_equal(values, expected(oip_models, "mars", "2", maps).ravel())


def test_images_give_probabilities(service: Any, oip_models: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 1), np.uint8)
    want = expected(oip_models, "digits", "1", images)
    document = {"inputs": [tensor("image", "UINT8", images, data=images.tolist())]}
    answer = infer(service, document, "digits")
    (output,) = answer.json()["outputs"]
    np.testing.assert_array_equal(np.array(output.pop("data"), "<f4"), want.ravel())
    assert output == {"name": "probabilities", "datatype": "FP32", "shape": [2, 10]}
    size = {"binary_data_size": images.size}
    asked = {
        "inputs": [tensor("image", "UINT8", images, parameters=size)],
        "parameters": {"binary_data_output": True},
    }
    _, values = bytes_of(infer(service, asked, "digits", images.tobytes()))
    np.testing.assert_array_equal(values, want.ravel())


def test_a_long_json_is_answered_as_a_short_one_is(
    calling: Any, settings: Any, oip_models: Path, maps: np.ndarray
) -> None:
    many = np.concatenate([maps] * 20)
    document = {"inputs": [features(many)]}
    assert len(orjson.dumps(document)) > 64 * 1024
    limits = {"max_frames": 60, "max_body_bytes": 1_000_000}
    with calling(create_app(settings(models=oip_models, **limits))) as service:
        (output,) = infer(service, document).json()["outputs"]
        broken = infer(service, document | {"inputs": [features(many) | {"shape": [1]}]})
    want = expected(oip_models, "mars", "2", many)
    np.testing.assert_array_equal(np.array(output["data"], "<f4"), want.ravel())
    assert (broken.status_code, broken.json()["error"]) == (
        422,
        "input features must have shape [n, 8, 8, 5] with n >= 1, but has [1]",
    )


def test_the_models_name_may_be_in_the_body(service: Any, maps: np.ndarray) -> None:
    document = {"inputs": [features(maps)], "model_name": "mars"}
    assert infer(service, document).status_code == 200
    answer = infer(service, document | {"model_name": "digits"})
    assert (answer.status_code, answer.json()) == (
        422,
        {"error": "model_name must be mars, as in the path, but is 'digits'"},
    )


def test_priority_and_timeout_are_taken(service: Any, maps: np.ndarray) -> None:
    document = {"inputs": [features(maps)], "parameters": {"priority": 1, "timeout": 5_000_000}}
    assert infer(service, document).status_code == 200
    answer = infer(service, document | {"parameters": {"timeout": 1}})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"].startswith("the answer must be ready within ")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("venus", 404, "model must be one of digits, mars, but is 'venus'"),
        ("mars/versions/7", 404, "version of mars must be one of 1, 2, but is '7'"),
    ],
)
def test_what_is_not_there_is_an_error_on_every_route(
    service: Any, maps: np.ndarray, path: str, status: int, error: str
) -> None:
    answers = [
        service.get(f"/v2/models/{path}{end}") for end in ("", "/ready", "/config", "/stats")
    ]
    for answer in [*answers, infer(service, {"inputs": [features(maps)]}, path)]:
        assert answer.headers["content-type"] == "application/json"
        assert (answer.status_code, answer.json()) == (status, {"error": error})


@pytest.mark.parametrize("length", ["-1", "1.0", "0x10", "many", "9" * 13, ""])
def test_a_header_length_that_is_none_is_refused(service: Any, length: str) -> None:
    headers = {"inference-header-content-length": length}
    answer = service.request("POST", "/v2/models/mars/infer", content=b"{}", headers=headers)
    must = "Inference-Header-Content-Length must be a number of bytes, but is "
    assert (answer.status_code, answer.json()) == (422, {"error": f"{must}{length!r}"})


def test_errors_of_every_origin_are_in_the_protocols_form(service: Any) -> None:
    for method, path, status, error in (
        ("GET", "/v2/nothing", 404, "there is no route /v2/nothing; GET / lists the routes"),
        ("POST", "/v2", 405, "/v2 must be called with GET or HEAD, not POST"),
        (
            "GET",
            "/v2/models/mars/infer",
            405,
            "/v2/models/mars/infer must be called with POST, not GET",
        ),
    ):
        answer = service.request(method, path)
        assert (answer.status_code, answer.json()) == (status, {"error": error})
        assert answer.headers["content-type"] == "application/json"


def test_health(service: Any) -> None:
    for path, document in (
        ("health/live", {"live": True}),
        ("health/ready", {"ready": True}),
        ("models/mars/ready", {"name": "mars", "ready": True}),
        ("models/mars/versions/1/ready", {"name": "mars", "ready": True}),
    ):
        answer = service.get(f"/v2/{path}")
        assert (answer.status_code, answer.json()) == (200, document)


def test_a_stopping_service_is_live_and_not_ready(
    calling: Any, settings: Any, oip_models: Path
) -> None:
    app = create_app(settings(models=oip_models))
    with calling(app) as service:
        app.state.service.drain()
        for path, status, document in (
            ("health/live", 200, {"live": True}),
            ("health/ready", 503, {"ready": False}),
            ("models/mars/ready", 503, {"name": "mars", "ready": False}),
        ):
            answer = service.get(f"/v2/{path}")
            assert (answer.status_code, answer.json()) == (status, document)


def test_a_model_whose_engine_recovers_is_not_ready(
    calling: Any, settings: Any, oip_models: Path, engines: Any
) -> None:
    status = type(engines(None, random_model(MARS_CONFIG, 0)).status)
    with calling(create_app(settings(models=oip_models), engine_factory=engines)) as service:
        engines.opened[-1].status = status("recovering", "a transfer failed")
        ready = {
            path: service.get(f"/v2/models/{path}/ready").status_code
            for path in ("mars", "mars/versions/1", "digits")
        }
    assert ready == {"mars": 503, "mars/versions/1": 503, "digits": 503}


def test_metadata(service: Any) -> None:
    assert service.get("/v2").json() == {
        "name": "emamba-service",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "model_repository",
            "schedule_policy",
            "statistics",
        ],
    }
    mars = {"name": "mars", "versions": ["1", "2"], "platform": "emamba"} | MARS
    assert service.get("/v2/models/mars").json() == mars
    assert service.get("/v2/models/mars/versions/1").json() == mars
    digits = {"name": "digits", "versions": ["1"], "platform": "emamba"} | DIGITS
    assert service.get("/v2/models/digits").json() == digits


def test_configuration(calling: Any, settings: Any, oip_models: Path) -> None:
    changes = {"batch_delay_s": 0.002, "max_queue": 17, "request_timeout_s": 3.0}
    with calling(create_app(settings(models=oip_models, **changes))) as service:
        answers = [
            service.get(f"/v2/models/{path}/config").json()
            for path in ("digits", "digits/versions/1")
        ]
    assert (
        answers
        == [
            {
                "name": "digits",
                "platform": "emamba",
                "backend": "emamba",
                "max_batch_size": 8,
                "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 8, 1]}],
                "output": [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]}],
                "dynamic_batching": {
                    "max_queue_delay_microseconds": 2000,
                    "priority_levels": 9,
                    "default_priority_level": 5,
                    "default_queue_policy": {
                        "timeout_action": "REJECT",
                        "default_timeout_microseconds": 3_000_000,
                        "allow_timeout_override": True,
                        "max_queue_size": 17,
                    },
                },
            }
        ]
        * 2
    )


def test_statistics_count_requests_frames_and_batches(
    calling: Any, settings: Any, oip_models: Path, maps: np.ndarray
) -> None:
    with calling(create_app(settings(models=oip_models))) as service:
        empty = service.get("/v2/models/mars/versions/2/stats").json()["model_stats"][0]
        for count in (3, 1, 3):
            assert infer(service, {"inputs": [features(maps[:count])]}).status_code == 200
        late = {"inputs": [features(maps)], "parameters": {"timeout": 1}}
        assert infer(service, late).status_code == 503
        # Refused before it is a request for inference: not counted.
        assert infer(service, {"inputs": []}).status_code == 422
        assert infer(service, {"inputs": [features(maps)]}, "mars/versions/1").status_code == 200
        of_one = service.get("/v2/models/mars/versions/2/stats").json()["model_stats"]
        of_name = service.get("/v2/models/mars/stats").json()["model_stats"]
        of_all = service.get("/v2/models/stats").json()["model_stats"]
    keys = [(entry["name"], entry["version"]) for entry in of_all]
    assert keys == [("digits", "1"), ("mars", "1"), ("mars", "2")]
    assert (of_name, of_one) == (of_all[1:], of_all[2:])
    (stats,) = of_one
    assert (empty["last_inference"], empty["batch_stats"]) == (0, [])
    assert stats["inference_count"] == 7
    assert stats["last_inference"] > 1_700_000_000_000
    assert of_all[1]["inference_count"] == 3
    counts = {stage: entry["count"] for stage, entry in stats["inference_stats"].items()}
    assert counts == {
        "success": 3,
        "fail": 1,
        "queue": 3,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    in_parts = sum(stats["inference_stats"][part]["ns"] for part in parts)
    assert abs(stats["inference_stats"]["success"]["ns"] - in_parts) <= 12
    # The late request may have been in the engine when its time was over.
    sizes = {entry["batch_size"]: entry["compute_infer"] for entry in stats["batch_stats"]}
    assert set(sizes) == {1, 3}
    assert sizes[1]["count"] == 1
    assert sizes[3]["count"] in {2, 3}
    assert stats["execution_count"] == sizes[1]["count"] + sizes[3]["count"]


def admin(service: Any, path: str, token: str | None, body: Any = None) -> Any:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    content = b"" if body is None else orjson.dumps(body)
    return service.request("POST", f"/v2/repository/{path}", content=content, headers=headers)


def states(service: Any, body: Any = None) -> list[tuple[str, str, str, str]]:
    answer = admin(service, "index", None, body)
    assert answer.status_code == 200
    return [tuple(entry.values()) for entry in answer.json()]


def test_index_tells_what_could_be_loaded(fresh: Any, secrets: Any, tmp_path: Path) -> None:
    write_package(
        tmp_path / "models", "mars", "3", random_model(MARS_CONFIG, 3), pose_task(), {}, {}
    )
    loaded = [
        ("digits", "1", "READY", ""),
        ("mars", "1", "READY", ""),
        ("mars", "2", "READY", ""),
    ]
    everything = [*loaded, ("mars", "3", "UNAVAILABLE", "not loaded")]
    assert states(fresh) == states(fresh, {}) == states(fresh, {"ready": False}) == everything
    assert states(fresh, {"ready": True}) == loaded


def test_models_come_and_go(fresh: Any, secrets: Any, tmp_path: Path, maps: np.ndarray) -> None:
    models = tmp_path / "models"
    bearer = {"authorization": f"Bearer {secrets.infer}"}

    def ask() -> Any:
        body = maps.tobytes()
        headers = bearer | {"inference-header-content-length": "0"}
        return fresh.request("POST", "/v2/models/mars/infer", content=body, headers=headers)

    np.testing.assert_array_equal(
        bytes_of(ask())[1], expected(models, "mars", "2", maps).ravel(), strict=True
    )
    answer = admin(fresh, "models/mars/unload", secrets.admin)
    assert (answer.status_code, answer.json()) == (200, {})
    assert states(fresh)[1:] == [
        ("mars", "1", "UNAVAILABLE", "not loaded"),
        ("mars", "2", "UNAVAILABLE", "not loaded"),
    ]
    gone = {"error": "model must be one of digits, but is 'mars'"}
    assert (ask().status_code, ask().json()) == (404, gone)
    assert fresh.get("/v2/models/mars/ready").json() == gone
    again = admin(fresh, "models/mars/unload", secrets.admin)
    assert (again.status_code, again.json()) == (404, gone)
    write_package(models, "mars", "3", random_model(MARS_CONFIG, 3), pose_task(), {}, {})
    answer = admin(fresh, "models/mars/load", secrets.admin, {"parameters": {}})
    assert (answer.status_code, answer.json()) == (200, {})
    assert fresh.get("/v2/models/mars").json()["versions"] == ["1", "2", "3"]
    np.testing.assert_array_equal(
        bytes_of(ask())[1], expected(models, "mars", "3", maps).ravel(), strict=True
    )


def test_a_damaged_model_is_refused_and_the_loaded_ones_stay(
    fresh: Any, secrets: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "mars" / "2"
    (folder / "model.json").write_text("{")
    answer = admin(fresh, "models/mars/load", secrets.admin)
    assert answer.status_code == 409
    assert answer.json()["error"].endswith("what was loaded before is served on")
    name, version, state, reason = states(fresh)[2]
    assert (name, version, state) == ("mars", "2", "READY")
    assert str(folder) in reason
    assert fresh.get("/v2/models/mars/versions/2/ready").status_code == 200


def test_nobody_loads_without_the_right_token(fresh: Any, service: Any, secrets: Any) -> None:
    for action in ("load", "unload"):
        path = f"models/mars/{action}"
        none = admin(fresh, path, None)
        assert none.status_code == 401
        assert none.headers["www-authenticate"] == "Bearer"
        assert none.json() == {
            "error": "Authorization must be Bearer and a token of this service, but is absent"
        }
        wrong = admin(fresh, path, secrets.infer)
        must = "token 'camera' must have the scope admin, but has infer"
        assert (wrong.status_code, wrong.json()) == (403, {"error": must})
        off = admin(service, path, secrets.admin)
        assert (off.status_code, off.json()) == (403, {"error": ADMIN_OFF})
    assert fresh.get("/v2/models/mars/ready").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("index", {"ready": 1}, "ready must be a boolean, but is a number"),
        ("index", [], "the body must be an object, but is an array"),
        ("index", {"name": "a"}, "the body must have no key but ready, but one is 'name'"),
        ("models/mars/load", {"x": 1}, "the body must have no key but parameters, but one is 'x'"),
        (
            "models/mars/load",
            {"parameters": {"config": "{}"}},
            "parameters must have no keys, but one is 'config'",
        ),
        (
            "models/mars/load",
            {"parameters": []},
            "parameters must be an object, but is an array",
        ),
        (
            "models/mars/unload",
            {"parameters": {"unload_dependents": True}},
            "unload_dependents must be false, since no model depends on another",
        ),
        (
            "models/mars/unload",
            {"parameters": {"unload_dependents": 0}},
            "unload_dependents must be a boolean, but is a number",
        ),
    ],
)
def test_what_the_repository_does_not_do_is_refused(
    fresh: Any, secrets: Any, path: str, body: Any, error: str
) -> None:
    answer = admin(fresh, path, secrets.admin, body)
    assert (answer.status_code, answer.json()) == (422, {"error": error})
    assert fresh.get("/v2/models/mars/ready").status_code == 200


def test_a_repository_request_must_be_json(fresh: Any, secrets: Any) -> None:
    headers = {"authorization": f"Bearer {secrets.admin}"}
    for path in ("index", "models/mars/load", "models/mars/unload"):
        url = f"/v2/repository/{path}"
        answer = fresh.request("POST", url, content=b"ready", headers=headers)
        error = "the body must be JSON, but the parser stops at line 1 column 1"
        assert (answer.status_code, answer.json()) == (400, {"error": error})
