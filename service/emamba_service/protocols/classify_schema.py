"""What the OpenAPI document says of `/v1/classify`; requests are read by `classify` alone."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi.routing import APIRoute
from pydantic import Field

from emamba_service import errors
from emamba_service.protocols.images import MEDIA_TYPES
from emamba_service.schemas import (
    INFERENCE_PROBLEMS,
    TREATMENT,
    Closed,
    Described,
    TimingUs,
    described_route,
    problem_answers,
)

__all__ = ["EXAMPLES", "ClassifyAnswer", "ClassifyRequest", "classify_route"]

# A dark bar on 8 x 8 grey pixels, as PNG.
_FILE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGUlEQVR4nGM8wQAB"
    "TAxIjLAwdBFUBiOGLgBoeAJLiea+bgAAAABJRU5ErkJggg=="
)
EXAMPLES: dict[str, dict[str, Any]] = {
    "one": {"summary": "One image", "value": {"images": [_FILE]}},
    "batch": {"summary": "Two images", "value": {"images": [_FILE, _FILE]}},
}
_QUERY = [
    {"name": name, "in": "query", "description": description, "schema": schema}
    for name, description, schema in (
        (
            "model",
            "Name of an image model; the default, or the first by name, unless given",
            {"type": "string"},
        ),
        ("version", "Version of the model; the latest unless given", {"type": "string"}),
        (
            "top",
            "Classes told of each image, at most as many as there are; 5 unless given",
            {"type": "integer", "minimum": 1},
        ),
    )
]


class ClassifyRequest(Closed):
    """A batch of image files."""

    images: Annotated[
        list[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]],
        Field(min_length=1, description="Image files, PNG, JPEG, WebP or GIF, in base64"),
    ]


class ClassProbability(Described):
    class_: str = Field(alias="class", description="One of the model's task.classes")
    probability: float = Field(ge=0, le=1)


class Prediction(Described):
    """The likeliest classes of one image, the likeliest first."""

    top: list[ClassProbability]


class ClassifyAnswer(Described):
    """One prediction per image, in the images' order."""

    model: str
    version: str
    engine: str = Field(description="What computed this answer", examples=["native"])
    predictions: list[Prediction]
    timing_us: TimingUs


def classify_route() -> APIRoute:
    """The description of `POST /v1/classify`."""
    file = {"type": "string", "format": "binary", "description": "One image file"}
    pixels = {
        "type": "string",
        "format": "binary",
        "description": "Pixels, uint8 (n, height, width, channels) as the model takes them",
    }
    document = {
        "schema": {"$ref": "#/components/schemas/ClassifyRequest"},
        "examples": EXAMPLES,
    }
    body: dict[str, Any] = {kind: {"schema": file} for kind in MEDIA_TYPES}
    body |= {"application/json": document, "application/octet-stream": {"schema": pixels}}
    kinds = (
        *INFERENCE_PROBLEMS,
        errors.NotJsonError,
        errors.ImageTooLargeError,
        errors.UnsupportedImageError,
        errors.InvalidImageError,
    )
    answer = {"model": ClassifyAnswer, "description": "The answer"}
    return described_route(
        "/v1/classify",
        "The likeliest classes of one image or a batch of images.",
        body,
        {200: answer, **problem_answers(*kinds)},
        [*_QUERY, *TREATMENT],
    )
