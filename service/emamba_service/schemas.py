"""What the OpenAPI document says of requests and answers.

The models only describe: requests are read by `pose.parse_request`, and a test posts every
example below to the application.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.json_schema import models_json_schema

from emamba_service import __version__
from emamba_service.errors import PROBLEM_JSON, ServiceError

__all__ = [
    "EXAMPLES",
    "Index",
    "Live",
    "ModelList",
    "ModelSummary",
    "PoseAnswer",
    "Ready",
    "openapi_document",
    "pose_request_body",
    "problem_answers",
]

Point = Annotated[
    list[float],
    Field(
        min_length=5,
        max_length=5,
        description="x, y, z in m, Doppler in m/s, intensity (raw, >= 0)",
    ),
]
MapRow = Annotated[list[Point], Field(min_length=8, max_length=8)]
FeatureMap = Annotated[
    list[MapRow],
    Field(
        min_length=8,
        max_length=8,
        description="8 x 8 points sorted by x, y, z and padded with zeros, as in the MARS data set",
    ),
]
Points = Annotated[
    list[Point],
    Field(
        min_length=1,
        description="One frame's points in any order; of more than 64 the most intense 64 count",
    ),
]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _no_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class _Addressed(_Closed):
    model: str = Field(
        "",
        description="Name of a loaded model; the default model if absent",
        examples=["mars"],
        json_schema_extra=_no_default,
    )
    version: str = Field(
        "",
        description="Version of the model; the latest if absent",
        examples=["1"],
        json_schema_extra=_no_default,
    )


class PointsFrame(_Closed):
    points: Points


class FeaturesFrame(_Closed):
    features: FeatureMap


class PointsRequest(_Addressed, PointsFrame):
    pass


class FeaturesRequest(_Addressed, FeaturesFrame):
    pass


class FramesRequest(_Addressed):
    frames: Annotated[list[PointsFrame | FeaturesFrame], Field(min_length=1)]


class PoseRequest(RootModel[PointsRequest | FeaturesRequest | FramesRequest]):
    """One frame as points or as a feature map, or a batch of frames of either kind."""


class Joint(BaseModel):
    name: str = Field(examples=["SpineBase"])
    x_m: float
    y_m: float
    z_m: float


class Pose(BaseModel):
    joints: Annotated[list[Joint], Field(min_length=19, max_length=19)]


class TimingUs(BaseModel):
    """Microseconds per stage; total also holds the wait for a thread."""

    parse: float
    encode: float
    engine: float
    decode: float
    total: float


class PoseAnswer(BaseModel):
    """One pose per frame, in the frames' order."""

    model: str
    version: str
    engine: str
    poses: list[Pose]
    timing_us: TimingUs


class TaskSummary(BaseModel):
    kind: str
    input_shape: list[int]
    channels: list[str]
    joints: list[str]
    unit: str


class ModelSummary(BaseModel):
    """A loaded model."""

    name: str
    version: str
    engine: str
    package_sha256: str
    config: dict[str, int]
    parameters: int
    int8_bytes: int
    task: TaskSummary
    accuracy: dict[str, Any]


class ModelList(BaseModel):
    models: list[ModelSummary]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class Index(BaseModel):
    service: str
    version: str
    links: dict[str, str]


class Problem(BaseModel):
    """Problem details, RFC 9457; some kinds add members such as frame or limit."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


_POINTS = [
    [-0.31, 1.92, 0.48, 0.0, 31.0],
    [0.12, 1.87, -0.22, -0.18, 44.0],
    [0.2, 2.05, 0.87, 0.36, 18.0],
]
_FEATURES = [
    [_POINTS[column] if row == 0 and column < len(_POINTS) else [0.0] * 5 for column in range(8)]
    for row in range(8)
]
EXAMPLES: dict[str, dict[str, Any]] = {
    "points": {"summary": "One frame of points", "value": {"points": _POINTS}},
    "features": {"summary": "One feature map", "value": {"features": _FEATURES}},
    "batch": {
        "summary": "Two frames for a named model",
        "value": {"model": "mars", "frames": [{"points": _POINTS}, {"points": _POINTS[:2]}]},
    },
}


def pose_request_body() -> dict[str, Any]:
    """The `requestBody` of `POST /v1/pose`."""
    content = {"schema": {"$ref": "#/components/schemas/PoseRequest"}, "examples": EXAMPLES}
    return {"required": True, "content": {"application/json": content}}


def problem_answers(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer `kinds`, with an example of each."""
    answers: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        answer = answers.setdefault(
            kind.status, {"description": "", "content": {PROBLEM_JSON: content}}
        )
        answer["description"] = "; ".join(filter(None, (answer["description"], kind.title)))
        answer["content"][PROBLEM_JSON]["examples"][kind.kind] = {
            "value": {
                "type": f"/problems/{kind.kind}",
                "title": kind.title,
                "status": kind.status,
                "detail": kind.example,
            }
        }
    return answers


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, with the schemas that no route's signature shows."""
    document = get_openapi(
        title="eMamba service",
        version=__version__,
        summary="Human pose from mmWave radar point clouds, computed by an eMamba model",
        routes=app.routes,
    )
    _, described = models_json_schema(
        [(PoseRequest, "validation"), (Problem, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document["components"]["schemas"]
    schemas.update(described["$defs"])
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
