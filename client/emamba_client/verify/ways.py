"""Every way to a service: frames in, the very numbers that it answers out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from emamba_client._wire import check_status
from emamba_client.errors import BadResponse
from emamba_client.stream import PoseStream

__all__ = ["WAYS", "Asked", "Service", "Way"]

_BATCH = 32
_JSON = {"content-type": "application/json"}
_ANSWER_S = 30.0
Joints = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Asked:
    """Frames as points (n, 5), and the maps (b, 8, 8, 5) that they are."""

    points: list[npt.NDArray[np.float32]]
    maps: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Service:
    """Whom to ask for what."""

    http: httpx.Client
    url: str
    token: str | None
    model: str
    version: str


@dataclass(frozen=True)
class Way:
    """`ask` gives joints (b, 19, 3) in the precision that the way has: float64, or float32."""

    name: str
    ask: Callable[[Service, Asked], Joints]


def _json_points(service: Service, asked: Asked) -> Joints:
    return _pose(service, [{"points": points.tolist()} for points in asked.points])


def _json_features(service: Service, asked: Asked) -> Joints:
    return _pose(service, [{"features": one} for one in asked.maps.tolist()])


def _pose(service: Service, frames: list[dict[str, Any]]) -> Joints:
    joints: list[list[list[float]]] = []
    for start in range(0, len(frames), _BATCH):
        document = {
            "model": service.model,
            "version": service.version,
            "frames": frames[start : start + _BATCH],
        }
        answer = _post(service, "v1/pose", json.dumps(document).encode(), _JSON).json()
        joints += [
            [[joint[axis] for axis in ("x_m", "y_m", "z_m")] for joint in pose["joints"]]
            for pose in answer["poses"]
        ]
    return np.array(joints, np.float64)


def _octets(service: Service, asked: Asked) -> Joints:
    path = f"v1/pose?model={service.model}&version={service.version}"
    headers = {"content-type": "application/octet-stream"}
    return _floats(_post(service, path, one.tobytes(), headers).content for one in _pieces(asked))


def _oip_json(service: Service, asked: Asked) -> Joints:
    joints = []
    for piece in _pieces(asked):
        tensor = _tensor(piece) | {"data": piece.reshape(-1).tolist()}
        body = json.dumps({"inputs": [tensor]}).encode()
        output = _post(service, _infer(service), body, _JSON).json()["outputs"][0]
        joints.append(np.array(output["data"], np.float64).astype("<f4").tobytes())
    return _flat(joints)


def _oip_binary(service: Service, asked: Asked) -> Joints:
    joints = []
    for piece in _pieces(asked):
        tensor = _tensor(piece) | {"parameters": {"binary_data_size": piece.nbytes}}
        outputs = [{"name": "joints", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        answer = _post(service, _infer(service), head + piece.tobytes(), headers)
        joints.append(answer.content[int(answer.headers["inference-header-content-length"]) :])
    return _flat(joints)


def _stream_points(service: Service, asked: Asked) -> Joints:
    return _stream(service, lambda stream: [stream.send_points(one) for one in asked.points])


def _stream_features(service: Service, asked: Asked) -> Joints:
    joints = _stream(service, lambda stream: [stream.send_features(one) for one in asked.maps])
    return joints.astype(np.float32)


def _stream(service: Service, send: Callable[[PoseStream], list[int]]) -> Joints:
    with PoseStream(
        service.url, model=service.model, version=service.version, token=service.token
    ) as stream:
        answers = [stream.receive(_ANSWER_S) for _ in send(stream)]
    for answer in answers:
        if answer.joints is None:
            raise BadResponse(f"frame {answer.sequence} of the stream must have joints")
    return np.stack([answer.joints for answer in answers if answer.joints is not None])


WAYS = (
    Way("/v1/pose, points as JSON", _json_points),
    Way("/v1/pose, features as JSON", _json_features),
    Way("/v1/pose, float32", _octets),
    Way("/v2 infer, JSON", _oip_json),
    Way("/v2 infer, binary", _oip_binary),
    Way("stream, points as JSON", _stream_points),
    Way("stream, float32", _stream_features),
)


def _pieces(asked: Asked) -> list[npt.NDArray[np.float32]]:
    maps = asked.maps.astype("<f4")
    return [maps[start : start + _BATCH] for start in range(0, len(maps), _BATCH)]


def _tensor(piece: npt.NDArray[np.float32]) -> dict[str, Any]:
    return {"name": "features", "shape": list(piece.shape), "datatype": "FP32"}


def _infer(service: Service) -> str:
    return f"v2/models/{service.model}/versions/{service.version}/infer"


def _post(service: Service, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    response = service.http.post(path, content=body, headers=headers)
    check_status(response)
    return response


def _floats(bodies: Any) -> Joints:
    """Little-endian float32 (n, 19, 3)."""
    return np.frombuffer(b"".join(bodies), "<f4").reshape(-1, 19, 3)


def _flat(bodies: list[bytes]) -> Joints:
    """Little-endian float32 of 19 x, 19 y, 19 z each, as (n, 19, 3)."""
    rows = np.frombuffer(b"".join(bodies), "<f4").reshape(-1, 3, 19)
    return np.ascontiguousarray(rows.transpose(0, 2, 1))
