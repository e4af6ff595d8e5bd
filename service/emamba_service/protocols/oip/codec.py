"""Inference requests and answers of the Open Inference Protocol, with Triton's binary tensors.

https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md)
https://github.com/triton-inference-server/server (docs/protocol/extension_binary_data.md,
extension_schedule_policy.md)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.tasks import InputError
from emamba_service.errors import (
    InvalidInputError,
    InvalidRequestError,
    TooManyFramesError,
    shortened,
)
from emamba_service.fair_queue import PRIORITIES
from emamba_service.protocols.oip.signature import Signature, Tensor
from emamba_service.protocols.request import json_type, load_json

__all__ = ["InferRequest", "read_request", "write_answer"]

# Clients of KServe say the model's name in the body, too.
_KEYS = frozenset({"id", "model_name", "parameters", "inputs", "outputs"})
_PARAMETERS = frozenset({"binary_data_output", "priority", "timeout"})
_INPUT_KEYS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_KEYS = frozenset({"name", "parameters"})
_MAX_ID_CHARACTERS = 256
_MAX_TIMEOUT_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked request: the task's checked input, and how to treat and answer it."""

    inputs: npt.NDArray[Any]
    id: str | None
    model_name: str | None
    priority: int
    timeout_s: float | None
    binary_output: bool


def read_request(
    body: bytes, header_length: int | None, signature: Signature, max_frames: int
) -> InferRequest:
    """Read and check a body.

    `header_length` says how many of its bytes are JSON: all if None; with 0 the whole body is the
    input's values, and the output is answered so. Raises `NotJsonError`, `InvalidRequestError`,
    `TooManyFramesError` or `InvalidInputError`.
    """
    if header_length == 0:
        inputs = _from_bytes(body, None, signature.input, max_frames)
        return InferRequest(_checked(inputs, signature), None, None, 0, None, True)
    if header_length is not None and header_length > len(body):
        raise InvalidRequestError(
            f"Inference-Header-Content-Length must be at most the body's {len(body)} bytes, "
            f"but is {header_length}"
        )
    document = load_json(body if header_length is None else body[:header_length])
    tail = None if header_length is None else body[header_length:]
    _check_keys(document, _KEYS, "the request")
    parameters = _parameters(document, _PARAMETERS, "parameters")
    inputs = _read_input(_only(document, "inputs", signature.input), tail, signature, max_frames)
    return InferRequest(
        _checked(inputs, signature),
        _id(document),
        _model_name(document),
        _integer(parameters, "priority", PRIORITIES[-1]),
        _integer(parameters, "timeout", _MAX_TIMEOUT_US) / 1e6 or None,
        _binary_output(document, parameters, signature.output),
    )


def write_answer(
    name: str,
    version: str,
    values: npt.NDArray[np.float32],
    signature: Signature,
    request: InferRequest,
) -> tuple[bytes, int | None]:
    """The answer's body, and how many of its bytes are JSON if not all."""
    output: dict[str, Any] = {
        "name": signature.output.name,
        "datatype": signature.output.datatype,
        "shape": values.shape,
    }
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": [output]}
    if request.id is not None:
        answer["id"] = request.id
    if not request.binary_output:
        output["data"] = values.ravel()
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), None
    blob = values.tobytes()
    output["parameters"] = {"binary_data_size": len(blob)}
    head = orjson.dumps(answer)
    return head + blob, len(head)


def _checked(inputs: npt.NDArray[Any], signature: Signature) -> npt.NDArray[Any]:
    try:
        return signature.check(inputs)
    except InputError as error:
        raise InvalidInputError(str(error), frame=error.index) from error


def _read_input(
    document: dict[str, Any], tail: bytes | None, signature: Signature, max_frames: int
) -> npt.NDArray[Any]:
    tensor = signature.input
    what = f"input {tensor.name}"
    _check_keys(document, _INPUT_KEYS, what)
    if document.get("datatype") != tensor.datatype:
        raise InvalidRequestError(
            f"{what} must have datatype {tensor.datatype}, but has {_shown(document, 'datatype')}"
        )
    frames = _frames(document.get("shape"), tensor, max_frames)
    parameters = _parameters(document, frozenset({"binary_data_size"}), f"{what}: parameters")
    if "binary_data_size" not in parameters:
        if tail:
            raise InvalidRequestError(
                f"{len(tail)} bytes follow the JSON, so {what} must have binary_data_size, but has "
                "none"
            )
        return _from_json(document, frames, tensor)
    if "data" in document:
        raise InvalidRequestError(f"{what} must have data or binary_data_size, but has both")
    size = parameters["binary_data_size"]
    came = 0 if tail is None else len(tail)
    must = frames * tensor.values * tensor.dtype.itemsize
    if type(size) is not int or size != must:
        raise InvalidRequestError(
            f"{what}: binary_data_size must be {must} for its shape, "
            f"but is {_shown(parameters, 'binary_data_size')}"
        )
    if came != must:
        raise InvalidRequestError(
            f"{must} bytes must follow the JSON for {what}, but {came} do; "
            "Inference-Header-Content-Length must be the JSON's bytes"
        )
    return _from_bytes(tail or b"", frames, tensor, max_frames)


def _from_bytes(
    blob: bytes, frames: int | None, tensor: Tensor, max_frames: int
) -> npt.NDArray[Any]:
    """`blob` as the tensor; as many frames as it holds where `frames` is None."""
    if frames is None:
        size = tensor.values * tensor.dtype.itemsize
        frames, rest = divmod(len(blob), size)
        if rest or not frames:
            raise InvalidRequestError(
                f"the body must be at least 1 frame of {size} bytes and nothing else, "
                f"but is {len(blob)} bytes, as Inference-Header-Content-Length is 0"
            )
        _check_count(frames, max_frames)
    return np.frombuffer(blob, tensor.dtype).reshape(frames, *tensor.shape)


def _from_json(document: dict[str, Any], frames: int, tensor: Tensor) -> npt.NDArray[Any]:
    """`data`, a flat array in row-major order or nested as the shape is."""
    data = document.get("data")
    what = f"input {tensor.name}: data"
    if type(data) is not list:
        raise InvalidRequestError(f"{what} must be an array, but is {_shown(document, 'data')}")
    if data and type(data[0]) is list:
        data = _flattened(data, (frames, *tensor.shape), what)
    if len(data) != frames * tensor.values:
        raise InvalidInputError(
            f"{what} must hold {frames * tensor.values} numbers for its shape, "
            f"but holds {len(data)}"
        )
    _check_numbers(data, tensor, what)
    # Numbers that are too large for FP32 become infinite, which the task's check refuses.
    with np.errstate(over="ignore"):
        return np.array(data, tensor.dtype).reshape(frames, *tensor.shape)


def _flattened(data: list[Any], shape: tuple[int, ...], what: str) -> list[Any]:
    """The innermost values of nested arrays of exactly this shape."""
    for depth, size in enumerate(shape):
        if depth:
            if not all(type(part) is list and len(part) == size for part in data):
                raise InvalidInputError(
                    f"{what} must be flat or nested as its shape {list(shape)} is, but at depth "
                    f"{depth} not every part is an array of {size}"
                )
            data = [value for part in data for value in part]
        elif len(data) != size:
            raise InvalidInputError(
                f"{what} must be flat or nested as its shape {list(shape)} is, but holds "
                f"{len(data)} parts"
            )
    return data


def _check_numbers(data: list[Any], tensor: Tensor, what: str) -> None:
    """Raise `InvalidInputError` for what cannot be a value of the tensor."""
    is_float = tensor.dtype.kind == "f"
    allowed = {int, float} if is_float else {int}
    if not set(map(type, data)) <= allowed:
        at = next(at for at, value in enumerate(data) if type(value) not in allowed)
        must = "numbers" if is_float else "integers"
        came = json_type(data[at]) if is_float or type(data[at]) is not float else repr(data[at])
        raise InvalidInputError(
            f"{what} must hold {must}, but holds {came} at position {at}", frame=at // tensor.values
        )
    if is_float:
        return
    limits = np.iinfo(tensor.dtype)
    if min(data) < limits.min or max(data) > limits.max:
        at = next(at for at, value in enumerate(data) if not limits.min <= value <= limits.max)
        raise InvalidInputError(
            f"{what} must hold integers {limits.min}..{limits.max}, "
            f"but holds {data[at]} at position {at}",
            frame=at // tensor.values,
        )


def _frames(shape: Any, tensor: Tensor, max_frames: int) -> int:
    must = f"[n, {', '.join(map(str, tensor.shape))}]"
    if type(shape) is list and all(type(size) is int for size in shape):
        if shape[1:] == list(tensor.shape) and shape[0] >= 1:
            _check_count(shape[0], max_frames)
            return int(shape[0])
        raise InvalidRequestError(
            f"input {tensor.name} must have shape {must} with n >= 1, "
            f"but has {shortened(str(shape))}"
        )
    raise InvalidRequestError(
        f"input {tensor.name} must have a shape, an array of integers like {must}"
    )


def _check_count(frames: int, max_frames: int) -> None:
    if frames > max_frames:
        raise TooManyFramesError(
            f"a request must hold at most {max_frames} frames, but holds {shortened(str(frames))}; "
            "send several requests",
            limit=max_frames,
        )


def _only(document: dict[str, Any], key: str, tensor: Tensor) -> dict[str, Any]:
    """The one tensor of `inputs` or `outputs`, which must be `tensor`."""
    tensors = document.get(key)
    if type(tensors) is not list or len(tensors) != 1 or type(tensors[0]) is not dict:
        raise InvalidRequestError(f"{key} must be an array of one object, that of {tensor.name}")
    only: dict[str, Any] = tensors[0]
    if only.get("name") != tensor.name:
        raise InvalidRequestError(
            f"{key}[0] must have the name {tensor.name}, but has {_shown(only, 'name')}"
        )
    return only


def _binary_output(document: dict[str, Any], parameters: dict[str, Any], tensor: Tensor) -> bool:
    binary = _boolean(parameters, "binary_data_output", "parameters")
    if document.get("outputs") in (None, []):
        return bool(binary)
    asked = _only(document, "outputs", tensor)
    _check_keys(asked, _OUTPUT_KEYS, f"output {tensor.name}")
    what = f"output {tensor.name}: parameters"
    own = _parameters(asked, frozenset({"binary_data"}), what)
    given = _boolean(own, "binary_data", what)
    return bool(binary if given is None else given)


def _parameters(holder: dict[str, Any], known: frozenset[str], what: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InvalidRequestError(f"{what} must be an object, but is {json_type(parameters)}")
    _check_keys(parameters, known, what)
    return parameters


def _check_keys(document: Any, known: frozenset[str], what: str) -> None:
    if type(document) is not dict:
        raise InvalidRequestError(f"{what} must be a JSON object, but is {json_type(document)}")
    if not document.keys() <= known:
        key = next(key for key in document if key not in known)
        raise InvalidRequestError(
            f"{what} must have keys among {', '.join(sorted(known))}, but one is {shortened(key)!r}"
        )


def _id(document: dict[str, Any]) -> str | None:
    value = document.get("id")
    if value is None or (type(value) is str and len(value) <= _MAX_ID_CHARACTERS):
        return value or None
    raise InvalidRequestError(f"id must be a string of at most {_MAX_ID_CHARACTERS} characters")


def _model_name(document: dict[str, Any]) -> str | None:
    value = document.get("model_name")
    if value is None or type(value) is str:
        return value
    raise InvalidRequestError(f"model_name must be a string, but is {json_type(value)}")


def _integer(parameters: dict[str, Any], key: str, most: int) -> int:
    value = parameters.get(key, 0)
    if type(value) is int and 0 <= value <= most:
        return value
    raise InvalidRequestError(
        f"parameters: {key} must be an integer 0..{most}, but is {_shown(parameters, key)}"
    )


def _boolean(parameters: dict[str, Any], key: str, what: str) -> bool | None:
    value = parameters.get(key)
    if value is None or type(value) is bool:
        return value
    raise InvalidRequestError(f"{what}: {key} must be a boolean, but is {_shown(parameters, key)}")


def _shown(document: dict[str, Any], key: str) -> str:
    """A member as sentences show it."""
    if key not in document:
        return "none"
    value = document[key]
    if type(value) is str:
        return repr(shortened(value))
    return str(value) if type(value) in {int, float} else json_type(value)
