"""An emulated ZCU102: registers, DMA, interrupts and memory around the compiled kernel.

`EmulatedZcu102` needs no pynq. `emamba_service.emulator.device.EmulatedDevice` puts it behind the
genuine pynq package, whose drivers then run over it unchanged.
"""

from __future__ import annotations

from emamba_service.emulator.board import BusHangError, EmulatedZcu102
from emamba_service.emulator.faults import KINDS, Faults, parse
from emamba_service.emulator.time import EmulatedTime

__all__ = ["KINDS", "BusHangError", "EmulatedTime", "EmulatedZcu102", "Faults", "parse"]
