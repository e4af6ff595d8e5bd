"""An overlay for emulated boards: the files of a real one, without configuration data."""

from __future__ import annotations

import json
from pathlib import Path

from emamba.export.interface import INTERFACE
from emamba.export.pipeline import find_tap
from emamba.export.presets import preset
from emamba.export.sources import source_hash
from emamba.fixed import IntegerModel
from emamba.overlay.bitstream import bitstream_bytes
from emamba.overlay.folder import OverlayFolder, open_overlay
from emamba.overlay.hwh import hwh
from emamba.overlay.manifest import SCHEMA_VERSION, sha256_of

__all__ = ["emulated_overlay"]

_DATA = b"Emulated: nothing to configure a device from.\n".ljust(64, b"\0")


def emulated_overlay(
    model: IntegerModel, preset_name: str, folder: Path, tap: str | None = None
) -> OverlayFolder:
    """Write and open an overlay for models of `model`'s config hash, folded as `preset_name`.

    With `tap`, a stream's name, it answers with that stage's tokens. Raises `PresetError` for an
    unknown preset, `TapError` for an unknown stream.
    """
    preset(preset_name, model.config)
    if tap is not None:
        find_tap(tap, model.config)
    folder.mkdir(parents=True, exist_ok=True)
    bit = bitstream_bytes("emamba;emulated", INTERFACE.part, "2026/01/01", "00:00:00", _DATA)
    (folder / "emamba.bit").write_bytes(bit)
    (folder / "emamba.hwh").write_text(hwh())
    document = {
        "schema_version": SCHEMA_VERSION,
        "emulated": True,
        "board": "zcu102",
        "part": INTERFACE.part,
        "interface_version": INTERFACE.version,
        "config_hash": model.config_hash,
        "preset": preset_name,
        "tap": tap,
        "kernel_source_sha256": source_hash("include"),
        "clock_hz": INTERFACE.clock_hz,
        "obtained": {"clock_hz": "the interface's, modelled"},
        "files": {name: sha256_of(folder / name) for name in ("emamba.bit", "emamba.hwh")},
    }
    (folder / "manifest.json").write_text(json.dumps(document, indent=1) + "\n")
    return open_overlay(folder)
