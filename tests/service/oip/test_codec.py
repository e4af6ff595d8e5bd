"""Requests and answers of the Open Inference Protocol: read exactly, or refused with a sentence."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emamba.package import Package
from emamba.tasks.mars import LIMITS
from emamba_service.errors import (
    InvalidInputError,
    InvalidRequestError,
    NotJsonError,
    ServiceError,
    TooManyFramesError,
)
from emamba_service.protocols.oip.codec import InferRequest, read_request, write_answer
from emamba_service.protocols.oip.signature import Signature, signature_of
from random_images import RGB_CONFIG, image_task
from random_models import MARS_CONFIG, pose_task, random_model

CASES = 10_000 if os.environ.get("EMAMBA_VERIFY") == "full" else 300
MAX_FRAMES = 4


def signature(config: Any, task: Any) -> Signature:
    package = Package("any", "1", random_model(config, 0), task, {}, {}, "")
    return signature_of(package)


POSE = signature(MARS_CONFIG, pose_task())
IMAGE = signature(RGB_CONFIG, image_task(RGB_CONFIG))
SIGNATURES = {"pose": POSE, "image": IMAGE}


def frames_of(sign: Signature, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (count, *sign.input.shape)
    if sign.input.datatype == "UINT8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.uniform(0, 50, shape).astype("<f4")


def tensor(sign: Signature, frames: int, **members: Any) -> dict[str, Any]:
    """An input's object without values."""
    plain = {
        "name": sign.input.name,
        "shape": [frames, *sign.input.shape],
        "datatype": sign.input.datatype,
    }
    return {key: value for key, value in (plain | members).items() if value is not ...}


def in_json(sign: Signature, values: np.ndarray, nested: bool = False, **members: Any) -> bytes:
    data = values.tolist() if nested else values.ravel().tolist()
    return orjson.dumps({"inputs": [tensor(sign, len(values), data=data)]} | members)


def in_bytes(sign: Signature, values: np.ndarray, **members: Any) -> tuple[bytes, int]:
    size = {"binary_data_size": values.nbytes}
    head = orjson.dumps({"inputs": [tensor(sign, len(values), parameters=size)]} | members)
    return head + values.tobytes(), len(head)


def read(body: bytes, header_length: int | None = None, sign: Signature = POSE) -> InferRequest:
    return read_request(body, header_length, sign, MAX_FRAMES)


@pytest.mark.parametrize("kind", SIGNATURES)
def test_a_tensor_is_read_from_every_form(kind: str) -> None:
    sign = SIGNATURES[kind]
    for count in (1, MAX_FRAMES):
        values = frames_of(sign, count)
        body, length = in_bytes(sign, values)
        for request in (
            read(in_json(sign, values), None, sign),
            read(in_json(sign, values, nested=True), None, sign),
            # The header may also be there where all is JSON.
            read(in_json(sign, values), len(in_json(sign, values)), sign),
            read(body, length, sign),
            read(values.tobytes(), 0, sign),
        ):
            np.testing.assert_array_equal(request.inputs, values, strict=True)


def test_what_is_not_said_has_its_default() -> None:
    request = read(in_json(POSE, frames_of(POSE, 1), id="", outputs=[], parameters={}))
    assert (request.id, request.model_name) == (None, None)
    assert (request.priority, request.timeout_s, request.binary_output) == (0, None, False)
    nulls = {"id": None, "model_name": None, "outputs": None, "parameters": None}
    same = read(in_json(POSE, frames_of(POSE, 1), **nulls))
    assert (same.id, same.priority, same.timeout_s) == (None, 0, None)


def test_treatment_is_read() -> None:
    parameters = {"priority": 9, "timeout": 1500}
    request = read(in_json(POSE, frames_of(POSE, 1), id="a" * 256, parameters=parameters))
    assert (request.id, request.priority, request.timeout_s) == ("a" * 256, 9, 0.0015)
    request = read(in_json(POSE, frames_of(POSE, 1), parameters={"priority": 0, "timeout": 0}))
    assert (request.priority, request.timeout_s) == (0, None)


@pytest.mark.parametrize(
    ("of_all", "of_one", "binary"),
    [
        (None, None, False),
        (True, None, True),
        (None, True, True),
        (False, True, True),
        (True, False, False),
        (False, None, False),
    ],
)
def test_the_outputs_own_form_goes_before_that_of_all(
    of_all: bool | None, of_one: bool | None, binary: bool
) -> None:
    output: dict[str, Any] = {"name": "joints"}
    members: dict[str, Any] = {"outputs": [output]}
    if of_one is not None:
        output["parameters"] = {"binary_data": of_one}
    if of_all is not None:
        members["parameters"] = {"binary_data_output": of_all}
    assert read(in_json(POSE, frames_of(POSE, 1), **members)).binary_output is binary


def test_the_raw_form_is_answered_in_bytes() -> None:
    assert read(frames_of(POSE, 2).tobytes(), 0).binary_output is True


ONE = frames_of(POSE, 1)
FLAT = ONE.ravel().tolist()
PIXELS = frames_of(IMAGE, 1)
WHOLE = "[n, 8, 8, 5]"


class Bad(NamedTuple):
    """What is refused, and how."""

    error: type[ServiceError]
    detail: str
    body: bytes
    header_length: int | None = None
    sign: Signature = POSE


def request(detail: str, error: type[ServiceError] = InvalidRequestError, **members: Any) -> Bad:
    """A request whose members differ from a good one's."""
    plain = {"inputs": [tensor(POSE, 1, data=FLAT)]}
    document = {key: value for key, value in (plain | members).items() if value is not ...}
    return Bad(error, detail, orjson.dumps(document))


def an_input(detail: str, error: type[ServiceError] = InvalidRequestError, **members: Any) -> Bad:
    """A request whose input's members differ from a good one's."""
    return request(detail, error, inputs=[tensor(POSE, 1, **({"data": FLAT} | members))])


def data(detail: str, values: Any, sign: Signature = POSE) -> Bad:
    body = orjson.dumps({"inputs": [tensor(sign, 1, data=values)]})
    return Bad(InvalidInputError, detail, body, None, sign)


def with_bytes(detail: str, size: Any, blob: bytes, shift: int = 0, **members: Any) -> Bad:
    plain = tensor(POSE, 1, parameters={"binary_data_size": size}, **members)
    head = orjson.dumps({"inputs": [plain]})
    error = NotJsonError if shift else InvalidRequestError
    return Bad(error, detail, head + blob, len(head) + shift)


RAW = (
    "the body must be at least 1 frame of 1280 bytes and nothing else, but is {} bytes, "
    "as Inference-Header-Content-Length is 0"
)
BAD = {
    "nothing": Bad(NotJsonError, "the body must be JSON, but is empty", b""),
    "no JSON": Bad(
        NotJsonError, "the body must be JSON, but the parser stops at line 1 column 2", b"{inputs}"
    ),
    "no UTF-8": Bad(NotJsonError, "the body must be UTF-8, but is not at byte 1", b'"\xff"'),
    "no object": Bad(
        InvalidRequestError, "the request must be a JSON object, but is an array", b"[]"
    ),
    "unknown key": request(
        "the request must have keys among id, inputs, model_name, outputs, parameters, "
        "but one is 'input'",
        input=1,
    ),
    "no inputs": request("inputs must be an array of one object, that of features", inputs=...),
    "two inputs": request(
        "inputs must be an array of one object, that of features",
        inputs=[tensor(POSE, 1, data=FLAT)] * 2,
    ),
    "another input": an_input(
        "inputs[0] must have the name features, but has 'images'", name="images"
    ),
    "nameless input": an_input("inputs[0] must have the name features, but has none", name=...),
    "unknown key of the input": an_input(
        "input features must have keys among data, datatype, name, parameters, shape, "
        "but one is 'dtype'",
        dtype="FP32",
    ),
    "FP64": an_input("input features must have datatype FP32, but has 'FP64'", datatype="FP64"),
    "no datatype": an_input("input features must have datatype FP32, but has none", datatype=...),
    "datatype 32": an_input("input features must have datatype FP32, but has 32", datatype=32),
    "no shape": an_input(
        f"input features must have a shape, an array of integers like {WHOLE}", shape=...
    ),
    "shape of fractions": an_input(
        f"input features must have a shape, an array of integers like {WHOLE}", shape=[1.0, 8, 8, 5]
    ),
    "shape without a batch": an_input(
        f"input features must have shape {WHOLE} with n >= 1, but has [8, 8, 5]", shape=[8, 8, 5]
    ),
    "no frames": an_input(
        f"input features must have shape {WHOLE} with n >= 1, but has [0, 8, 8, 5]",
        shape=[0, 8, 8, 5],
    ),
    "negative batch": an_input(
        f"input features must have shape {WHOLE} with n >= 1, but has [-1, 8, 8, 5]",
        shape=[-1, 8, 8, 5],
    ),
    "too many frames": an_input(
        "a request must hold at most 4 frames, but holds 5; send several requests",
        TooManyFramesError,
        shape=[5, 8, 8, 5],
    ),
    "shared memory": an_input(
        "input features: parameters must have keys among binary_data_size, "
        "but one is 'shared_memory_region'",
        data=...,
        parameters={"shared_memory_region": "a", "shared_memory_byte_size": 1280},
    ),
    "parameters as an array": an_input(
        "input features: parameters must be an object, but is an array", parameters=[]
    ),
    "no data": an_input("input features: data must be an array, but is none", data=...),
    "data as a string": an_input(
        "input features: data must be an array, but is 'AAAA'", data="AAAA"
    ),
    "data too short": data(
        "input features: data must hold 320 numbers for its shape, but holds 319", FLAT[1:]
    ),
    "no values": data("input features: data must hold 320 numbers for its shape, but holds 0", []),
    "nested otherwise": data(
        "input features: data must be flat or nested as its shape [1, 8, 8, 5] is, "
        "but holds 8 parts",
        ONE[0].tolist(),
    ),
    "nested too little": data(
        "input features: data must be flat or nested as its shape [1, 8, 8, 5] is, but at depth 1 "
        "not every part is an array of 8",
        [FLAT],
    ),
    "ragged": data(
        "input features: data must be flat or nested as its shape [1, 8, 8, 5] is, but at depth 2 "
        "not every part is an array of 8",
        [
            [
                *ONE[0, :6].tolist(),
                ONE[0, 6, :7].tolist(),
                [*ONE[0, 7].tolist(), ONE[0, 6, 7].tolist()],
            ]
        ],
    ),
    "nested too deep": data(
        "input features: data must hold numbers, but holds an array at position 0",
        ONE[..., None].tolist(),
    ),
    "null among the data": data(
        "input features: data must hold numbers, but holds null at position 7",
        [*FLAT[:7], None, *FLAT[8:]],
    ),
    "boolean among the data": data(
        "input features: data must hold numbers, but holds a boolean at position 0",
        [True, *FLAT[1:]],
    ),
    "beyond FP32": data(
        "frame 0: features must be finite numbers, but hold NaN or infinity", [1e39, *FLAT[1:]]
    ),
    "millimetres": data(
        "frame 0: features must lie within 100 m and 100 m/s, intensity within 1e6, but hold 1900; "
        "are the units metres and m/s?",
        [1900, *FLAT[1:]],
    ),
    "grey levels as fractions": data(
        "input image: data must hold integers, but holds 0.5 at position 1",
        [0, 0.5, *PIXELS.ravel().tolist()[2:]],
        IMAGE,
    ),
    "grey level 256": data(
        "input image: data must hold integers 0..255, but holds 256 at position 2",
        [0, 0, 256, *PIXELS.ravel().tolist()[3:]],
        IMAGE,
    ),
    "grey levels beyond every integer type": data(
        "input image: data must hold integers 0..255, but holds 18446744073709551615 at position 0",
        [2**64 - 1, -1, *PIXELS.ravel().tolist()[2:]],
        IMAGE,
    ),
    "data and bytes": with_bytes(
        "input features must have data or binary_data_size, but has both",
        1280,
        bytes(1280),
        data=FLAT,
    ),
    "size of another shape": with_bytes(
        "input features: binary_data_size must be 1280 for its shape, but is 1276",
        1276,
        bytes(1276),
    ),
    "size as a string": with_bytes(
        "input features: binary_data_size must be 1280 for its shape, but is '1280'",
        "1280",
        bytes(1280),
    ),
    "bytes missing": with_bytes(
        "1280 bytes must follow the JSON for input features, but 1279 do; "
        "Inference-Header-Content-Length must be the JSON's bytes",
        1280,
        bytes(1279),
    ),
    "bytes left over": with_bytes(
        "1280 bytes must follow the JSON for input features, but 1281 do; "
        "Inference-Header-Content-Length must be the JSON's bytes",
        1280,
        bytes(1281),
    ),
    "header length too small": with_bytes(
        "the body must be JSON, but the parser stops at line 1 column 107", 1280, bytes(1280), -1
    ),
    "header length too large": with_bytes(
        "the body must be JSON, but the parser stops at line 1 column 108", 1280, bytes(1280), 1
    ),
    "header length beyond the body": Bad(
        InvalidRequestError,
        "Inference-Header-Content-Length must be at most the body's 2 bytes, but is 3",
        b"{}",
        3,
    ),
    "bytes without a header length": Bad(
        InvalidRequestError,
        "1280 bytes must follow the JSON for input features, but 0 do; "
        "Inference-Header-Content-Length must be the JSON's bytes",
        orjson.dumps({"inputs": [tensor(POSE, 1, parameters={"binary_data_size": 1280})]}),
    ),
    "bytes that no input has": Bad(
        InvalidRequestError,
        "3 bytes follow the JSON, so input features must have binary_data_size, but has none",
        in_json(POSE, ONE) + b"abc",
        len(in_json(POSE, ONE)),
    ),
    "raw nothing": Bad(InvalidRequestError, RAW.format(0), b"", 0),
    "raw part of a frame": Bad(InvalidRequestError, RAW.format(1281), bytes(1281), 0),
    "raw too many": Bad(
        TooManyFramesError,
        "a request must hold at most 4 frames, but holds 5; send several requests",
        bytes(5 * 1280),
        0,
    ),
    "raw NaN": Bad(
        InvalidInputError,
        "frame 1: features must be finite numbers, but hold NaN or infinity",
        bytes(1280) + np.full(320, np.nan, "<f4").tobytes(),
        0,
    ),
    "id as a number": request("id must be a string of at most 256 characters", id=7),
    "long id": request("id must be a string of at most 256 characters", id="a" * 257),
    "model_name as a number": request("model_name must be a string, but is a number", model_name=7),
    "parameters as a string": request(
        "parameters must be an object, but is a string", parameters=""
    ),
    "sequence": request(
        "parameters must have keys among binary_data_output, priority, timeout, "
        "but one is 'sequence_id'",
        parameters={"sequence_id": 1},
    ),
    "priority 10": request(
        "parameters: priority must be an integer 0..9, but is 10", parameters={"priority": 10}
    ),
    "priority true": request(
        "parameters: priority must be an integer 0..9, but is a boolean",
        parameters={"priority": True},
    ),
    "negative timeout": request(
        "parameters: timeout must be an integer 0..3600000000, but is -1",
        parameters={"timeout": -1},
    ),
    "timeout in fractions": request(
        "parameters: timeout must be an integer 0..3600000000, but is 1.5",
        parameters={"timeout": 1.5},
    ),
    "binary_data_output 1": request(
        "parameters: binary_data_output must be a boolean, but is 1",
        parameters={"binary_data_output": 1},
    ),
    "another output": request(
        "outputs[0] must have the name joints, but has 'poses'", outputs=[{"name": "poses"}]
    ),
    "outputs as an object": request(
        "outputs must be an array of one object, that of joints", outputs={}
    ),
    "outputs false": request(
        "outputs must be an array of one object, that of joints", outputs=False
    ),
    "classification": request(
        "output joints: parameters must have keys among binary_data, but one is 'classification'",
        outputs=[{"name": "joints", "parameters": {"classification": 3}}],
    ),
    "binary_data 1": request(
        "output joints: parameters: binary_data must be a boolean, but is 1",
        outputs=[{"name": "joints", "parameters": {"binary_data": 1}}],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused(name: str) -> None:
    bad = BAD[name]
    with pytest.raises(bad.error) as refused:
        read(bad.body, bad.header_length, bad.sign)
    assert str(refused.value) == bad.detail


def answer(
    values: np.ndarray, binary: bool, identity: str | None = None
) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes of an answer."""
    asked = InferRequest(ONE, identity, None, 0, None, binary)
    body, length = write_answer("mars", "7", values, POSE, asked)
    assert (length is not None) is binary
    return orjson.loads(body[:length]), body[len(body) if length is None else length :]


def test_answers_hold_what_was_asked_for() -> None:
    values = np.arange(114, dtype="<f4").reshape(2, 57) / 7
    plain = {"name": "joints", "datatype": "FP32", "shape": [2, 57]}
    head = {"model_name": "mars", "model_version": "7"}
    document, rest = answer(values, False)
    assert list(document) == ["model_name", "model_version", "outputs"]
    (output,) = document["outputs"]
    np.testing.assert_array_equal(np.array(output.pop("data"), "<f4"), values.ravel(), strict=True)
    assert (document, rest) == (head | {"outputs": [plain]}, b"")
    document, rest = answer(values, True, "42 é")
    size = {"parameters": {"binary_data_size": 456}}
    assert document == head | {"id": "42 é", "outputs": [plain | size]}
    assert rest == values.tobytes()


def test_the_joints_are_laid_out_as_the_labels_are() -> None:
    values = np.random.default_rng(0).normal(0, 1, (3, 19, 3))
    flat = POSE.flat(values)
    assert (flat.dtype.str, flat.shape) == ("<f4", (3, 57))
    np.testing.assert_array_equal(flat[:, 19 + 4], values[:, 4, 1].astype("<f4"))
    document, rest = answer(flat, True)
    assert document["outputs"][0]["shape"] == [3, 57]
    assert rest == np.concatenate(list(values.transpose(0, 2, 1))).astype("<f4").tobytes()


# Numbers, some of them outside what the task takes, and NaN.
floats = st.floats(0, 100, width=32) | st.floats(width=32)
poses = hnp.arrays(
    np.dtype("<f4"), st.tuples(st.integers(1, 5), *map(st.just, (8, 8, 5))), elements=floats
) | st.integers(1, MAX_FRAMES).map(lambda count: frames_of(POSE, count, count))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=256)


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(poses, names, st.integers(0, 9), st.integers(0, 3_600_000_000), st.booleans())
def test_a_request_is_read_as_it_was_written(
    values: np.ndarray, identity: str, priority: int, timeout: int, binary: bool
) -> None:
    members = {
        "id": identity,
        "parameters": {"priority": priority, "timeout": timeout, "binary_data_output": binary},
    }
    good = len(values) <= MAX_FRAMES and bool(
        (np.abs(values) <= LIMITS).all() and (values[..., 4] >= 0).all()
    )
    body, length = in_bytes(POSE, values, **members)
    forms = [(body, length)]
    # JSON has no NaN.
    if np.isfinite(values).all():
        forms += [(in_json(POSE, values, nested, **members), None) for nested in (False, True)]
    for form in forms:
        try:
            asked = read(*form)
        except (InvalidInputError, TooManyFramesError):
            assert not good
        else:
            assert good
            assert asked.inputs.tobytes() == values.tobytes()
            assert (asked.id or "", asked.priority) == (identity, priority)
            assert (asked.timeout_s or 0.0, asked.binary_output) == (timeout / 1e6, binary)


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(hnp.arrays(np.dtype("<f4"), st.tuples(st.integers(1, 4), st.just(57)), elements=floats))
def test_an_answer_is_read_as_it_was_written(values: np.ndarray) -> None:
    document, rest = answer(values, True)
    assert document["outputs"][0]["shape"] == list(values.shape)
    assert rest == values.tobytes()
    if np.isfinite(values).all():
        document, _ = answer(values, False)
        assert np.array(document["outputs"][0]["data"], "<f4").tobytes() == values.tobytes()


def is_read_or_refused(body: bytes, header_length: int | None) -> bool:
    """Whether it is read; anything but a `ServiceError` fails the test."""
    result = False
    for sign in SIGNATURES.values():
        refusal = None
        try:
            inputs = read(body, header_length, sign).inputs
        except ServiceError as error:
            refusal = error
        else:
            assert 1 <= len(inputs) <= MAX_FRAMES
            assert inputs.shape[1:] == sign.input.shape
            assert inputs.dtype == sign.input.dtype
            result = True
        assert refusal is None or (400 <= refusal.status < 500 and refusal.detail)
    return result


lengths = st.none() | st.integers(0, 2000)


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(st.binary(max_size=1500), lengths)
def test_any_bytes_are_read_or_refused(body: bytes, header_length: int | None) -> None:
    is_read_or_refused(body, header_length)


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["features", "image", "joints", "FP32", "UINT8", "1", ""]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "inputs",
                    "outputs",
                    "parameters",
                    "name",
                    "shape",
                    "datatype",
                    "data",
                    "binary_data",
                    "binary_data_size",
                    "binary_data_output",
                    "priority",
                    "timeout",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@st.composite
def nearly_requests(draw: st.DrawFn) -> tuple[bytes, int | None]:
    """Good requests of which one member, at any depth, has another value."""
    sign = draw(st.sampled_from(list(SIGNATURES.values())))
    values = frames_of(sign, draw(st.integers(1, 2)))
    with_tail = draw(st.booleans())
    rest: dict[str, Any] = {
        "id": "7",
        "parameters": {"priority": 1, "timeout": 1000, "binary_data_output": True},
        "outputs": [{"name": sign.output.name, "parameters": {"binary_data": True}}],
    }
    if with_tail:
        size = {"binary_data_size": values.nbytes}
        rest["inputs"] = [tensor(sign, len(values), parameters=size)]
    else:
        nested = draw(st.booleans())
        content = values.tolist() if nested else values.ravel().tolist()
        rest["inputs"] = [tensor(sign, len(values), parameters={}, data=content)]
    holder: Any = rest
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = draw(st.sampled_from(keys))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or draw(st.booleans()):
            holder[key] = draw(documents)
            break
        holder = holder[key]
    head = orjson.dumps(rest)
    if not with_tail:
        return head, draw(st.sampled_from([None, len(head)]))
    shift = draw(st.sampled_from([0, 0, 0, 1, -1]))
    return head + values.tobytes(), len(head) + shift


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(nearly_requests())
def test_a_request_with_one_other_value_is_read_or_refused(
    request_: tuple[bytes, int | None],
) -> None:
    is_read_or_refused(*request_)
