"""Images over HTTP: every form of body gives the package's own probabilities, or a sentence."""

from __future__ import annotations

import itertools
import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from emamba.engines import MirrorEngine
from emamba.fixed import IntegerModel
from emamba.package import load_package, write_package
from emamba_service.app import create_app
from emamba_service.errors import (
    PROBLEM_JSON,
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    NotJsonError,
    TooManyFramesError,
    UnsupportedImageError,
)
from emamba_service.protocols.classify import parse_images, parse_pixels
from emamba_service.protocols.classify_schema import EXAMPLES, ClassifyAnswer, classify_route
from emamba_service.protocols.images import MEDIA_TYPES, read_images
from emamba_service.service import Service
from picture_files import encoded, noise, smooth
from random_images import GREY_CONFIG, RGB_CONFIG, write_images
from random_models import MARS_CONFIG, pose_task, random_model

CASES = 10_000 if os.environ.get("EMAMBA_VERIFY") == "full" else 150
POINTS = {"points": [[0.1, 1.8, 0.3, 0.0, 30.0]]}
PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}
OCTETS = {"content-type": "application/octet-stream"}
GREY = noise(3, 8, 8, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pose model, which is the default, and two image models: digits in two versions, photos."""
    root = tmp_path_factory.mktemp("models")
    write_images(root, "digits", "1", GREY_CONFIG, seed=1)
    write_images(root, "digits", "2", GREY_CONFIG, seed=3)
    write_images(root, "photos", "1", RGB_CONFIG, seed=3)
    write_package(root, "mars", "1", random_model(MARS_CONFIG, 0), pose_task(), {}, {})
    return root


@pytest.fixture(scope="module")
def pictures(calling: Any, settings: Any, root: Path) -> Iterator[Any]:
    """The application with these models."""
    limits = {"max_image_pixels": 10_000, "max_body_bytes": 100_000}
    with calling(create_app(settings(models=root, **limits))) as caller:
        yield caller


def classify(service: Any, content: bytes, headers: dict[str, str], query: str = "") -> Any:
    return service.request("POST", f"/v1/classify{query}", content=content, headers=headers)


def in_json(*files: bytes) -> bytes:
    return orjson.dumps({"images": [b64encode(file).decode() for file in files]})


def probabilities(root: Path, model: str, version: str, images: np.ndarray) -> np.ndarray:
    package = load_package(root / model / version)
    return package.decode(MirrorEngine(package.model).run(package.encode(images)))


def all_of(prediction: dict[str, Any]) -> list[float]:
    """A prediction's probabilities by class, where all have been asked for."""
    by_class = {one["class"]: one["probability"] for one in prediction["top"]}
    return [by_class[f"class-{number}"] for number in range(len(by_class))]


def test_an_upload_gives_the_packages_probabilities_bit_for_bit(pictures: Any, root: Path) -> None:
    answer = classify(pictures, encoded(GREY[0, ..., 0], "PNG"), PNG, "?top=10")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert list(document) == ["model", "version", "engine", "predictions", "timing_us"]
    assert (document["model"], document["version"], document["engine"]) == ("digits", "2", "mirror")
    [prediction] = document["predictions"]
    [want] = probabilities(root, "digits", "2", GREY[:1])
    assert all_of(prediction) == want.tolist()
    likely = [one["probability"] for one in prediction["top"]]
    assert likely == sorted(likely, reverse=True)
    assert list(document["timing_us"]) == [
        *("preprocess", "queue", "quantise", "engine", "postprocess", "total")
    ]


def test_every_form_of_body_gives_the_same_answer(pictures: Any, root: Path) -> None:
    files = [encoded(image[..., 0], "PNG") for image in GREY]
    one_by_one = [classify(pictures, file, PNG).json()["predictions"][0] for file in files]
    batch = classify(pictures, in_json(*files), JSON).json()["predictions"]
    pixels = classify(pictures, GREY.tobytes(), OCTETS).json()["predictions"]
    assert one_by_one == batch == pixels
    assert batch[0] != batch[1] != batch[2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_photo_of_any_kind_and_size_is_read(pictures: Any, root: Path, kind: str) -> None:
    file = encoded(smooth(60, 80), kind)
    headers = {"content-type": f"image/{kind.lower()}"}
    answer = classify(pictures, file, headers, "?model=photos&top=4").json()
    images = read_images([file], RGB_CONFIG.input_shape, 10_000)
    want = probabilities(root, "photos", "1", images)[0]
    assert all_of(answer["predictions"][0]) == want.tolist()


def test_model_version_and_top_are_chosen_by_the_query(pictures: Any, root: Path) -> None:
    body = GREY.tobytes()
    answer = classify(pictures, body, OCTETS, "?model=digits&version=1&top=3").json()
    assert (answer["model"], answer["version"]) == ("digits", "1")
    want = probabilities(root, "digits", "1", GREY)
    for prediction, row in zip(answer["predictions"], want, strict=True):
        best = sorted(range(10), key=lambda number: -row[number])[:3]
        assert prediction["top"] == [
            {"class": f"class-{number}", "probability": row[number]} for number in best
        ]
    # Five unless said otherwise, or as many as there are.
    assert len(classify(pictures, body, OCTETS).json()["predictions"][0]["top"]) == 5
    photos = classify(pictures, bytes(288), OCTETS, "?model=photos").json()
    assert len(photos["predictions"][0]["top"]) == 4


def test_a_default_model_that_takes_images_goes_first(calling: Any, settings: Any, root: Path):
    with calling(create_app(settings(models=root, default_model="photos"))) as service:
        assert classify(service, bytes(288), OCTETS).json()["model"] == "photos"
        answer = service.pose(POINTS)
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            "model photos must be a pose model, but is of kind image-classes; "
            "send images to /v1/classify"
        )


def test_poses_and_images_go_to_their_own_routes(pictures: Any) -> None:
    assert pictures.pose(POINTS).json()["model"] == "mars"
    answer = pictures.pose(POINTS | {"model": "digits"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert answer.json()["detail"].startswith("model digits must be a pose model, but is of kind ")


def test_without_an_image_model_the_answer_says_how_to_get_one(service: Any) -> None:
    answer = classify(service, b"", OCTETS)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/unknown-model")
    assert answer.json()["detail"] == (
        "a model of kind image-classes must be loaded, but none is; put its package into the "
        "models' folder as <name>/<version> (docs/package.md) and start the service anew, or load "
        "it with POST /v2/repository/models/<name>/load"
    )


def test_the_models_say_what_they_take(pictures: Any) -> None:
    task = pictures.get("/v1/models/photos").json()["task"]
    assert task == {
        "kind": "image-classes",
        "input_shape": [8, 12, 3],
        "channels": ["red", "green", "blue"],
        "classes": ["class-0", "class-1", "class-2", "class-3"],
    }


def test_timing_is_the_clocks(calling: Any, settings: Any, root: Path) -> None:
    ticks = itertools.count()
    app = create_app(settings(models=root), clock=lambda: next(ticks) * 1e-3)
    with calling(app) as service:
        timing = classify(service, GREY.tobytes(), OCTETS, "?priority=9").json()["timing_us"]
    stages = {stage: took for stage, took in timing.items() if stage != "total"}
    assert all(took > 0 and took % 1000 == 0 for took in stages.values())
    assert timing["total"] >= sum(stages.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_documented_example_is_answered_as_described(pictures: Any, name: str) -> None:
    body = orjson.dumps(EXAMPLES[name]["value"])
    answer = classify(pictures, body, JSON, "?top=3")
    assert answer.status_code == 200
    described = ClassifyAnswer.model_validate(answer.json(), extra="forbid")
    assert [len(prediction.top) for prediction in described.predictions] == [3] * (
        2 if name == "batch" else 1
    )


def test_the_description_names_every_form_and_key_that_is_read() -> None:
    described = classify_route().openapi_extra
    assert described is not None
    forms = described["requestBody"]["content"]
    assert [*forms] == [*MEDIA_TYPES, "application/json", "application/octet-stream"]
    keys = [parameter["name"] for parameter in described["parameters"]]
    assert ", ".join(keys) == KEYS


class Bad(NamedTuple):
    """A request, and the problem it must give."""

    status: int
    kind: str
    detail: str
    content: bytes = bytes(64)
    headers: dict[str, str] = OCTETS
    query: str = ""


def request(detail: str, content: bytes, headers: dict[str, str] = JSON, query: str = "") -> Bad:
    return Bad(422, "invalid-request", detail, content, headers, query)


FORMS = "image/png, image/jpeg, image/webp, image/gif, application/json or application/octet-stream"
KEYS = "model, version, top, priority, timeout_us"
SQUARE = encoded(np.zeros((100, 101), np.uint8), "PNG")
CUT_OFF = encoded(GREY[1, ..., 0], "PNG")[:60]
BAD = {
    "multipart": Bad(
        415,
        "unsupported-media-type",
        f"Content-Type must be {FORMS}, but is 'multipart/form-data; boundary=x'",
        headers={"content-type": "multipart/form-data; boundary=x"},
    ),
    "no type": Bad(
        *(415, "unsupported-media-type", f"Content-Type must be {FORMS}, but is absent"), headers={}
    ),
    "another type than the file's": Bad(
        415,
        "unsupported-image",
        "Content-Type must be image/png, as the body is, but is 'image/jpeg'",
        SQUARE,
        {"content-type": "image/jpeg"},
    ),
    "no image": Bad(
        415,
        "unsupported-image",
        "image 0 must be PNG, JPEG, WebP or GIF, but its first bytes are of none of them",
        headers=PNG,
    ),
    "too large": Bad(
        413,
        "image-too-large",
        "image 0 must have at most 10000 pixels, but has 101 x 100; make it smaller",
        SQUARE,
        PNG,
    ),
    "body too large": Bad(
        413,
        "body-too-large",
        "the body must be at most 100000 bytes; send less at once",
        bytes(100_001),
    ),
    "damaged": Bad(
        422,
        "invalid-image",
        "image 0 must be an intact PNG file, but is damaged or cut off",
        CUT_OFF,
        PNG,
    ),
    "part of an image": request(
        "the body must be at least 1 image of 64 bytes, 8 x 8 x 1 uint8, and nothing else, "
        "but is 65 bytes",
        bytes(65),
        OCTETS,
    ),
    "no pixels": request(
        "the body must be at least 1 image of 64 bytes, 8 x 8 x 1 uint8, and nothing else, "
        "but is 0 bytes",
        b"",
        OCTETS,
    ),
    "too many pixels": Bad(
        422,
        "too-many-frames",
        "the body must hold at most 8 images, but holds 9; send several requests",
        bytes(9 * 64),
    ),
    "too many files": Bad(
        422,
        "too-many-frames",
        "images must hold at most 8 images, but hold 9; send several requests",
        in_json(*[b""] * 9),
        JSON,
    ),
    "not json": Bad(
        400,
        "not-json",
        "the body must be JSON, but the parser stops at line 1 column 1",
        b"image",
        JSON,
    ),
    "array": request("the body must be a JSON object, but is an array", b"[]"),
    "other key": request(
        "the body's only key must be images, but one is 'model'", b'{"images":[],"model":"digits"}'
    ),
    "nothing": request("images must be an array of at least 1 image, but is absent", b"{}"),
    "null": request("images must be an array of at least 1 image, but is null", b'{"images":null}'),
    "no images": request(
        "images must be an array of at least 1 image, but is an empty one", b'{"images":[]}'
    ),
    "no text": request(
        "image 1 must be a string, the base64 of a file, but is a number", b'{"images":["",1]}'
    ),
    "no base64": Bad(
        422,
        "invalid-image",
        "image 0 must be base64 with padding, of the standard alphabet and without a data: prefix, "
        "but is not",
        b'{"images":["data:image/png;base64,iVBORw0KGgo="]}',
        JSON,
    ),
    "unlike base64": Bad(
        422,
        "invalid-image",
        "image 0 must be base64 with padding, of the standard alphabet and without a data: prefix, "
        "but is not",
        '{"images":["ä"]}'.encode(),
        JSON,
    ),
    "second file": Bad(
        422,
        "invalid-image",
        "image 1 must be an intact PNG file, but is damaged or cut off",
        in_json(encoded(GREY[0, ..., 0], "PNG"), CUT_OFF),
        JSON,
    ),
    "unknown key": request(
        f"the query's keys must be among {KEYS}, but one is 'topp'", bytes(64), OCTETS, "?topp=1"
    ),
    "key twice": request(
        "the query must have each key once, but has 'top' twice",
        bytes(64),
        OCTETS,
        "?top=1&top=2",
    ),
    "top 0": request("top must be an integer 1..10, but is '0'", bytes(64), OCTETS, "?top=0"),
    "top 11": request("top must be an integer 1..10, but is '11'", bytes(64), OCTETS, "?top=11"),
    "priority": request(
        "priority must be an integer 1..9, but is 'high'", bytes(64), OCTETS, "?priority=high"
    ),
    "timeout": request(
        "timeout_us must be an integer 1..3600000000, but is '-1'",
        bytes(64),
        OCTETS,
        "?timeout_us=-1",
    ),
    "pose model": request(
        "model mars must be an image model, but is of kind mars-pose; send frames to /v1/pose",
        bytes(64),
        OCTETS,
        "?model=mars",
    ),
    "unknown model": Bad(
        404,
        "unknown-model",
        "model must be one of digits, mars, photos, but is 'venus'",
        query="?model=venus",
    ),
    "unknown version": Bad(
        404,
        "unknown-version",
        "version of digits must be one of 1, 2, but is '3'",
        query="?version=3",
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_request_gives_its_problem_and_the_service_goes_on(pictures: Any, bad: Bad) -> None:
    answer = classify(pictures, bad.content, bad.headers, bad.query)
    problem = answer.json()
    assert problem["detail"] == bad.detail
    assert answer.headers["content-type"] == PROBLEM_JSON
    assert (answer.status_code, problem["status"]) == (bad.status, bad.status)
    assert problem["type"] == f"/problems/{bad.kind}"
    assert classify(pictures, GREY.tobytes(), OCTETS).status_code == 200


def test_a_timeout_that_is_over_is_said(pictures: Any) -> None:
    # What is over in time is not decoded: that the file is damaged goes unseen.
    for body, headers in ((GREY.tobytes(), OCTETS), (encoded(STILL, "PNG")[:-9], PNG)):
        answer = classify(pictures, body, headers, "?timeout_us=1")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/request-timeout")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.binary().map(lambda b: b.hex()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("images"), inner),
    max_leaves=8,
)
STILL = Image.fromarray(GREY[0, ..., 0])
FILES = [b64encode(encoded(STILL, kind)).decode() for kind in ("PNG", "JPEG", "WEBP", "GIF")]
REFUSALS = (
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    NotJsonError,
    TooManyFramesError,
    UnsupportedImageError,
)


@pytest.mark.filterwarnings(r"ignore:::PIL\.")
@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(
    st.binary(max_size=200)
    | VALUES.map(orjson.dumps)
    | st.lists(st.sampled_from(FILES) | st.text(max_size=9), max_size=10).map(
        lambda texts: orjson.dumps({"images": texts})
    )
)
def test_any_json_body_is_read_or_refused(body: bytes) -> None:
    try:
        images = parse_images(body, (8, 8, 1), 8, 10_000)
    except REFUSALS:
        return
    assert images.shape[1:] == (8, 8, 1)


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(st.binary(max_size=700))
def test_pixels_are_taken_as_they_are_or_refused(body: bytes) -> None:
    whole = len(body) % 64 == 0 and 1 <= len(body) // 64 <= 8
    try:
        images = parse_pixels(body, (8, 8, 1), 8)
    except (InvalidRequestError, TooManyFramesError):
        assert not whole
    else:
        assert whole
        assert images.tobytes() == body


def test_models_being_loaded_are_listed_and_ask_for_patience(
    calling: Any, settings: Any, root: Path
) -> None:
    gate = threading.Event()

    def slow_for_images(_name: str, model: IntegerModel) -> MirrorEngine:
        if model.config != MARS_CONFIG:
            assert gate.wait(10)
        return MirrorEngine(model)

    chosen = settings(models=root, shadow_fraction=0)
    behind = Service(chosen, engine_factory=slow_for_images)
    with calling(create_app(chosen, service=behind)) as service:
        service.portal.call(behind.start)
        images = (("digits", "1"), ("digits", "2"), ("photos", "1"))
        coming = [{"name": name, "version": version} for name, version in images]
        listed = service.get("/v1/models").json()
        assert [model["name"] for model in listed["models"]] == ["mars"]
        assert listed["loading"] == coming
        assert service.get("/health/ready").status_code == 200
        assert service.pose(POINTS).status_code == 200
        early = classify(service, encoded(GREY[0, ..., 0], "PNG"), PNG, "?model=photos")
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        assert early.json()["detail"] == "photos 1 is being loaded; try again after 1 s"
        early = classify(service, encoded(GREY[0, ..., 0], "PNG"), PNG)
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        assert early.json()["detail"] == (
            "digits is being loaded, and may be the model for images; try again after 1 s, or "
            "name one"
        )
        gate.set()
        service.portal.call(behind.repository.open_others)
        listed = service.get("/v1/models").json()
        assert [model["name"] for model in listed["models"]] == [
            "digits",
            "digits",
            "mars",
            "photos",
        ]
        assert listed["loading"] == []
