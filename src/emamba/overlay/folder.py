"""An overlay on disk, checked before anything is configured from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from emamba.export.interface import INTERFACE, KERNEL_TOP, Interface
from emamba.overlay.bitstream import Bitstream, read_bitstream
from emamba.overlay.manifest import ManifestError, load_manifest

__all__ = ["HandoffError", "OverlayFolder", "check_fit", "open_overlay"]

_BITSTREAM, _HANDOFF = "emamba.bit", "emamba.hwh"


class HandoffError(ValueError):
    """A hardware hand-off that describes another design; the message says what to do."""


@dataclass(frozen=True)
class OverlayFolder:
    """A whole overlay: files that belong together. `emulated`: no real bitstream."""

    path: Path
    manifest: Mapping[str, Any]
    head: Bitstream

    @property
    def bitstream(self) -> Path:
        return self.path / _BITSTREAM

    @property
    def handoff(self) -> Path:
        return self.path / _HANDOFF

    @property
    def emulated(self) -> bool:
        return bool(self.manifest.get("emulated", False))

    @property
    def tap(self) -> str | None:
        """The stream that the kernel answers with, for debugging; None if that is outputs."""
        tap = self.manifest.get("tap")
        return None if tap is None else str(tap)


def open_overlay(folder: Path) -> OverlayFolder:
    """The overlay in `folder`.

    Raises `BitstreamError` for a bitstream that is cut short or none, `ManifestError` for files
    that are not the manifest's, `HandoffError` for a hand-off of another design.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"{folder}: must be the folder of an overlay, but is none; "
            "build one with make overlay, or name another with --overlay"
        )
    bitstream = folder / _BITSTREAM
    head = read_bitstream(bitstream) if bitstream.exists() else None
    manifest = load_manifest(folder)
    check_handoff(folder / _HANDOFF)
    assert head is not None, "load_manifest has seen the file"
    return OverlayFolder(folder, manifest, head)


def check_fit(overlay: OverlayFolder, config_hash: str) -> None:
    """Raise `ManifestError` unless `overlay` was built for models of `config_hash`."""
    theirs = overlay.manifest["config_hash"]
    if config_hash != theirs:
        raise ManifestError(
            f"overlay and model must have one config hash, but the overlay {overlay.path} has "
            f"{theirs[:16]} and the model {config_hash[:16]}; choose the overlay built for this "
            "model, or build it"
        )
    version = overlay.manifest["interface_version"]
    if version != INTERFACE.version:
        raise ManifestError(
            f"{overlay.path}: interface_version must be {INTERFACE.version}, not {version}; build "
            "the overlay again with this version of emamba"
        )


def check_handoff(path: Path, interface: Interface = INTERFACE) -> None:
    """Raise `HandoffError` unless `path` describes `interface`: cells, addresses, registers."""
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise HandoffError(
            f"{path}: must be a hardware hand-off, but cannot be read: {error}; "
            "copy the overlay again"
        ) from error
    modules = {module.get("INSTANCE"): module for module in root.iter("MODULE")}
    ranges = {item.get("INSTANCE"): item for item in root.iter("MEMRANGE")}
    for window in interface.windows:
        found = ranges.get(window.instance)
        base = None if found is None else int(found.get("BASEVALUE", "0"), 16)
        if window.instance not in modules or base != window.base:
            came = "has none" if base is None else f"has it at {base:#x}"
            raise HandoffError(
                f"{path}: must have {window.instance} at {window.base:#x}, but {came}; "
                "it is another design's hand-off: copy bitstream, hand-off and manifest together"
            )
    _check_kernel(path, modules[interface.kernel], interface)


def _check_kernel(path: Path, module: ET.Element, interface: Interface) -> None:
    if module.get("MODTYPE") != KERNEL_TOP:
        raise HandoffError(
            f"{path}: {interface.kernel} must be {KERNEL_TOP}, not {module.get('MODTYPE')}; "
            "it is another design's hand-off: copy bitstream, hand-off and manifest together"
        )
    offsets = {register.get("NAME"): _offset(register) for register in module.iter("REGISTER")}
    for register in interface.arguments:
        name, offset = register.words[0]
        if offsets.get(name) != offset:
            came = "has none" if name not in offsets else f"has it at {offsets[name]:#x}"
            raise HandoffError(
                f"{path}: register {name} must be at {offset:#x}, but the hand-off {came}; "
                "build the overlay again with this version of emamba"
            )


def _offset(register: ET.Element) -> int:
    for item in register.iter("PROPERTY"):
        if item.get("NAME") == "ADDRESS_OFFSET":
            return int(item.get("VALUE", "0"), 0)
    return -1
