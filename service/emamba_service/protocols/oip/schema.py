"""What the OpenAPI document says of the routes under /v2; requests are read by `codec` alone."""

from __future__ import annotations

from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from emamba_service import errors
from emamba_service.errors import ServiceError
from emamba_service.schemas import (
    EVERYWHERE,
    INFERENCE_PROBLEMS,
    Closed,
    described_route,
    no_default,
    path_parameter,
)

__all__ = [
    "InferAnswer",
    "InferRequest",
    "OipError",
    "infer_routes",
    "oip_answers",
]

_MAP = [0.2, 1.9, 0.1, 0.0, 30.0] + [0.0] * 315
_EXAMPLE = {
    "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 8, 8, 5], "data": _MAP}]
}
_BINARY = {
    "type": "string",
    "format": "binary",
    "description": "JSON, then the tensor's bytes, little-endian; the header "
    "Inference-Header-Content-Length tells the JSON's bytes",
}


def _may(default: Any, description: str, **limits: Any) -> Any:
    """A member that may be absent."""
    return Field(default, description=description, json_schema_extra=no_default, **limits)


class InferParameters(Closed):
    """How a request is to be treated."""

    binary_data_output: bool = _may(False, "Whether outputs come as bytes")
    priority: int = _may(0, "1 is served first, 9 last; 0 is 5", ge=0, le=9)
    timeout: int = _may(0, "Longest time to the answer, us; 0 for the service's", ge=0)


class InputParameters(Closed):
    binary_data_size: int = _may(0, "Bytes of the tensor after the JSON", ge=0)


class InferInput(Closed):
    name: str = Field(description="As the model's metadata has it", examples=["features"])
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(description="Frames, then one frame's shape")
    parameters: InputParameters = _may(InputParameters.model_construct(), "Of bytes")
    data: list[Any] = _may([], "Values in row-major order, flat or nested as the shape is")


class OutputParameters(Closed):
    binary_data: bool = _may(False, "Whether this output comes as bytes")


class InferOutput(Closed):
    name: str = Field(examples=["joints"])
    parameters: OutputParameters = _may(OutputParameters.model_construct(), "Of bytes")


class InferRequest(Closed):
    """An inference request of the Open Inference Protocol."""

    id: str = _may("", "Repeated in the answer", max_length=256)
    model_name: str = _may("", "As in the path")
    parameters: InferParameters = _may(InferParameters.model_construct(), "How to treat it")
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = _may([], "What to answer", max_length=1)


class AnsweredOutput(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] = _may([], "Values in row-major order; absent where they follow as bytes")
    parameters: InputParameters = _may(InputParameters.model_construct(), "Of bytes")


class InferAnswer(BaseModel):
    """The answer to an inference request."""

    id: str = _may("", "The request's")
    model_name: str
    model_version: str
    outputs: list[AnsweredOutput]


class OipError(BaseModel):
    """Every error under /v2."""

    error: str


def infer_routes() -> list[APIRoute]:
    """Descriptions of the inference routes."""
    json_body = {
        "schema": {"$ref": "#/components/schemas/InferRequest"},
        "examples": {"features": {"summary": "One feature map", "value": _EXAMPLE}},
    }
    answer = {
        "model": InferAnswer,
        "description": "The answer",
        "content": {"application/octet-stream": {"schema": _BINARY}},
    }
    body = {"application/json": json_body, "application/octet-stream": {"schema": _BINARY}}
    answers = {200: answer, **oip_answers(*INFERENCE_PROBLEMS, errors.NotJsonError)}
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of JSON before the tensor's; 0 where the body is the tensor alone",
        "schema": {"type": "integer", "minimum": 0},
    }
    routes = []
    for path, names in (
        ("/v2/models/{name}/infer", ("name",)),
        ("/v2/models/{name}/versions/{version}/infer", ("name", "version")),
    ):
        parameters = [path_parameter(name) for name in names] + [length]
        text = "The output tensor for a batch of frames."
        routes.append(described_route(path, text, body, answers, parameters))
    return routes


def oip_answers(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route under /v2 that may answer `kinds`."""
    answers: dict[int | str, dict[str, Any]] = {}
    for kind in (*EVERYWHERE, *kinds):
        answer = answers.setdefault(kind.status, {"model": OipError, "description": ""})
        if kind.title not in answer["description"].split("; "):
            answer["description"] = "; ".join(filter(None, (answer["description"], kind.title)))
    return answers
