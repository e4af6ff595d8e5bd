"""TI mmWave radars: what their UART says, and how to tell them what to do."""

from __future__ import annotations

from emamba_client.radar.tlv import MAGIC, Parser, RadarFrame

__all__ = ["MAGIC", "Parser", "RadarFrame"]
