"""The hardware-in-the-loop verdict: an engine's bits against the mirror's, and what it costs."""

from __future__ import annotations

from emamba_service.verify.command import verify_command

__all__ = ["verify_command"]
