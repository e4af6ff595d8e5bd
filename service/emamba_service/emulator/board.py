"""The emulated ZCU102: the parts of the block design on one bus, at `INTERFACE`'s addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, Protocol

from emamba.export.interface import INTERFACE, Interface
from emamba_service.emulator.clocks import ProcessingSystem
from emamba_service.emulator.dma import AxiDma
from emamba_service.emulator.faults import Faults
from emamba_service.emulator.interrupts import InterruptController, Uio
from emamba_service.emulator.kernel import Compiled, Kernel
from emamba_service.emulator.memory import SIZE_BYTES, Block, DeviceMemory
from emamba_service.emulator.time import REGISTER_ACCESS_S, EmulatedTime

__all__ = ["BusHangError", "EmulatedZcu102", "Transaction"]

# What the processor sees of the programmable logic: UG1085, table 10-1.
_LOGIC = range(0x8000_0000, 0xC000_0000)
_PROCESSING_SYSTEM = range(0xF900_0000, 0x1_0000_0000)
_PAGE_BITS = 12
_NOTHING = 0xFFFF_FFFF

Transaction = tuple[Literal["read", "write"], int, int]


class BusHangError(RuntimeError):
    """An access that nothing would answer: on a board it stops the processor for good."""


class Registers(Protocol):
    """A part of the block design: registers by offset from its base."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class EmulatedZcu102:
    """A board without pynq: `configure`, then `read` and `write` registers and use `memory`.

    `time.lock` guards all of it.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        interface: Interface = INTERFACE,
        memory_bytes: int = SIZE_BYTES,
    ) -> None:
        self.interface = interface
        self.faults = Faults() if faults is None else faults
        self.time = EmulatedTime()
        self.memory = DeviceMemory(memory_bytes)
        self.uio = Uio(self.time, self._interrupted)
        self._processing_system = ProcessingSystem()
        self._compiled: Compiled | None = None
        self._controller: InterruptController | None = None
        self._pages: dict[int, tuple[int, Registers]] = {}
        self._gone = self._gone_for_good = False
        self._records: list[list[Transaction]] = []

    @property
    def configured(self) -> bool:
        """Whether an overlay was downloaded."""
        return self._compiled is not None

    def configure(self, compiled: Compiled) -> None:
        """As a download: every part as after power-on, `compiled` for the kernel's logic.

        Memory and the processing system stay. The board closes `compiled` when it is replaced.
        """
        with self.time.lock:
            self.close()
            self._compiled = compiled
            self._gone = self._gone_for_good
            dma = AxiDma(self.time, self.memory, self.faults, self.interface)
            kernel = Kernel(
                self.time, self.faults, self.interface, compiled, dma.sender, dma.receiver
            )
            self._controller = InterruptController(
                len(self.interface.interrupts), self.faults, self.uio.wake
            )
            self._connect(dma, kernel, self._controller)

    def close(self) -> None:
        """Forget the overlay and whatever is scheduled."""
        with self.time.lock:
            self.time.clear()
            self._pages.clear()
            self._controller = None
            if self._compiled is not None:
                self._compiled.close()
                self._compiled = None

    def read(self, address: int) -> int:
        """The 32-bit register at `address`; raises `BusHangError` where nothing would answer."""
        with self.time.lock:
            self.time.advance(REGISTER_ACCESS_S)
            part = self._part(address)
            value = _NOTHING if part is None else part[1].read(address - part[0])
            for record in self._records:
                record.append(("read", address, value))
            return value

    def write(self, address: int, value: int) -> None:
        """Write the 32-bit register at `address`; raises as `read` does."""
        with self.time.lock:
            self.time.advance(REGISTER_ACCESS_S)
            for record in self._records:
                record.append(("write", address, value))
            part = self._part(address)
            if part is not None:
                part[1].write(address - part[0], value)

    def allocate(self, size_bytes: int) -> Block:
        """Contiguous memory; raises `RuntimeError` as pynq does if there is none left."""
        with self.time.lock:
            if self.faults.strikes("cma_exhausted"):
                raise RuntimeError("BO allocation failed: Cannot allocate memory")
            return self.memory.allocate(size_bytes)

    def flush(self, block: Block, offset: int, size_bytes: int) -> None:
        """Copy a part of `block` from the host's side to the board's."""
        with self.time.lock:
            self.memory.flush(block, offset, size_bytes)

    def invalidate(self, block: Block, offset: int, size_bytes: int) -> None:
        """Copy a part of `block` from the board's side to the host's."""
        with self.time.lock:
            self.memory.invalidate(block, offset, size_bytes)

    @contextmanager
    def recording(self) -> Iterator[list[Transaction]]:
        """A list that grows by (kind, address, value) of each register access inside."""
        record: list[Transaction] = []
        with self.time.lock:
            self._records.append(record)
        try:
            yield record
        finally:
            with self.time.lock:
                self._records = [other for other in self._records if other is not record]

    def _connect(self, dma: AxiDma, kernel: Kernel, controller: InterruptController) -> None:
        channels = {"mm2s_introut": dma.sender, "s2mm_introut": dma.receiver}
        for interrupt in self.interface.interrupts:
            source = channels.get(interrupt.pin, kernel)
            source.line = partial(controller.set_line, interrupt.number)
            if source is not kernel:
                channels[interrupt.pin].glitch = partial(controller.glitch, interrupt.number)
        parts: dict[str, Registers] = {
            "axi_dma_0": dma, self.interface.kernel: kernel, "axi_intc_0": controller
        }  # fmt: skip
        for window in self.interface.windows:
            for page in range(window.base >> _PAGE_BITS, window.end >> _PAGE_BITS):
                self._pages[page] = (window.base, parts[window.instance])

    def _part(self, address: int) -> tuple[int, Registers] | None:
        """Base and registers of the part at `address`, None where all reads give ones."""
        part = self._pages.get(address >> _PAGE_BITS)
        if part is None and address in _PROCESSING_SYSTEM:
            return 0, self._processing_system
        if self._gone or self._goes():
            return None
        if part is None:
            raise BusHangError(self._hang(address))
        return part

    def _goes(self) -> bool:
        gone, for_good = self.faults.overlay_gone() if self.configured else (False, False)
        if gone:
            self._gone, self._gone_for_good = True, for_good
            self.time.clear()
        return gone

    def _hang(self, address: int) -> str:
        if not self.configured and address in _LOGIC:
            why = "no overlay was downloaded; download one first"
        else:
            why = "the overlay has nothing there; compare the address with its hand-off"
        return (
            f"a register must be there before it is read or written, but at {address:#x} "
            f"{why}. On a board this access would never end."
        )

    def _interrupted(self) -> bool:
        return self._controller is not None and self._controller.output and not self._gone
