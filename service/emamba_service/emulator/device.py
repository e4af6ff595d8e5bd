"""The emulated board as a pynq `Device`: the only module of the emulator that imports pynq."""

from __future__ import annotations

import importlib
import itertools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pynq
from pynq.buffer import PynqBuffer
from pynq.interrupt import _InterruptController
from pynq.ps import Clocks
from pynqmetadata.frontends import Metadata

from emamba.overlay import open_overlay
from emamba.simulated import SimulatedKernel
from emamba_service.emulator.board import EmulatedZcu102, Transaction
from emamba_service.emulator.faults import Faults
from emamba_service.emulator.memory import Block
from emamba_service.emulator.time import EmulatedTime

__all__ = ["EmulatedDevice"]

_numbers = itertools.count()


class EmulatedDevice(pynq.Device):  # type: ignore[misc]  # pynq has no types
    """An emulated ZCU102 with the kernel of `library`, a file that `build_simulation` made.

    pynq finds interrupts through `pynq.Device.active_device` only: set that to this device before
    an `Overlay` is made.
    """

    def __init__(self, library: Path, faults: Faults | None = None) -> None:
        number = next(_numbers)
        super().__init__(f"emulated:{number}")
        self.name = "emulated-zcu102"
        self.arch = "aarch64"
        self.capabilities = {"REGISTER_RW": True}
        self.board = EmulatedZcu102(faults)
        self._library = library

    @property
    def time(self) -> EmulatedTime:
        """The board's modelled time."""
        return self.board.time

    @property
    def faults(self) -> Faults:
        """What is to go wrong on this board, and what has."""
        return self.board.faults

    def recording(self) -> AbstractContextManager[list[Transaction]]:
        """As `EmulatedZcu102.recording`."""
        return self.board.recording()

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """pynq's own view of the hand-off beside the bitstream."""
        if partial:
            raise RuntimeError("an emulated board takes whole bitstreams only, not partial ones")
        _leave_other_clocks(self)
        return _parser_class()(Metadata(input=str(Path(bitfile_name).with_suffix(".hwh"))))

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Start every part of the board afresh.

        Raises `BitstreamError`, `ManifestError` or `HandoffError` unless the bitstream is part of
        a whole overlay.
        """
        open_overlay(Path(bitstream.bitfile_name).parent)
        if parser is None:
            parser = self.get_bitfile_metadata(bitstream.bitfile_name)
        self.board.configure(SimulatedKernel(self._library))
        for controller in parser.interrupt_controllers.values():
            _InterruptController._uio_devices[controller["raw_irq"]] = _Router()
        self.post_download(bitstream, parser)

    def read_registers(self, address: int, length: int) -> bytes:
        """`length` bytes of whole registers from `address` on."""
        if length == 4:
            return self.board.read(address).to_bytes(4, "little")
        words = [self.board.read(address + at) for at in range(0, length, 4)]
        return np.array(words, "<u4").tobytes()

    def write_registers(self, address: int, data: bytes) -> None:
        """Write `data`, whole registers, from `address` on."""
        for at in range(0, len(data), 4):
            self.board.write(address + at, int.from_bytes(data[at : at + 4], "little"))

    def allocate(self, shape: Any, dtype: Any, cacheable: int = 0) -> Any:
        """A buffer of zeros; the board's side of it holds a pattern until it is flushed.

        `cacheable` is accepted for the sake of drivers and changes nothing: every buffer needs
        `flush` and `invalidate`.
        """
        size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        block = self.board.allocate(size_bytes)
        buffer = PynqBuffer(
            shape, dtype, buffer=block.host, device=self, bo=block, coherent=False,
            device_address=block.address,
        )  # fmt: skip
        # With these pynq gives the block back once, when the buffer is freed or dies, and does not
        # unmap the host's side, which is NumPy's.
        buffer.memory = buffer.return_to = self.board.memory
        buffer.pointer, buffer.freed = block.address, True
        return buffer

    def flush(self, bo: Block, offset: int, ptr: int, size: int) -> None:
        """Copy from the host's side of the buffer to the board's."""
        self.board.flush(bo, offset, size)

    def invalidate(self, bo: Block, offset: int, ptr: int, size: int) -> None:
        """Copy from the board's side of the buffer to the host's."""
        self.board.invalidate(bo, offset, size)

    def close(self) -> None:
        """Give up the kernel; the device can be downloaded to again."""
        self.board.close()


class _Router:
    """pynq has one UIO device for all boards of a process; each waiter names its own board."""

    def add_event(self, event: Any, number: int) -> None:
        mmio = getattr(event, "mmio", None)
        device = pynq.Device.active_device if mmio is None else mmio.device
        device.board.uio.add_event(event, number)


def _parser_class() -> Any:
    """Where pynq 4 and pynq 3 keep it."""
    for module in ("pynqmetadata.views.runtime", "pynq.metadata.runtime_metadata_parser"):
        try:
            return importlib.import_module(module).RuntimeMetadataParser
        except ModuleNotFoundError:
            continue
    raise RuntimeError("needs pynq 3.1 or newer, which has RuntimeMetadataParser; install it")


def _leave_other_clocks(device: EmulatedDevice) -> None:
    """Let `Clocks` bind anew: it stays with the first device of a process otherwise."""
    bound = vars(Clocks).get("_real_instance")
    if bound is not None and bound._crl_mmio.device is not device:
        del Clocks._real_instance
