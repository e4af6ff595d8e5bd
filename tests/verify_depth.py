"""How deep property-based tests look: a sample, or with EMAMBA_VERIFY=full every bar's 10,000."""

from __future__ import annotations

import os

__all__ = ["FULL", "examples"]

FULL = os.environ.get("EMAMBA_VERIFY") == "full"


def examples(sample: int) -> int:
    """`sample` cases, or 10,000 where everything is to be verified."""
    return 10_000 if FULL else sample
