"""What the OpenAPI document says of requests and answers.

The models only describe: requests are read by `pose.parse_request`, and a test posts every
example below to the application.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.json_schema import models_json_schema

from emamba_service import __version__, errors
from emamba_service.errors import PROBLEM_JSON, ServiceError
from emamba_service.settings import Settings

__all__ = [
    "CHOICE",
    "EVERYWHERE",
    "EXAMPLES",
    "INFERENCE_PROBLEMS",
    "TREATMENT",
    "Closed",
    "Described",
    "Index",
    "Live",
    "ModelList",
    "ModelSummary",
    "PoseAnswer",
    "PoseRequest",
    "Ready",
    "StreamList",
    "Vitals",
    "described_route",
    "no_default",
    "openapi_document",
    "path_parameter",
    "pose_route",
    "problem_answers",
]

# What every route may answer.
EVERYWHERE: tuple[type[ServiceError], ...] = (
    errors.MethodNotAllowedError,
    errors.ReadTimeoutError,
    errors.BodyTooLargeError,
    errors.HeadersTooLargeError,
    errors.InternalError,
)
EngineState = Literal["ready", "recovering", "degraded", "failed"]
Point = Annotated[
    list[float],
    Field(
        min_length=5,
        max_length=5,
        description="x, y, z in m, Doppler in m/s, intensity (raw, >= 0); magnitudes of at most "
        "100 m, 100 m/s and 1e6",
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


class Described(BaseModel):
    """A field is titled by its own name: "X M" for x_m would hide the unit."""

    model_config = ConfigDict(field_title_generator=lambda name, _: name)


class Closed(Described):
    """No other fields may be given."""

    model_config = ConfigDict(extra="forbid")


def no_default(schema: dict[str, Any]) -> None:
    """For a member that may be absent: pydantic needs a default, of which nothing is said."""
    del schema["default"]


def _absent(description: str) -> Any:
    """A number that an answer may lack."""
    return Field(0.0, description=description, json_schema_extra=no_default)


class _Addressed(Closed):
    model: str = Field(
        "",
        description="Name of a loaded model; the default model if absent",
        examples=["mars"],
        json_schema_extra=no_default,
    )
    version: str = Field(
        "",
        description="Version of the model; the latest if absent",
        examples=["1"],
        json_schema_extra=no_default,
    )


class PointsFrame(Closed):
    points: Points


class FeaturesFrame(Closed):
    features: FeatureMap


class PointsRequest(_Addressed, PointsFrame):
    pass


class FeaturesRequest(_Addressed, FeaturesFrame):
    pass


class FramesRequest(_Addressed):
    frames: Annotated[list[PointsFrame | FeaturesFrame], Field(min_length=1)]


class PoseRequest(RootModel[PointsRequest | FeaturesRequest | FramesRequest]):
    """One frame as points or as a feature map, or a batch of frames of either kind."""


class Joint(Described):
    """x left-right, y away from the radar, z up, in metres."""

    name: str = Field(examples=["SpineBase"])
    x_m: float
    y_m: float
    z_m: float


class Pose(Described):
    joints: Annotated[list[Joint], Field(min_length=19, max_length=19)]


class EngineStages(Described):
    """Microseconds of the parts of engine, of those that the engine has told."""

    pack: float = _absent("Frames to packets, in memory that the device reads")
    transfer: float = _absent("Wait for the device, less the kernel's own time")
    kernel: float = _absent("The kernel's own cycles as time; modelled on an emulator")
    unpack: float = _absent("Packets to integers")
    guard: float = _absent("Comparison with the guard's own computation")


class TimingUs(Described):
    """Microseconds per stage; total counts from the body's arrival."""

    preprocess: float = Field(description="The body to the task's checked input")
    quantise: float = Field(description="Normalised and rounded to integers")
    queue: float = Field(description="Wait for the engine")
    engine: float = Field(description="The batch that the request was computed in")
    postprocess: float = Field(description="Integers to the task's answer")
    total: float
    engine_stages: EngineStages = Field(
        EngineStages.model_construct(),
        description="Parts of engine; absent for an engine without a device",
        json_schema_extra=no_default,
    )


class PoseAnswer(Described):
    """One pose per frame, in the frames' order."""

    model: str
    version: str
    engine: str = Field(description="What computed this answer", examples=["native"])
    poses: list[Pose]
    timing_us: TimingUs


class NetworkConfig(Described):
    """Sizes of the network, as counts."""

    input_height: int = Field(description="Rows of the feature map")
    input_width: int = Field(description="Columns of the feature map")
    input_channels: int = Field(description="Values of one point of the map")
    n_outputs: int = Field(description="Numbers the network gives: x, y and z of every joint")
    d_model: int = Field(description="Values of one token between the blocks")
    n_layer: int = Field(description="Mamba blocks")
    d_state: int = Field(description="State values of each inner channel")
    d_conv: int = Field(description="Taps of the causal convolution, in tokens")
    expand: int = Field(description="Inner channels of a block per value of d_model")
    dt_rank: int = Field(description="Values the step size delta is projected from")
    patch: int = Field(description="Edge of the square of map points that makes one token")
    head_width: int = Field(description="Neurons of the head's hidden layer")


def _absent_list(description: str) -> Any:
    """A list that an answer may lack."""
    return Field([], description=description, json_schema_extra=no_default)


def _absent_numbers(what: str) -> Any:
    """Measurements by name that an answer may lack."""
    return Field({}, description=f"{what}; absent if not measured", json_schema_extra=no_default)


class TaskSummary(Described):
    """What goes in and comes out."""

    kind: str
    input_shape: list[int] = Field(description="Rows, columns and channels of the input")
    channels: list[str] = _absent_list("The input's channels in order, units in the names")
    joints: list[str] = _absent_list("Of poses: the joints in the order of every answer")
    unit: str = Field(
        "", description="Of poses: unit of the joints' coordinates", json_schema_extra=no_default
    )
    classes: list[str] = _absent_list("Of images: the classes in the order of every answer")


class ModelSummary(Described):
    """A loaded model."""

    name: str
    version: str
    engine: str = Field(description="What computes the model", examples=["mirror"])
    engine_state: EngineState = Field(
        description="degraded: another engine answers in its place; recovering, failed: none does"
    )
    engine_reason: str = Field(description="Why it is not ready, else empty")
    package_sha256: str = Field(description="SHA-256 of the package's model.json, hexadecimal")
    config: NetworkConfig
    parameters: int = Field(description="Trained numbers of the network")
    int8_bytes: int = Field(description="Bytes of the parameters as INT8")
    task: TaskSummary
    accuracy: dict[str, Any] = Field(
        description="Errors measured when the package was made; *_cm are centimetres"
    )


class ComingModel(Described):
    """A version that is being loaded: its engine may have to be compiled first."""

    name: str
    version: str


class ModelList(Described):
    models: list[ModelSummary]
    loading: list[ComingModel]


class Live(Described):
    live: bool


class EngineReport(Described):
    """How the engine of one model fares."""

    model: str
    version: str
    engine: str
    state: EngineState
    reason: str = Field(description="Why it is not ready, else empty")


class ShadowReport(Described):
    """Requests chosen to be computed again by the mirror, by what came of it, since the start."""

    matches: int
    mismatches: int = Field(description="At least one frame differed")
    dropped: int = Field(description="Not checked: too many were waiting")
    failed: int = Field(description="Not checked: the check itself failed")


class Ready(Described):
    ready: bool
    engines: list[EngineReport]
    shadow: ShadowReport = Field(
        ShadowReport.model_construct(),
        description="Absent where no answer is checked: shadow_fraction is 0, or engine is mirror",
        json_schema_extra=no_default,
    )


class ModelVitals(EngineReport):
    """How one model fares."""

    frames: int = Field(description="Answered since the start")
    waiting: int = Field(description="Requests that wait for the engine")


class Vitals(Described):
    """The service's state; counters are totals, and rates are differences over clock_s."""

    clock_s: float = Field(description="The service's clock, seconds from no particular time")
    models: list[ModelVitals]
    streams: int = Field(description="Open or resumable")
    viewers: int = Field(description="Of published streams")
    shadow: ShadowReport = Field(
        ShadowReport.model_construct(),
        description="Absent where no answer is checked",
        json_schema_extra=no_default,
    )
    power_w: dict[str, float] = _absent_numbers("Measured power by group of rails")
    energy_j: dict[str, float] = _absent_numbers("Measured energy by group, since the start")
    temperature_c: dict[str, float] = _absent_numbers("Temperature of the chip by sensor")


class PublishedStream(Described):
    """A stream that can be watched."""

    name: str
    viewers: int


class StreamList(Described):
    streams: list[PublishedStream]


class Index(Described):
    service: str
    version: str
    links: dict[str, str]


class Problem(Described):
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


_BYTES = {"type": "string", "format": "binary"}
# What a request for inference may be answered besides a model's output.
INFERENCE_PROBLEMS: tuple[type[ServiceError], ...] = (
    *EVERYWHERE,
    errors.UnauthorizedError,
    errors.ForbiddenError,
    errors.UnknownModelError,
    errors.UnknownVersionError,
    errors.UnsupportedMediaTypeError,
    errors.UnsupportedEncodingError,
    errors.InvalidRequestError,
    errors.InvalidInputError,
    errors.TooManyFramesError,
    errors.RateLimitedError,
    errors.EngineFailedError,
    errors.EngineAwayError,
    errors.QueueFullError,
    errors.NotReadyError,
    errors.RequestTimeoutError,
)


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


TREATMENT = [
    _query(
        "priority",
        "1 is served first, 9 last; 5 unless given",
        type="integer",
        minimum=1,
        maximum=9,
    ),
    _query(
        "timeout_us",
        "Longest time from the body's arrival to the answer; request_timeout_s at most",
        type="integer",
        minimum=1,
    ),
]
CHOICE = [
    _query("model", "Of bytes: name of the model; the default unless given", type="string"),
    _query("version", "Of bytes: version of the model; the latest unless given", type="string"),
]


def pose_route() -> APIRoute:
    """The description of `POST /v1/pose`."""
    json_body = {"schema": {"$ref": "#/components/schemas/PoseRequest"}, "examples": EXAMPLES}
    maps = {**_BYTES, "description": "Feature maps, little-endian float32 (n, 8, 8, 5)"}
    joints = {**_BYTES, "description": "Joints, little-endian float32 (n, 19, 3), metres"}
    answer = {
        "model": PoseAnswer,
        "description": "The answer",
        "content": {"application/octet-stream": {"schema": joints}},
    }
    kinds = (*INFERENCE_PROBLEMS, errors.NotJsonError, errors.TooManyPointsError)
    return described_route(
        "/v1/pose",
        "Joints in metres for one frame or a batch of frames of radar points.",
        {"application/json": json_body, "application/octet-stream": {"schema": maps}},
        {200: answer, **problem_answers(*kinds)},
        [*CHOICE, *TREATMENT],
    )


def described_route(
    path: str,
    description: str,
    body: dict[str, Any],
    answers: dict[int | str, dict[str, Any]],
    parameters: list[dict[str, Any]],
) -> APIRoute:
    """A description of a route for POST that `web.Express` answers."""
    return APIRoute(
        path,
        _answered_elsewhere,
        methods=["POST"],
        name=path,
        description=description,
        response_class=Response,
        responses=answers,
        openapi_extra={
            "requestBody": {"required": True, "content": body},
            "parameters": parameters,
        },
    )


async def _answered_elsewhere() -> None:
    """What stands in a description for an endpoint on the express way."""


def path_parameter(name: str) -> dict[str, Any]:
    """A part of a path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


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


def openapi_document(
    app: FastAPI, settings: Settings, described: list[APIRoute], bodies: list[type[BaseModel]]
) -> dict[str, Any]:
    """The OpenAPI document of `app` and of the `described` routes, with the schemas that no route's
    signature shows: `bodies` and the problems.

    The limits of points and frames are those of `settings`.
    """
    document = get_openapi(
        title="eMamba service",
        version=__version__,
        summary="Human pose from mmWave radar point clouds, computed by an eMamba model",
        routes=[*app.routes, *described],
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
    )
    shown: list[type[BaseModel]] = [*bodies, Problem]
    _, definitions = models_json_schema(
        [(model, "validation") for model in shown],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document["components"]["schemas"]
    schemas.update(definitions["$defs"])
    for name in ("PointsRequest", "PointsFrame"):
        schemas[name]["properties"]["points"]["maxItems"] = settings.max_points
    schemas["FramesRequest"]["properties"]["frames"]["maxItems"] = settings.max_frames
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document
