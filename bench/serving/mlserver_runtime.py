"""MLServer's side of the comparison: its model class, in its own environment."""

from __future__ import annotations

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

__all__ = ["OnnxModel"]


class OnnxModel(MLModel):  # type: ignore[misc]
    """Joints (b, 57) in metres of feature maps (b, 8, 8, 5), by ONNX Runtime on one thread."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        uri = self.settings.parameters.uri
        self._session = ort.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        features = NumpyCodec.decode_input(payload.inputs[0])
        joints = self._session.run(None, {"features": features})[0]
        output = NumpyCodec.encode_output("joints", joints)
        return InferenceResponse(model_name=self.name, outputs=[output])
