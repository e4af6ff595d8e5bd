"""Pose streams over WebSocket: frames in, joints out, many viewers for one source."""

from emamba_service.protocols.stream.streams import Streams

__all__ = ["Streams"]
