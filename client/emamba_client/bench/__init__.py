"""Load on a service, and what it answers under it."""

from __future__ import annotations
