"""What is asked of a server, as bytes, and what must come back: real frames, in each protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.fixed import Mirror
from emamba.package import Package, load_package
from emamba.tasks.mars import JOINTS, feature_maps

__all__ = ["CASES", "OIP_PATH", "Case", "Frames", "frames", "oip_binary"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "models" / "mars" / "1"
SAMPLE = ROOT / "client" / "emamba_client" / "samples" / "mars_sample.npz"
# So many different frames take turns.
FRAMES = 32
OIP_PATH = "/v2/models/mars/infer"
OIP_OUTPUT = {"name": "joints", "parameters": {"binary_data": True}}


@dataclass(frozen=True)
class Frames:
    """Feature maps (n, 8, 8, 5) and the joints that belong to them, float32 (n, 57) in metres."""

    maps: npt.NDArray[np.float32]
    joints: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Whole HTTP/1.1 requests and, for each, bytes that its answer's body must hold."""

    name: str
    path: str
    requests: tuple[bytes, ...]
    expected: tuple[bytes, ...]


def frames(package: Package | None = None) -> Frames:
    """The first frames of the client's sample; the joints are the mirror's, bit for bit."""
    package = package or load_package(PACKAGE)
    with np.load(SAMPLE) as sample:
        points = np.split(sample["points"], np.cumsum(sample["counts"])[:-1])[:FRAMES]
    maps = feature_maps(list(points))
    poses = package.decode(Mirror(package.model).run(package.encode(maps)))
    flat = poses.transpose(0, 2, 1).reshape(len(maps), -1)
    return Frames(maps, flat.astype(np.float32))


def oip_binary(given: Frames, timeout_us: int | None = None) -> Case:
    """Open Inference Protocol with binary tensors both ways, one frame a request."""
    requests, expected = [], []
    for features, joints in zip(given.maps, given.joints, strict=True):
        document = {"inputs": [_oip_input(features.nbytes)], "outputs": [OIP_OUTPUT]}
        if timeout_us is not None:
            document["parameters"] = {"timeout": timeout_us}  # type: ignore[assignment]
        head = orjson.dumps(document)
        more = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": len(head),
        }
        requests.append(_post(OIP_PATH, head + features.tobytes(), more))
        expected.append(joints.tobytes())
    return Case("OIP binary", OIP_PATH, tuple(requests), tuple(expected))


def _oip_json(given: Frames) -> Case:
    """Open Inference Protocol in plain JSON, as Triton's client sends without its extension."""
    requests, expected = [], []
    for features, joints in zip(given.maps, given.joints, strict=True):
        tensor = {"name": "features", "shape": [1, 8, 8, 5], "datatype": "FP32"}
        document = {"inputs": [tensor | {"data": features.ravel()}]}
        requests.append(_post(OIP_PATH, _dumps(document), {"Content-Type": "application/json"}))
        expected.append(b'"data":' + _dumps(joints))
    return Case("OIP JSON", OIP_PATH, tuple(requests), tuple(expected))


def _pose_json(given: Frames) -> Case:
    requests, expected = [], []
    for features, joints in zip(given.maps, given.joints, strict=True):
        body = _dumps({"features": features})
        requests.append(_post("/v1/pose", body, {"Content-Type": "application/json"}))
        # Its numbers are float64, so only names are compared: the other forms check the values.
        expected.append(b'"name":"%s"' % JOINTS[-1].encode() if len(joints) else b"")
    return Case("/v1/pose JSON", "/v1/pose", tuple(requests), tuple(expected))


def _pose_octets(given: Frames) -> Case:
    requests, expected = [], []
    for features, joints in zip(given.maps, given.joints, strict=True):
        media = {"Content-Type": "application/octet-stream"}
        requests.append(_post("/v1/pose", features.tobytes(), media))
        expected.append(joints.reshape(3, -1).T.tobytes())
    return Case("/v1/pose octets", "/v1/pose", tuple(requests), tuple(expected))


# Every protocol in which one frame can be asked for.
CASES: tuple[Callable[[Frames], Case], ...] = (oip_binary, _oip_json, _pose_json, _pose_octets)


def _oip_input(size: int) -> dict[str, Any]:
    return {
        "name": "features",
        "shape": [1, 8, 8, 5],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }


def _post(path: str, body: bytes, headers: dict[str, Any]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _dumps(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
