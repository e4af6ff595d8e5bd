"""`python -m emamba.overlay`: rewrites what a checkout holds generated from the interface."""

from __future__ import annotations

import re
from pathlib import Path

from emamba.export.interface import registers_markdown
from emamba.overlay.tcl import interface_tcl

_TABLE = re.compile(r"(?m)^\| offset \|.*\n(?:\|.*\n)+")


def main(root: Path) -> None:
    """Rewrite the Tcl dict and the register table in the checkout at `root`."""
    (root / "overlays" / "zcu102" / "interface.tcl").write_text(interface_tcl())
    page = root / "docs" / "overlay.md"
    page.write_text(_TABLE.sub(registers_markdown(), page.read_text(), count=1))


if __name__ == "__main__":
    main(Path(__file__).resolve().parents[3])
