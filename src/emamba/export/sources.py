"""Where the kernel sources lie: in the wheel, or in the checkout beside `src/`."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["kernel_root", "source_hash"]


def kernel_root() -> Path:
    """The folder with `include/emamba`, `host` and `native`."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "hls"
    return packed if packed.is_dir() else package.parents[1] / "hls"


def source_hash(*folders: str, root: Path | None = None) -> str:
    """SHA-256 over names and bytes of the sources in these folders of `root`, or `kernel_root`."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(((root or kernel_root()) / folder).rglob("*")):
            if path.suffix in (".hpp", ".h", ".cpp"):
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
