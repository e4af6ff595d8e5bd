"""The AXI DMA in direct register mode, as PG021 describes it.

Times are modelled: `SETUP_S` for a transfer, then a word of the stream each cycle. A channel that
was halted by an error, or hangs, comes back by a reset alone. The kernel drives the streams: it
asks the sender for a packet and hands its answer to the receiver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emamba.export.interface import Interface
from emamba_service.emulator.faults import DMA_ERRORS, Faults
from emamba_service.emulator.memory import DeviceMemory
from emamba_service.emulator.time import EmulatedTime, Timer

__all__ = ["SETUP_S", "AxiDma", "Receiver", "Sender", "Words"]

# An estimate of what a transfer needs besides its words; not measured.
SETUP_S = 0.5e-6

Words = npt.NDArray[np.uint64]

# Offsets within a channel.
_DMACR, _DMASR, _ADDRESS, _ADDRESS_MSB, _LENGTH = 0x00, 0x04, 0x18, 0x1C, 0x28
_S2MM = 0x30
# DMACR: bit 1 always reads 1. DMACR and DMASR: the reset value of the interrupt threshold.
_RUN, _ALWAYS_1, _RESET = 1 << 0, 1 << 1, 1 << 2
_THRESHOLD_1 = 1 << 16
_WRITABLE = 0xFFFF_7009
# DMASR; bits 12 and 14 enable interrupts in DMACR.
_HALTED, _IDLE = 1 << 0, 1 << 1
_ERROR = {name: 1 << bit for bit, name in enumerate(DMA_ERRORS, start=4)}
_ERRORS = sum(_ERROR.values())
_COMPLETE_IRQ, _ERROR_IRQ = 1 << 12, 1 << 14
_IRQS = 0x7000


class Channel:
    """Registers and states that both directions share. `line` is told the interrupt's level."""

    name = ""

    def __init__(
        self, time: EmulatedTime, memory: DeviceMemory, faults: Faults, interface: Interface
    ) -> None:
        self.line: Callable[[bool], None] = lambda level: None
        # An interrupt out of nothing.
        self.glitch: Callable[[], None] = lambda: None
        # Told when a transfer has begun to wait for the kernel.
        self.offered: Callable[[], None] = lambda: None
        self._time, self._memory, self._faults = time, memory, faults
        self._settings = interface.dma
        self._word_bytes = interface.dma.data_width // 8
        self._clock_hz = interface.clock_hz
        self._timer: Timer | None = None
        self._power_on()

    def _power_on(self) -> None:
        self._control = _THRESHOLD_1 | _ALWAYS_1
        self._status = _THRESHOLD_1 | _HALTED
        self._address = self._length = 0
        # busy: a transfer is under way; hung: it will never end; failing: it ends in an error.
        self._busy = self._hung = self._failing = False

    def reset(self) -> None:
        """As after configuration; what was under way is given up."""
        if self._timer is not None:
            self._timer.cancel()
        self._power_on()
        self._tell_line()

    def read(self, offset: int) -> int:
        """The register at `offset` of this channel."""
        if offset == _DMASR:
            return self._status
        if offset == _DMACR:
            return self._control
        if offset == _LENGTH:
            return self._length
        if offset == _ADDRESS:
            return self._address & 0xFFFF_FFFF
        return self._address >> 32 if offset == _ADDRESS_MSB else 0

    def write(self, offset: int, value: int) -> None:
        """Write the register at `offset`; a reset is the DMA's own affair."""
        if offset == _DMACR:
            self._write_control(value)
        elif offset == _DMASR:
            self._status &= ~(value & _IRQS)
            self._tell_line()
        elif offset == _LENGTH:
            self._write_length(value & ((1 << self._settings.length_width) - 1))
        elif offset == _ADDRESS:
            self._address = (self._address & ~0xFFFF_FFFF) | value
        elif offset == _ADDRESS_MSB:
            high = value & ((1 << (self._settings.address_width - 32)) - 1)
            self._address = high << 32 | (self._address & 0xFFFF_FFFF)

    def _write_control(self, value: int) -> None:
        self._control = (value & _WRITABLE) | _ALWAYS_1
        if self._status & _ERRORS:
            self._control &= ~_RUN
        if self._control & _RUN:
            self._status &= ~_HALTED
        elif not self._busy:
            self._halt()
        self._tell_line()

    def _write_length(self, length: int) -> None:
        if self._busy or self._status & _HALTED or not self._control & _RUN:
            return
        self._length = length
        self._status &= ~_IDLE
        self._busy = True
        if self._faults.strikes("interrupt_spurious"):
            self.glitch()
        error = self._error_to_come()
        if error is not None:
            self._failing = True
            self._timer = self._time.schedule(SETUP_S, lambda: self._fail(error))
            return
        self._hung = self._faults.strikes(f"dma_hang_{self.name}")
        self._begin()

    def _error_to_come(self) -> str | None:
        # Without a realignment engine the result of an odd address is undefined: made visible.
        if self._length == 0 or self._address % self._word_bytes:
            return "internal"
        if not self._memory.contains(self._address, self._length):
            return "decode"
        for name in DMA_ERRORS:
            if self._faults.strikes(f"dma_error_{name}_{self.name}"):
                return name
        return None

    def _begin(self) -> None:
        self.offered()

    def _complete(self) -> None:
        self._busy = False
        self._status |= _IDLE | _COMPLETE_IRQ
        if not self._control & _RUN:
            self._halt()
        self._tell_line()

    def _fail(self, error: str) -> None:
        self._busy = self._failing = False
        self._control &= ~_RUN
        self._status |= _ERROR[error] | _ERROR_IRQ
        self._halt()
        self._tell_line()

    def _halt(self) -> None:
        self._status = (self._status | _HALTED) & ~_IDLE

    def _tell_line(self) -> None:
        self.line(bool(self._status & self._control & (_COMPLETE_IRQ | _ERROR_IRQ)))

    def _words(self, size_bytes: int) -> int:
        return -(-size_bytes // self._word_bytes)


class Packets(Protocol):
    """Who takes packets: words, TKEEP of the last, and whether it carries TLAST."""

    def __call__(self, words: Words, last_keep: int, ended: bool) -> None: ...


class Sender(Channel):
    """MM2S. Memory is read when the packet has passed, so that a buffer changed meanwhile shows."""

    name = "mm2s"

    def _power_on(self) -> None:
        super()._power_on()
        self._arrived: Packets | None = None
        self._since_s = 0.0

    @property
    def ready(self) -> bool:
        """Whether a packet waits to be taken."""
        return self._busy and not self._failing and self._arrived is None

    def send(self, arrived: Packets) -> None:
        """Let the waiting packet pass; a hung or reset channel gives a part, without TLAST."""
        self._arrived, self._since_s = arrived, self._time.now()
        if self._hung:
            part = self._faults.random.randrange(self._words(self._length))
            if part:
                arrived(self._read(part), 0xFF, False)
            return
        delay_s = SETUP_S + self._words(self._length) / self._clock_hz
        self._timer = self._time.schedule(delay_s, self._passed)

    def reset(self) -> None:
        arrived, hung = self._arrived, self._hung
        passed_s = self._time.now() - self._since_s - SETUP_S
        part = min(int(passed_s * self._clock_hz), self._words(self._length) - 1)
        words = self._read(part) if arrived is not None and not hung and part > 0 else None
        super().reset()
        if arrived is not None and words is not None:
            arrived(words, 0xFF, False)

    def _passed(self) -> None:
        arrived = self._arrived
        assert arrived is not None, "only send schedules this"
        self._arrived = None
        rest = self._length % self._word_bytes
        keep = (1 << rest) - 1 if rest else 0xFF
        words = self._read(self._words(self._length))
        self._complete()
        arrived(words, keep, True)

    def _read(self, words: int) -> Words:
        size_bytes = min(words * self._word_bytes, self._length)
        raw = np.zeros(words * self._word_bytes, np.uint8)
        raw[:size_bytes] = self._memory.read(self._address, size_bytes)
        return raw.view("<u8")


class Receiver(Channel):
    """S2MM. Memory is written when the transfer ends; one that is given up has taken nothing."""

    name = "s2mm"

    def _power_on(self) -> None:
        super()._power_on()
        self._receiving = False
        self._armed_s = 0.0

    @property
    def ready(self) -> bool:
        """Whether a transfer waits for a packet."""
        return self._busy and not (self._failing or self._hung or self._receiving)

    def receive(self, words: Words, taken: Callable[[int], None]) -> None:
        """Take a packet; `taken` is told how many words once they are in memory.

        Words that came while the transfer was waiting cost no more time. A packet longer than the
        buffer fills it and halts the channel; the rest stays with who sent it.
        """
        self._receiving = True
        waited_s = self._time.now() - self._armed_s
        delay_s = SETUP_S + max(len(words) / self._clock_hz - waited_s, 0.0)
        self._timer = self._time.schedule(delay_s, lambda: self._received(words, taken))

    def _begin(self) -> None:
        self._armed_s = self._time.now()
        super()._begin()

    def _received(self, words: Words, taken: Callable[[int], None]) -> None:
        self._receiving = False
        size_bytes = min(words.nbytes, self._length)
        self._memory.write(self._address, words.view(np.uint8)[:size_bytes])
        if words.nbytes > self._length:
            self._fail("internal")
        else:
            self._length = size_bytes
            self._complete()
        taken(self._words(size_bytes))


class AxiDma:
    """Both channels; a reset in either resets both."""

    def __init__(
        self, time: EmulatedTime, memory: DeviceMemory, faults: Faults, interface: Interface
    ) -> None:
        self.sender = Sender(time, memory, faults, interface)
        self.receiver = Receiver(time, memory, faults, interface)

    def read(self, offset: int) -> int:
        """The register at `offset`; 0 where there is none."""
        channel, offset = self._channel(offset)
        return channel.read(offset)

    def write(self, offset: int, value: int) -> None:
        """Write the register at `offset`."""
        channel, offset = self._channel(offset)
        if offset == _DMACR and value & _RESET:
            self.sender.reset()
            self.receiver.reset()
        else:
            channel.write(offset, value)

    def _channel(self, offset: int) -> tuple[Channel, int]:
        return (self.receiver, offset - _S2MM) if offset >= _S2MM else (self.sender, offset)
