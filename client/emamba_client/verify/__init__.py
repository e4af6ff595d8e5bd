"""A remote service against the mirror on this machine, bit for bit."""

from __future__ import annotations
