"""The hardware hand-off as PYNQ reads it: what Vivado would write, less what PYNQ ignores.

A real bitstream comes with Vivado's own file. This one describes the same block design from
`INTERFACE` alone, for emulated devices and for tests of the driver.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from emamba.export.interface import INTERFACE, Interface, Register, StreamPort, Window

__all__ = ["PS_INSTANCE", "hwh"]

PS_INSTANCE = "zynq_ultra_ps_e_0"
_CONTROL_PORT = "M_AXI_HPM0_FPD"
_AXI = "xilinx.com:interface:aximm:1.0"
_AXIS = "xilinx.com:interface:axis:1.0"

# name: (least bit, bits, access), as Vitis HLS makes them.
_FIELDS = {
    "CTRL": {
        "AP_START": (0, 1, "read-write"),
        "AP_DONE": (1, 1, "read-only"),
        "AP_IDLE": (2, 1, "read-only"),
        "AP_READY": (3, 1, "read-only"),
        "AUTO_RESTART": (7, 1, "read-write"),
        "INTERRUPT": (9, 1, "read-only"),
    },
    "GIER": {"Enable": (0, 1, "read-write")},
    "IP_IER": {"CHAN0_INT_EN": (0, 1, "read-write"), "CHAN1_INT_EN": (1, 1, "read-write")},
    "IP_ISR": {"CHAN0_INT_ST": (0, 1, "read-write"), "CHAN1_INT_ST": (1, 1, "read-write")},
}
# Offsets of the registers that PYNQ and its users touch.
_DMA_REGISTERS = {
    "MM2S_DMACR": 0x00,
    "MM2S_DMASR": 0x04,
    "MM2S_SA": 0x18,
    "MM2S_SA_MSB": 0x1C,
    "MM2S_LENGTH": 0x28,
    "S2MM_DMACR": 0x30,
    "S2MM_DMASR": 0x34,
    "S2MM_DA": 0x48,
    "S2MM_DA_MSB": 0x4C,
    "S2MM_LENGTH": 0x58,
}
_INTC_REGISTERS = {
    name: 4 * i for i, name in enumerate(("ISR", "IPR", "IER", "IAR", "SIE", "CIE", "IVR", "MER"))
}


def hwh(interface: Interface = INTERFACE) -> str:
    """The text of a `.hwh` that PYNQ takes for the block design of `overlays/zcu102`."""
    root = ET.Element("EDKSYSTEM", EDWVERSION="1.2")
    device, package, speed, _ = interface.part.split("-")
    ET.SubElement(
        root, "SYSTEMINFO", ARCH="zynquplus", BOARD=interface.board_part, DEVICE=device,
        NAME="emamba", PACKAGE=package, SPEEDGRADE=f"-{speed}",
    )  # fmt: skip
    ET.SubElement(root, "EXTERNALPORTS")
    ET.SubElement(root, "EXTERNALINTERFACES")
    modules = ET.SubElement(root, "MODULES")
    _processing_system(modules, interface)
    _dma(modules, interface)
    _kernel(modules, interface)
    _interrupt_controller(modules, interface)
    _concat(modules, interface)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n' + ET.tostring(
        root, encoding="unicode"
    )


def _module(modules: ET.Element, instance: str, vlnv: str) -> ET.Element:
    _, _, kind, version = vlnv.split(":")
    return ET.SubElement(
        modules, "MODULE", FULLNAME=f"/{instance}", HWVERSION=version, INSTANCE=instance,
        IPTYPE="PERIPHERAL", IS_ENABLE="1", MODCLASS="PERIPHERAL", MODTYPE=kind, VLNV=vlnv,
    )  # fmt: skip


def _parameters(module: ET.Element, values: dict[str, object]) -> None:
    parameters = ET.SubElement(module, "PARAMETERS")
    for name, value in values.items():
        ET.SubElement(parameters, "PARAMETER", NAME=name, VALUE=str(value))


def _bus(module: ET.Element, name: str, kind: str, vlnv: str, bus: str) -> None:
    interfaces = module.find("BUSINTERFACES")
    if interfaces is None:
        interfaces = ET.SubElement(module, "BUSINTERFACES")
    ET.SubElement(interfaces, "BUSINTERFACE", BUSNAME=bus, NAME=name, TYPE=kind, VLNV=vlnv)


def _pin(
    module: ET.Element, name: str, output: bool, to: tuple[str, str], width: int | None = None
) -> None:
    ports = module.find("PORTS")
    if ports is None:
        ports = ET.SubElement(module, "PORTS")
    span = {} if width is None else {"LEFT": str(width - 1), "RIGHT": "0"}
    port = ET.SubElement(
        ports, "PORT", {"DIR": "O" if output else "I", "NAME": name, "SIGIS": "undef", **span}
    )
    connections = ET.SubElement(port, "CONNECTIONS")
    ET.SubElement(connections, "CONNECTION", INSTANCE=to[0], PORT=to[1])


def _address_block(module: ET.Element, window: Window) -> ET.Element:
    blocks = ET.SubElement(module, "ADDRESSBLOCKS")
    block = ET.SubElement(
        blocks, "ADDRESSBLOCK", ACCESS="read-write", INTERFACE=window.port, NAME="Reg",
        RANGE=str(window.size), USAGE="register",
    )  # fmt: skip
    return ET.SubElement(block, "REGISTERS")


def _properties(element: ET.Element, values: dict[str, object]) -> None:
    for name, value in values.items():
        ET.SubElement(element, "PROPERTY", NAME=name, VALUE=str(value))


def _register(
    registers: ET.Element,
    name: str,
    offset: int,
    access: str,
    description: str,
    fields: dict[str, tuple[int, int, str]],
) -> None:
    register = ET.SubElement(registers, "REGISTER", NAME=name)
    _properties(
        register,
        {
            "DESCRIPTION": description,
            "ADDRESS_OFFSET": f"{offset:#x}",
            "SIZE": 32,
            "ACCESS": access,
            "IS_ENABLED": "true",
            "RESET_VALUE": "0x0",
        },
    )
    parent = ET.SubElement(register, "FIELDS")
    for field, (bit, width, field_access) in fields.items():
        element = ET.SubElement(parent, "FIELD", NAME=field)
        _properties(
            element,
            {
                "DESCRIPTION": description,
                "ADDRESS_OFFSET": bit,
                "ACCESS": field_access,
                "BIT_OFFSET": bit,
                "BIT_WIDTH": width,
            },
        )


def _processing_system(modules: ET.Element, interface: Interface) -> None:
    module = _module(modules, PS_INSTANCE, "xilinx.com:ip:zynq_ultra_ps_e:3.4")
    module.set("IS_PL", "FALSE")
    # PYNQ sets all four clocks; PL0 is 1500 MHz / 15, the input of the clocking wizard.
    clocks: dict[str, object] = {}
    for i in range(4):
        reference = f"PSU__CRL_APB__PL{i}_REF_CTRL"
        clocks |= {
            f"PSU__FPGA_PL{i}_ENABLE": int(i == 0),
            f"{reference}__DIVISOR0": 15 if i == 0 else 4,
            f"{reference}__DIVISOR1": 1,
            f"{reference}__SRCSEL": "IOPLL",
            f"{reference}__ACT_FREQMHZ": "100.000000" if i == 0 else "375.000000",
        }
    _parameters(module, clocks)
    _pin(module, "pl_ps_irq0", False, ("axi_intc_0", "irq"), width=1)
    _bus(module, _CONTROL_PORT, "MASTER", _AXI, f"{PS_INSTANCE}_{_CONTROL_PORT}")
    memory_map = ET.SubElement(module, "MEMORYMAP")
    for window in interface.windows:
        ET.SubElement(
            memory_map, "MEMRANGE", ADDRESSBLOCK="Reg", BASENAME="C_BASEADDR",
            BASEVALUE=f"0x{window.base:08X}", HIGHNAME="C_HIGHADDR",
            HIGHVALUE=f"0x{window.end - 1:08X}", INSTANCE=window.instance, IS_DATA="TRUE",
            MASTERBUSINTERFACE=_CONTROL_PORT, MEMTYPE="REGISTER", SLAVEBUSINTERFACE=window.port,
        )  # fmt: skip


def _dma(modules: ET.Element, interface: Interface) -> None:
    window, settings = interface.window("axi_dma_0"), interface.dma
    module = _module(modules, window.instance, window.vlnv)
    registers = _address_block(module, window)
    for name, offset in _DMA_REGISTERS.items():
        _register(registers, name, offset, "read-write", name, {name: (0, 32, "read-write")})
    _parameters(
        module,
        {
            "c_include_sg": 0,
            "c_include_mm2s": 1,
            "c_include_s2mm": 1,
            "c_include_mm2s_dre": 0,
            "c_include_s2mm_dre": 0,
            "c_micro_dma": 0,
            "c_addr_width": settings.address_width,
            "c_sg_length_width": settings.length_width,
            "c_m_axi_mm2s_data_width": settings.data_width,
            "c_m_axi_s2mm_data_width": settings.data_width,
            "c_m_axis_mm2s_tdata_width": settings.data_width,
            "c_s_axis_s2mm_tdata_width": settings.data_width,
            "c_mm2s_burst_size": settings.burst,
            "c_s2mm_burst_size": settings.burst,
        },
    )
    _bus(module, window.port, "SLAVE", _AXI, f"{PS_INSTANCE}_{_CONTROL_PORT}")
    receiver, sender = interface.ports
    _bus(module, "M_AXIS_MM2S", "INITIATOR", _AXIS, _stream_bus(interface, receiver))
    _bus(module, "S_AXIS_S2MM", "TARGET", _AXIS, _stream_bus(interface, sender))
    _interrupt_pins(module, interface, window)


def _stream_bus(interface: Interface, port: StreamPort) -> str:
    return f"{interface.kernel}_{port.name}" if port.master else "axi_dma_0_M_AXIS_MM2S"


def _interrupt_pins(module: ET.Element, interface: Interface, window: Window) -> None:
    for interrupt in interface.interrupts:
        if interrupt.instance == window.instance:
            _pin(module, interrupt.pin, True, ("xlconcat_0", f"In{interrupt.number}"))


def _kernel(modules: ET.Element, interface: Interface) -> None:
    window = interface.window(interface.kernel)
    module = _module(modules, window.instance, window.vlnv)
    registers = _address_block(module, window)
    for register in interface.registers:
        for name, offset in register.words:
            _register(
                registers, name, offset, register.access, register.description,
                _kernel_fields(register, name),
            )  # fmt: skip
    widths = {"ADDR": interface.address_bits, "DATA": 32}
    _parameters(module, {f"C_S_AXI_CONTROL_{kind}_WIDTH": bits for kind, bits in widths.items()})
    _bus(module, window.port, "SLAVE", _AXI, f"{PS_INSTANCE}_{_CONTROL_PORT}")
    for port in interface.ports:
        kind = "INITIATOR" if port.master else "TARGET"
        _bus(module, port.name, kind, _AXIS, _stream_bus(interface, port))
    _interrupt_pins(module, interface, window)


def _kernel_fields(register: Register, word: str) -> dict[str, tuple[int, int, str]]:
    if not register.is_argument:
        return _FIELDS[register.name]
    if word.endswith("_ctrl"):
        return {f"{register.name}_ap_vld": (0, 1, "read-only")}
    return {register.name: (0, 32, register.access)}


def _interrupt_controller(modules: ET.Element, interface: Interface) -> None:
    window = interface.window("axi_intc_0")
    module = _module(modules, window.instance, window.vlnv)
    registers = _address_block(module, window)
    for name, offset in _INTC_REGISTERS.items():
        _register(registers, name, offset, "read-write", name, {name: (0, 32, "read-write")})
    _parameters(module, {"C_NUM_INTR_INPUTS": len(interface.interrupts), "C_IRQ_CONNECTION": 1})
    _bus(module, window.port, "SLAVE", _AXI, f"{PS_INSTANCE}_{_CONTROL_PORT}")
    _pin(module, "intr", False, ("xlconcat_0", "dout"), width=len(interface.interrupts))
    _pin(module, "irq", True, (PS_INSTANCE, "pl_ps_irq0"))


def _concat(modules: ET.Element, interface: Interface) -> None:
    # PYNQ follows interrupts through an IP of this name only.
    module = _module(modules, "xlconcat_0", "xilinx.com:ip:xlconcat:2.1")
    _parameters(module, {"NUM_PORTS": len(interface.interrupts)})
    for interrupt in sorted(interface.interrupts, key=lambda found: found.number):
        _pin(module, f"In{interrupt.number}", False, (interrupt.instance, interrupt.pin), width=1)
    _pin(module, "dout", True, ("axi_intc_0", "intr"), width=len(interface.interrupts))
