"""Image classification: files, pixels or JSON -> images -> engine -> the likeliest classes."""

from __future__ import annotations

import asyncio
import os
from base64 import b64decode
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.tasks import ImageTask
from emamba_service.errors import (
    InvalidImageError,
    InvalidRequestError,
    NotReadyError,
    TooManyFramesError,
    UnknownModelError,
    UnsupportedImageError,
)
from emamba_service.inference import Ask, Inference
from emamba_service.models import LoadedModel
from emamba_service.protocols.images import MEDIA_TYPES, media_type_of, read_images
from emamba_service.protocols.request import (
    JSON,
    OCTETS,
    TREATMENT,
    but_one_is,
    content_form,
    json_type,
    load_json,
    read_integer,
    read_query,
    read_treatment,
)
from emamba_service.settings import Settings
from emamba_service.turns import Turns
from emamba_service.web import Call, Reply

__all__ = ["DEFAULT_TOP", "Classify", "parse_images", "parse_pixels"]

DEFAULT_TOP = 5
_FORMS = (*MEDIA_TYPES, JSON, OCTETS)
_QUERY = ("model", "version", "top", *TREATMENT)
Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]


class Classify:
    """Answers `/v1/classify`."""

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._settings = settings
        self._decoding = Turns(os.cpu_count() or 1, settings.max_queue)

    async def answer(self, call: Call) -> Reply:
        """The likeliest classes of one image or a batch of images, and their probabilities.

        The body is an image file, JSON with several in base64, or the pixels themselves, uint8
        (n, height, width, channels). Raises `ServiceError`.
        """
        form = content_form(call, _FORMS)
        query = read_query(call, _QUERY)
        priority, timeout_s = read_treatment(query)
        loaded, task = self._find(query.get("model"), query.get("version"))
        top = read_integer(query, "top", 1, len(task.classes)) or DEFAULT_TOP
        self._inference.check_room(loaded.package.name)
        body = await call.body()
        ask = Ask(call.client, call.received_at, priority, timeout_s)
        if form == OCTETS:
            images = parse_pixels(body, task.shape, self._settings.max_frames)
        else:
            async with self._inference.turn(loaded, self._decoding, ask):
                images = await asyncio.to_thread(self._decode, form, body, task.shape)
        answered = await self._inference.run(loaded, images, ask)
        document = {
            "model": loaded.package.name,
            "version": loaded.package.version,
            "engine": answered.engine,
            "predictions": _predictions(answered.values, task.classes, top),
            "timing_us": answered.timing_us,
        }
        return Reply(orjson.dumps(document))

    def _find(self, name: str | None, version: str | None) -> tuple[LoadedModel, ImageTask]:
        """The model asked for; without a name the default, or the first that takes images."""
        if name is None:
            name = self._default()
        loaded = self._inference.get(name, version)
        task = loaded.package.task
        if not isinstance(task, ImageTask):
            raise InvalidRequestError(
                f"model {loaded.package.name} must be an image model, but is of kind {task.kind}; "
                "send frames to /v1/pose"
            )
        return loaded, task

    def _default(self) -> str:
        self._inference.check_open()
        models = self._inference.models
        coming = {name for name, _ in models.loading if not models.versions(name)}
        names = {model.package.name for model in models} | coming
        for name in (models.default, *sorted(names - {models.default})):
            if name in coming:
                raise NotReadyError(
                    f"{name} is being loaded, and may be the model for images; try again after "
                    "1 s, or name one"
                )
            versions = [*models.versions(name).values()]
            if versions and isinstance(versions[-1].package.task, ImageTask):
                return name
        raise UnknownModelError(
            f"a model of kind {ImageTask.kind} must be loaded, but none is; put its package into "
            "the models' folder as <name>/<version> (docs/package.md) and start the service anew, "
            "or load it with POST /v2/repository/models/<name>/load"
        )

    def _decode(self, form: str, body: bytes, shape: Shape) -> Pixels:
        max_pixels = self._settings.max_image_pixels
        if form == JSON:
            return parse_images(body, shape, self._settings.max_frames, max_pixels)
        came = media_type_of(body)
        if came not in {form, None}:
            raise UnsupportedImageError(
                f"Content-Type must be {came}, as the body is, but is {form!r}"
            )
        return read_images([body], shape, max_pixels)


def parse_pixels(body: bytes, shape: Shape, max_images: int) -> Pixels:
    """The pixels of n images as they are, uint8 (n, height, width, channels), n in 1..max_images.

    Raises `InvalidRequestError` or `TooManyFramesError`.
    """
    height, width, channels = shape
    size = height * width * channels
    count, rest = divmod(len(body), size)
    if rest or not count:
        raise InvalidRequestError(
            f"the body must be at least 1 image of {size} bytes, {height} x {width} x {channels} "
            f"uint8, and nothing else, but is {len(body)} bytes"
        )
    if count > max_images:
        raise _too_many("the body", "holds", count, max_images)
    return np.frombuffer(body, np.uint8).reshape(count, *shape)


def parse_images(body: bytes, shape: Shape, max_images: int, max_pixels: int) -> Pixels:
    """The images of `{"images": [base64 of a file, ...]}` as uint8 (n, height, width, channels).

    Raises `NotJsonError`, `InvalidRequestError`, `TooManyFramesError` and as `read_images` does.
    """
    document = load_json(body)
    if type(document) is not dict:
        raise InvalidRequestError(f"the body must be a JSON object, but is {json_type(document)}")
    for key in document:
        if key != "images":
            raise InvalidRequestError(f"the body's only key must be images, {but_one_is(key)}")
    texts = document.get("images")
    if type(texts) is not list or not texts:
        came = "an empty one" if texts == [] else json_type(texts) if document else "absent"
        raise InvalidRequestError(f"images must be an array of at least 1 image, but is {came}")
    if len(texts) > max_images:
        raise _too_many("images", "hold", len(texts), max_images)
    return read_images([_file(text, at) for at, text in enumerate(texts)], shape, max_pixels)


def _file(text: Any, index: int) -> bytes:
    if type(text) is not str:
        raise InvalidRequestError(
            f"image {index} must be a string, the base64 of a file, but is {json_type(text)}",
            frame=index,
        )
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidImageError(
            f"image {index} must be base64 with padding, of the standard alphabet and without a "
            "data: prefix, but is not",
            frame=index,
        ) from error


def _too_many(what: str, holds: str, count: int, limit: int) -> TooManyFramesError:
    return TooManyFramesError(
        f"{what} must hold at most {limit} images, but {holds} {count}; send several requests",
        limit=limit,
    )


def _predictions(
    probabilities: npt.NDArray[np.float64], classes: tuple[str, ...], top: int
) -> list[dict[str, Any]]:
    """The `top` likeliest of each row (b, classes); of equals, the first goes first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    likeliest = np.take_along_axis(probabilities, order, axis=1)
    return [
        {
            "top": [
                {"class": classes[at], "probability": probability}
                for at, probability in zip(row, values, strict=True)
            ]
        }
        for row, values in zip(order.tolist(), likeliest.tolist(), strict=True)
    ]
