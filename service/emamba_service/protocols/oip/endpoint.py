"""The Open Inference Protocol's inference route."""

from __future__ import annotations

from emamba_service.errors import InvalidRequestError, shortened
from emamba_service.inference import Ask, Inference
from emamba_service.protocols.oip.codec import InferRequest, read_request, write_answer
from emamba_service.protocols.oip.signature import Signature, signature_of
from emamba_service.protocols.request import read_aside
from emamba_service.settings import Settings
from emamba_service.web import Call, Reply

__all__ = ["Oip"]

_HEADER_LENGTH = b"inference-header-content-length"


class Oip:
    """Answers `/v2/models/{name}[/versions/{version}]/infer`."""

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._max_frames = settings.max_frames

    async def infer(self, call: Call) -> Reply:
        """The output tensor for a batch of frames, as JSON or bytes; raises `ServiceError`."""
        loaded = self._inference.get(call.params["name"], call.params.get("version"))
        signature = signature_of(loaded.package)
        header_length = _header_length(call)
        request = await self._read(await call.body(), header_length, signature)
        package = loaded.package
        if request.model_name not in (None, package.name):
            raise InvalidRequestError(
                f"model_name must be {package.name}, as in the path, "
                f"but is {shortened(request.model_name)!r}"
            )
        ask = Ask(call.client, call.received_at, request.priority, request.timeout_s)
        answered = await self._inference.run(loaded, request.inputs, ask)
        values = signature.flat(answered.values)
        body, length = write_answer(package.name, package.version, values, signature, request)
        if length is None:
            return Reply(body)
        return Reply(body, "application/octet-stream", 200, ((_HEADER_LENGTH, b"%d" % length),))

    async def _read(
        self, body: bytes, header_length: int | None, signature: Signature
    ) -> InferRequest:
        json_bytes = len(body) if header_length is None else header_length
        return await read_aside(
            json_bytes, read_request, body, header_length, signature, self._max_frames
        )


def _header_length(call: Call) -> int | None:
    text = call.header(_HEADER_LENGTH)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    raise InvalidRequestError(
        f"Inference-Header-Content-Length must be a number of bytes, but is {shortened(text)!r}"
    )
