"""The package's float network as ONNX, from features to joints in metres, for another server.

Rewritten with exact functions, the fastest of the forms that `bench.engines` compares at one frame.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from bench.opponents import OPSET, MismatchError
from bench.rewritten import Rewritten, with_exact_functions
from bench.serving.cases import PACKAGE, Frames
from torch import Tensor, nn

from emamba.package import Package, load_package
from emamba.tasks import PoseTask
from emamba.train.checkpoint import load_checkpoint

__all__ = ["export"]

# Of two orders of summation, in metres.
TOLERANCE_M = 1e-4
_INTENSITY = 4


class _Served(nn.Module):
    """The network with its task's normalisation on either side."""

    def __init__(self, network: nn.Module, task: PoseTask) -> None:
        super().__init__()
        self.network = network
        self.input_offset, self.input_scale = map(_constant, (task.input_offset, task.input_scale))
        self.output_offset = _constant(task.output_offset)
        self.output_scale = _constant(task.output_scale)

    def forward(self, features: Tensor) -> Tensor:
        parts = [features[..., :_INTENSITY], torch.log1p(features[..., _INTENSITY:])]
        normal = (torch.cat(parts, -1) - self.input_offset) / self.input_scale
        out: Tensor = self.network(normal) * self.output_scale + self.output_offset
        return out


def export(path: Path, given: Frames) -> Frames:
    """Write the model to `path`; the given maps with the joints that the float network gives.

    Raises `MismatchError` where the exported model's are others.
    """
    package: Package = load_package(PACKAGE)
    assert isinstance(package.task, PoseTask)
    exact = with_exact_functions(load_checkpoint(PACKAGE / "float.safetensors").network)
    served = _Served(Rewritten(exact), package.task).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            served,
            (torch.from_numpy(given.maps[:8]),),
            path,
            dynamo=False,
            input_names=["features"],
            output_names=["joints"],
            dynamic_axes={"features": {0: "batch"}, "joints": {0: "batch"}},
            opset_version=OPSET,
        )
    with torch.inference_mode():
        normal = torch.from_numpy(package.task.encode(given.maps).astype(np.float32))
        outputs = exact.eval()(normal).numpy()
    joints = package.task.decode(outputs).transpose(0, 2, 1).reshape(len(outputs), -1)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"features": given.maps})[0]
    if not np.abs(found - joints).max() <= TOLERANCE_M:
        raise MismatchError(
            f"the exported network's joints must be within {TOLERANCE_M} m of the network's, but "
            f"differ by {np.abs(found - joints).max():.3g} m"
        )
    return Frames(given.maps, joints.astype(np.float32))


def _constant(values: tuple[float, ...]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32), requires_grad=False)
