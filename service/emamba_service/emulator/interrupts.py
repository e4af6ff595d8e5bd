"""The AXI interrupt controller with level inputs, and what stands for `/dev/uio*` behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from emamba_service.emulator.faults import Faults
from emamba_service.emulator.time import EmulatedTime

__all__ = ["InterruptController", "Uio"]

_ISR, _IPR, _IER, _IAR, _SIE, _CIE, _IVR, _MER = range(0x00, 0x20, 4)
_MASTER, _HARDWARE = 1 << 0, 1 << 1
_NO_VECTOR = 0xFFFF_FFFF


class InterruptController:
    """PG099, without the parts that pynq does not use. `risen` is told when the output rises."""

    def __init__(self, lines: int, faults: Faults, risen: Callable[[], None]) -> None:
        self._all = (1 << lines) - 1
        self._faults, self._risen = faults, risen
        self._levels = self._lost = 0
        self._isr = self._ier = self._mer = 0
        self._was_high = False

    @property
    def output(self) -> bool:
        """The level of the output."""
        return bool(self._mer & _MASTER and self._isr & self._ier)

    def set_line(self, number: int, level: bool) -> None:
        """The level of input `number` is now `level`."""
        bit = 1 << number
        if not level:
            self._levels &= ~bit
            self._lost &= ~bit
        elif not self._levels & bit:
            self._levels |= bit
            if self._faults.strikes("interrupt_lost"):
                self._lost |= bit
            self._update()

    def glitch(self, number: int) -> None:
        """Input `number` was high for an instant."""
        self._isr |= 1 << number
        self._update()

    def read(self, offset: int) -> int:
        """The register at `offset`."""
        if offset == _IVR:
            pending = self._isr & self._ier
            return (pending & -pending).bit_length() - 1 if pending else _NO_VECTOR
        values = {_ISR: self._isr, _IPR: self._isr & self._ier, _IER: self._ier, _MER: self._mer}
        return values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write the register at `offset`."""
        value &= self._all if offset != _MER else _MASTER | _HARDWARE
        if offset == _ISR and not self._mer & _HARDWARE:
            self._isr = value
        elif offset == _IER:
            self._ier = value
        elif offset == _IAR:
            self._isr &= ~value
        elif offset == _SIE:
            self._ier |= value
        elif offset == _CIE:
            self._ier &= ~value
        elif offset == _MER:
            # Hardware interrupts stay on once they are.
            self._mer = value | (self._mer & _HARDWARE)
        self._update()

    def _update(self) -> None:
        if self._mer & _HARDWARE:
            self._isr |= self._levels & ~self._lost
        rises = self.output and not self._was_high
        self._was_high = self.output
        if rises:
            self._risen()


class Waiter(Protocol):
    """What waits for an interrupt: pynq's interrupt controller, or an event."""

    def set(self) -> None: ...


# Modelled time that a waiter is spared at once.
_LEAP_S = 2e-3


class Uio:
    """Where pynq expects a UIO device: waiters are set, each in its own event loop's thread.

    While one waits, modelled time runs on to whatever is scheduled next, if that is soon.
    """

    def __init__(self, time: EmulatedTime, level: Callable[[], bool]) -> None:
        self._time, self._level = time, level
        self._waiting: list[tuple[Waiter, asyncio.AbstractEventLoop]] = []
        time.scheduled = self.wake

    def add_event(self, event: Waiter, number: int) -> None:
        """Set `event` at the next interrupt; called in a running event loop's thread."""
        loop = asyncio.get_running_loop()
        with self._time.lock:
            self._waiting.append((event, loop))
            loop.call_soon(self._step, loop)

    def wake(self) -> None:
        """Look again: something was scheduled, or the interrupt rose. Called under the lock."""
        self._waiting = [(event, loop) for event, loop in self._waiting if not loop.is_closed()]
        for loop in {id(loop): loop for _, loop in self._waiting}.values():
            loop.call_soon_threadsafe(self._step, loop)

    def _step(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._time.lock:
            mine = [event for event, theirs in self._waiting if theirs is loop]
            if not mine:
                return
            if not self._level():
                self._pass(loop)
                return
            self._waiting = [entry for entry in self._waiting if entry[1] is not loop]
        for event in mine:
            event.set()

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let time run on. A long wait takes real time, so that whoever waits for a bounded one can
        give up meanwhile."""
        wait_s = self._time.until_next()
        if wait_s is None:
            return
        if wait_s <= _LEAP_S:
            self._time.run_next()
            loop.call_soon(self._step, loop)
        else:
            self._time.advance(_LEAP_S)
            loop.call_later(_LEAP_S, self._step, loop)
