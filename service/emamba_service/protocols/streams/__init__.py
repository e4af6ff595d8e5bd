"""Pose streams over WebSocket: frames in, joints out, many viewers for one source."""

from emamba_service.protocols.streams.streams import Streams

__all__ = ["Streams"]
