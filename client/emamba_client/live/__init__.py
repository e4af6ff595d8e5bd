"""A live source's frames to a service, and its answers to a terminal, a page or a recording."""

from __future__ import annotations
