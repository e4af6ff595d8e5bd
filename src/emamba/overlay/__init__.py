"""From kernel sources to a bitstream for one board, and what is known of it afterwards."""

from __future__ import annotations

from emamba.overlay.bitstream import BitstreamError
from emamba.overlay.build import OverlayError, Tools, build_overlay
from emamba.overlay.emulated import emulated_overlay
from emamba.overlay.folder import HandoffError, OverlayFolder, check_fit, open_overlay
from emamba.overlay.manifest import ManifestError, baseline, drift, load_manifest
from emamba.overlay.reports import ReportError

__all__ = [
    "BitstreamError",
    "HandoffError",
    "ManifestError",
    "OverlayError",
    "OverlayFolder",
    "ReportError",
    "Tools",
    "baseline",
    "build_overlay",
    "check_fit",
    "drift",
    "emulated_overlay",
    "load_manifest",
    "open_overlay",
]
