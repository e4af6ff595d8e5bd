"""`INTERFACE` and one kernel's files in the words of the vendor's tools."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from emamba.export.interface import INTERFACE, KERNEL_TOP, Interface, StreamPort

__all__ = ["hls_config", "interface_tcl"]


def interface_tcl(interface: Interface = INTERFACE) -> str:
    """The text of `overlays/zcu102/interface.tcl`: one dict, `interface`."""
    vendor, library, name, version = interface.window(interface.kernel).vlnv.split(":")
    entries = {
        "version": str(interface.version),
        "clock_hz": str(interface.clock_hz),
        "part": interface.part,
        "board_part": interface.board_part,
        "kernel": _dict(
            instance=interface.kernel, vendor=vendor, library=library, name=name, version=version
        ),
        "dma": _dict(
            data_width=interface.dma.data_width,
            address_width=interface.dma.address_width,
            length_width=interface.dma.length_width,
            burst=interface.dma.burst,
        ),
        "streams": _lines(
            f"{port.name} {{{_dict(direction=_direction(port), width=port.width)}}}"
            for port in interface.ports
        ),
        "windows": _lines(
            f"{w.instance} {{{_dict(port=w.port, base=f'{w.base:#x}', size=f'{w.size:#x}')}}}"
            for w in interface.windows
        ),
        "interrupts": _lines(
            f"{interrupt.number} {{{interrupt.instance}/{interrupt.pin}}}"
            for interrupt in interface.interrupts
        ),
        "registers": _lines(
            f"{r.name} {{{_dict(offset=f'{r.offset:#x}', width=r.width, access=r.access)}}}"
            for r in interface.registers
        ),
    }
    body = "\n".join(f"  {name} {{{value}}}" for name, value in entries.items())
    return (
        "# SPDX-License-Identifier: Apache-2.0\n"
        "# Generated from src/emamba/export/interface.py by `python -m emamba.overlay`.\n"
        f"set interface {{\n{body}\n}}\n"
    )


def _direction(port: StreamPort) -> str:
    return "out" if port.master else "in"


def _dict(**values: object) -> str:
    return " ".join(f"{name} {value}" for name, value in values.items())


def _lines(entries: Iterable[str]) -> str:
    return "\n" + "".join(f"    {entry}\n" for entry in entries) + "  "


def hls_config(export: Path, kernels: Path, interface: Interface = INTERFACE) -> str:
    """The component configuration of `v++ -c --mode hls`: what `hls.tcl` says, for 2024.1 on.

    `export` holds one kernel's generated files, `kernels` the hand-written sources.
    """
    export, kernels = export.resolve(), kernels.resolve()
    cflags = f"-std=c++14 -I{export} -I{kernels / 'include'}"
    testbench = kernels / "test" / "testbench.cpp"
    vendor, library, name, version = interface.window(interface.kernel).vlnv.split(":")
    lines = [f"part={interface.part}", "", "[hls]", "flow_target=vivado"]
    lines += [f"clock={1e9 / interface.clock_hz:g}ns", f"syn.top={KERNEL_TOP}"]
    for source in ("ip.cpp", "top.cpp"):
        lines += [f"syn.file={export / source}", f"syn.file_cflags={export / source},{cflags}"]
    lines += [f"tb.file={testbench}", f"tb.file_cflags={testbench},{cflags} -DEMAMBA_IP"]
    lines += [f"csim.argv={export}", "package.output.format=ip_catalog"]
    lines += [f"package.ip.vendor={vendor}", f"package.ip.library={library}"]
    lines += [f"package.ip.name={name}", f"package.ip.version={version}"]
    return "\n".join(lines) + "\n"
