"""One interface: C++, hardware hand-off and documentation say the same of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from emamba.export.header import FORMAT_BITS
from emamba.export.interface import (
    INTERFACE,
    InterfaceError,
    Register,
    ip_source,
    registers_markdown,
)
from emamba.overlay.hwh import PS_INSTANCE, hwh

ROOT = Path(__file__).resolve().parents[2]
Description = dict[str, dict[str, Any]]


def words() -> dict[str, int]:
    """Every 32-bit word of the kernel's registers."""
    return {name: offset for register in INTERFACE.registers for name, offset in register.words}


def test_ip_source_has_every_port_and_register() -> None:
    source = ip_source(1000)
    offsets = re.findall(r"s_axilite bundle=control port=(\w+) offset=(0x\w+)", source)
    assert offsets == [(r.name, f"{r.offset:#x}") for r in INTERFACE.arguments]
    assert re.findall(r"mode=axis port=(\w+)", source) == [p.name for p in INTERFACE.ports]
    head = source[source.index("void emamba_kernel(") : source.index(") {")]
    for register in INTERFACE.arguments:
        kind = "word_t" if register.width == 64 else "half_word_t"
        reference = "&" if register.access == "read-only" else ""
        assert re.search(rf"\b{kind}{reference} {register.name}\b", head)
    assert "constexpr int IMAGE_WORDS = 1000;" in source


def by_element_tree(path: Path) -> tuple[Description, dict[str, int]]:
    """Cells and interrupts of a hand-off, read as plainly as can be."""
    root = ET.parse(path).getroot()
    cells: Description = {}
    for memory in root.iter("MEMRANGE"):
        name, low, high = (memory.attrib[key] for key in ("INSTANCE", "BASEVALUE", "HIGHVALUE"))
        cells[name] = {"phys_addr": int(low, 16), "addr_range": int(high, 16) + 1 - int(low, 16)}
    interrupts = {}
    for module in root.iter("MODULE"):
        name = module.attrib["INSTANCE"]
        if name in cells:
            cells[name]["type"] = module.attrib["VLNV"]
            cells[name]["registers"] = {
                register.attrib["NAME"]: properties(register)
                for register in module.iter("REGISTER")
            }
            cells[name]["parameters"] = {
                parameter.attrib["NAME"]: parameter.attrib["VALUE"]
                for parameter in module.iter("PARAMETER")
            }
        for port in module.iter("PORT"):
            to = port.find("CONNECTIONS/CONNECTION")
            if name == "xlconcat_0" and to is not None and port.attrib["NAME"] != "dout":
                number = int(port.attrib["NAME"].removeprefix("In"))
                interrupts[f"{to.attrib['INSTANCE']}/{to.attrib['PORT']}"] = number
    return cells, interrupts


def properties(register: ET.Element) -> dict[str, Any]:
    values = {p.attrib["NAME"]: p.attrib["VALUE"] for p in register.findall("PROPERTY")}
    return {"address_offset": int(values["ADDRESS_OFFSET"], 16), "access": values["ACCESS"]}


def by_pynq(path: Path) -> tuple[Description, dict[str, int]]:
    """The same as PYNQ reads it."""
    pytest.importorskip("pynqmetadata", reason="pynqmetadata is not installed")
    from pynqmetadata.frontends import Metadata  # noqa: PLC0415
    from pynqmetadata.views.runtime import RuntimeMetadataParser  # noqa: PLC0415

    runtime = RuntimeMetadataParser(Metadata(input=str(path)))
    assert runtime.clock_dict[0]["enable"] == 1
    assert runtime.interrupt_controllers == {
        "axi_intc_0": {"parent": "", "index": 0, "raw_irq": 121}
    }
    cells = {name: cell for name, cell in runtime.ip_dict.items() if name != PS_INSTANCE}
    interrupts = {
        pin: entry["index"]
        for pin, entry in runtime.interrupt_pins.items()
        if not pin.startswith("xlconcat")
    }
    return cells, interrupts


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("read", [by_element_tree, by_pynq])
def test_the_hand_off_is_the_interfaces(
    tmp_path: Path, read: Callable[[Path], tuple[Description, dict[str, int]]]
) -> None:
    path = tmp_path / "emamba.hwh"
    path.write_text(hwh())
    cells, interrupts = read(path)
    assert set(cells) == {window.instance for window in INTERFACE.windows}
    for window in INTERFACE.windows:
        cell = cells[window.instance]
        assert (cell["phys_addr"], cell["addr_range"]) == (window.base, window.size)
        assert cell["type"] == window.vlnv
    registers = cells[INTERFACE.kernel]["registers"]
    assert {name: entry["address_offset"] for name, entry in registers.items()} == words()
    for register in INTERFACE.registers:
        for name, _ in register.words:
            assert registers[name]["access"] == register.access
    address_bits = int(cells[INTERFACE.kernel]["parameters"]["C_S_AXI_CONTROL_ADDR_WIDTH"])
    assert 2**address_bits // 2 <= max(words().values()) < 2**address_bits
    parameters = cells["axi_dma_0"]["parameters"]
    assert int(parameters["c_sg_length_width"]) == INTERFACE.dma.length_width
    assert int(parameters["c_addr_width"]) == INTERFACE.dma.address_width
    assert int(parameters["c_m_axi_mm2s_data_width"]) == INTERFACE.dma.data_width
    assert int(parameters["c_include_sg"]) == 0
    pins = {f"{i.instance}/{i.pin}": i.number for i in INTERFACE.interrupts}
    assert interrupts == pins


def test_the_page_has_registers_and_addresses() -> None:
    page = (ROOT / "docs" / "overlay.md").read_text()
    assert registers_markdown() in page, "run `python -m emamba.overlay`"
    rows = re.findall(r"(?m)^\| `(\w+)` \| `0x(\w+)` \| `0x(\w+)` \|", page)
    stated = {name: (int(base, 16), int(size, 16)) for name, base, size in rows}
    assert stated == {w.instance: (w.base, w.size) for w in INTERFACE.windows}
    interrupts = re.findall(r"(?m)^\| (\d) \| `(\w+)/(\w+)` \|", page)
    assert interrupts == [(str(i.number), i.instance, i.pin) for i in INTERFACE.interrupts]
    assert f"`{INTERFACE.part}`" in page
    assert f"`{INTERFACE.board_part}`" in page
    assert f"{INTERFACE.clock_hz // 1_000_000} MHz" in page


def test_the_saturation_mask_has_the_kernels_bits() -> None:
    bits = INTERFACE.register("saturated").bits
    assert {name: bit for bit, name in enumerate(bits)} == FORMAT_BITS
    assert len(bits) <= INTERFACE.register("saturated").width


def test_overlapping_registers_are_refused() -> None:
    last = INTERFACE.registers[-1]
    late = Register("late", 0x94, 32, "read-only", "where the last one's control word is")
    message = (
        f"registers must not overlap: late at 0x94 begins before {last.name}_ctrl at 0x94 ends; "
        "raise its offset"
    )
    with pytest.raises(InterfaceError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(INTERFACE, registers=(*INTERFACE.registers, late))


def test_overlapping_and_odd_windows_are_refused() -> None:
    dma, *others = INTERFACE.windows
    same = dataclasses.replace(dma, base=INTERFACE.window("emamba_0").base)
    message = (
        "windows must not overlap: emamba_0 begins at 0xa0010000, before axi_dma_0 ends at "
        "0xa0020000"
    )
    with pytest.raises(InterfaceError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(INTERFACE, windows=(same, *others))
    odd = dataclasses.replace(dma, base=0xA000_1000)
    message = "axi_dma_0: base must be a multiple of its size 0x10000, not 0xa0001000"
    with pytest.raises(InterfaceError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(INTERFACE, windows=(odd, *others))
