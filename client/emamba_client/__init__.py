"""Python client of the eMamba inference service: radar points in, 19 joints in metres out."""

from __future__ import annotations

from emamba_client._stream_wire import Hello, StreamAnswer
from emamba_client._version import __version__
from emamba_client.client import AsyncClient, Client
from emamba_client.errors import (
    BadResponse,
    ClientClosed,
    ClientError,
    ConnectionFailed,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    RadarError,
    ServerFault,
    ServiceError,
    TimedOut,
    TooLarge,
)
from emamba_client.results import JOINTS, Joint, ModelInfo, Pose, PoseResult, PosesResult
from emamba_client.retry import RetryPolicy
from emamba_client.samples import SampleFrame, sample_frames
from emamba_client.stream import AsyncPoseStream, PoseStream

__all__ = [
    "JOINTS",
    "AsyncClient",
    "AsyncPoseStream",
    "BadResponse",
    "Client",
    "ClientClosed",
    "ClientError",
    "ConnectionFailed",
    "Hello",
    "InvalidInput",
    "InvalidRequest",
    "Joint",
    "ModelInfo",
    "NotFound",
    "Overloaded",
    "Pose",
    "PoseResult",
    "PoseStream",
    "PosesResult",
    "Problem",
    "RadarError",
    "RetryPolicy",
    "SampleFrame",
    "ServerFault",
    "ServiceError",
    "StreamAnswer",
    "TimedOut",
    "TooLarge",
    "__version__",
    "sample_frames",
]
