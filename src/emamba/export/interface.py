"""The kernel's outside, once: registers, streams, addresses, interrupts, clock.

Everything that must agree on it is derived from `INTERFACE` or compared with it: the outermost C++
function (`ip_source`), the register table in docs/overlay.md, the block design's Tcl and the
hardware hand-off (`emamba.overlay`), and the driver, whose names are the registers' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from emamba.export.header import FORMAT_BITS, INTERFACE_VERSION

__all__ = [
    "COMMANDS",
    "ERRORS",
    "INTERFACE",
    "KERNEL_TOP",
    "DmaSettings",
    "Interface",
    "InterfaceError",
    "Interrupt",
    "Register",
    "StreamPort",
    "Window",
    "ip_source",
    "registers_markdown",
]

# Name of the outermost C++ function, and so of the IP.
KERNEL_TOP = "emamba_kernel"
# Values of the register `command`.
COMMANDS = {"infer": 0, "load": 1, "clear": 2}
# Bits of the register `errors`, from 0 on.
ERRORS = ("input_short", "input_long", "unknown_command", "not_loaded", "wrong_count")

Access = Literal["read-write", "read-only"]
_FIRST_ARGUMENT = 0x10


class InterfaceError(ValueError):
    """Registers or addresses that cannot be built together."""


@dataclass(frozen=True)
class Register:
    """A register of the AXI4-Lite bundle `control`; `offset` in bytes, `width` in bits.

    `bits` names single bits, from 0 on.
    """

    name: str
    offset: int
    width: int
    access: Access
    description: str
    bits: tuple[str, ...] = ()

    @property
    def is_argument(self) -> bool:
        """Whether it is an argument of the kernel's function; Vitis HLS makes the others."""
        return self.offset >= _FIRST_ARGUMENT

    @property
    def is_output(self) -> bool:
        """Whether the kernel writes it."""
        return self.is_argument and self.access == "read-only"

    @property
    def words(self) -> tuple[tuple[str, int], ...]:
        """(name, offset) of each 32-bit word, as Vitis HLS names them; the low word first.

        An output is followed by a word that says whether it has been written since last read.
        """
        count = self.width // 32
        names = [self.name] if count == 1 else [f"{self.name}_{i + 1}" for i in range(count)]
        if self.is_output:
            names.append(f"{self.name}_ctrl")
        return tuple((name, self.offset + 4 * i) for i, name in enumerate(names))


@dataclass(frozen=True)
class StreamPort:
    """An AXI4-Stream port of `width` data bits, with TKEEP and TLAST; `master` sends."""

    name: str
    master: bool
    width: int


@dataclass(frozen=True)
class Window:
    """The addresses of one cell of the block design: `size` bytes from `base` on."""

    instance: str
    port: str
    base: int
    size: int
    vlnv: str

    @property
    def end(self) -> int:
        """The first address after the window."""
        return self.base + self.size


@dataclass(frozen=True)
class Interrupt:
    """An input of the interrupt controller: pin `pin` of `instance` at input `number`."""

    instance: str
    pin: str
    number: int


@dataclass(frozen=True)
class DmaSettings:
    """The AXI DMA in simple mode. A transfer has at most `2**length_width - 1` bytes."""

    data_width: int
    address_width: int
    length_width: int
    burst: int


@dataclass(frozen=True)
class Interface:
    """Everything that a board build and a driver must know of the kernel.

    Raises `InterfaceError` if registers or windows overlap or are not aligned.
    """

    version: int
    registers: tuple[Register, ...]
    ports: tuple[StreamPort, ...]
    windows: tuple[Window, ...]
    interrupts: tuple[Interrupt, ...]
    dma: DmaSettings
    kernel: str
    clock_hz: int
    part: str
    board_part: str

    def __post_init__(self) -> None:
        words = [word for register in self.registers for word in register.words]
        for (name, offset), (next_name, next_offset) in pairwise(words):
            if next_offset < offset + 4:
                raise InterfaceError(
                    f"registers must not overlap: {next_name} at {next_offset:#x} begins before "
                    f"{name} at {offset:#x} ends; raise its offset"
                )
        for window in self.windows:
            if window.base % window.size:
                raise InterfaceError(
                    f"{window.instance}: base must be a multiple of its size {window.size:#x}, "
                    f"not {window.base:#x}"
                )
        for low, high in pairwise(sorted(self.windows, key=lambda window: window.base)):
            if high.base < low.end:
                raise InterfaceError(
                    f"windows must not overlap: {high.instance} begins at {high.base:#x}, before "
                    f"{low.instance} ends at {low.end:#x}"
                )

    @property
    def arguments(self) -> tuple[Register, ...]:
        """The registers that are arguments of the kernel's function."""
        return tuple(register for register in self.registers if register.is_argument)

    @property
    def address_bits(self) -> int:
        """Bits of an address of the bundle `control`."""
        _, offset = self.registers[-1].words[-1]
        return (offset + 3).bit_length()

    def register(self, name: str) -> Register:
        """The register of that name; raises `KeyError`."""
        return {register.name: register for register in self.registers}[name]

    def window(self, instance: str) -> Window:
        """The addresses of that cell; raises `KeyError`."""
        return {window.instance: window for window in self.windows}[instance]


INTERFACE = Interface(
    version=INTERFACE_VERSION,
    registers=(
        Register("CTRL", 0x00, 32, "read-write", "start, done, idle, ready: made by Vitis HLS"),
        Register("GIER", 0x04, 32, "read-write", "bit 0: interrupts on"),
        Register("IP_IER", 0x08, 32, "read-write", "bit 0: interrupt at done, bit 1: at ready"),
        Register("IP_ISR", 0x0C, 32, "read-write", "pending interrupts; write 1 to clear"),
        Register("command", 0x10, 32, "read-write", "0 infer, 1 load, 2 clear"),
        Register("count", 0x18, 32, "read-write", "frames to infer, or words of the weights image"),
        Register("interface_version", 0x20, 32, "read-only", "version of registers and packets"),
        Register("config_hash", 0x30, 64, "read-only", "first 64 bits of the config hash"),
        Register("weights_crc", 0x40, 32, "read-only", "CRC-32 of the image loaded last"),
        Register("cycles", 0x50, 32, "read-only", "clock cycles of the last call"),
        Register("errors", 0x60, 32, "read-only", "what went wrong since the last clear", ERRORS),
        Register(
            "saturated",
            0x70,
            32,
            "read-only",
            "formats that saturated since the last clear",
            tuple(sorted(FORMAT_BITS, key=FORMAT_BITS.__getitem__)),
        ),
        Register("input_crc", 0x80, 32, "read-only", "CRC-32 of the words that the last call took"),
        Register("answer_crc", 0x90, 32, "read-only", "CRC-32 of the words that it gave"),
    ),
    ports=(StreamPort("s_axis_in", False, 64), StreamPort("m_axis_out", True, 64)),
    windows=(
        Window("axi_dma_0", "S_AXI_LITE", 0xA000_0000, 0x1_0000, "xilinx.com:ip:axi_dma:7.1"),
        Window("emamba_0", "s_axi_control", 0xA001_0000, 0x1_0000, f"emamba:hls:{KERNEL_TOP}:1.0"),
        Window("axi_intc_0", "s_axi", 0xA002_0000, 0x1_0000, "xilinx.com:ip:axi_intc:4.1"),
    ),
    interrupts=(
        Interrupt("axi_dma_0", "mm2s_introut", 0),
        Interrupt("axi_dma_0", "s2mm_introut", 1),
        Interrupt("emamba_0", "interrupt", 2),
    ),
    # 40 bits reach both DDR windows of the ZCU102; 26 is the DMA's largest length register.
    dma=DmaSettings(data_width=64, address_width=40, length_width=26, burst=16),
    kernel="emamba_0",
    clock_hz=200_000_000,
    part="xczu9eg-ffvb1156-2-e",
    board_part="xilinx.com:zcu102:part0:3.4",
)


_IP = """\
// Generated by `emamba export hls`: the ports of the kernel and its four processes, nothing else.
#include "emamba/axis.hpp"
#include "emamba/core.hpp"

using namespace emamba;

constexpr int IMAGE_WORDS = {image_words};

{checks}

void {top}({parameters}) {{
{pragmas}
#pragma HLS DATAFLOW

  EMAMBA_STREAM(packet, 2, word_t);
  EMAMBA_STREAM(answer, 2, word_t);
  EMAMBA_STREAM(plan, 2, word_t);
  EMAMBA_STREAM(done, 2, flag_t);

  EMAMBA_STAGE(take_packet<IMAGE_WORDS>, s_axis_in, command, count, packet, plan, errors,
               input_crc);
  EMAMBA_STAGE(emamba_core, packet, answer);
  EMAMBA_STAGE(give_packet, answer, plan, m_axis_out, done, interface_version, config_hash,
               weights_crc, saturated, answer_crc);
  EMAMBA_STAGE(count_cycles, done, cycles);
  EMAMBA_RUN();
}}
"""


def ip_source(image_words: int, interface: Interface = INTERFACE) -> str:
    """The text of `ip.cpp`, for weights images of `image_words` 64-bit words."""
    values = {f"command::{name}": value for name, value in COMMANDS.items()}
    values |= {f"error::{name}": 1 << bit for bit, name in enumerate(ERRORS)}
    parameters = [f"axis_stream_t& {port.name}" for port in interface.ports]
    parameters += [_parameter(register) for register in interface.arguments]
    pragmas = [f"mode=axis port={port.name}" for port in interface.ports]
    pragmas += [
        f"mode=s_axilite bundle=control port={register.name} offset={register.offset:#x}"
        for register in interface.arguments
    ]
    pragmas.append("mode=s_axilite bundle=control port=return")
    indent = ",\n" + " " * len(f"void {KERNEL_TOP}(")
    return _IP.format(
        image_words=image_words,
        checks="\n".join(
            f'static_assert({name} == {value}, "{name} must be the interface\'s");'
            for name, value in values.items()
        ),
        top=KERNEL_TOP,
        parameters=indent.join(parameters),
        pragmas="\n".join(f"#pragma HLS INTERFACE {pragma}" for pragma in pragmas),
    )


def _parameter(register: Register) -> str:
    kind = "word_t" if register.width == 64 else "half_word_t"
    return f"{kind}{'&' if register.is_output else ''} {register.name}"


def registers_markdown(interface: Interface = INTERFACE) -> str:
    """The register table of docs/overlay.md."""
    lines = ["| offset | register | bits | access | what |", "|---|---|---|---|---|"]
    for register in interface.registers:
        what = register.description
        if register.bits:
            named = ", ".join(f"{bit} `{name}`" for bit, name in enumerate(register.bits))
            what += f": {named}"
        lines.append(
            f"| {register.offset:#04x} | `{register.name}` | {register.width} | "
            f"{register.access} | {what} |"
        )
    return "\n".join(lines) + "\n"
