"""From kernel sources to a bitstream for one board, and what is known of it afterwards."""

from __future__ import annotations

from emamba.overlay.build import OverlayError, Tools, build_overlay
from emamba.overlay.manifest import ManifestError, baseline, drift, load_manifest
from emamba.overlay.reports import ReportError

__all__ = [
    "ManifestError",
    "OverlayError",
    "ReportError",
    "Tools",
    "baseline",
    "build_overlay",
    "drift",
    "load_manifest",
]
